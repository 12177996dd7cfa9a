"""Kernels: when they are compiled, when they are not, and which tensors they never get."""

import os
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from tests.engine.stepping import take_steps
from thalweg import optim, rules
from thalweg.engine.kernels import kernel_cache
from thalweg.engine.kernels.kernel_spec import UnavailableError
from thalweg.errors import SettingError


def test_nothing_but_a_new_program_is_compiled(fresh_machine: Path) -> None:
    params = [torch.ones(shape, requires_grad=True) for shape in ((3, 4), (5,), (), (1,), (0,), (2, 3, 3, 3))]
    optimizer = optim.AdamW(params[:4], lr=1e-3)
    schedule = lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=20)  # moves betas too
    for _ in range(10):
        take_steps(optimizer, *params[:3])
        schedule.step()
    optimizer.prepare()
    take_steps(optimizer, *params[:4])  # one joins late
    optimizer.add_param_group({"params": params[4:], "lr": 0.3, "weight_decay": 0.0, "eps": 1e-3})
    take_steps(optimizer, *params)
    saved = optimizer.state_dict()
    resumed = optim.AdamW([{"params": params[:4]}, {"params": params[4:]}])
    resumed.load_state_dict(saved)
    take_steps(resumed, *params)
    resumed.prepare()
    assert len(kernel_cache.builds) == 1
    switched = optim.AdamW(params, amsgrad=True)
    switched.prepare()
    assert len(kernel_cache.builds) == 2
    doubles = [torch.ones(3, dtype=torch.float64, requires_grad=True)]
    optim.AdamW(doubles).prepare()
    assert len(kernel_cache.builds) == 3


def test_kernels_are_kept_between_processes(fresh_machine: Path) -> None:
    script = (
        "import torch; from thalweg import optim; from thalweg.engine.kernels import kernel_cache\n"
        "optimizer = optim.AdamW([torch.ones(3)], rounding='kahan'); first = optimizer.plan\n"
        "optimizer.prepare(); print(str(first).partition(':')[0], len(kernel_cache.builds))"
    )
    optimizer = optim.AdamW([torch.ones(3)], rounding="kahan")
    assert str(optimizer.plan).startswith("flat:")
    optimizer.prepare()
    assert len(kernel_cache.builds) == 1
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "compiled 0\n"


def test_a_small_model_never_waits_for_the_compiler(fresh_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def build(*_: object) -> None:
        assert release.wait(timeout=600)
        raise UnavailableError("the test has ended")

    monkeypatch.setattr(kernel_cache, "_build", build)
    param = torch.ones(3, requires_grad=True)
    optimizer = optim.Adam([param])
    take_steps(optimizer, param, num_steps=3)
    assert str(optimizer.plan).startswith("flat: until its kernel has been compiled in the background")
    release.set()
    assert str(optimizer.prepare()).startswith("flat: the test has ended")


def test_the_compilers_thread_ends_with_its_work(fresh_machine: Path) -> None:
    # While it lives it holds a team of OpenMP threads, which slows every small operation of the process tenfold.
    optim.Adam([torch.ones(3, requires_grad=True)]).prepare()
    for thread in threading.enumerate():
        if thread.name.startswith("thalweg-compiler"):
            thread.join(timeout=600)
            assert not thread.is_alive()


def test_a_missing_compiler_is_logged_once_and_is_no_error(
    fresh_machine: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", "/nowhere/cc")
    param = torch.ones(3, requires_grad=True)
    for kind in (optim.Adam, optim.SGD):
        optimizer = kind([param])
        take_steps(optimizer, param, num_steps=2)
        assert str(optimizer.plan).startswith("flat: no C compiler was found (cc, gcc, clang, or the command in CC)")
    assert len(caplog.records) == 1
    assert "steps run on the slower flat backend: no C compiler was found" in caplog.text


def test_a_compiler_that_fails_is_no_error(fresh_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "false")
    assert str(optim.Adam([torch.ones(3)]).prepare()).startswith(
        f"flat: the compiler ended with status 1: no message ({shutil.which('false')} -O3"
    )


def test_an_impossible_backend_is_refused() -> None:
    gaps = torch.ones(4, 6)[:, ::2].requires_grad_()
    with pytest.raises(
        SettingError, match="Adam: backend='compiled' must be possible, but a parameter has gaps in memory"
    ):
        optim.Adam([gaps], backend="compiled").plan  # noqa: B018
    with pytest.raises(SettingError, match="Adam: backend='flat' must be possible, but a parameter is not contiguous"):
        optim.Adam([gaps], backend="flat").plan  # noqa: B018
    assert str(optim.Adam([gaps]).plan).startswith("loop: a parameter has gaps in memory")


def test_parameters_that_share_memory_step_one_after_the_other() -> None:
    whole = torch.ones(6)
    parts = [whole[:4].requires_grad_(), whole[2:].requires_grad_()]
    optimizer = optim.SGD(parts, lr=0.25)
    assert str(optimizer.plan).startswith("loop: two parameters share memory")
    take_steps(optimizer, *parts)
    assert whole.tolist() == [0.75, 0.75, 0.5, 0.5, 0.75, 0.75]


@dataclass(frozen=True, kw_only=True)
class Branching(rules.Rule, scope="elementwise"):
    """A rule that has no kernel: it branches on a number in a tensor."""

    lr: float = rules.hyper(0.5, ">= 0", symbol="η", doc="length of the step")

    def coefficients(self, step: int) -> Any:
        return rules.record(lr=self.lr, d=0.1 / step)

    def direction(self, param: torch.Tensor, grad: torch.Tensor, state: Any, c: Any) -> Any:
        return grad * (2.0 if float(grad.amax()) > 10.0 else 1.0), state


def test_a_rule_that_cannot_be_recorded_runs_on_another_backend() -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = optim.optimizer_for(Branching)([param])
    take_steps(optimizer, param)
    assert torch.equal(param, torch.full((3,), 0.5))
    assert str(optimizer.plan).startswith("flat: the rule cannot be recorded: RuntimeError")


@dataclass(frozen=True, kw_only=True)
class Powers(rules.Rule, scope="elementwise"):
    """A rule whose learning rate grows by a power, so that a large one overflows: above 1e154 at step 2."""

    lr: float = rules.hyper(0.5, ">= 0", symbol="η", doc="length of the first step")

    def coefficients(self, step: int) -> Any:
        return rules.record(lr=self.lr**step)

    def direction(self, param: torch.Tensor, grad: torch.Tensor, state: Any, c: Any) -> Any:
        return grad, state


@pytest.mark.parametrize(
    "make",
    [
        lambda params: optim.ScheduleFreeSGD(params, lr=1e10, weight_lr_power=100.0),  # no step 1 to record
        lambda params: optim.optimizer_for(Powers)(params, lr=1e200),  # no step 2 to try
    ],
)
def test_settings_that_overflow_cost_other_settings_no_kernel(make: Any, fresh_machine: Path) -> None:
    """A kernel belongs to the code of a rule, so the numbers of one optimizer must not decide for the next."""
    overflows = make([torch.ones(3)])
    assert str(overflows.prepare()).startswith("compiled: elementwise")
    assert str(type(overflows)([torch.ones(3)], lr=0.25).prepare()).startswith("compiled: elementwise")


def test_a_number_that_a_rule_reads_from_its_settings_is_not_baked_into_a_kernel() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Baked(rules.Rule, scope="elementwise"):
        """A rule that reads a number from its settings, not from the coefficients."""

        lr: float = rules.hyper(0.5, ">= 0", symbol="η", doc="length of the step")

        def coefficients(self, step: int) -> Any:
            return rules.record()

        def direction(self, param: torch.Tensor, grad: torch.Tensor, state: Any, c: Any) -> Any:
            return grad, state

        def apply(self, param: torch.Tensor, direction: torch.Tensor, state: Any, c: Any) -> Any:
            return param - self.lr * direction, state

    for lr in (0.5, 0.25):
        param = torch.ones(3, requires_grad=True)
        optimizer = optim.optimizer_for(Baked)([param], lr=lr)
        take_steps(optimizer, param, num_steps=2)
        assert torch.equal(param, torch.full((3,), 1 - 2 * lr))
        assert str(optimizer.plan).startswith(
            "flat: kernels do not know a number that the rule reads from its settings"
        )


def test_steps_work_in_inference_mode(fresh_machine: Path) -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = optim.SGD([param], lr=0.25)
    param.grad = torch.ones(3)
    with torch.inference_mode():
        optimizer.step()
        optimizer.prepare()
        optimizer.step()
    assert torch.equal(param, torch.full((3,), 0.5))


def test_the_source_of_a_kernel_does_not_depend_on_the_process() -> None:
    """Libraries are cached by their source, and the order of a set of strings differs between processes."""
    script = (
        "import torch; from thalweg.rules import Adafactor\n"
        "from thalweg.engine.core.program import Program\n"
        "from thalweg.engine.kernels.c_source import c_source\n"
        "from thalweg.engine.kernels.passes import Passes\n"
        "from thalweg.engine.kernels.recording import record\n"
        "print(c_source(Passes(record(Program(Adafactor()), torch.float32, 2))))"
    )
    environments = [os.environ | {"PYTHONHASHSEED": seed} for seed in "123"]
    sources = {
        subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, check=True).stdout
        for env in environments
    }
    assert len(sources) == 1
