"""Checks of very small, very large and vanishing gradients."""

import math

import torch
from torch import Tensor

from thalweg.testing.fixtures import Subject, clone_params, make_gradients, set_gradients

_SCALES = {
    torch.float32: (1e-42, 1e-30, 1e-10, 5e3, 1e10, 1e18),
    torch.bfloat16: (1e-30, 1e-10, 5e3, 1e10, 1e18),
    torch.float64: (1e-42, 1e-30, 1e-10, 5e3, 1e10, 1e18),
}
_TINY = 1e-34
_NUM_ZERO_STEPS = 400
_NUM_USUAL_STEPS = 50
_MAX_JUMP = 100  # times the longest ordinary step


def survives_any_magnitude(subject: Subject) -> None:
    """Gradients from 1e-42 to 1e18 leave finite parameters. Known defect: NaN from sums of squares that overflow."""
    for dtype, scales in _SCALES.items():
        for scale in scales:
            params = subject.params(dtype)
            optimizer = subject.optimizer(params)
            for step in range(5):
                for param, grad in zip(params, make_gradients(params, step), strict=True):
                    param.grad = grad * scale
                subject.step(optimizer, params)
            assert all(param.isfinite().all() for param in params), (
                f"parameters are not finite after 5 gradients of size {scale:g} in {dtype}"
            )


def survives_gradients_that_vanish(subject: Subject) -> None:
    """Gradients that fade to zero and return give ordinary steps. Known defect: division by what became subnormal."""
    params = subject.params()
    optimizer = subject.optimizer(params)
    usual = subject.params()
    longest = _longest_step(subject, subject.optimizer(usual), usual, range(_NUM_USUAL_STEPS))
    subject.train(optimizer, params, range(5))
    for step in range(5):
        for param, grad in zip(params, make_gradients(params, step), strict=True):
            param.grad = grad * _TINY
        subject.step(optimizer, params)
    for param in params:
        param.grad = torch.zeros_like(param)
    for _ in range(_NUM_ZERO_STEPS):
        subject.step(optimizer, params)
        assert all(param.isfinite().all() for param in params), "parameters are not finite after gradients of zero"
    jump = _longest_step(subject, optimizer, params, range(5))
    assert jump <= _MAX_JUMP * longest, (
        f"a step of {jump:.3g} after {_NUM_ZERO_STEPS} gradients of zero; without them the longest is {longest:.3g}"
    )


def _longest_step(subject: Subject, optimizer: torch.optim.Optimizer, params: list[Tensor], steps: range) -> float:
    longest = 0.0
    for step in steps:
        before = clone_params(params)
        set_gradients(params, step)
        subject.step(optimizer, params)
        distances = [float((param - start).detach().norm()) for param, start in zip(params, before, strict=True)]
        longest = max(longest, *(distance if math.isfinite(distance) else math.inf for distance in distances))
    return longest
