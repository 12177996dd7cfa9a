"""A stepper: one optimizer with its parameters and gradients, warmed up and ready to be timed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from thalweg.bench.implementations import MakeOptimizer
from thalweg.engine.kernels import kernel_cache
from thalweg.optim import RuleOptimizer

_WARM_UP_STEPS = 3


class Stepper:
    """One optimizer with parameters and gradients.

    Args:
        make: Makes the optimizer from parameters.
        params: The parameters.
        grads: Their gradients, the same in every step.

    Attributes:
        optimizer: The optimizer.
        compilations: The number of kernels that were compiled before the first step.
    """

    def __init__(self, make: MakeOptimizer, params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        self.params, self._grads = params, grads
        self.optimizer = make(params)
        num_builds = len(kernel_cache.builds)
        if isinstance(self.optimizer, RuleOptimizer):
            self.optimizer.prepare()
        if callable(getattr(self.optimizer, "train", None)):
            self.optimizer.train()  # type: ignore[attr-defined]  # schedule-free optimizers have it
        self.warm_up()
        self.compilations = len(kernel_cache.builds) - num_builds

    def warm_up(self) -> None:
        """Take the steps that make state."""
        for _ in range(_WARM_UP_STEPS):
            self.set_gradients()
            self.optimizer.step()
        self.set_gradients()

    def step(self) -> None:
        """Take one step."""
        self.optimizer.step()
        if self.params[0].grad is None:  # HeavyBall's step removes the gradients
            self.set_gradients()

    def set_gradients(self) -> None:
        """Give each parameter its gradient."""
        for param, grad in zip(self.params, self._grads, strict=True):
            param.grad = grad

    def moved_bytes(self) -> int:
        """Return the bytes that a step moves at least: gradients are read, parameters and state read and written."""
        state = sum(
            2 * value.numel() * value.element_size()
            for param in self.params
            for value in self.optimizer.state[param].values()
            if isinstance(value, torch.Tensor) and value.shape == param.shape
        )
        return state + sum(3 * param.numel() * param.element_size() for param in self.params)
