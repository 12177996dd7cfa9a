"""Every rule over gradients of any size: it stays finite and near the same rule in float64."""

from dataclasses import replace

import pytest
import torch

from cases.magnitudes import (
    Structure,
    all_rules,
    deviations,
    gradients,
    run,
    shapes_of,
    starting_points,
)
from thalweg import optim, rules
from thalweg.rules.math.matrices import (
    MIN_NORM,
    averaged_mode_gram,
    frobenius_norm,
    inverse_root,
    iteration_polynomials,
    newton_schulz,
)
from thalweg.rules.math.roots import hypot

RULES = all_rules()
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
# Rules whose state fades longest, or that divide by what fades. The others are tried for as long by
# benchmarks/faults/magnitudes.py.
FADING = ("Adam", "Lion", "Muon", "NorMuon", "NovoGrad", "Orthogonalized(Signum)")
# Gradients of these shapes determine all that a step depends on. Of (2, 7) they leave eigenvectors to rounding.
DETERMINED = ((4, 4), (5,), ())
NORMAL_SCALES = (1e-30, 1e-20, 1e-10, 1e-5, 1.0, 5e3, 1e5, 1e10, 1e18)


@each_rule
def test_a_rule_in_float32_is_near_itself_in_float64_at_every_size(rule: rules.Rule) -> None:
    for scale in NORMAL_SCALES:
        for deviation in deviations(rule, [scale] * 6, torch.float32, shapes=DETERMINED):
            assert deviation.is_finite, scale
            assert deviation.change < 0.02, (scale, deviation)


@each_rule
@pytest.mark.parametrize("scale", [1e-42, 1e-38])  # float32 has 3 digits for the first; ε of some rules is larger
def test_subnormal_gradients_give_no_larger_steps_than_in_float64(rule: rules.Rule, scale: float) -> None:
    for deviation in deviations(rule, [scale] * 6, torch.float32, shapes=DETERMINED):
        assert deviation.is_finite
        assert deviation.step < 1.2, deviation


HALVES = [(torch.bfloat16, (1e-38, 1.0, 1e18)), (torch.float16, (6e-8, 1.0, 1e3))]


@each_rule
@pytest.mark.parametrize(("dtype", "scales"), HALVES, ids=str)
def test_half_precisions_stay_near_too(rule: rules.Rule, dtype: torch.dtype, scales: tuple[float, ...]) -> None:
    for scale in scales:
        for deviation in deviations(rule, [scale] * 4, dtype, shapes=((4, 4), (5,))):
            assert deviation.is_finite, scale
            assert deviation.step < 1.2, (scale, deviation)
            assert deviation.change < 0.1 or scale < 1e-30, (scale, deviation)


@each_rule
def test_steps_stay_in_bounds_when_sizes_alternate(rule: rules.Rule) -> None:
    falling, spike = (1e18, 1e10, 1.0, 1e-10, 1e-20, 1e-30, 1e-42), (1.0, 1.0, 1e18, 1.0, 1.0)
    for scales in (falling, spike, (1e18, 1e-10) * 3, (0.0, 0.0, 1e-42, 1.0)):
        if rule.name == "DAdaptSGD" and scales[0] == 0:
            continue  # its steps are shares of the first norm, which float32 knows to 3 digits
        for deviation in deviations(rule, scales, torch.float32, shapes=DETERMINED):
            assert deviation.is_finite, scales
            assert deviation.step < 1.5, (scales, deviation)


@each_rule
@pytest.mark.parametrize("structure", ["one element", "every other row", "rank 1"])
def test_gradients_with_zeros_or_of_low_rank_stay_in_bounds(rule: rules.Rule, structure: Structure) -> None:
    for scale in (1.0, 1e18):
        for deviation in deviations(rule, [scale] * 4, torch.float32, shapes=((4, 4), (2, 7)), structure=structure):
            assert deviation.is_finite, scale
            assert deviation.step < 2, (scale, deviation)


@each_rule
def test_tensors_whose_sum_of_squares_is_too_large_for_float32(rule: rules.Rule) -> None:
    for deviation in deviations(rule, [1e18] * 4, torch.float32, shapes=((24, 20), (500,))):
        assert deviation.is_finite
        assert deviation.step < 1.5, deviation
        assert deviation.step > 0.5 or deviation.change < 0.02, deviation


@each_rule
def test_gradients_that_vanish_and_return(rule: rules.Rule) -> None:
    # PSGDKron is slow, and was NaN after 500 zeros.
    num_zeros = 2000 if rule.name in FADING else 600 if rule.name == "PSGDKron" else 100
    for deviation in deviations(rule, [1.0] * 4 + [0.0] * num_zeros + [1.0] * 4, torch.float32, shapes=((4, 4),)):
        assert deviation.is_finite
        assert deviation.step < 1.1, deviation
        # Each step of Dion turns by the rounding of the one before.
        assert deviation.change < 0.05 or rule.name == "Dion", deviation


def test_small_changes_of_gradients_are_small_changes_of_parameters() -> None:
    """A relative change of 1e-9 in every gradient; SOAP with vectors moved by 10 to 80 percent."""
    shapes = ((4, 4), (4, 3), (5,), (), (1, 1), (1, 6), (6, 1))
    for rule in RULES:
        if rule.name.endswith("(Signum)"):  # a sign is not continuous
            continue
        mine = shapes_of(rule, shapes)
        start = starting_points(mine, torch.float64)
        changes = []
        for size in (0.0, 1e-9):
            generator = torch.Generator().manual_seed(5)
            noisy = (
                [g * (1 + size * torch.randn(g.shape, generator=generator, dtype=g.dtype)) for g in grads]
                # SOAP updates its basis after ten steps.
                for grads in gradients(mine, [1.0] * (12 if rule.traits.scope == "matrix" else 4), torch.float64)
            )
            changes.append(run(rule, start, noisy).changes)
        for plain, noisy, shape in zip(*changes, mine, strict=True):
            assert (plain - noisy).abs().max() < 1e-7 * plain.abs().max() + 1e-14, (rule.name, shape)


@pytest.mark.parametrize("shape", [(5,), (1, 5), (5, 1), (1, 5, 1)])
def test_soap_updates_vectors_as_adamw_one_step_late(shape: tuple[int, ...]) -> None:
    settings = {"lr": 0.1, "betas": (0.8, 0.9), "eps": 0.0, "weight_decay": 0.0, "backend": "loop"}
    soap_param, adam_param = torch.zeros(2, *shape, dtype=torch.float64).unbind()
    soap, adam = optim.SOAP([soap_param], **settings), optim.AdamW([adam_param], **settings)
    for step, (grad,) in enumerate(gradients([shape], [1.0] * 25, torch.float64)):
        soap_param.grad = adam_param.grad = grad
        soap.step()
        if step:
            adam.step()
    torch.testing.assert_close(soap_param, adam_param, rtol=1e-12, atol=1e-14)
    rotating = rules.SOAP(precondition_1d=True)
    assert {name[0] for name in rotating.layout(torch.Size(shape))} == {"m", "v", "h", "q"}


@pytest.mark.parametrize("scale", [2.0**-140, 2.0**-90, 2.0**80, 2.0**120])
def test_norms_and_orthogonal_parts_do_not_depend_on_the_scale(scale: float) -> None:
    matrix = torch.randn(6, 40, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    coarse = (scale * matrix).double() / scale  # what is left of it among subnormal numbers
    torch.testing.assert_close(
        frobenius_norm(scale * matrix).double() / scale, frobenius_norm(coarse), rtol=1e-3, atol=0
    )
    polynomials = iteration_polynomials("jordan", 5)
    at_scale, expected = (newton_schulz(x, polynomials, eps) for x, eps in ((scale * matrix, 0.0), (coarse, MIN_NORM)))
    torch.testing.assert_close(at_scale.double(), expected, rtol=1e-3, atol=1e-3)
    x = coarse.abs().flatten()
    actual = hypot((scale * x).float(), (scale * x.flip(0)).float())
    torch.testing.assert_close(actual.double() / scale, torch.hypot(x, x.flip(0)), rtol=2e-3, atol=1e-40 / scale)


def test_zero_has_norm_zero_and_no_orthogonal_part() -> None:
    zero = torch.zeros(3, 2)
    assert frobenius_norm(zero) == 0
    assert torch.equal(newton_schulz(zero, iteration_polynomials("jordan", 5), MIN_NORM), zero)
    assert torch.equal(hypot(zero, zero), zero)


def test_gram_matrices_beyond_the_largest_number_keep_their_eigenvectors() -> None:
    grad = 1e19 * torch.randn(5, 30, generator=torch.Generator().manual_seed(0))
    mean = 1e38 * torch.eye(5)
    result = averaged_mode_gram(mean, grad, 0, 0.5, 0.5)
    exact = 0.5 * mean.double() + 0.5 * grad.double() @ grad.double().mT
    assert result.isfinite().all()
    torch.testing.assert_close(result.double() / result.double().trace(), exact / exact.trace(), rtol=1e-5, atol=1e-7)
    small = averaged_mode_gram(mean / 1e38, grad / 1e19, 0, 0.5, 0.5)
    assert torch.equal(small, (0.5 * mean / 1e38).addmm_(0.5 * (grad / 1e19), (grad / 1e19).mT))


@pytest.mark.parametrize("roots", ["exact", "native", "tracked"])
def test_shampoo_is_exact_while_its_sums_are_representable(roots: str) -> None:
    """The traces of these sums are above the largest float32; no element is."""
    rule = rules.Shampoo(roots=roots)
    (deviation,) = deviations(rule, [1e17] * 8, torch.float32, shapes=((130, 140),))
    assert deviation.is_finite
    assert deviation.change < (0.05 if roots == "tracked" else 1e-3), deviation
    assert deviation.step < 1.01, deviation


def test_inverse_roots_scale_with_their_matrix() -> None:
    grad = torch.randn(5, 30, generator=torch.Generator().manual_seed(0))
    matrix = grad @ grad.mT
    for scale in (2.0**-60, 2.0**120):
        expected = inverse_root(matrix, 4) * scale**-0.25
        for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 1e-4)):
            torch.testing.assert_close(inverse_root(matrix * scale, 4, dtype), expected, rtol=tolerance, atol=0.0)
    largest = torch.full((4, 4), torch.finfo(torch.float32).max)
    assert inverse_root(largest, 4, torch.float32).isfinite().all()


@pytest.mark.parametrize("smallest", [1e-25, 1e25])
@pytest.mark.parametrize("size", [1e-38, 1.0, 1e18])
def test_factors_of_psgd_may_differ_by_any_factor(smallest: float, size: float) -> None:
    param = torch.zeros(4, 4, requires_grad=True)
    optimizer = optim.PSGDKron([param], lr=1.0)
    for step in range(4):
        param.grad = size * torch.randn(4, 4, generator=torch.Generator().manual_seed(step))
        before = param.detach().clone()
        optimizer.step()
        assert (param.detach() - before).square().mean().sqrt() < 1.1001
        if step == 0:
            optimizer.state[param]["factor_0"].copy_(torch.diag(torch.tensor([1.0, smallest, 1.0, 1.0])))
    assert param.isfinite().all()
    assert all(optimizer.state[param][f"factor_{dim}"].isfinite().all() for dim in range(2))


def test_came_steps_where_a_row_and_a_column_have_no_gradient() -> None:
    param = torch.ones(4, 3, requires_grad=True)
    optimizer = optim.CAME([param], lr=0.1)
    param.grad = torch.zeros(4, 3)
    param.grad[1, 1] = 2.0
    optimizer.step()
    assert param.isfinite().all()
    assert param[1, 1] < 1
    assert torch.equal(param == 1, param.grad == 0)


def test_flushing_subnormal_numbers_to_zero_does_no_harm() -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers")
    try:
        for rule in (rules.NorMuon(), rules.Muon(), rules.PSGDKron(), rules.Dion(), rules.SOAP(), rules.Shampoo()):
            shapes = ((4, 4),)
            scales = [1.0] * 4 + [0.0] * 300 + [1e-42, 1e-38, 1.0]
            ran = run(replace(rule), starting_points(shapes, torch.float32), gradients(shapes, scales, torch.float32))
            assert ran.is_finite
            assert max(ran.largest_steps) < 1
    finally:
        torch.set_flush_denormal(False)
