"""The factors of PSGD-Kron whiten gradients of any covariance."""

import pytest
import torch
from torch import Tensor

from thalweg import optim


def mixing(size: int, *, diagonal: bool) -> Tensor:
    """Return a matrix that mixes and scales independent numbers, or only scales them."""
    generator = torch.Generator().manual_seed(size)
    scales = torch.logspace(-0.5, 0.5, size, dtype=torch.float64)
    if diagonal:
        return torch.diag(scales)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q * scales


def symmetric(factor: Tensor) -> Tensor:
    """Return Qᵀ Q of a factor."""
    q = torch.diag(factor) if factor.dim() == 1 else factor
    return q.T @ q


def distance_from_white(optimizer: torch.optim.Optimizer, param: Tensor, mixers: list[Tensor]) -> float:
    """Return ‖P Σ P - I‖ / ‖I‖ for the covariance Σ of gradients, which is a Kronecker product like P."""
    white = torch.ones(1, 1, dtype=torch.float64)
    for dim, mixer in enumerate(mixers):
        p = symmetric(optimizer.state[param][f"factor_{dim}"])
        white = torch.kron(white, p @ mixer @ mixer.T @ p)
    unit = torch.eye(len(white), dtype=torch.float64)
    return float((white - unit).norm() / unit.norm())


@pytest.mark.parametrize(
    ("shape", "diagonal", "scale"),
    [((4, 6), False, 10.0), ((4, 6), False, 0.1), ((3, 2, 4), False, 1.0), ((4, 6), True, 1.0), ((5,), False, 1.0)],
    ids=str,
)
def test_the_covariance_of_preconditioned_gradients_becomes_the_identity(
    shape: tuple[int, ...], diagonal: bool, scale: float
) -> None:
    mixers = [mixing(size, diagonal=diagonal) for size in shape]
    mixers[0] = mixers[0] * scale
    param = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    optimizer = optim.PSGDKron([param], lr=0.0, momentum=0.0, update_first=10**6, max_size=1 if diagonal else 8)
    generator = torch.Generator().manual_seed(0)

    def fit(precond_lr: float, num_steps: int) -> float:
        optimizer.param_groups[0]["precond_lr"] = precond_lr
        for _ in range(num_steps):
            grad = torch.randn(shape, generator=generator, dtype=torch.float64)
            for dim, mixer in enumerate(mixers):
                grad = torch.tensordot(mixer, grad, dims=([1], [dim])).movedim(0, dim)
            param.grad = grad
            optimizer.step()
        return distance_from_white(optimizer, param, mixers)

    assert fit(1e-6, 1) > 0.9
    fit(0.1, 200)
    fit(0.03, 300)
    assert fit(0.01, 300) < 0.25  # the rest is the noise of the last hundred gradients


def test_rows_that_get_no_gradient_for_long_stay_finite_and_come_back() -> None:
    param = torch.zeros(6, 4, requires_grad=True)
    optimizer = optim.PSGDKron([param], lr=1.0, update_first=10**6)
    generator = torch.Generator().manual_seed(0)
    for step in range(600):
        grad = torch.randn(6, 4, generator=generator)
        if step < 500:
            grad[2:4] = 0
        before, param.grad = param.detach().clone(), grad
        optimizer.step()
        moved = (param.detach() - before).square().mean().sqrt()
        assert param.isfinite().all()
        assert moved <= 1.1 + 1e-3
    assert moved > 0.3  # as large a step as ever


def test_a_gradient_of_zero_changes_no_factor() -> None:
    params = [torch.ones(shape, requires_grad=True) for shape in ((3, 2), (40,), ())]
    optimizer = optim.PSGDKron(params, lr=0.1)
    for value in (0.0, 0.0, 1.0):
        for param in params:
            param.grad = torch.full_like(param, value)
        optimizer.step()
        for param in params:
            factor = optimizer.state[param]["factor_0"]
            start = torch.ones(40) if param.dim() == 1 else torch.eye(len(factor))
            assert torch.equal(factor, start) == (value == 0)
            assert torch.equal(param, torch.ones_like(param)) == (value == 0)
