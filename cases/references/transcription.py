"""The base of the reference optimizers: a torch optimizer from a plain function of one tensor.

The references are transcribed from the papers, formula by formula, without regard to speed.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor


class Transcription(torch.optim.Optimizer):
    """A subclass declares its keywords in `defaults` and its algorithm in `start` and `update` (or `update_all`).

    An algorithm over the whole model overrides `update_all`. `update` is called once for each tensor with a gradient.
    """

    defaults: ClassVar[dict[str, Any]] = {}

    def __init__(self, params: Any, **settings: Any) -> None:
        names = type(self).defaults.keys()
        if unknown := settings.keys() - names:
            raise TypeError(f"{type(self).__name__} has no keyword {sorted(unknown)}; it has {list(names)}")
        super().__init__(params, {**type(self).defaults, **settings})

    def start(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return the memory before the first step."""
        return {}

    def update(self, param: Tensor, grad: Tensor, memory: dict[str, Any], step: int, group: dict[str, Any]) -> None:
        """Take one step of one tensor, in place; steps count from 1."""
        raise NotImplementedError

    def update_all(
        self,
        params: list[Tensor],
        grads: list[Tensor | None],
        memories: list[dict[str, Any]],
        step: int,
        groups: list[dict[str, Any]],
    ) -> None:
        """Take one step of the whole model, with a gradient (or None), a memory and a group for each parameter.

        `memory["step"]` counts the steps in which the parameter had a gradient; `step` is the largest of these counts.
        """
        for param, grad, memory, group in zip(params, grads, memories, groups, strict=True):
            if grad is not None:
                self.update(param, grad, memory, memory["step"], group)

    def memory(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return the memory of a parameter; create it if there is none."""
        if param not in self.state:
            self.state[param] = {"step": 0, **self.start(param, group)}
        return self.state[param]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step of every parameter."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        pairs = [(param, group) for group in self.param_groups for param in group["params"]]
        params, groups = [param for param, _ in pairs], [group for _, group in pairs]
        grads = [None if param.grad is None else param.grad.clone() for param in params]
        memories = [self.memory(param, group) for param, group in pairs]
        for grad, memory in zip(grads, memories, strict=True):
            memory["step"] += grad is not None
        self.update_all(params, grads, memories, max(memory["step"] for memory in memories), groups)
        return loss


class CurvatureTranscription(Transcription):
    """An algorithm that receives estimates of the curvature from outside."""

    @torch.no_grad()
    def curvature(self, estimates: list[Tensor]) -> None:
        """Store one estimate for each parameter, for the next step, as `estimate` in the memory."""
        pairs = [(param, group) for group in self.param_groups for param in group["params"]]
        for (param, group), estimate in zip(pairs, estimates, strict=True):
            self.memory(param, group)["estimate"] = estimate.clone()


def decay(param: Tensor, group: dict[str, Any]) -> None:
    """Apply decoupled weight decay: θ ← (1 - ηλ)θ."""
    param.mul_(1 - group["lr"] * group["weight_decay"])


def penalized(param: Tensor, grad: Tensor, group: dict[str, Any]) -> Tensor:
    """Return the gradient plus that of an L2 penalty: g + λθ."""
    return grad + group["weight_decay"] * param


def zeros(param: Tensor, *names: str) -> dict[str, Tensor]:
    """Return zeros of the shape of a parameter, under each name."""
    return {name: torch.zeros_like(param) for name in names}
