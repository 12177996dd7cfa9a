"""The run of the conformance kit: hostile optimizers, factories that cannot work, arguments, and devices."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.testing.defective_steps import Plain
from thalweg import optim
from thalweg.errors import DeviceError, SettingError, UnknownNameError
from thalweg.testing import OptimizerFactory, check_optimizer

CHECKS_AROUND = ["leaves_gradients_alone", "learns", "calls_hooks"]


class RaisingTextError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def hostile(deed: Callable[[], None]) -> OptimizerFactory:
    """Return a factory whose optimizer is sound, but does something in the check of hooks, which comes between."""

    class Hostile(Plain):
        def register_step_pre_hook(self, hook: Any) -> Any:
            deed()
            return super().register_step_pre_hook(hook)

    return Hostile


def raise_error(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("deed", "detail"),
    [
        (lambda: sys.exit(3), "SystemExit: 3"),
        (lambda: os._exit(5), "it ended the process with exit code 5"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "it ended the process by SIGKILL"),
        (lambda: raise_error(RaisingTextError()), "RaisingTextError: (its text cannot be read: RuntimeError)"),
        (lambda: raise_error(GeneratorExit("left")), "GeneratorExit: left"),
        (lambda: threading.Event().wait() and None, "no result after 2 s"),
    ],
    ids=["exit", "immediate exit", "crash", "text", "generator exit", "hang"],
)
def test_a_hostile_optimizer_fails_one_check_and_the_others_are_reported(deed: Callable[[], None], detail: str) -> None:
    # The others take milliseconds, but may wait long on a busy machine; a hang costs the whole limit.
    timeout_s = 2.0 if detail.endswith("2 s") else 120.0
    result = check_optimizer(hostile(deed), only=CHECKS_AROUND, timeout_s=timeout_s)
    outcomes = {check.check: check.outcome for check in result.checks}
    assert outcomes.pop("calls_hooks") == "failed"
    assert result["calls_hooks"].detail == detail
    if timeout_s > 2:
        assert set(outcomes.values()) == {"passed"}
    assert multiprocessing.active_children() == []


def test_what_one_check_leaves_changed_does_not_reach_the_next() -> None:
    result = check_optimizer(hostile(lambda: torch.set_default_dtype(torch.float64)), only=["calls_hooks", "learns"])
    assert result.passed, str(result)
    assert torch.get_default_dtype() == torch.float32


def test_a_factory_that_cannot_work_is_one_error() -> None:
    def asks_too_much(params: Any, missing: int) -> Plain:
        return Plain(params)

    with pytest.raises(SettingError, match=r"check_optimizer: the factory must .* got: TypeError: .*'missing'"):
        check_optimizer(asks_too_much)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"got: a NoneType, which has no step\(\)"):
        check_optimizer(lambda params: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(SettingError, match="got: SystemExit: 1"):
        check_optimizer(lambda params: sys.exit(1))
    with pytest.raises(SettingError, match="exit code 7"):
        check_optimizer(lambda params: os._exit(7))
    with pytest.raises(SettingError, match=r"got: RaisingTextError: \(its text cannot be read"):
        check_optimizer(lambda params: raise_error(RaisingTextError()))  # type: ignore[arg-type, return-value]
    with pytest.raises(SettingError, match="must have 2 dimensions or more.*shapes="):
        check_optimizer(optim.Muon)  # the shapes include a vector


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean learns"):
        check_optimizer(Plain, only=["learn"])
    with pytest.raises(SettingError, match="timeout_s must be > 0, got 0"):
        check_optimizer(Plain, timeout_s=0)
    with pytest.raises(SettingError, match="shapes must not be empty"):
        check_optimizer(Plain, shapes=())


def test_in_this_process_a_debugger_sees_the_checks() -> None:
    pids = []

    class Notes(Plain):
        def step(self, closure: Any = None) -> Any:
            pids.append(os.getpid())
            return super().step(closure)

    check_optimizer(Notes, only=["learns"])
    assert pids == []
    check_optimizer(Notes, only=["learns"], isolate=False)
    assert set(pids) == {os.getpid()}


KIT_ON_META = """
import torch
from thalweg.testing import check_optimizer

devices = set()

class Watched(torch.optim.SGD):
    def step(self, closure=None):
        tensors = [tensor for group in self.param_groups for tensor in group["params"]]
        devices.update(tensor.device for tensor in tensors)
        devices.update(tensor.grad.device for tensor in tensors if tensor.grad is not None)
        return super().step(closure)

skipped = [
    "steps_alike_when_sharded",
    "steps_in_a_forked_process",
    "leaves_threads_to_forked_processes",
    "counts_steps_in_shared_memory",
]
passed = ["calls_hooks", "takes_named_parameters"]
result = check_optimizer(lambda params: Watched(params, lr=0.1), only=skipped + passed, device="meta", isolate=False)
assert {result[name].outcome for name in skipped} == {"skipped"}, result
assert result["steps_alike_when_sharded"].detail == "on meta, two processes need two devices"
assert {result[name].outcome for name in passed} == {"passed"}, result
assert devices == {torch.device("meta")}, devices
"""


def test_the_kit_makes_everything_on_the_device_and_skips_what_makes_no_sense_there() -> None:
    # In a process of its own: what tests of this process have changed must not reach it.
    subprocess.run([sys.executable, "-c", KIT_ON_META], check=True)
    with pytest.raises(DeviceError, match="check_optimizer: tensors must be possible on the device, got 'cuda:63'"):
        check_optimizer(lambda params: torch.optim.SGD(params, lr=0.1), device="cuda:63")
