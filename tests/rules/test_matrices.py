"""What rules of matrices share: roots where eigenvalues are lost in rounding, orthogonal parts."""

import pytest
import torch
from torch import Tensor

from tests.references.matrices import POLAR_EXPRESS
from tests.references.matrices import newton_schulz as step_by_step
from thalweg import optim, rules
from thalweg.errors import SettingError
from thalweg.rules.base.matrices import LEAST_NORM, inverse_root, newton_schulz, polynomials
from thalweg.rules.base.polar_express import minimax, polar_express, value


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


@pytest.mark.parametrize("low", [1e-3, 0.03, 0.4, 0.99])
def test_the_error_of_the_nearest_polynomial_has_one_size_at_four_points(low: float) -> None:
    grid = torch.linspace(low, 1, 100_001, dtype=torch.float64)
    errors = 1 - value(minimax(low, 1.0), grid)
    size = errors.abs().max()
    signs = errors[errors.abs() > size * (1 - 1e-6)].sign()
    # Chebyshev: no odd polynomial of degree 5 is nearer if the largest error is met four times, with signs in turn.
    assert signs.unique_consecutive().tolist() == [1, -1, 1, -1]


def test_the_polynomials_of_polar_express_are_the_published_ones() -> None:
    found = torch.tensor(polar_express(10), dtype=torch.float64)
    published = torch.tensor([*POLAR_EXPRESS, POLAR_EXPRESS[-1], POLAR_EXPRESS[-1]], dtype=torch.float64)
    torch.testing.assert_close(found, published, rtol=1e-8, atol=0)
    assert polar_express(3) == polar_express(10)[:3]  # each is chosen for those before it


def singular_values(steps: Tensor) -> Tensor:
    return torch.linalg.svdvals(steps.double())


def drawn(rows: int, columns: int, values: Tensor | None = None) -> Tensor:
    """A matrix of normal numbers, or one that has these singular values."""
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if values is not None:
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        matrix = left * values @ right
    return matrix.float()


SPECTRA = {
    "normal": None,
    "falling to 1e-8": torch.logspace(0, -8, 64, dtype=torch.float64),
    "falling as a square": torch.arange(1, 65, dtype=torch.float64) ** -2.0,
    "of rank 1": torch.eye(64, dtype=torch.float64)[0],
}


def test_polar_express_comes_as_near_to_1_as_it_promises_and_jordan_never() -> None:
    matrix = drawn(32, 64)
    least = 1e-3
    assert singular_values(matrix / matrix.norm()).min() > least
    for steps in range(1, 10):
        least = value(polar_express(steps)[-1], least)
        found = singular_values(newton_schulz(matrix, polynomials("polar-express", steps), LEAST_NORM))
        assert least - 1e-5 < found.min()
        assert found.max() < 2 - least + 1e-5
    assert least > 1 - 1e-12
    for steps in (5, 10, 20):
        found = singular_values(newton_schulz(matrix, polynomials("jordan", steps), LEAST_NORM))
        assert (found - 1).square().mean().sqrt() > 0.1


def test_coarse_products_do_not_drive_polar_express_to_infinity() -> None:
    def coarse(tensor: Tensor) -> Tensor:
        return tensor.bfloat16().float()

    x = drawn(64, 256, SPECTRA["of rank 1"])
    for a, b, c in polar_express(8):
        gram = coarse(x) @ coarse(x).mT
        x = a * x + coarse(b * gram + c * coarse(gram) @ coarse(gram)) @ coarse(x)
    assert singular_values(x).max() < 1.2


@pytest.mark.parametrize("which", ["jordan", "polar-express"])
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("steps", [5, 8])
def test_a_long_matrix_loses_no_digits_by_fewer_products(which: str, spectrum: str, steps: int) -> None:
    long = drawn(64, 256, SPECTRA[spectrum])
    exact = step_by_step(long.double(), steps, polynomials=which)

    def error(found: Tensor) -> float:
        return float((found.double() - exact).norm() / exact.norm())

    for matrix in (long, long.mT):
        found = newton_schulz(matrix, polynomials(which, steps), LEAST_NORM)
        found = found if matrix is long else found.mT
        assert error(found) < 3 * error(step_by_step(long, steps, polynomials=which)) + 2e-5


def test_jordans_numbers_do_not_go_with_other_polynomials() -> None:
    with pytest.raises(SettingError) as error:
        rules.Muon(polynomials="polar-express", a=3.0)
    assert str(error.value) == (
        "Muon: ns_coefficients are those of polynomials='jordan', got (3.0, -4.775, 2.0315) with "
        "polynomials='polar-express', which has its own. Leave one of them out."
    )
