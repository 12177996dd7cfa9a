"""Checks of odd parameters: single numbers, none at all, complex ones, transposed ones."""

import torch
from torch import Tensor

from thalweg.testing.kit import Kit, RefusedError, gradients


def _one(kit: Kit, param: Tensor, what: str) -> None:
    """Train one odd parameter beside the usual ones."""
    before = param.detach().clone()
    beside = kit.params()
    try:
        optimizer = kit.made([*beside, param])
    except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
        raise RefusedError(str(error)) from error
    for step in range(3):
        for one, grad in zip(beside, gradients(beside, step), strict=True):
            one.grad = grad
        param.grad = torch.ones_like(param) * (1 + step)
        optimizer.step()
    assert param.isfinite().all(), f"{what} became not finite"
    assert param.numel() == 0 or not torch.equal(param, before), f"{what} never moved"


def takes_single_numbers(kit: Kit) -> None:
    """Parameters without a dimension are trained. Found: a crash."""
    _one(kit, torch.tensor(1.0, requires_grad=True), "a 0-d parameter")


def takes_empty_parameters(kit: Kit) -> None:
    """Parameters without an element do no harm."""
    _one(kit, torch.zeros(0, 3, requires_grad=True), "an empty parameter")


def takes_complex_parameters(kit: Kit) -> None:
    """Complex parameters are trained, or refused with an error that says so."""
    try:
        _one(kit, torch.tensor([[1.0 + 1.0j, -2.0j], [0.5, 1.0]], requires_grad=True), "a complex parameter")
    except Exception as error:
        if "complex" in f"{type(error).__name__} {error}".lower() and not isinstance(error, AssertionError):
            raise RefusedError(str(error)) from error
        raise


def takes_any_order_in_memory(kit: Kit) -> None:
    """A transposed parameter takes the steps of a contiguous one."""
    generator = torch.Generator().manual_seed(5)
    values, grads = (torch.randn(6, 4, generator=generator) for _ in range(2))
    ends = []
    for param in (values.clone(), values.t().contiguous().t()):
        param.requires_grad_()
        optimizer = kit.made([param])
        for _ in range(3):
            param.grad = grads.clone()
            optimizer.step()
        ends.append(param.detach())
    error = float((ends[0] - ends[1]).norm() / (ends[0] - values).norm())
    assert error < 1e-5, f"relative error {error:.3g}"


def moves_parameters_that_start_at_zero(kit: Kit) -> None:
    """Train parameters that start at zero, as biases do. Found: a step that is a share of the parameter's norm."""
    params = [torch.zeros(shape, requires_grad=True) for shape in kit.shapes]
    optimizer = kit.made(params)
    for step in range(3):
        for param, grad in zip(params, gradients(params, step), strict=True):
            param.grad = grad
        optimizer.step()
    assert all(param.isfinite().all() for param in params), "parameters are not finite"
    still = [tuple(param.shape) for param in params if not param.any()]
    assert not still, f"parameters of the shapes {still} never moved"
