"""Stopwatch: the median seconds of an action, on a CPU and on an accelerator."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from thalweg.engine.core import devices

MEASUREMENT_S = 0.15


def seconds_of(action: Callable[[], Any], total_s: float = MEASUREMENT_S, device: torch.device = devices.CPU) -> float:
    """Return the median seconds of an action, over as many calls as fit ``total_s``.

    A slow action is called three times if that takes less than ten times ``total_s``: one call that the machine held
    up must not decide. An accelerator works on while Python prepares the next call, as in a training, so calls are
    timed in blocks, each until the device has done all of it.

    Args:
        action: The action.
        total_s: Seconds for all calls.
        device: The device on which the action works.
    """
    calls = 1 if device.type == "cpu" else _calls_in_block(action, total_s, device)
    durations: list[float] = []
    while not durations or sum(durations) < total_s or (len(durations) < 3 and sum(durations) < 10 * total_s):
        durations.append(_seconds_of_calls(action, calls, device))
    return median(durations) / calls


def _seconds_of_calls(action: Callable[[], Any], calls: int, device: torch.device) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        action()
    devices.synchronize(device)
    return time.perf_counter() - start


def _calls_in_block(action: Callable[[], Any], total_s: float, device: torch.device) -> int:
    """Return the number of calls of an action that take about a fifth of ``total_s``."""
    devices.synchronize(device)
    return max(1, int(total_s / 5 / max(1e-6, _seconds_of_calls(action, 1, device))))
