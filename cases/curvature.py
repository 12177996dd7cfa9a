"""Optimizers that need estimates of curvature, for tests and benchmarks that pass gradients alone."""

from typing import Any

import torch
from torch import Tensor

from thalweg import optim
from thalweg.engine.core.precision import compute_dtype


class FirstEstimate(optim.RuleOptimizer):
    """Takes the first estimate of each parameter from its first gradient, unless somebody else has given one."""

    def _prepare_steps(self, occurrence: int = 1) -> Any:
        self._update_curvature(self._first_estimate)
        return super()._prepare_steps(occurrence)

    def _first_estimate(self, param: Tensor) -> Tensor | None:
        if param.grad is None or "step" in self.state.get(param, {}):
            return None
        return param.grad.to(compute_dtype(param.dtype)).square()


class AdaHessian(FirstEstimate, optim.AdaHessian):
    """Takes a first estimate of 1, with which its reference begins."""

    def _first_estimate(self, param: Tensor) -> Tensor | None:
        estimate = super()._first_estimate(param)
        return None if estimate is None else torch.ones_like(estimate)


class Sophia(FirstEstimate, optim.Sophia): ...


SELF_ESTIMATING: dict[type, type] = {optim.AdaHessian: AdaHessian, optim.Sophia: Sophia}
