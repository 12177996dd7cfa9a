"""Optimizers with a defect beside their steps: evaluation, modes of the process, random numbers, closures."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from tests.testing.defective_steps import Plain


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
