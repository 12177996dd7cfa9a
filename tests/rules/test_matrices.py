"""What rules of matrices share: roots where eigenvalues are lost in rounding, orthogonal parts."""

import pytest
import torch

from thalweg import optim
from thalweg.rules.base.matrices import inverse_root


def test_a_root_takes_eigenvalues_that_rounding_lost_for_the_least_it_can_tell() -> None:
    tall = torch.randn(96, 8, generator=torch.Generator().manual_seed(0))
    products = 1e3 * (tall @ tall.mT)  # of rank 8: the other eigenvalues are rounding, some below zero
    assert torch.linalg.eigvalsh(products.double())[0] < 0
    root = inverse_root(products, 4)
    assert root.isfinite().all()
    largest = torch.linalg.eigvalsh(products.double())[-1]
    assert torch.linalg.matrix_norm(root, ord=2) <= (largest * 96 * torch.finfo(torch.float32).eps) ** -0.25 * 1.001
    ridge = products.double() + torch.eye(96, dtype=torch.float64)
    exact = torch.linalg.matrix_power(inverse_root(ridge, 4), 4) @ ridge
    assert torch.allclose(exact, torch.eye(96, dtype=torch.float64), atol=1e-8)


@pytest.mark.parametrize("optimizer", [optim.Shampoo, optim.SOAP])
def test_gradients_of_low_rank_leave_parameters_finite(optimizer) -> None:
    param = torch.randn(256, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    stepping = optimizer([param])
    for seed in range(3):
        param.grad = 30 * torch.randn(256, 64, generator=torch.Generator().manual_seed(seed))
        stepping.step()
    assert param.isfinite().all()
