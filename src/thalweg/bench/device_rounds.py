"""Interleaved rounds on a device: all implementations that fit into its memory, and a copy beside them."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from thalweg.bench import measure
from thalweg.bench.device_meter import DeviceMeter
from thalweg.bench.implementations import CAPTURED, COMPILED, COMPILED_STEP, MakeOptimizer, describe
from thalweg.bench.sets import Shapes
from thalweg.bench.stepper import Stepper
from thalweg.engine.core import devices

_MIN_ROUND_S = 2e-3  # a round of an implementation takes so long at least, or its most steps
_MIN_STEPS, _MAX_STEPS = 4, 40
_HOST_STEPS = 5  # in a round, each with an empty queue


@dataclass
class DeviceTimes:
    """The measurements of one implementation.

    Attributes:
        device_s: Seconds of a step in each round, by marks in the queue: steps follow each other without a wait.
        host_s: Seconds that the call of each step took on the host, with an empty queue.
        baseline_s: ``device_s`` of the baseline in the same rounds.
        copy_s: Seconds of the copy in the same rounds.
        steps: Steps in a round.
        dispatches: Operations that PyTorch dispatches in a step; None if they cannot be counted.
        peak_extra_bytes: Largest memory of temporary tensors in a step; None if it cannot be counted.
        waits: Waits for the device in a step; None if they cannot be counted.
        compilations: Kernels that were compiled before the first step.
        moved_bytes: Bytes that a step moves at least.
    """

    device_s: list[float] = field(default_factory=list)
    host_s: list[float] = field(default_factory=list)
    baseline_s: list[float] = field(default_factory=list)
    copy_s: list[float] = field(default_factory=list)
    steps: int = 1
    dispatches: int | None = None
    peak_extra_bytes: int | None = None
    waits: int | None = None
    compilations: int = 0
    moved_bytes: int = 0


class DeviceRounds:
    """Measures implementations on a device.

    Those that fit into the memory together run in one interleaved session. The others follow in further sessions, each
    with the baseline. An implementation that raises an error is left out, with the reason.

    Args:
        meter: The device.
        shapes: Shapes of the parameters.
        dtype: Dtype of the parameters and gradients.
        copy_bytes: Size of the vector that is copied in each round, beside the steps.
        steps_of_a_call: Steps that are timed as one, such as the cycle of a rule that does more in some steps.

    Attributes:
        failed: The reason of each implementation that could not be measured, by name.
    """

    def __init__(
        self, meter: DeviceMeter, shapes: Shapes, dtype: torch.dtype, copy_bytes: int, *, steps_of_a_call: int = 1
    ) -> None:
        self.failed: dict[str, str] = {}
        self._meter, self._dtype, self._shapes = meter, dtype, shapes
        # Gradients are shared, and so is the memory of the parameters: only the time of a step matters.
        generator = torch.Generator(meter.device).manual_seed(0)
        draw = partial(torch.randn, dtype=dtype, device=meter.device, generator=generator)
        self._grads = [draw(shape).mul_(0.01) for shape in shapes]
        self._values = [torch.full(shape, 0.02, dtype=dtype, device=meter.device) for shape in shapes]
        self.steps_of_a_call = steps_of_a_call
        self._source = torch.ones(copy_bytes // 4, device=meter.device)
        self._target = torch.empty_like(self._source)

    def run(
        self, factories: dict[str, MakeOptimizer], baseline: str, rounds: int, progress: Callable[[str], None]
    ) -> dict[str, DeviceTimes]:
        """Measure all implementations.

        Args:
            factories: The implementations by name. The baseline is among them.
            baseline: The name of the implementation that runs in every session.
            rounds: The number of rounds.
            progress: Called with a message before each stage.

        Returns:
            The measurements by name, without the implementations that failed.
        """
        times: dict[str, DeviceTimes] = {}
        pending = [name for name in factories if name != baseline]
        while pending or baseline not in times:
            session = _Session(self, baseline)
            if not self._add(session, baseline, factories[baseline], progress):
                return times
            postponed = []
            for name in pending:
                if not self._add(session, name, factories[name], progress, may_wait=len(session.times) > 1):
                    postponed += [name] if name not in self.failed else []
            progress(f"{rounds} rounds of {', '.join(session.times)}")
            session.run_rounds(rounds)
            for name, measured in session.times.items():
                if name not in times and name not in self.failed and measured.device_s:
                    times[name] = measured
            pending = postponed
            del session
            devices.release_memory(self._meter.device)
            if baseline in self.failed:
                return times
        return times

    def _add(
        self,
        session: "_Session",
        name: str,
        make: MakeOptimizer,
        progress: Callable[[str], None],
        *,
        may_wait: bool = False,
    ) -> bool:
        """Add an implementation to a session and return True if it takes part.

        Args:
            session: The session.
            name: The name of the implementation.
            make: Makes its optimizer.
            progress: Called with a message first.
            may_wait: True if another session has more memory for it.
        """
        progress(f"{name} is warmed up")
        try:
            session.add(name, make)
        except Exception as error:  # another library may raise anything; the others are still measured
            if not (may_wait and devices.is_out_of_memory(error)):
                self.failed[name] = describe(error)
        else:
            return True
        session.discard(name)
        return False

    def make_parameters(self) -> list[Tensor]:
        """Return parameters of one implementation. Their memory is that of all others."""
        return [value.detach().requires_grad_() for value in self._values]

    @property
    def grads(self) -> Sequence[Tensor]:
        """The gradients."""
        return self._grads

    @property
    def meter(self) -> DeviceMeter:
        """The meter of the device."""
        return self._meter

    def copy(self) -> None:
        """Copy the vector."""
        self._target.copy_(self._source)


def _repeated(step: Callable[[], None], count: int) -> Callable[[], None]:
    """Return a function that takes so many steps."""
    if count == 1:
        return step

    def take() -> None:
        for _ in range(count):
            step()

    return take


class _Session:
    """Implementations that are in memory at the same time."""

    def __init__(self, owner: DeviceRounds, baseline: str) -> None:
        self._owner, self._meter, self._baseline = owner, owner.meter, baseline
        self._steps: dict[str, Callable[[], None]] = {}
        self._steppers: dict[str, Stepper] = {}
        self.times: dict[str, DeviceTimes] = {}

    def add(self, name: str, make: MakeOptimizer) -> None:
        """Warm an implementation up, and measure all but its time."""
        stepper = Stepper(make, self._owner.make_parameters(), self._owner.grads)
        step: Callable[[], None] = stepper.step
        times = DeviceTimes(compilations=stepper.compilations)
        if name in CAPTURED:
            step = self._meter.capture(stepper.optimizer.step)
        elif name == COMPILED_STEP:
            step = torch.compile(stepper.optimizer.step)
        elif name not in COMPILED:
            with measure.DispatchCounter() as counter:
                step()
            times.dispatches = counter.operations
        step = _repeated(step, self._owner.steps_of_a_call)
        for _ in range(2):  # the first call compiles
            step()
        times.moved_bytes = stepper.moved_bytes()
        times.peak_extra_bytes = self._meter.peak_extra_bytes(step)
        times.waits = self._meter.count_waits(step)
        seconds = self._time(step, 3)
        times.steps = min(_MAX_STEPS, max(_MIN_STEPS, math.ceil(_MIN_ROUND_S / max(seconds, 1e-9))))
        self._steppers[name], self._steps[name], self.times[name] = stepper, step, times

    def discard(self, name: str) -> None:
        """Forget an implementation and free its memory."""
        for entries in (self._steppers, self._steps, self.times):
            entries.pop(name, None)
        devices.release_memory(self._meter.device)

    def run_rounds(self, rounds: int) -> None:
        """Time all implementations in interleaved rounds, the baseline first. One that raises an error is left out."""
        self._time(self._owner.copy, 3)
        for _ in range(rounds):
            copy_s = self._time(self._owner.copy, 1)
            baseline_s = 0.0
            for name, step in list(self._steps.items()):
                times = self.times[name]
                try:
                    step()  # after another implementation, the caches hold other data
                    seconds = self._time(step, times.steps)
                    times.host_s += [self._time_on_host(step) for _ in range(_HOST_STEPS)]
                except Exception as error:  # as out of memory, or anything in another library
                    self._owner.failed[name] = describe(error)
                    self.discard(name)
                    if name == self._baseline:
                        return
                    continue
                baseline_s = seconds if name == self._baseline else baseline_s
                times.device_s.append(seconds)
                times.baseline_s.append(baseline_s)
                times.copy_s.append(copy_s)

    def _time(self, step: Callable[[], None], count: int) -> float:
        """Return the seconds of a step on the device, one of several that follow each other."""
        start, end = self._meter.event(), self._meter.event()
        self._meter.synchronize()
        start.record()
        for _ in range(count):
            step()
        end.record()
        self._meter.synchronize()
        return start.elapsed_time(end) / 1e3 / count

    def _time_on_host(self, step: Callable[[], None]) -> float:
        """Return the seconds until the call of a step returns, with an empty queue."""
        self._meter.synchronize()
        start = time.perf_counter()
        step()
        return time.perf_counter() - start
