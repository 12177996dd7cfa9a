"""Optimizers for tests of the conformance kit: a plain one, and those whose steps have one defect."""

from typing import Any

import torch
from torch import Tensor


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
