"""The conformance kit: our optimizers pass it, and each check fails on the defect that it tests for."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from cases.rules import CASES, Case
from thalweg import optim
from thalweg.errors import DeviceError, SettingError, UnknownNameError
from thalweg.testing import CHECKS, OptimizerFactory, check_optimizer

# Batches of matrices round differently from the loop, so the kit runs on them separately.
BATCHED = [case for case in CASES if case.rule.traits.scope == "matrix" and case.rule.traits.supports_vmap]


@pytest.mark.parametrize(
    ("case", "backend"), [*((case, None) for case in CASES), *((case, "batched") for case in BATCHED)], ids=str
)
def test_every_optimizer_of_ours_passes_the_whole_kit(case: Case, backend: str | None) -> None:
    def factory(backend: str | None) -> OptimizerFactory:
        return partial(case.optimizer, **case.settings, backend=backend)

    backends = [backend or "loop"]
    if case.rule.traits.scope == "tensor" and case.rule.traits.supports_vmap:
        backends += ["batched"]
    if case.rule.traits.scope == "elementwise":
        backends += ["flat", "compiled"] if case.has_kernel else ["flat"]
    result = check_optimizer(
        factory(backend),
        reference=lambda params: case.reference(params, **case.settings),
        tolerance=max(1e-12, case.reference_error),
        variants={backend: factory(backend) for backend in backends},
        shapes=case.shapes,
    )
    # The learning rate of Rprop is the size of its first step only, as in torch.optim.
    exempt = {"obeys_schedulers"} if case.optimizer is optim.Rprop else set()
    if not case.rule.traits.supports_complex:
        assert result["takes_complex_parameters"].outcome == "refused"
        exempt.add("takes_complex_parameters")
    if case.rule.traits.scope == "model":  # a first step depends on all parameters of the model
        exempt.add("gives_a_late_parameter_a_first_step")
    if case.rule.traits.min_dims:
        assert result["takes_single_numbers"].outcome == "refused"
        exempt.add("takes_single_numbers")
    if case.rule.traits.scope == "matrix":
        assert result["steps_alike_when_sharded"].outcome == "refused"
        exempt.add("steps_alike_when_sharded")
    assert [check for check in result.checks if check.outcome != "passed" and check.check not in exempt] == []
    assert len(result.checks) == len(CHECKS) >= 18
    assert result["waits_for_no_parameter"].number == 0
    assert result["dispatches_a_parameter"].number == 0 or "compiled" not in backends


class Plain(torch.optim.Optimizer):
    """Gradient descent with momentum, without defects. Each class below adds one defect."""

    def __init__(self, params: Any, lr: Any = 0.05, weight_decay: float = 0.1) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "maximize": False})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self.update(group, param, -param.grad if group["maximize"] else param.grad)
        return loss

    def update(self, group: dict[str, Any], param: Tensor, grad: Tensor) -> None:
        state = self.state[param]
        if not state:
            state.update(step=torch.tensor(0.0), b=torch.zeros_like(param))
        state["step"] += 1
        state["b"].mul_(0.9).add_(grad + group["weight_decay"] * param)
        param.sub_(group["lr"] * state["b"])


class ClearsGradients(Plain):
    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        self.zero_grad()
        return loss


class ScalesGradients(Plain):
    def update(self, group: Any, param: Tensor, grad: Tensor) -> None:
        super().update(group, param, grad)
        grad.mul_(0.5)


class WritesTheTensorLr(Plain):
    def update(self, group: Any, param: Tensor, grad: Tensor) -> None:
        super().update(group, param, grad)
        if isinstance(group["lr"], Tensor) and group["lr"] > 0:
            group["lr"] *= 1.01


class WritesTheLr(Plain):
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["lr"] = group["lr"] * 1.01
        return super().step(closure)


class DividesByTheLr(Plain):
    def update(self, group: Any, param: Tensor, grad: Tensor) -> None:
        if isinstance(group["lr"], Tensor):
            param.mul_(group["lr"] / group["lr"])
        super().update(group, param, grad)


class CountsTogether(Plain):
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["count"] = group.get("count", 0) + 1
        return super().step(closure)

    def update(self, group: Any, param: Tensor, grad: Tensor) -> None:
        super().update(group, param, grad / (1 - 0.9 ** group["count"]))


class StartsAnew(Plain):
    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(params, **settings)
        with torch.no_grad():
            for group in self.param_groups:
                for param in group["params"]:
                    param.mul_(1.01)


class DividesByZero(Plain):
    def update(self, group: Any, param: Tensor, grad: Tensor) -> None:
        norm = grad.abs().sum() if grad.numel() else torch.ones(())
        super().update(group, param, grad / norm)


class ScalesByTheNorm(Plain):
    """A trust ratio without the guard for a norm of zero, as LAMB would be without it."""

    def update(self, group: Any, param: Tensor, grad: Tensor) -> None:
        super().update(group, param, grad * param.norm())


class ScalesByTheNormAboveATinyFloor(Plain):
    def update(self, group: Any, param: Tensor, grad: Tensor) -> None:
        super().update(group, param, grad * param.norm().clamp(min=1e-12))


class DividesByTheNorm(Plain):
    def update(self, group: Any, param: Tensor, grad: Tensor) -> None:
        super().update(group, param, grad / param.norm())


class ScalesByTheNormUnlessZero(Plain):
    """The same with the guard: no defect."""

    def update(self, group: Any, param: Tensor, grad: Tensor) -> None:
        norm = param.norm()
        super().update(group, param, grad * torch.where(norm > 0, norm, torch.ones_like(norm)))


class ForgetsItsCount(Plain):
    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(params, **settings)
        self.num_steps = 0

    def step(self, closure: Any = None) -> Any:
        self.num_steps += 1
        return super().step(closure)

    def update(self, group: Any, param: Tensor, grad: Tensor) -> None:
        super().update(group, param, grad * (1 + 0.01 * self.num_steps))


class KeepsALock(Plain):
    def update(self, group: Any, param: Tensor, grad: Tensor) -> None:
        super().update(group, param, grad)
        self.state[param]["shape"] = slice(1)  # torch.load with weights_only=True refuses it


class KeepsItsGroups(Plain):
    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(params, **settings)
        self.first_groups = self.param_groups

    def step(self, closure: Any = None) -> Any:
        groups, self.param_groups = self.param_groups, self.first_groups
        loss = super().step(closure)
        self.param_groups = groups
        return loss


class StepsWithoutAGradient(Plain):
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None and param in self.state:
                    with torch.no_grad():
                        param.sub_(group["lr"] * self.state[param]["b"])
        return super().step(closure)


class FirstGroupRules(Plain):
    def update(self, group: Any, param: Tensor, grad: Tensor) -> None:
        super().update(self.param_groups[0], param, grad)


class DropsTheLoss(Plain):
    def step(self, closure: Any = None) -> None:
        super().step(closure)


class NeverMaximizes(Plain):
    def update(self, group: Any, param: Tensor, grad: Tensor) -> None:
        super().update(group, param, -grad if group["maximize"] else grad)


class NeedsADimension(Plain):
    def update(self, group: Any, param: Tensor, grad: Tensor) -> None:
        super().update(group, param, grad * grad.shape[0])


class NeedsAnElement(Plain):
    def update(self, group: Any, param: Tensor, grad: Tensor) -> None:
        super().update(group, param, grad * torch.sign(grad.flatten()[0].real.abs() + 1))


class TakesRealParts(Plain):
    def update(self, group: Any, param: Tensor, grad: Tensor) -> None:
        if param.is_complex():
            grad = grad * torch.nan
        super().update(group, param, grad)


class ReadsMemoryInOrder(Plain):
    def update(self, group: Any, param: Tensor, grad: Tensor) -> None:
        if grad.stride() != param.stride():
            grad = grad.flatten().view(grad.shape[::-1]).t() if grad.dim() == 2 else grad
        super().update(group, param, grad)


class Climbs(Plain):
    def update(self, group: Any, param: Tensor, grad: Tensor) -> None:
        super().update(group, param, -grad)


class ReadsBack(Plain):
    def update(self, group: Any, param: Tensor, grad: Tensor) -> None:
        super().update(group, param, grad * float(grad.real.sum().isfinite()))


class EstimatesAScale(Plain):
    """Scales the steps of a parameter by an estimate that only the first steps of the model can raise."""

    num_steps = 0

    def step(self, closure: Any = None) -> Any:
        self.num_steps += 1
        return super().step(closure)

    def update(self, group: Any, param: Tensor, grad: Tensor) -> None:
        is_late = self.num_steps > 5 and self.state[param].get("step", 0) < self.num_steps - 1
        super().update({**group, "weight_decay": 0.0}, param, grad * (1e-4 if is_late else 1.0))


class LeavesSlowGroups(Plain):
    """Counts the parameters of the group with the highest rate only."""

    def update(self, group: Any, param: Tensor, grad: Tensor) -> None:
        is_slow = group["lr"] < max(group["lr"] for group in self.param_groups)
        super().update({**group, "weight_decay": 0.0}, param, grad * (1e-4 if is_slow else 1.0))


class SumsSquares(Plain):
    def update(self, group: Any, param: Tensor, grad: Tensor) -> None:
        square = grad.square().sum() if grad.numel() else torch.ones((), dtype=grad.dtype)
        super().update(group, param, grad / square)


class DividesByWhatVanishes(Plain):
    """Divides by a mean that decays to a subnormal number, without a floor."""

    def update(self, group: Any, param: Tensor, grad: Tensor) -> None:
        mean = self.state[param].get("mean", grad.abs())
        super().update(group, param, grad / (mean + 1e-30))
        mean = self.state[param].setdefault("mean", mean.clone())
        mean.mul_(0.8).add_(0.2 * grad.abs())


class Evaluates(Plain):
    """Evaluates at a mean of the parameters, as schedule-free methods do. Without a defect."""

    is_training = True

    def update(self, group: Any, param: Tensor, grad: Tensor) -> None:
        super().update(group, param, grad)
        self.state[param].setdefault("mean", param.detach().clone()).lerp_(param.detach(), 0.1)

    def train(self) -> None:
        if not self.is_training:
            self.exchange()

    def eval(self) -> None:
        if self.is_training:
            self.exchange()

    @torch.no_grad()
    def exchange(self) -> None:
        self.is_training = not self.is_training
        for param, entry in self.state.items():
            value = param.clone()
            param.copy_(entry["mean"])
            entry["mean"].copy_(value)

    def state_dict(self) -> Any:
        return {**super().state_dict(), "is_training": self.is_training}

    def load_state_dict(self, state_dict: Any) -> None:
        self.is_training = state_dict.get("is_training", True)
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "is_training"})


class ExchangesAtEachCall(Evaluates):
    def train(self) -> None:
        if self.state:
            self.exchange()
            self.is_training = True


class RefusesToSaveInEvaluation(Evaluates):
    def state_dict(self) -> Any:
        if not self.is_training:
            raise RuntimeError("call train() first")
        return super().state_dict()


class ForgetsItIsEvaluating(Evaluates):
    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict({**state_dict, "is_training": True})


class KeepsTheLastMicroBatch(Plain):
    """Takes the gradient of the last backward pass, as a hook that overwrites it does."""

    def step(self, closure: Any = None) -> Any:
        if closure is None:
            return super().step()
        last: dict[Tensor, Tensor] = {}
        params = [param for group in self.param_groups for param in group["params"]]
        handles = [param.register_hook(partial(last.__setitem__, param)) for param in params]
        with torch.enable_grad():
            loss = closure()
        for handle in handles:
            handle.remove()
        for param, grad in last.items():
            param.grad = grad
        super().step()
        return loss


class LeavesGradModeOff(Plain):
    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        if closure is not None:
            return loss
        torch.set_grad_enabled(False)
        return loss


class LosesGradModeOnError(Plain):
    def step(self, closure: Any = None) -> Any:
        torch.set_default_dtype(torch.float64)
        loss = super().step(closure)
        torch.set_default_dtype(torch.float32)
        return loss


class Seeds(Plain):
    def update(self, group: Any, param: Tensor, grad: Tensor) -> None:
        torch.manual_seed(0)
        super().update(group, param, grad + 1e-6 * torch.randn_like(grad))


class DrawsNoise(Plain):
    """Draws from the global generator: no defect."""

    def update(self, group: Any, param: Tensor, grad: Tensor) -> None:
        super().update(group, param, grad + 1e-6 * torch.randn_like(grad))


class CountsAlone(Plain):
    def update(self, group: Any, param: Tensor, grad: Tensor) -> None:
        count = self.state[param].get("count", 0) + 1
        super().update(group, param, grad / count)
        self.state[param]["count"] = count


class Wrapped:
    """Acts like an optimizer, but is no torch.optim.Optimizer."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)


class ZeroesBeforeAClosure(Plain):
    def step(self, closure: Any = None) -> Any:
        if closure is not None:
            self.zero_grad()
        return super().step(closure)


class TrainsOnce(Plain):
    evaluates = True

    def eval(self) -> None:
        self.evaluates = True

    def train(self) -> None:
        assert self.evaluates, "must not be written to"
        self.evaluates = False


def without_names(params: Any) -> Plain:
    return Plain([param[1] if isinstance(param, tuple) else param for param in params])


PLANTED: list[tuple[Callable[[Any], Any], str]] = [
    (ClearsGradients, "leaves_gradients_alone"),
    (ScalesGradients, "leaves_gradients_alone"),
    (WritesTheTensorLr, "leaves_a_tensor_lr_alone"),
    (WritesTheLr, "leaves_the_settings_alone"),
    (DividesByTheLr, "survives_a_tensor_lr_of_zero"),
    (CountsTogether, "gives_a_late_parameter_a_first_step"),
    (StartsAnew, "moves_nothing_before_the_first_step"),
    (DividesByZero, "survives_a_zero_first_gradient"),
    (ScalesByTheNorm, "moves_parameters_that_start_at_zero"),
    (ScalesByTheNormAboveATinyFloor, "moves_parameters_that_start_at_zero"),
    (DividesByTheNorm, "moves_parameters_that_start_at_zero"),
    (ForgetsItsCount, "resumes_exactly"),
    (ForgetsItsCount, "resumes_exactly_in_bfloat16"),
    (ForgetsItsCount, "copies_go_on_alike"),
    (ForgetsItsCount, "pickles_go_on_alike"),
    (ForgetsItsCount, "resumes_from_a_distributed_checkpoint"),
    (KeepsALock, "resumes_exactly"),
    (Plain, "keeps_float32_state_of_bfloat16_parameters"),  # torch's own loader
    (KeepsItsGroups, "follows_the_lr_after_resuming"),
    (StepsWithoutAGradient, "leaves_parameters_without_a_gradient_alone"),
    (FirstGroupRules, "takes_groups_with_their_own_settings"),
    (without_names, "takes_named_parameters"),
    (DropsTheLoss, "calls_closures"),
    (ZeroesBeforeAClosure, "adds_the_gradients_of_a_closure"),
    (TrainsOnce, "switches_modes_any_number_of_times"),
    (NeverMaximizes, "climbs_when_maximizing"),
    (NeedsADimension, "takes_single_numbers"),
    (NeedsAnElement, "takes_empty_parameters"),
    (TakesRealParts, "takes_complex_parameters"),
    (ReadsMemoryInOrder, "takes_any_order_in_memory"),
    (Climbs, "learns"),
    (ReadsBack, "waits_for_no_parameter"),
    (EstimatesAScale, "trains_a_late_parameter_like_the_others"),
    (LeavesSlowGroups, "trains_groups_at_their_own_rates"),
    (SumsSquares, "survives_any_magnitude"),
    (DividesByWhatVanishes, "survives_gradients_that_vanish"),
    (ExchangesAtEachCall, "switches_modes_any_number_of_times"),
    (RefusesToSaveInEvaluation, "saves_while_evaluating"),
    (ForgetsItIsEvaluating, "saves_while_evaluating"),
    (KeepsTheLastMicroBatch, "accumulates_in_closures"),
    (LeavesGradModeOff, "leaves_the_process_alone"),
    (LosesGradModeOnError, "leaves_the_process_alone"),
    (Seeds, "leaves_the_process_alone"),
    (CountsAlone, "counts_steps_in_shared_memory"),
    (lambda params: Wrapped(Plain(params)), "is_an_optimizer"),
]


@pytest.mark.parametrize(("broken", "check"), PLANTED)
def test_each_check_fails_on_its_defect(broken: Any, check: str) -> None:
    result = check_optimizer(broken, only=[check])
    assert result[check].outcome == "failed", str(result)
    assert not result.passed


@pytest.mark.parametrize(
    ("sound", "check"),
    [
        (Evaluates, "switches_modes_any_number_of_times"),
        (Evaluates, "saves_while_evaluating"),
        (DrawsNoise, "leaves_the_process_alone"),
    ],
)
def test_what_resembles_a_defect_passes(sound: Any, check: str) -> None:
    assert check_optimizer(sound, only=[check])[check].outcome == "passed"


def test_threads_and_forked_processes() -> None:
    checks = ["steps_in_a_forked_process", "leaves_threads_to_forked_processes"]
    sound = check_optimizer(torch.optim.SGD, only=checks)
    assert [result.outcome for result in sound.checks] == ["passed", "passed"]


THREADS = """
import torch
from thalweg.testing.checks import parallel
from thalweg.testing.fixtures import SHAPES, Subject

class UsesThreads(torch.optim.SGD):
    def step(self, closure=None):
        torch.ones(300_000).exp()
        return super().step(closure)

parallel._TIMEOUT_S = 10
subject = Subject(UsesThreads, None, 0.0, {}, SHAPES)
for check in (parallel._compute_in_a_fork, parallel._train_in_a_fork):
    try:
        check(subject, rank=0)
    except AssertionError as failure:
        print(failure)
"""


def test_threads_that_a_step_starts_fail() -> None:
    # In another program: this one has imported the engine, which ends the threads before a fork.
    completed = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, timeout=300, check=True)
    first, second = completed.stdout.splitlines()
    assert first.startswith("after training, a large operation"), completed.stderr
    assert second.startswith("after a large operation, training"), completed.stderr
    assert "did not end" in first
    assert "did not end" in second


def test_a_guarded_trust_ratio_passes() -> None:
    check = "moves_parameters_that_start_at_zero"
    assert check_optimizer(ScalesByTheNormUnlessZero, only=[check])[check].outcome == "passed"


def _is_one(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 0 and bool(value == 1)


def test_lamb_without_its_guard_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    check = "moves_parameters_that_start_at_zero"
    lamb = partial(optim.LAMB, lr=0.01, weight_decay=0.1, backend="loop")
    assert check_optimizer(lamb, only=[check])[check].outcome == "passed"
    # The guard is `torch.where(norms > 0, ratio, 1)`; without it the ratio itself remains.
    where = torch.where
    monkeypatch.setattr(
        torch,
        "where",
        lambda condition, ratio, other: ratio if _is_one(other) else where(condition, ratio, other),
    )
    assert check_optimizer(lamb, only=[check])[check].outcome == "failed"


def test_a_step_that_depends_on_the_shard_fails() -> None:
    result = check_optimizer(torch.optim.Adafactor, only=["steps_alike_when_sharded"])
    assert result["steps_alike_when_sharded"].outcome == "failed"


def test_an_optimizer_without_defects_fails_only_because_of_torchs_loader() -> None:
    result = check_optimizer(lambda params: Plain(params))
    assert [check.check for check in result.failures] == ["keeps_float32_state_of_bfloat16_parameters"]
    assert result["agrees_with_the_reference"].outcome == "skipped"
    assert result["dispatches_a_parameter"].number > 1


def test_an_ignored_schedule_and_hooks_that_are_not_called_fail() -> None:
    class KeepsItsLr(Plain):
        def update(self, group: Any, param: Tensor, grad: Tensor) -> None:
            super().update({**group, "lr": 0.05}, param, grad)

    class Deaf(Plain):
        def register_step_post_hook(self, hook: Any) -> Any:
            return None

    assert check_optimizer(KeepsItsLr, only=["obeys_schedulers"])["obeys_schedulers"].outcome == "failed"
    assert check_optimizer(Deaf, only=["calls_hooks"])["calls_hooks"].outcome == "failed"


def test_a_reference_and_a_variant_that_differ_fail() -> None:
    result = check_optimizer(
        Plain,
        reference=lambda params: Plain(params, weight_decay=0.1001),
        variants={"variant": lambda params: Plain(params, lr=0.05 * (1 + 1e-15))},
        only=["agrees_with_the_reference", "is_the_same_every_way"],
    )
    assert result["agrees_with_the_reference"].outcome == "failed"
    assert result["is_the_same_every_way"].outcome == "failed"
    assert result["is_the_same_every_way"].detail.startswith("variant in torch.float64")


def test_a_clear_refusal_is_no_failure() -> None:
    class RealOnly(Plain):
        def add_param_group(self, param_group: dict[str, Any]) -> None:
            if any(param.is_complex() for param in param_group["params"]):
                raise ValueError("RealOnly: parameters must be real, got complex ones.")
            super().add_param_group(param_group)

    result = check_optimizer(RealOnly, only=["takes_complex_parameters"])
    assert result.passed
    assert len(result.checks) == 1
    assert result.checks[0].outcome == "refused"
    assert (
        str(result) == "refused  takes_complex_parameters          RealOnly: parameters must be real, got complex ones."
    )


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


def test_an_optimizer_that_needs_closures_gets_them() -> None:
    def needs_a_closure(params: Any) -> torch.optim.Optimizer:
        return optim.optimizer_for("sam(sgd)")(params, lr=0.05)

    result = check_optimizer(needs_a_closure)
    assert [str(check) for check in result.failures] == []
    assert result["accumulates_in_closures"].outcome == "passed"


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
