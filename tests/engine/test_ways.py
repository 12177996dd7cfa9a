"""Every way to run a rule takes the steps that the loop takes, bit by bit."""

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cases import CASES, ELEMENTWISE, REDUCING, SHAPES, Case
from thalweg import optim, rules
from thalweg.bench.measure import Watched
from thalweg.engine import batched, c_source, compiled, flat, precision
from thalweg.engine.batch import Batch
from thalweg.engine.precision import Rounding
from thalweg.engine.program import Program
from thalweg.engine.ways import Way
from thalweg.errors import SettingError
from thalweg.rules import SGD, Clip, Rule, like_param, root, row
from thalweg.rules.base import hashing
from thalweg.rules.base.roots import cube_root

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
ROUNDINGS: list[Rounding] = ["nearest", "kahan", "stochastic"]
# Beside the usual ones: none at all, one that fills several buckets, and odd lengths.
ALL_SHAPES = (*SHAPES, (0, 3), (flat._ON_CPU + 17,), (33, 5))


def taken(
    case: Case,
    way: Way | None,
    dtype: torch.dtype,
    *,
    shapes: Sequence[tuple[int, ...]] = ALL_SHAPES,
    transposed: bool = True,
    num_steps: int = 8,
    **options: Any,
) -> list[Tensor]:
    """Parameters and state after some steps; one parameter joins late, one rests now and then."""
    generator = torch.Generator().manual_seed(3)

    def drawn(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    params = [drawn(shape) for shape in shapes]
    if transposed and shapes is ALL_SHAPES:
        params.append(drawn((4, 6)).t())
    for param in params:
        param.requires_grad_()
    optimizer = case.ours(params, **case.settings, way=way, **options)
    for step in range(num_steps):
        for k, param in enumerate(params):
            grad = drawn(tuple(param.shape))
            rests = (k == 2 and step < 3) or (k == 0 and step == 4)
            param.grad = None if rests else grad
        optimizer.step()
    remembered = [entry for param in params for _, entry in sorted(optimizer.state[param].items())]
    return [param.detach() for param in params] + remembered


def assert_same_bits(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert one.isfinite().all()
        assert torch.equal(one, other)


def assert_same(case: Case, found: list[Tensor], expected: list[Tensor]) -> None:
    if case.has_kernel:
        assert_same_bits(found, expected)
        return
    for one, other in zip(found, expected, strict=True):
        # PyTorch's powers depend on where an element lies in memory, by one unit in the last place.
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ELEMENTWISE, ids=str)
def test_flat_and_compiled_equal_the_loop_bit_by_bit(case: Case, dtype: torch.dtype) -> None:
    looped = taken(case, "loop", dtype)
    if case.has_kernel:
        assert_same(case, taken(case, "compiled", dtype), looped)
    assert_same(case, taken(case, None, dtype), looped)
    # Flat vectors are views, which a transposed parameter has none of.
    assert_same(case, taken(case, "flat", dtype, transposed=False), taken(case, "loop", dtype, transposed=False))


@pytest.mark.parametrize(
    ("rounding", "dtype"),
    [("kahan", torch.bfloat16), ("kahan", torch.float16), ("stochastic", torch.bfloat16)],
    ids=str,
)
@pytest.mark.parametrize("case", ELEMENTWISE, ids=str)
def test_every_rounding_is_the_same_every_way(case: Case, rounding: Rounding, dtype: torch.dtype) -> None:
    chosen: dict[str, Any] = {"rounding": rounding, "seed": 5}
    expected = taken(case, "loop", dtype, transposed=False, **chosen)
    for way in ("flat", "compiled") if case.has_kernel else ("flat",):
        assert_same(case, taken(case, way, dtype, transposed=False, **chosen), expected)
    assert_same(case, taken(case, None, dtype, **chosen), taken(case, "loop", dtype, **chosen))
    nearest = taken(case, "loop", dtype, transposed=False)
    assert not all(map(torch.equal, expected[: len(ALL_SHAPES)], nearest))


# A transposed parameter and one without elements have no such kernel.
WHOLE_SHAPES = (*SHAPES, (2, 3, 4), (300, 131), (33, 5), (2, 70, 65))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", REDUCING, ids=str)
def test_kernels_of_rules_that_reduce_equal_the_loop_bit_by_bit(case: Case, dtype: torch.dtype) -> None:
    shapes = [shape for shape in WHOLE_SHAPES if len(shape) <= case.kernel_dims]
    assert_same_bits(taken(case, "compiled", dtype, shapes=shapes), taken(case, "loop", dtype, shapes=shapes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_cube_roots_have_a_kernel_but_in_float64(dtype: torch.dtype) -> None:
    (case,) = (case for case in ELEMENTWISE if case.ours is optim.MADGRAD)
    assert_same_bits(taken(case, "compiled", dtype), taken(case, "loop", dtype))
    values = torch.cat([torch.logspace(-37, 38, 10_001, dtype=torch.float64), torch.rand(10_000, dtype=torch.float64)])
    found, exact = cube_root(values.float()).double(), values.float().double() ** (1 / 3)
    assert float(((found - exact) / exact).abs().max()) < 2**-23
    ends = torch.tensor([0.0, torch.inf, torch.nan, 8.0])
    torch.testing.assert_close(cube_root(ends), torch.tensor([0.0, torch.inf, torch.nan, 2.0]), equal_nan=True)


def test_sums_in_float64_are_left_to_the_loop() -> None:
    plan = optim.LAMB([torch.ones(3, dtype=torch.float64)]).prepare()
    assert str(plan).startswith("loop: LAMB makes sums, which in float64 depend on their order")


def test_sums_are_right_and_do_not_depend_on_the_threads() -> None:
    ends = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            param = torch.linspace(-1, 1, 1_000_003).requires_grad_()
            optimizer = optim.optimizer_for(Clip(SGD(lr=1.0), max_norm=0.5))([param], way="compiled")
            param.grad = torch.sin(3 * torch.arange(1_000_003)).float()
            optimizer.step()
            ends.append(param.detach())
    finally:
        torch.set_num_threads(1)
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])
    gone = (torch.linspace(-1, 1, 1_000_003) - ends[0]).double().norm()
    assert float(gone) == pytest.approx(0.5, rel=1e-3)


def test_maximize_is_the_same_every_way() -> None:
    for case in ELEMENTWISE[:3]:
        assert_same_bits(
            taken(case, "compiled", torch.float32, maximize=True), taken(case, "loop", torch.float32, maximize=True)
        )


def test_buckets_cover_every_element_once_in_order() -> None:
    lengths = {0: 5, 1: 0, 2: 12, 3: 1, 7: 30}
    found = [(k, i) for bucket in flat.buckets(lengths, 8) for k, low, high in bucket for i in range(low, high)]
    assert found == [(k, i) for k, length in lengths.items() for i in range(length)]
    assert [sum(high - low for _, low, high in bucket) for bucket in flat.buckets(lengths, 8)] == [8] * 6


def rounded_many(value: float, dtype: torch.dtype, rounding: Rounding) -> Tensor:
    """One number, rounded at 100,000 places."""
    values = torch.full((100_000,), value)
    c = row(**hashing.keys(seed=1, position=2, step=3))
    return precision.rounded(values, dtype, row(), c, torch.arange(100_000), rounding)[0].double()


def test_stochastic_rounding_is_right_in_the_mean() -> None:
    low, high = 1.0, 1.0078125  # neighbours in bfloat16
    for share in (0.1, 0.5, 0.9):
        value = low + share * (high - low)
        found = rounded_many(value, torch.bfloat16, "stochastic")
        assert set(found.unique().tolist()) == {low, high}
        # Three standard errors of a share of 100,000 draws.
        assert abs(float((found == high).double().mean()) - share) < 3 * (share * (1 - share) / 100_000) ** 0.5
    assert rounded_many(low, torch.bfloat16, "stochastic").unique().tolist() == [low]
    assert rounded_many(torch.inf, torch.bfloat16, "stochastic").unique().tolist() == [torch.inf]
    assert rounded_many(torch.nan, torch.bfloat16, "stochastic").isnan().all()


def test_the_noise_of_neighbours_steps_and_parameters_is_unrelated() -> None:
    def noise(**where: int) -> Tensor:
        c = row(**hashing.keys(**{"seed": 0, "position": 0, "step": 1} | where))
        return (hashing.noise(torch.arange(65_536), c) & 0xFFFF).double() / 65_536 - 0.5

    streams = [noise(), noise(seed=1), noise(position=1), noise(step=2), noise().roll(1)]
    for one, other in itertools.combinations(streams, 2):
        # Uniform on an interval of length 1: the product has standard deviation 1/12, its mean over 65,536 that / 256.
        assert abs(float((one * other).mean())) < 4 / 12 / 256
    assert abs(float(streams[0].mean())) < 4 * (1 / 12) ** 0.5 / 256


@pytest.mark.parametrize("rounding", ["kahan", "stochastic"])
def test_small_steps_are_not_lost_in_half_precision(rounding: Rounding) -> None:
    def walked(dtype: torch.dtype, rounding: Rounding) -> float:
        param = torch.ones(4096, dtype=dtype, requires_grad=True)
        optimizer = optim.SGD([param], lr=1e-4, rounding=rounding)
        for _ in range(100):
            param.grad = torch.ones_like(param)
            optimizer.step()
        remembered = optimizer.state[param].get("residual", torch.zeros(()))
        return float((param.detach().double() + remembered).mean())

    assert walked(torch.bfloat16, "nearest") == 1.0  # each step is an eighth of half a unit: all are lost
    assert walked(torch.bfloat16, rounding) == pytest.approx(0.99, abs=5e-4)
    assert walked(torch.float32, rounding) == pytest.approx(0.99, abs=1e-5)  # nothing to round


def special() -> Tensor:
    tiny = [1e-45, 1e-40, 1.1754944e-38]
    numbers = [0.0, 1.0, 0.3, 2.0, 3.5, 1e30, 3e38, torch.inf, *tiny]
    return torch.tensor([*numbers, *(-number for number in numbers), torch.nan])


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "rsub": lambda a, b: 1.5 - a,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "div_by_number": lambda a, b: a / 3.0,
    "neg": lambda a, b: -a,
    "abs": lambda a, b: a.abs(),
    "reciprocal": lambda a, b: a.reciprocal(),
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "clamp": lambda a, b: torch.clamp(a, min=-2.0, max=0.5),
    "clamp_min": lambda a, b: torch.clamp(a, min=0.5),
    "clamp_max": lambda a, b: torch.clamp(a, max=0.5),
    "clamp_crossed": lambda a, b: torch.clamp(a, min=0.5, max=0.2),
    "sign": lambda a, b: torch.sign(a),
    "square": lambda a, b: torch.square(a),
    "root": lambda a, b: root(a),
    "power": lambda a, b: a**2,
    "where": lambda a, b: torch.where(a > b, a, 2.0 * b),
    "comparisons": lambda a, b: (
        (a < b).to(a.dtype) + 2 * (a <= b) + 4 * (a >= b) + 8 * (a == b) + 16 * (a != b) + 32 * (a > 0.5)
    ),
}


def test_each_operation_of_a_kernel_rounds_as_pytorch_does() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Everything(Rule, scope="elementwise"):
        """A rule that remembers the result of each operation."""

        State = type("State", (), {name: like_param(unit="1", key=name) for name in OPERATIONS})

        def coefficients(self, step: int) -> Any:
            return row(lr=0.5)

        def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
            return grad, row(**{name: operation(param, grad) for name, operation in OPERATIONS.items()})

    numbers = special()
    a, b = (part.flatten() for part in torch.meshgrid(numbers, numbers, indexing="ij"))
    optimizer = optim.optimizer_for(Everything)
    results = []
    for way in ("loop", "compiled"):
        param = a.clone().requires_grad_()
        param.grad = b.clone()
        running = optimizer([param], way=way)
        running.step()
        results.append(running.state[param])
    for name in OPERATIONS:
        looped, found = (result[name] for result in results)
        differ = (looped != found) & ~(looped.isnan() & found.isnan())
        assert not differ.any(), (
            f"{name}: {a[differ][:3]}, {b[differ][:3]} gave {found[differ][:3]}, {looped[differ][:3]}"
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_roots_are_correctly_rounded(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    positive = torch.rand(5000, generator=generator, dtype=dtype)
    x = torch.cat([positive * 4, positive * 1e-40, positive * 1e38, special().to(dtype).abs()])
    for value, found in zip(x.tolist(), root(x).tolist(), strict=True):
        exact = math.sqrt(value)  # correctly rounded in float64, and rounding again to float32 is harmless for roots
        expected = torch.tensor(exact, dtype=torch.float64).to(dtype).item()
        assert found == expected or (math.isnan(found) and math.isnan(value))
    assert root(torch.tensor([-1.0], dtype=dtype)).isnan()


def test_an_operation_that_c_may_round_otherwise_is_left_to_the_other_ways() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Exponential(Rule, scope="elementwise"):
        """A step along the exponential of the gradient."""

        def coefficients(self, step: int) -> Any:
            return row(lr=0.5)

        def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
            return torch.exp(grad), state

    optimizer = optim.optimizer_for(Exponential)
    plan = optimizer([torch.zeros(2)]).plan
    assert str(plan).startswith("flat: kernels do not know aten.exp.default")
    with pytest.raises(SettingError, match="Exponential: way='compiled' must be possible, but kernels do not know"):
        optimizer([torch.zeros(2)], way="compiled").plan  # noqa: B018


def test_a_kernel_that_disagrees_with_the_loop_is_never_used(monkeypatch: pytest.MonkeyPatch) -> None:
    right = c_source.c_source
    monkeypatch.setattr(compiled, "c_source", lambda passes: re.sub(r"(v\d+) - ", r"\1 + ", right(passes)))
    monkeypatch.setattr(compiled, "_FUTURES", {})
    param = torch.ones(3, requires_grad=True)
    optimizer = optim.SGD([param], lr=0.25)
    assert str(optimizer.prepare()).startswith("flat: the compiled kernel and the loop disagree on this machine")
    param.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(param, torch.full((3,), 0.75))


def test_scalars_that_differ_are_combined_in_float64_every_way() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Combining(Rule, scope="elementwise"):
        """A rule that computes with its scalars inside the step."""

        def coefficients(self, step: int) -> Any:
            return row(lr=0.5, d=0.1 / step)

        def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
            return grad * (1 - c.d * c.d), state

    ends = []
    for way in ("loop", "flat", "compiled"):
        params = [torch.full((50,), 0.3, requires_grad=True) for _ in range(2)]
        optimizer = optim.optimizer_for(Combining)(params, way=way)
        for step in range(4):
            params[0].grad = torch.linspace(0.1, 1.7, 50)
            params[1].grad = torch.linspace(0.2, 1.1, 50) if step > 1 else None
            optimizer.step()
        ends.append([param.detach() for param in params])
    assert_same_bits(ends[1], ends[0])
    assert_same_bits(ends[2], ends[0])


WHOLE = [case for case in CASES if case.rule.scope in ("tensor", "matrix")]
BATCHED = [case for case in WHOLE if case.rule.vmaps]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", BATCHED, ids=str)
def test_tensors_of_one_shape_step_as_one_as_they_do_one_by_one(case: Case, dtype: torch.dtype) -> None:
    # One of each shape joins late and one rests now and then, so that batches are of several sizes.
    shapes = [shape for shape in (*case.shapes, (24, 24), (6, 40)) for _ in range(4)]
    found, expected = (taken(case, way, dtype, shapes=shapes, transposed=False) for way in ("batched", "loop"))
    if case.rule.scope == "tensor":
        assert_same_bits(found, expected)
        return
    # Products of matrices are added up in another order, and what that leaves may turn a rounding to bfloat16.
    allowed = {torch.float64: 1e-12, torch.float32: 5e-5, torch.bfloat16: 2**-7}
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert (one.double() - other.double()).abs().max() <= allowed[one.dtype] * other.double().abs().max()


def small_matrices(num: int, rows: int, columns: int) -> list[Tensor]:
    return [torch.zeros(rows, columns, requires_grad=True) for _ in range(num)]


def test_small_tensors_of_one_shape_are_batched_and_the_plan_says_so() -> None:
    many = small_matrices(4, 8, 8)
    assert str(optim.Muon(many).plan).startswith(
        "batched: Muon multiplies whole matrices, and small ones of one shape step as one\n    0  8x8"
    )
    for params in (many[:3], small_matrices(4, 97, 97)):
        reason = "Muon multiplies whole matrices, and no 4 small ones have one shape"
        assert str(optim.Muon(params).plan).startswith(f"loop: {reason}\n")
    assert str(optim.Muon(small_matrices(1, 97, 97), way="batched").plan).startswith("batched: asked for")
    assert "and what it does to one depends on its numbers" in str(optim.SOAP(many).plan)
    assert "and each has random numbers of its own" in str(
        optim.Muon([param.detach().bfloat16() for param in many], rounding="stochastic").plan
    )
    assert "and a parameter is not contiguous" in str(optim.Muon([param.detach()[:, :4] for param in many]).plan)
    with pytest.raises(SettingError, match="AdamW: way='batched' must be possible, but it looks at single elements"):
        optim.AdamW(many, way="batched").plan  # noqa: B018
    with pytest.raises(SettingError, match="Muon: way='flat' must be possible, but Muon looks at whole tensors"):
        optim.Muon(many, way="flat").plan  # noqa: B018


def test_a_batch_takes_the_operations_of_one_and_bounded_memory() -> None:
    def watched(num: int, way: Way) -> Watched:
        params = small_matrices(num, 96, 96)
        optimizer = optim.Muon(params, way=way)
        for _ in range(2):
            for param in params:
                param.grad = torch.ones_like(param)
            with Watched() as watching:
                optimizer.step()
        return watching

    assert watched(100, "batched").operations < watched(4, "loop").operations
    assert 20e6 < watched(1000, "batched").peak_bytes < 64e6  # of 37 MB of parameters


def test_batches_hold_all_tensors_once_and_no_more_than_they_may() -> None:
    params = small_matrices(250, 96, 96)
    batch = Batch(Program(rules.Muon()), params, {"buffer": small_matrices(250, 96, 96)})
    parts = list(batched._buckets(batch, range(250)))
    assert [k for part in parts for k in part] == list(range(250))
    assert all(len(part) * 96 * 96 * 4 <= batched._BUCKET_BYTES for part in parts)
    assert len(parts) == 3
