"""A session: one part under way. It runs checks, keeps results, and writes both to the journal of the part."""

import math
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import journal
from thalweg.engine.core import devices


class DeviceLostError(Exception):
    """The device no longer works in this process. The remaining checks need another process."""


class SkippedError(Exception):
    """A check does not apply; the text says why."""


class Session:
    """The checks and results of a part.

    Args:
        device: The device that is tested. With the stub it is the CPU.
        stub: True if the driver of the device is the stub.
        events: The file that gets a line for each event.
        deadline: The time (of ``time.monotonic``) at which the part should be at its end.
        shard: The number of this process, and of all processes of the part. Each runs its share of the checks.
        finished: The names of checks that an earlier process has run.

    Attributes:
        device: The device.
        stub: True with the stub; sizes are small then.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        stub: bool,
        events: Path,
        deadline: float,
        shard: tuple[int, int] = (0, 1),
        finished: frozenset[str] = frozenset(),
    ) -> None:
        self.device, self.stub = device, stub
        self._journal, self._deadline, self._shard, self._finished = events, deadline, shard, finished
        self._count = 0
        self._names: set[str] = set()

    def time_left(self) -> float:
        """Return the seconds until the deadline."""
        return self._deadline - time.monotonic()

    def knows(self, name: str) -> bool:
        """Return True if a check of this name has run in this process or in an earlier one."""
        return name in self._finished or name in self._names

    def check(self, name: str, function: Callable[[], Any]) -> Any:
        """Run a check, if it belongs to this process. It passes unless it raises.

        Args:
            name: The name, of which a part has only one.
            function: The check. It may return something for a later check.

        Returns:
            The value of the function; None if it raised, or if another process runs it.

        Raises:
            DeviceLostError: If the device does not work after it.
        """
        number, self._count = self._count, self._count + 1
        self._names.add(name)
        if number % self._shard[1] != self._shard[0] or name in self._finished:
            return None
        if self.time_left() < 0:
            self.skip(name, "no time was left")
            return None
        self._write(event="start", name=name)
        try:
            value = function()
            devices.synchronize(self.device)  # an error of a kernel appears at the next wait
        except SkippedError as reason:
            self.skip(name, str(reason))
        except Exception as error:  # each kind of error is a result
            self._write(event="failed", name=name, error=describe(error))
            if devices.is_lost(self.device):
                raise DeviceLostError(name) from error
        else:
            self._write(event="passed", name=name)
            return value
        return None

    def skip(self, name: str, reason: str) -> None:
        """Note that a check was left out."""
        self._write(event="skipped", name=name, reason=reason)

    def result(self, name: str, value: Any) -> None:
        """Keep a result. A later one of the same name replaces it."""
        self._write(event="result", name=name, value=_finite(value))

    def target(self, name: str, value: float, *, at_most: float | None = None, at_least: float | None = None) -> None:
        """Keep a number beside the bound that it should reach. Numbers of the stub mean nothing and are left out."""
        if self.stub:
            return
        reached = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
        bound = f"at most {at_most:g}" if at_most is not None else f"at least {at_least:g}"
        self._write(event="target", name=name, value=_finite(value), bound=bound, reached=reached)

    def say(self, message: str) -> None:
        """Print progress."""
        print(message, flush=True)

    def _write(self, **event: Any) -> None:
        journal.append(self._journal, **event)


def describe(error: BaseException) -> str:
    """Return the first lines of an error, and the line of code that raised it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()][:4]
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' / '.join(lines)}"[:600] + where


def _finite(value: Any) -> Any:
    """Return a value without NaN and infinities, which JSON does not know."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
