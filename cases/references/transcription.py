"""Makes a torch optimizer out of a plain function of one tensor: what an algorithm is checked against.

The references are transcribed from the papers, one formula after the other. None of them cares for speed.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor


class Transcription(torch.optim.Optimizer):
    """A subclass names its keywords in `defaults` and its algorithm in `start` and `one` (or `all`).

    An algorithm over the whole model overrides `all`; any other one is called once for each tensor with a gradient.
    """

    defaults: ClassVar[dict[str, Any]] = {}

    def __init__(self, params: Any, **settings: Any) -> None:
        names = type(self).defaults.keys()
        if unknown := settings.keys() - names:
            raise TypeError(f"{type(self).__name__} has no keyword {sorted(unknown)}; it has {list(names)}")
        super().__init__(params, {**type(self).defaults, **settings})

    def start(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """What is remembered before the first step."""
        return {}

    def one(self, param: Tensor, grad: Tensor, memory: dict[str, Any], step: int, group: dict[str, Any]) -> None:
        """One step of one tensor, in place; steps count from 1."""
        raise NotImplementedError

    def all(
        self,
        params: list[Tensor],
        grads: list[Tensor | None],
        memories: list[dict[str, Any]],
        step: int,
        groups: list[dict[str, Any]],
    ) -> None:
        """One step of the whole model: one gradient (or None), one memory and one group for each parameter.

        `memory["step"]` counts the steps in which the parameter had a gradient; `step` is the greatest of them.
        """
        for param, grad, memory, group in zip(params, grads, memories, groups, strict=True):
            if grad is not None:
                self.one(param, grad, memory, memory["step"], group)

    def memory(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """What is remembered of a parameter, started if need be."""
        if param not in self.state:
            self.state[param] = {"step": 0, **self.start(param, group)}
        return self.state[param]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every parameter."""
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
        self.all(params, grads, memories, max(memory["step"] for memory in memories), groups)
        return loss


class CurvatureTranscription(Transcription):
    """An algorithm which is given estimates of the curvature from outside."""

    @torch.no_grad()
    def curvature(self, estimates: list[Tensor]) -> None:
        """Gives one estimate for each parameter, for the next step: it waits in the memory as `estimate`."""
        pairs = [(param, group) for group in self.param_groups for param in group["params"]]
        for (param, group), estimate in zip(pairs, estimates, strict=True):
            self.memory(param, group)["estimate"] = estimate.clone()


def decay(param: Tensor, group: dict[str, Any]) -> None:
    """Decoupled weight decay: θ ← (1 - ηλ)θ."""
    param.mul_(1 - group["lr"] * group["weight_decay"])


def penalized(param: Tensor, grad: Tensor, group: dict[str, Any]) -> Tensor:
    """The gradient with that of an L2 penalty: g + λθ."""
    return grad + group["weight_decay"] * param


def zeros(param: Tensor, *names: str) -> dict[str, Tensor]:
    """Zeros in the shape of a parameter, under each name."""
    return {name: torch.zeros_like(param) for name in names}
