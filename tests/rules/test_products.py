"""The precision of products of matrices in the iteration of Newton and Schulz, a setting of Muon and its relatives."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from thalweg import optim, rules
from thalweg.errors import SettingError
from thalweg.rules.math import matrices
from thalweg.rules.math.matrices import (
    MIN_NORM,
    gram_by_strips,
    iteration_polynomials,
    newton_schulz,
    product_dtype,
)

HALVES = [torch.bfloat16, torch.float16]
UNIT = {torch.bfloat16: 2**-9, torch.float16: 2**-12, torch.float32: 2**-24}  # largest relative error of a rounding


def normal(rows: int, columns: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(rows + columns)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64).to(dtype)


def exact(matrix: Tensor, polynomials: object) -> Tensor:
    return newton_schulz(matrix.double(), polynomials, MIN_NORM)  # type: ignore[arg-type]


def error(part: Tensor, reference: Tensor) -> float:
    return float((part.double() - reference).norm() / reference.norm())


def test_the_default_precision_is_that_of_the_matrix_but_on_cuda() -> None:
    class OnCuda:
        device = torch.device("cuda")

        def __init__(self, dtype: torch.dtype) -> None:
            self.dtype = dtype

    for dtype in (torch.float32, torch.float64):
        assert product_dtype("auto", torch.empty(1, dtype=dtype)) == dtype
        assert product_dtype("auto", torch.empty(1, dtype=dtype, device="meta")) == dtype
        for name in ("float32", "bfloat16", "float16"):
            assert product_dtype(name, torch.empty(1, dtype=dtype)) == getattr(torch, name)
    assert product_dtype("auto", OnCuda(torch.float32)) == torch.float16  # type: ignore[arg-type]
    assert product_dtype("auto", OnCuda(torch.float64)) == torch.float64  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["jordan", "polar-express"])
@pytest.mark.parametrize("shape", [(256, 256), (256, 1024), (1024, 256)])
def test_errors_are_those_of_the_precision(shape: tuple[int, int], name: str) -> None:
    matrix, polynomials = normal(*shape), iteration_polynomials(name, 5)
    reference = exact(matrix, polynomials)
    for dtype, unit in UNIT.items():
        part = newton_schulz(matrix, polynomials, MIN_NORM, dtype)
        assert part.dtype == torch.float32
        # Measured: 4.6 to 8.2 units in 16 bits, 29 to 95 in float32, whose products are sums of rounded terms.
        low, high = (4, 10) if dtype in HALVES else (20, 120)
        assert low * unit < error(part, reference) < high * unit, dtype


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("shape", [(96, 96), (96, 400), (400, 96)])
def test_a_cpu_rounds_as_a_device_that_holds_16_bits(
    shape: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix, polynomials = normal(*shape), iteration_polynomials("jordan", 5)
    on_cpu = newton_schulz(matrix, polynomials, MIN_NORM, dtype)
    monkeypatch.setattr(matrices, "_held_dtype", lambda products, device: products)
    for fuses in (False, True):
        monkeypatch.setattr(matrices, "_fuses_sums", lambda x, products, fuses=fuses: fuses)
        on_device = newton_schulz(matrix, polynomials, MIN_NORM, dtype)
        assert on_device.dtype == torch.float32
        reference = exact(matrix, polynomials)
        assert error(on_device, reference) < (2.5 if fuses else 1.5) * error(on_cpu, reference)


@pytest.mark.parametrize("shape", [(9, 9), (9, 30), (4, 9, 9), (3, 9, 30)])
@pytest.mark.parametrize("name", ["jordan", "polar-express"])
def test_fused_sums_are_the_same_formula(shape: tuple[int, ...], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    polynomials = iteration_polynomials(name, 5)
    monkeypatch.setattr(matrices, "_fuses_sums", lambda x, products: False)
    plain = newton_schulz(matrix, polynomials, MIN_NORM)
    monkeypatch.setattr(matrices, "_fuses_sums", lambda x, products: True)
    torch.testing.assert_close(newton_schulz(matrix, polynomials, MIN_NORM), plain, rtol=1e-12, atol=1e-13)
    # Coefficients that are tensors, as in a population, are no arguments of a fused product.
    tensors = [[torch.tensor(number, dtype=torch.float64) for number in polynomial] for polynomial in polynomials]
    assert torch.equal(newton_schulz(matrix, tensors, MIN_NORM), plain)


def test_any_number_of_batch_dimensions_is_one_batch() -> None:
    batch = torch.stack([normal(6, columns)[:, :6] for columns in range(6, 10)])
    polynomials = iteration_polynomials("jordan", 5)
    result = newton_schulz(batch.view(2, 2, 6, 6), polynomials, MIN_NORM)
    torch.testing.assert_close(result.view(4, 6, 6), newton_schulz(batch, polynomials, MIN_NORM), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "products", "num_sums"), [(383, None, 10), (384, None, 0), (8, torch.bfloat16, 0), (8, torch.float64, 10)]
)
def test_sums_are_fused_unless_products_are_symmetric_or_rounded(
    rows: int, products: torch.dtype | None, num_sums: int
) -> None:
    calls: Counter[str] = Counter()

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            calls[operation.overloadpacket.__name__] += 1
            return operation(*args, **(kwargs or {}))

    with Count():
        newton_schulz(normal(rows, rows), iteration_polynomials("jordan", 5), MIN_NORM, products)
    assert calls["addmm"] == num_sums


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_matrix_of_rank_1_does_not_diverge_in_16_bits(dtype: torch.dtype) -> None:
    matrix = normal(64, 1) @ normal(1, 256)
    for name, largest in (("jordan", 1.3), ("polar-express", 1.2)):
        for steps in (5, 10):
            part = newton_schulz(matrix, iteration_polynomials(name, steps), MIN_NORM, dtype)
            assert torch.linalg.matrix_norm(part, ord=2) < largest
            assert matrix.flatten() @ part.flatten() > 0.6 * matrix.norm()  # the direction of the matrix itself


@pytest.mark.parametrize("products", ["float32", "bfloat16", "float16"])
def test_no_scale_leaves_the_range_of_16_bits(products: str) -> None:
    matrix, polynomials = normal(24, 40), iteration_polynomials("jordan", 5)
    dtype = getattr(torch, products)
    reference = newton_schulz(matrix, polynomials, 1e-37, dtype)
    for scale in (2.0**100, 2.0**-100):
        assert torch.equal(newton_schulz(scale * matrix, polynomials, 1e-37, dtype), reference)
    assert not newton_schulz(torch.zeros(24, 40), polynomials, MIN_NORM, dtype).any()
    for value in (torch.nan, torch.inf):
        broken = matrix.clone()
        broken[3, 4] = value
        assert newton_schulz(broken, polynomials, MIN_NORM, dtype).isnan().all()


@pytest.mark.parametrize("rule", [rules.Muon(), rules.NorMuon(), rules.Scion()], ids=lambda rule: rule.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_state_and_steps_keep_the_compute_dtype(rule: rules.Rule, dtype: torch.dtype) -> None:
    start, grads = normal(16, 24, dtype), [normal(16 + k, 24)[:16].to(dtype) for k in range(3)]
    ends = {}
    for products in ("auto", "float32", "bfloat16", "float16"):
        param = start.clone().requires_grad_()
        optimizer = optim.optimizer_for(rule)([param], lr=0.1, products=products)
        for grad in grads:
            param.grad = grad.clone()
            optimizer.step()
        for entry in optimizer.state[param].values():
            assert not entry.is_floating_point() or entry.dim() == 0 or entry.dtype in (torch.float32, dtype)
            assert entry.dim() == 0 or entry.dtype != torch.bfloat16
        assert param.dtype == dtype
        ends[products] = param.detach()
    if dtype != torch.float64:
        assert torch.equal(ends["auto"], ends["float32"])
    if dtype != torch.bfloat16:
        moved = (ends["auto"] - start).double().norm()
        sizes = [float((ends[name] - ends["auto"]).double().norm() / moved) for name in ("bfloat16", "float16")]
        assert 2e-3 < sizes[0] < 3e-2
        assert 2e-4 < sizes[1] < 4e-3


def test_the_precision_selects_the_code_of_a_step_and_is_one_of_four() -> None:
    assert rules.Muon(products="float16").code_key != rules.Muon().code_key
    with pytest.raises(SettingError) as raised:
        rules.Muon(products="half")
    assert str(raised.value) == "Muon: products must be one of auto, float32, bfloat16, float16, got 'half'."


@pytest.mark.parametrize("strip_rows", [1, 3, 5, 8, 100])
def test_strips_of_any_height_make_the_whole_symmetric_product(strip_rows: int) -> None:
    x = normal(8, 5, torch.float64).expand(2, 8, 5)
    torch.testing.assert_close(gram_by_strips(x, strip_rows), x @ x.mT, rtol=1e-14, atol=1e-14)
