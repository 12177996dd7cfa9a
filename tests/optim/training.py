"""Trainings to compare, with one optimizer or another."""

import pytest
import torch

from cases.rules import CASES, SHAPES, TORCH_CASES, Shapes, gradients, parameters

each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_of_torchs = pytest.mark.parametrize("case", TORCH_CASES, ids=str)


def train(optimizer: torch.optim.Optimizer, num_steps: int, skip: int = 0) -> None:
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for grads in gradients(skip + num_steps, torch.float64, [param.shape for param in params])[skip:]:
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad.to(param.dtype).clone()
        optimizer.step()


def fresh(dtype: torch.dtype = torch.float32, shapes: Shapes = SHAPES) -> list[torch.Tensor]:
    return [param.requires_grad_() for param in parameters(dtype, shapes)]


def assert_same(ours: list[torch.Tensor], theirs: list[torch.Tensor], **tolerance: float) -> None:
    for actual, expected in zip(ours, theirs, strict=True):
        if tolerance:
            torch.testing.assert_close(actual.detach(), expected.detach(), **tolerance)
        else:
            assert torch.equal(actual, expected)
