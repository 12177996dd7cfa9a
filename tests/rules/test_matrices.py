"""The mathematics of rules for matrices: inverse roots of singular matrices, symmetric products, orthogonalization."""

import math

import pytest
import torch
from torch import Tensor

from cases.references.orthogonal import POLAR_EXPRESS
from cases.references.orthogonal import newton_schulz as step_by_step
from thalweg import optim, rules
from thalweg.engine.eager.loop import run_in_lockstep
from thalweg.errors import SettingError
from thalweg.registry import RULES
from thalweg.rules.math.matrices import (
    MIN_NORM,
    STRIP_ROWS,
    averaged_mode_gram,
    gram,
    inverse_root,
    iteration_polynomials,
    newton_schulz,
)
from thalweg.rules.math.polar_express import evaluate, minimax, polar_express


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


MATRIX_RULES = [
    *(kind() for kind in RULES.values() if kind().traits.needs_whole_matrices),
    rules.Shampoo(roots="native"),
    rules.Shampoo(roots="tracked"),
    rules.GaLore(rules.Adam()),
]


@pytest.mark.parametrize("when", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e38])  # the square of 1e38 is inf
@pytest.mark.parametrize("rule", MATRIX_RULES, ids=str)
def test_what_is_not_finite_raises_nothing_and_stays_where_it_is(
    rule: rules.Rule, value: float, dtype: torch.dtype, when: int
) -> None:
    params = [gaussian(4, 6).to(dtype).requires_grad_() for _ in range(3)]
    optimizer = optim.optimizer_for(rule)(params)
    for step in range(3):
        for k, param in enumerate(params):
            param.grad = gaussian(4, 6, seed=3 * step + k).to(dtype)
        if step == when:
            params[1].grad[2, 3] = value
        optimizer.step()
    assert params[0].isfinite().all()
    assert params[2].isfinite().all()
    assert value == 1e38 or params[1].isnan().any()


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("num_rows", [1, 2 * STRIP_ROWS - 1, 2 * STRIP_ROWS, 2 * STRIP_ROWS + 1])
def test_half_of_a_symmetric_product_is_all_of_it(num_rows: int) -> None:
    x = gaussian(2, num_rows, 3)
    whole = x @ x.mT
    for product in (gram(x), torch.stack([gram(matrix) for matrix in x]), torch.vmap(gram)(x)):
        torch.testing.assert_close(product, whole, rtol=1e-14, atol=1e-14)
    mean = gaussian(num_rows, num_rows)
    mean = mean @ mean.mT
    inputs, before = (x, mean), (x.clone(), mean.clone())
    for keep, fresh in ((0.9, 0.1), (torch.tensor(0.9, dtype=torch.float64), torch.tensor(0.1, dtype=torch.float64))):
        average = averaged_mode_gram(mean, x[0].mT, 1, keep, fresh)
        torch.testing.assert_close(average, keep * mean + fresh * whole[0], rtol=1e-14, atol=1e-12)
    assert all(map(torch.equal, inputs, before))


@pytest.mark.parametrize("rule", [rules.SOAP(), rules.Shampoo(), rules.Shampoo(roots="tracked")], ids=str)
def test_the_steps_that_turn_or_take_roots_write_no_input(rule: rules.Rule) -> None:
    rule, param = rule.with_(update_every=1), gaussian(5, 4)
    state = rule.init(param)
    for step in (1, 2):
        grad = gaussian(5, 4, seed=step)
        inputs = [param, grad, *state]
        before = [tensor.clone() for tensor in inputs]
        ((_, state),) = run_in_lockstep([rule.direction(param, grad, state, rule.coefficients(step))])
        assert all(map(torch.equal, inputs, before))


def trained(optimizer: type[optim.RuleOptimizer], shape: tuple[int, ...], turn=lambda g: g, **settings) -> torch.Tensor:
    """Return the parameter after 25 steps from 0, in float64, with gradients that `turn` changes."""
    param = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    stepping = optimizer([param], **settings)
    for step in range(25):
        param.grad = turn(gaussian(*shape, seed=step) * torch.arange(1, shape[-1] + 1))
        stepping.step()
    return param.detach()


def test_soap_that_turns_nothing_is_adam_one_step_later() -> None:
    settings = {"lr": 0.1, "betas": (0.8, 0.9), "eps": 0.0, "weight_decay": 0.0}
    params = torch.zeros(2, 5, 3, dtype=torch.float64).unbind()
    soap, adam = optim.SOAP([params[0]], **settings, max_dim=2), optim.AdamW([params[1]], **settings)
    for step in range(10):
        for param in params:
            param.grad = gaussian(5, 3, seed=step)
        soap.step()
        if step:
            adam.step()
    torch.testing.assert_close(params[0], params[1], rtol=1e-12, atol=1e-14)


def test_shampoo_that_scales_nothing_is_sgd() -> None:
    settings = {"lr": 0.1, "momentum": 0.7, "weight_decay": 0.1}
    ours, sgd = trained(optim.Shampoo, (5, 3), max_dim=2, **settings), trained(torch.optim.SGD, (5, 3), **settings)
    torch.testing.assert_close(ours, sgd, rtol=1e-13, atol=0)


def test_a_side_too_large_for_shampoo_doubles_the_exponent_of_the_other() -> None:
    param = torch.zeros(9, 4, dtype=torch.float64, requires_grad=True)
    param.grad = g = gaussian(9, 4)
    optim.Shampoo([param], lr=1.0, eps=0.1, max_dim=4).step()
    values, vectors = torch.linalg.eigh(g.mT @ g + 0.1 * torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(param.detach(), -g @ (vectors * values**-0.5) @ vectors.mT, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rule", [rules.SOAP(), rules.Shampoo(), rules.Shampoo(roots="tracked")], ids=str)
def test_an_embedding_asks_for_no_matrix_of_its_rows(rule: rules.Rule) -> None:
    for shape in (torch.Size([50_257, 8]), torch.Size([50_257])):
        assert rule.state_numel(shape) <= 3 * shape.numel()


@pytest.mark.parametrize(("shape", "dims"), [((6, 4), [1]), ((4, 6), [0]), ((5, 5), [1]), ((7,), []), ((), [])])
def test_one_sided_soap_leaves_the_larger_side(shape: tuple[int, ...], dims: list[int]) -> None:
    layout = rules.SOAP(one_sided=True).layout(torch.Size(shape))
    assert [name for name in layout if name[0] in "hq"] == [f"{kind}{dim}" for kind in "hq" for dim in dims]


def test_steps_of_soap_turn_with_gradients_along_the_sides_that_are_turned() -> None:
    settings = {"lr": 0.1, "update_every": 3, "weight_decay": 0.0}
    shape = (5, 4)
    rows, columns = (torch.linalg.qr(gaussian(size, size, seed=99)).Q for size in shape)
    for one_sided in (True, False):
        plain = trained(optim.SOAP, shape, one_sided=one_sided, **settings)
        by_columns = trained(optim.SOAP, shape, lambda g: g @ columns, one_sided=one_sided, **settings)
        by_rows = trained(optim.SOAP, shape, lambda g: rows @ g, one_sided=one_sided, **settings)
        assert (by_columns - plain @ columns).norm() < 1e-8 * plain.norm()
        off = (by_rows - rows @ plain).norm() / plain.norm()
        assert off > 0.1 if one_sided else off < 1e-8


def last_step(roots: str, seed: int, steps: int) -> torch.Tensor:
    """Return the last of some steps of Shampoo with gradients of a decreasing spectrum."""
    left, right = (torch.linalg.qr(gaussian(size, size, seed=seed + size)).Q.float() for size in (96, 48))
    param = torch.zeros(96, 48, requires_grad=True)
    stepping = optim.Shampoo([param], lr=1.0, roots=roots, update_every=10)
    for step in range(steps):
        before = param.detach().clone()
        noise = gaussian(96, 48, seed=1000 * seed + step).float()
        param.grad = (left / torch.arange(1, 97)) @ noise @ (right / torch.arange(1, 49)).mT
        stepping.step()
    return param.detach() - before


@pytest.mark.parametrize("seed", [1, 2])
def test_roots_that_are_not_exact_change_steps_of_shampoo_as_little_as_it_says(seed: int) -> None:
    for roots, steps, low, high in (
        ("native", 11, 1e-7, 2e-3),
        ("tracked", 11, 0.05, 0.25),
        ("tracked", 101, 0.01, 0.16),
    ):
        exact = last_step("exact", seed, steps)
        error = (last_step(roots, seed, steps) - exact).norm() / exact.norm()
        assert low < error < high, (roots, steps)


@pytest.mark.parametrize("low", [1e-3, 0.03, 0.4, 0.99])
def test_the_error_of_the_nearest_polynomial_has_one_size_at_four_points(low: float) -> None:
    grid = torch.linspace(low, 1, 100_001, dtype=torch.float64)
    errors = 1 - evaluate(minimax(low, 1.0), grid)
    size = errors.abs().max()
    signs = errors[errors.abs() > size * (1 - 1e-6)].sign()
    # Chebyshev: no odd polynomial of degree 5 is nearer if the largest error is met four times, with signs in turn.
    assert signs.unique_consecutive().tolist() == [1, -1, 1, -1]


def test_the_polynomials_of_polar_express_are_the_published_ones() -> None:
    polynomials = torch.tensor(polar_express(10), dtype=torch.float64)
    published = torch.tensor([*POLAR_EXPRESS, POLAR_EXPRESS[-1], POLAR_EXPRESS[-1]], dtype=torch.float64)
    torch.testing.assert_close(polynomials, published, rtol=1e-8, atol=0)
    assert polar_express(3) == polar_express(10)[:3]  # no polynomial depends on later ones


def singular_values(steps: Tensor) -> Tensor:
    return torch.linalg.svdvals(steps.double())


def drawn(rows: int, columns: int, values: Tensor | None = None) -> Tensor:
    """Return a matrix of normal numbers, changed to these singular values if there are any."""
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
        least = evaluate(polar_express(steps)[-1], least)
        values = singular_values(newton_schulz(matrix, iteration_polynomials("polar-express", steps), MIN_NORM))
        assert least - 1e-5 < values.min()
        assert values.max() < 2 - least + 1e-5
    assert least > 1 - 1e-12
    for steps in (5, 10, 20):
        values = singular_values(newton_schulz(matrix, iteration_polynomials("jordan", steps), MIN_NORM))
        assert (values - 1).square().mean().sqrt() > 0.1


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

    def error(matrix: Tensor) -> float:
        return float((matrix.double() - exact).norm() / exact.norm())

    for matrix in (long, long.mT):
        orthogonal = newton_schulz(matrix, iteration_polynomials(which, steps), MIN_NORM)
        orthogonal = orthogonal if matrix is long else orthogonal.mT
        assert error(orthogonal) < 3 * error(step_by_step(long, steps, polynomials=which)) + 2e-5


def test_jordans_numbers_do_not_go_with_other_polynomials() -> None:
    with pytest.raises(SettingError) as error:
        rules.Muon(polynomials="polar-express", a=3.0)
    assert str(error.value) == (
        "Muon: ns_coefficients apply to polynomials='jordan' only, got (3.0, -4.775, 2.0315) with "
        "polynomials='polar-express'. Remove one of the two."
    )
