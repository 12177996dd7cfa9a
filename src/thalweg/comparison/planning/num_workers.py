"""Number of workers: measure whether worker processes train faster than this process alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.planning.device_choice import usable_devices
from thalweg.comparison.processes.worker import why_no_fork
from thalweg.comparison.training.timing import ExecutionMode, TimeLeft, unlimited
from thalweg.comparison.training.workload import Workload
from thalweg.engine.core import devices
from thalweg.engine.core.threads import num_cores
from thalweg.errors import SettingError

START_S = 6.0  # to start workers that import torch, and may open a device
FORK_S = 0.25  # to start workers that are forks
MOST_PER_CORE, MIN_LIMIT = 4, 64  # workers that a user may request
CLEARLY_FASTER = 1.25
MAX_PICKLED_BYTES = 1 << 28


def check_num_workers(requested: int | None) -> None:
    """Raise SettingError for a number of workers that is no whole number, or that no machine like this can use."""
    limit = max(MIN_LIMIT, MOST_PER_CORE * num_cores())
    if requested is None:
        return
    if isinstance(requested, bool) or not isinstance(requested, int) or requested < 1:
        raise SettingError(f"thalweg: workers must be a whole number, 1 or more, got {requested!r}.")
    if requested > limit:
        raise SettingError(
            f"thalweg: workers must be at most {limit} on this machine, which has {num_cores()} cores, got {requested}."
        )


def check_timeout(timeout_s: float | None) -> float | None:
    """Return the timeout of a training. Raise SettingError for one that is no positive, finite number of seconds."""
    is_number = isinstance(timeout_s, int | float) and not isinstance(timeout_s, bool)
    if timeout_s is not None and not (is_number and 0 < timeout_s < math.inf):
        raise SettingError(f"thalweg: timeout must be a number of seconds, more than 0, got {timeout_s!r}.")
    return timeout_s


def choose_num_workers(
    workload: Workload,
    contenders: Sequence[Contender],
    execution_modes: Mapping[str, ExecutionMode],
    planned_s: float,
    seed: int,
    *,
    requested: int | None,
    device: str = devices.AUTO,
    time_left: TimeLeft = unlimited,
    by_clock: bool = True,
) -> tuple[int, dict[str, ExecutionMode]]:
    """Choose the number of worker processes.

    One contender is measured: the same step with all threads and with one, as a worker has. A training function is not
    measured: each core trains one.

    Args:
        workload: The workload; workers are used only if it can be pickled.
        contenders: All contenders.
        execution_modes: Their execution modes in this process.
        planned_s: Predicted seconds of all trainings in this process.
        seed: Seed of the measurement.
        requested: Number that the user requests; None measures whether one worker per core pays, and takes one for each
            accelerator.
        device: The device, as ``DeviceChoice`` has it.
        time_left: Returns the seconds that are left for the measurement. Without any, there is one process.
        by_clock: False if the clock must not decide, since the budget is counted: how many trainings run at once
            decides which settings are tried. Then each core gets a worker if ``planned_s`` is worth it.

    Returns:
        The number of workers, 1 meaning none, and the execution modes with the times that result.
    """
    accelerators = _num_accelerators(device)
    count = requested if requested is not None else accelerators or num_cores()
    start_s = START_S if accelerators or why_no_fork() else FORK_S
    worth_starting = requested is not None or planned_s >= 4 * start_s
    if count < 2 or not workload.uses_workers or not worth_starting or not _can_be_pickled(workload, contenders):
        return 1, dict(execution_modes)
    if accelerators:
        gain = float(min(count, accelerators))  # each has its own; more workers than accelerators share them
        return count, _faster_modes(
            execution_modes, gain, f", in {count} processes on {min(count, accelerators)} devices"
        )
    if not workload.has_pilot:
        return count, _faster_modes(execution_modes, 1.0, f", in {count} processes with one thread each")
    if requested is None and time_left() <= 0:
        return 1, dict(execution_modes)
    contender = min(contenders, key=lambda contender: (contender.thalweg_rule is None, contender.full_batch))
    members = max(2, execution_modes[contender.name].members)
    gain = count / workload.single_thread_slowdown(contender, members, seed)
    if requested is None and by_clock and gain < CLEARLY_FASTER:
        return 1, dict(execution_modes)
    gain = gain if by_clock else max(1.0, gain)
    return count, _faster_modes(execution_modes, gain, f", in {count} processes with one thread each")


def _num_accelerators(device: str) -> int:
    """Return the number of accelerators of a device, 0 for the CPU."""
    return sum(devices.parse(usable).type != "cpu" for usable in usable_devices(device) if usable != devices.AUTO)


def _faster_modes(modes: Mapping[str, ExecutionMode], gain: float, suffix: str) -> dict[str, ExecutionMode]:
    return {
        name: replace(mode, fixed_s=mode.fixed_s / gain, member_s=mode.member_s / gain, reason=mode.reason + suffix)
        for name, mode in modes.items()
    }


def _can_be_pickled(workload: Workload, contenders: Sequence[Contender]) -> bool:
    if not why_no_fork():  # a fork needs nothing pickled
        return True
    import cloudpickle

    try:
        return len(cloudpickle.dumps((workload, list(contenders)))) < MAX_PICKLED_BYTES
    except Exception:  # objects that cannot be pickled raise many kinds of error
        return False
