"""The conformance kit: ours pass all of it, and each check finds the defect it is for."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from cases.rules import CASES, Case
from thalweg import optim
from thalweg.testing import CHECKS, check_optimizer

# Batches of matrices give other digits than the loop, so they pass it by themselves.
BATCHED = [case for case in CASES if case.rule.scope == "matrix" and case.rule.supports_vmap]


@pytest.mark.parametrize(
    ("case", "backend"), [*((case, None) for case in CASES), *((case, "batched") for case in BATCHED)], ids=str
)
def test_every_optimizer_of_ours_passes_the_whole_kit(case: Case, backend: str | None) -> None:
    def making(backend: str | None) -> Callable[[Any], torch.optim.Optimizer]:
        return partial(case.ours, **case.settings, backend=backend)

    ways = [backend or "loop"]
    if case.rule.scope == "tensor" and case.rule.supports_vmap:
        ways += ["batched"]
    if case.rule.scope == "elementwise":
        ways += ["flat", "compiled"] if case.has_kernel else ["flat"]
    found = check_optimizer(
        making(backend),
        reference=lambda params: case.theirs(params, **case.settings),
        tolerance=max(1e-12, case.reference_error),
        variants={backend: making(backend) for backend in ways},
        shapes=case.shapes,
    )
    # Of Rprop the learning rate is the size of the first step alone, as in torch.optim.
    exempt = {"obeys_schedulers"} if case.ours is optim.Rprop else set()
    if not case.rule.supports_complex:
        assert found["takes_complex_parameters"].outcome == "refused"
        exempt.add("takes_complex_parameters")
    if case.rule.scope == "model":  # a first step depends on where the rest of the model is
        exempt.add("gives_a_late_parameter_a_first_step")
    if case.rule.min_dims:
        assert found["takes_single_numbers"].outcome == "refused"
        exempt.add("takes_single_numbers")
    if case.rule.scope == "matrix":
        assert found["steps_alike_when_sharded"].outcome == "refused"
        exempt.add("steps_alike_when_sharded")
    assert [one for one in found.findings if one.outcome != "passed" and one.check not in exempt] == []
    assert len(found.findings) == len(CHECKS) >= 18
    assert found["waits_for_no_parameter"].number == 0
    assert found["dispatches_a_parameter"].number == 0 or "compiled" not in ways


class Plain(torch.optim.Optimizer):
    """Gradient descent with momentum, sound in itself; what follows breaks one thing each."""

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
                    self.one(group, param, -param.grad if group["maximize"] else param.grad)
        return loss

    def one(self, group: dict[str, Any], param: Tensor, grad: Tensor) -> None:
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
    def one(self, group: Any, param: Tensor, grad: Tensor) -> None:
        super().one(group, param, grad)
        grad.mul_(0.5)


class WritesTheTensorLr(Plain):
    def one(self, group: Any, param: Tensor, grad: Tensor) -> None:
        super().one(group, param, grad)
        if isinstance(group["lr"], Tensor) and group["lr"] > 0:
            group["lr"] *= 1.01


class WritesTheLr(Plain):
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["lr"] = group["lr"] * 1.01
        return super().step(closure)


class DividesByTheLr(Plain):
    def one(self, group: Any, param: Tensor, grad: Tensor) -> None:
        if isinstance(group["lr"], Tensor):
            param.mul_(group["lr"] / group["lr"])
        super().one(group, param, grad)


class CountsTogether(Plain):
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["count"] = group.get("count", 0) + 1
        return super().step(closure)

    def one(self, group: Any, param: Tensor, grad: Tensor) -> None:
        super().one(group, param, grad / (1 - 0.9 ** group["count"]))


class StartsAnew(Plain):
    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(params, **settings)
        with torch.no_grad():
            for group in self.param_groups:
                for param in group["params"]:
                    param.mul_(1.01)


class DividesByZero(Plain):
    def one(self, group: Any, param: Tensor, grad: Tensor) -> None:
        norm = grad.abs().sum() if grad.numel() else torch.ones(())
        super().one(group, param, grad / norm)


class ForgetsItsCount(Plain):
    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(params, **settings)
        self.taken = 0

    def step(self, closure: Any = None) -> Any:
        self.taken += 1
        return super().step(closure)

    def one(self, group: Any, param: Tensor, grad: Tensor) -> None:
        super().one(group, param, grad * (1 + 0.01 * self.taken))


class KeepsALock(Plain):
    def one(self, group: Any, param: Tensor, grad: Tensor) -> None:
        super().one(group, param, grad)
        self.state[param]["shape"] = slice(1)  # nothing that loads with weights_only=True


class KeepsItsGroups(Plain):
    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(params, **settings)
        self.kept = self.param_groups

    def step(self, closure: Any = None) -> Any:
        now, self.param_groups = self.param_groups, self.kept
        loss = super().step(closure)
        self.param_groups = now
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
    def one(self, group: Any, param: Tensor, grad: Tensor) -> None:
        super().one(self.param_groups[0], param, grad)


class DropsTheLoss(Plain):
    def step(self, closure: Any = None) -> None:
        super().step(closure)


class NeverMaximizes(Plain):
    def one(self, group: Any, param: Tensor, grad: Tensor) -> None:
        super().one(group, param, -grad if group["maximize"] else grad)


class NeedsADimension(Plain):
    def one(self, group: Any, param: Tensor, grad: Tensor) -> None:
        super().one(group, param, grad * grad.shape[0])


class NeedsAnElement(Plain):
    def one(self, group: Any, param: Tensor, grad: Tensor) -> None:
        super().one(group, param, grad * torch.sign(grad.flatten()[0].real.abs() + 1))


class TakesRealParts(Plain):
    def one(self, group: Any, param: Tensor, grad: Tensor) -> None:
        if param.is_complex():
            grad = grad * torch.nan
        super().one(group, param, grad)


class ReadsMemoryInOrder(Plain):
    def one(self, group: Any, param: Tensor, grad: Tensor) -> None:
        if grad.stride() != param.stride():
            grad = grad.flatten().view(grad.shape[::-1]).t() if grad.dim() == 2 else grad
        super().one(group, param, grad)


class Climbs(Plain):
    def one(self, group: Any, param: Tensor, grad: Tensor) -> None:
        super().one(group, param, -grad)


class ReadsBack(Plain):
    def one(self, group: Any, param: Tensor, grad: Tensor) -> None:
        super().one(group, param, grad * float(grad.real.sum().isfinite()))


class Wrapped:
    """No Optimizer, though it acts like one."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)


def without_names(params: Any) -> Plain:
    return Plain([param[1] if isinstance(param, tuple) else param for param in params])


class StaysAtZero(Plain):
    """LARS and LAMB without their guard."""

    def one(self, group: Any, param: Tensor, grad: Tensor) -> None:
        super().one({**group, "lr": group["lr"] * param.norm()}, param, grad)


PLANTED: list[tuple[Callable[[Any], Any], str]] = [
    (ClearsGradients, "leaves_gradients_alone"),
    (ScalesGradients, "leaves_gradients_alone"),
    (WritesTheTensorLr, "leaves_a_tensor_lr_alone"),
    (WritesTheLr, "leaves_the_settings_alone"),
    (DividesByTheLr, "survives_a_tensor_lr_of_zero"),
    (CountsTogether, "gives_a_late_parameter_a_first_step"),
    (StartsAnew, "moves_nothing_before_the_first_step"),
    (DividesByZero, "survives_a_zero_first_gradient"),
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
    (
        lambda params: Plain([param[1] if isinstance(param, tuple) else param for param in params]),
        "takes_named_parameters",
    ),
    (DropsTheLoss, "calls_closures"),
    (NeverMaximizes, "climbs_when_maximizing"),
    (NeedsADimension, "takes_single_numbers"),
    (NeedsAnElement, "takes_empty_parameters"),
    (TakesRealParts, "takes_complex_parameters"),
    (ReadsMemoryInOrder, "takes_any_order_in_memory"),
    (StaysAtZero, "moves_parameters_that_start_at_zero"),
    (Climbs, "learns"),
    (ReadsBack, "waits_for_no_parameter"),
    (lambda params: Wrapped(Plain(params)), "is_an_optimizer"),
]


@pytest.mark.parametrize(("broken", "check"), PLANTED)
def test_each_check_finds_the_defect_it_is_for(broken: Any, check: str) -> None:
    found = check_optimizer(broken, only=[check])
    assert found[check].outcome == "failed", str(found)
    assert not found.passed


def test_a_step_that_depends_on_the_shard_is_found() -> None:
    found = check_optimizer(torch.optim.Adafactor, only=["steps_alike_when_sharded"])
    assert found["steps_alike_when_sharded"].outcome == "failed"


def test_a_sound_optimizer_fails_nothing_but_what_torchs_loader_breaks() -> None:
    found = check_optimizer(lambda params: Plain(params))
    assert [one.check for one in found.failures] == ["keeps_float32_state_of_bfloat16_parameters"]
    assert found["agrees_with_the_reference"].outcome == "skipped"
    assert found["dispatches_a_parameter"].number > 1


def test_a_schedule_that_is_not_obeyed_and_hooks_that_are_not_called_are_found() -> None:
    class KeepsItsLr(Plain):
        def one(self, group: Any, param: Tensor, grad: Tensor) -> None:
            super().one({**group, "lr": 0.05}, param, grad)

    class Deaf(Plain):
        def register_step_post_hook(self, hook: Any) -> Any:
            return None

    assert check_optimizer(KeepsItsLr)["obeys_schedulers"].outcome == "failed"
    assert check_optimizer(Deaf)["calls_hooks"].outcome == "failed"


def test_a_reference_and_a_variant_that_differ_are_found() -> None:
    found = check_optimizer(
        Plain,
        reference=lambda params: Plain(params, weight_decay=0.1001),
        variants={"other": lambda params: Plain(params, lr=0.05 * (1 + 1e-15))},
    )
    assert found["agrees_with_the_reference"].outcome == "failed"
    assert found["is_the_same_every_way"].outcome == "failed"
    assert found["is_the_same_every_way"].detail.startswith("other in torch.float64")


def test_a_clear_refusal_is_no_failure() -> None:
    class RealOnly(Plain):
        def add_param_group(self, param_group: dict[str, Any]) -> None:
            if any(param.is_complex() for param in param_group["params"]):
                raise ValueError("RealOnly: parameters must be real, got complex ones.")
            super().add_param_group(param_group)

    found = check_optimizer(RealOnly, only=["takes_complex_parameters"])
    assert found.passed
    assert [replace(one, detail="") for one in found.findings] == [replace(found.findings[0], detail="")]
    assert found.findings[0].outcome == "refused"
    assert (
        str(found) == "refused  takes_complex_parameters          RealOnly: parameters must be real, got complex ones."
    )
