"""Environment: the versions and the machine of a comparison, and the hardware of each training, for the report."""

import os
import platform
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch

from thalweg.comparison.planning.device_choice import ONLY_CPU
from thalweg.comparison.planning.plan import ComparisonPlan
from thalweg.comparison.results.records import TrialRecord
from thalweg.engine.core import devices
from thalweg.version import __version__


def describe(usable: Sequence[str]) -> dict[str, Any]:
    """Return versions, machine, threads and the devices that train as plain JSON.

    Args:
        usable: The devices, as ``usable_devices`` returns them.
    """
    return {
        "thalweg": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": hardware_of(usable),
    }


_suite: ContextVar[dict[str, Any] | None] = ContextVar("suite", default=None)
NOT_SHOWN = ("command", "suite")  # among the versions and the machine: they are shown elsewhere


@contextmanager
def in_suite(task: str, tasks: Sequence[str]) -> Iterator[None]:
    """Store with each comparison in this block that it belongs to a suite.

    Args:
        task: The name of the task in the suite.
        tasks: The names of all its tasks, in their order.
    """
    token = _suite.set({"task": task, "tasks": list(tasks)})
    try:
        yield
    finally:
        _suite.reset(token)


def place_in_suite() -> dict[str, Any]:
    """Return the name of the task and those of all tasks, as ``suite``; empty outside of a suite."""
    place = _suite.get()
    return {} if place is None else {"suite": place}


def suite_of(environment: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Return the name of a task in its suite and the names of all its tasks; empty if it was compared alone.

    Args:
        environment: The environment of a stored comparison.
    """
    place = environment.get("suite")
    if not isinstance(place, dict):
        return "", ()
    task, tasks = place.get("task"), place.get("tasks")
    if not isinstance(task, str) or not isinstance(tasks, list) or not all(isinstance(name, str) for name in tasks):
        return "", ()
    return task, tuple(tasks)


# An absolute path in a word of a command line: alone, after an option, or in a list of contenders.
_ABSOLUTE = re.compile(r"(^|[=,(])(/[^,:=()]+)")


def command_line() -> dict[str, str]:
    """Return the command line of thalweg that runs in this process, as ``command``; empty in any other program."""
    program = Path(sys.argv[0])
    if program.stem != "thalweg" and program.parts[-2:] != ("thalweg", "__main__.py"):
        return {}
    return {"command": joined_command(["thalweg", *sys.argv[1:]])}


def joined_command(words: Sequence[str]) -> str:
    """Return words as a line for a shell, in which no absolute path tells the folders of its user.

    A path below the working directory becomes relative to it; of any other path the name remains.

    Args:
        words: The words.

    Example:
        >>> joined_command(["thalweg", "compare", "/somewhere/my file.py:task"])
        "thalweg compare 'my file.py:task'"
    """
    return shlex.join(_ABSOLUTE.sub(_shortened, word) for word in words)


def _shortened(match: re.Match[str]) -> str:
    path, folder = Path(match[2]), Path.cwd()
    return match[1] + (str(path.relative_to(folder)) if path.is_relative_to(folder) else path.name or str(path))


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:  # not Linux
        names = []
    return names[0] if names else platform.processor()


def hardware_of(usable: Sequence[str]) -> str:
    """Return the kind and the name of the devices of this machine on which a comparison trains.

    Args:
        usable: The devices, as ``usable_devices`` returns them.

    Example:
        >>> hardware_of(["cpu"])
        'cpu'
    """
    names = [devices.hardware(devices.CPU if text == devices.AUTO else devices.check(text)) for text in usable]
    return " and ".join(dict.fromkeys(names))


def hardware_of_trials(trials: Iterable[TrialRecord]) -> list[str]:
    """Return the hardware of stored trials, in alphabetical order; old stores do not say it.

    A failed trial that made its device useless has no name of hardware, and does not count.
    """
    results = (trial.result for trial in trials)
    return sorted({result.hardware for result in results if result.hardware and result.status != "failed"})


def device_of(plan: ComparisonPlan, trials: Iterable[TrialRecord]) -> str:
    """Return the hardware that trained and the reason, as a phrase; empty if there was nothing to choose."""
    hardware = " and ".join(hardware_of_trials(trials))
    return (
        "" if not hardware or plan.device_reason in ("", ONLY_CPU) else f"trained on {hardware} ({plan.device_reason})"
    )


def other_hardware(trials: Iterable[TrialRecord], usable: Sequence[str]) -> list[str]:
    """Return the hardware of stored trials that differs from the devices on which the others will be trained."""
    return [name for name in hardware_of_trials(trials) if name not in hardware_of(usable).split(" and ")]


def mixed_hardware(trials: Iterable[TrialRecord]) -> list[str]:
    """Return a caution if trials were trained on several kinds of hardware, which round differently."""
    names = hardware_of_trials(trials)
    if len(names) < 2:
        return []
    return [
        f"Trainings ran on different hardware: {' and '.join(names)}. Sums are rounded differently there, so a "
        "difference between contenders may come from the hardware."
    ]
