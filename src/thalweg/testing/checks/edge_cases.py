"""Checks of unusual parameters: 0-d, empty, complex and transposed tensors."""

import torch
from torch import Tensor

from thalweg.testing.fixtures import RefusedError, Subject, set_gradients


def _train_beside_others(subject: Subject, param: Tensor, description: str) -> None:
    """Train an unusual parameter together with the usual ones."""
    before = param.detach().clone()
    usual = subject.params()
    try:
        optimizer = subject.optimizer([*usual, param])
    except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
        raise RefusedError(str(error)) from error
    for step in range(3):
        set_gradients(usual, step)
        param.grad = torch.ones_like(param) * (1 + step)
        subject.step(optimizer, [*usual, param])
    assert param.isfinite().all(), f"{description} became not finite"
    assert param.numel() == 0 or not torch.equal(param, before), f"{description} never moved"


def takes_single_numbers(subject: Subject) -> None:
    """A parameter with 0 dimensions is trained. Known defect: a crash."""
    _train_beside_others(subject, torch.tensor(1.0, device=subject.device, requires_grad=True), "a 0-d parameter")


def takes_empty_parameters(subject: Subject) -> None:
    """A parameter without elements does not disturb a step."""
    _train_beside_others(subject, torch.zeros(0, 3, device=subject.device, requires_grad=True), "an empty parameter")


def takes_complex_parameters(subject: Subject) -> None:
    """A complex parameter is trained, or refused with an error that names the reason."""
    values = torch.tensor([[1.0 + 1.0j, -2.0j], [0.5, 1.0]], device=subject.device, requires_grad=True)
    try:
        _train_beside_others(subject, values, "a complex parameter")
    except Exception as error:
        if "complex" in f"{type(error).__name__} {error}".lower() and not isinstance(error, AssertionError):
            raise RefusedError(str(error)) from error
        raise


def takes_any_order_in_memory(subject: Subject) -> None:
    """A transposed parameter takes the same steps as a contiguous one."""
    generator = torch.Generator().manual_seed(5)
    values, grads = (torch.randn(6, 4, generator=generator).to(subject.device) for _ in range(2))
    ends = []
    for param in (values.clone(), values.t().contiguous().t()):
        param.requires_grad_()
        optimizer = subject.optimizer([param])
        for _ in range(3):
            param.grad = grads.clone()
            subject.step(optimizer, [param])
        ends.append(param.detach())
    error = float((ends[0] - ends[1]).norm() / (ends[0] - values).norm())
    assert error < 1e-5, f"relative error {error:.3g}"
