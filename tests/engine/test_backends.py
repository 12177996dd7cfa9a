"""Every backend takes the steps of the loop, bit by bit."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from cases.rules import ELEMENTWISE, REDUCING, SHAPES, Case
from tests.engine.stepping import ALL_SHAPES, assert_same_bits, run_case
from thalweg import optim
from thalweg.engine.core.precision import Rounding
from thalweg.engine.eager import flat
from thalweg.engine.kernels import c_kernel, c_source, kernel_cache
from thalweg.errors import SettingError
from thalweg.rules import SGD, Clip, Rule, like_param, record, root
from thalweg.rules.math.roots import cube_root

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
ROUNDINGS: list[Rounding] = ["nearest", "kahan", "stochastic"]


def assert_same(case: Case, actual: list[Tensor], expected: list[Tensor]) -> None:
    if case.has_kernel:
        assert_same_bits(actual, expected)
        return
    for tensor, reference in zip(actual, expected, strict=True):
        # PyTorch's powers depend on the address of an element, by one unit in the last place.
        torch.testing.assert_close(tensor, reference)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ELEMENTWISE, ids=str)
def test_flat_and_compiled_equal_the_loop_bit_by_bit(case: Case, dtype: torch.dtype) -> None:
    looped = run_case(case, "loop", dtype)
    if case.has_kernel:
        assert_same(case, run_case(case, "compiled", dtype), looped)
    assert_same(case, run_case(case, None, dtype), looped)
    # Flat vectors are views, and a transposed parameter has no such view.
    assert_same(case, run_case(case, "flat", dtype, transposed=False), run_case(case, "loop", dtype, transposed=False))


@pytest.mark.parametrize(
    ("rounding", "dtype"),
    [("kahan", torch.bfloat16), ("kahan", torch.float16), ("stochastic", torch.bfloat16)],
    ids=str,
)
@pytest.mark.parametrize("case", ELEMENTWISE, ids=str)
def test_every_rounding_is_the_same_on_every_backend(case: Case, rounding: Rounding, dtype: torch.dtype) -> None:
    options: dict[str, Any] = {"rounding": rounding, "seed": 5}
    expected = run_case(case, "loop", dtype, transposed=False, **options)
    for backend in ("flat", "compiled") if case.has_kernel else ("flat",):
        assert_same(case, run_case(case, backend, dtype, transposed=False, **options), expected)
    assert_same(case, run_case(case, None, dtype, **options), run_case(case, "loop", dtype, **options))
    nearest = run_case(case, "loop", dtype, transposed=False)
    assert not all(map(torch.equal, expected[: len(ALL_SHAPES)], nearest))


# A transposed parameter and one without elements have no such kernel.
WHOLE_SHAPES = (*SHAPES, (2, 3, 4), (300, 131), (33, 5), (2, 70, 65))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", REDUCING, ids=str)
def test_kernels_of_rules_that_reduce_equal_the_loop_bit_by_bit(case: Case, dtype: torch.dtype) -> None:
    shapes = [shape for shape in WHOLE_SHAPES if len(shape) <= case.kernel_dims]
    assert_same_bits(run_case(case, "compiled", dtype, shapes=shapes), run_case(case, "loop", dtype, shapes=shapes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_cube_roots_have_a_kernel_except_in_float64(dtype: torch.dtype) -> None:
    (case,) = (case for case in ELEMENTWISE if case.optimizer is optim.MADGRAD)
    assert_same_bits(run_case(case, "compiled", dtype), run_case(case, "loop", dtype))
    values = torch.cat([torch.logspace(-37, 38, 10_001, dtype=torch.float64), torch.rand(10_000, dtype=torch.float64)])
    roots, exact = cube_root(values.float()).double(), values.float().double() ** (1 / 3)
    assert float(((roots - exact) / exact).abs().max()) < 2**-23
    ends = torch.tensor([0.0, torch.inf, torch.nan, 8.0])
    torch.testing.assert_close(cube_root(ends), torch.tensor([0.0, torch.inf, torch.nan, 2.0]), equal_nan=True)


def test_sums_in_float64_are_left_to_the_loop() -> None:
    plan = optim.LAMB([torch.ones(3, dtype=torch.float64)]).prepare()
    assert str(plan).startswith("loop: LAMB makes sums, and in float64 they depend on their order")


def test_sums_are_right_and_do_not_depend_on_the_threads() -> None:
    ends = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            param = torch.linspace(-1, 1, 1_000_003).requires_grad_()
            optimizer = optim.optimizer_for(Clip(SGD(lr=1.0), max_norm=0.5))([param], backend="compiled")
            param.grad = torch.sin(3 * torch.arange(1_000_003)).float()
            optimizer.step()
            ends.append(param.detach())
    finally:
        torch.set_num_threads(1)
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])
    length = (torch.linspace(-1, 1, 1_000_003) - ends[0]).double().norm()
    assert float(length) == pytest.approx(0.5, rel=1e-3)


def test_maximize_is_the_same_on_every_backend() -> None:
    for case in ELEMENTWISE[:3]:
        assert_same_bits(
            run_case(case, "compiled", torch.float32, maximize=True),
            run_case(case, "loop", torch.float32, maximize=True),
        )


def test_buckets_cover_every_element_once_in_order() -> None:
    lengths = {0: 5, 1: 0, 2: 12, 3: 1, 7: 30}
    covered = [(k, i) for bucket in flat.buckets(lengths, 8) for k, start, stop in bucket for i in range(start, stop)]
    assert covered == [(k, i) for k, length in lengths.items() for i in range(length)]
    assert [sum(stop - start for _, start, stop in bucket) for bucket in flat.buckets(lengths, 8)] == [8] * 6


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
        """A rule whose state is the result of each operation."""

        State = type("State", (), {name: like_param(unit="1", key=name) for name in OPERATIONS})

        def coefficients(self, step: int) -> Any:
            return record(lr=0.5)

        def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
            return grad, record(**{name: operation(param, grad) for name, operation in OPERATIONS.items()})

    numbers = special()
    a, b = (part.flatten() for part in torch.meshgrid(numbers, numbers, indexing="ij"))
    optimizer = optim.optimizer_for(Everything)
    results = []
    for backend in ("loop", "compiled"):
        param = a.clone().requires_grad_()
        param.grad = b.clone()
        instance = optimizer([param], backend=backend)
        instance.step()
        results.append(instance.state[param])
    for name in OPERATIONS:
        looped, compiled = (result[name] for result in results)
        differ = (looped != compiled) & ~(looped.isnan() & compiled.isnan())
        assert not differ.any(), (
            f"{name}: {a[differ][:3]}, {b[differ][:3]} gave {compiled[differ][:3]}, {looped[differ][:3]}"
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_roots_are_correctly_rounded(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    positive = torch.rand(5000, generator=generator, dtype=dtype)
    x = torch.cat([positive * 4, positive * 1e-40, positive * 1e38, special().to(dtype).abs()])
    for value, result in zip(x.tolist(), root(x).tolist(), strict=True):
        exact = math.sqrt(value)  # correctly rounded in float64, and rounding again to float32 is harmless for roots
        expected = torch.tensor(exact, dtype=torch.float64).to(dtype).item()
        assert result == expected or (math.isnan(result) and math.isnan(value))
    assert root(torch.tensor([-1.0], dtype=dtype)).isnan()


def test_an_operation_that_c_may_round_otherwise_is_left_to_other_backends() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Exponential(Rule, scope="elementwise"):
        """A step along the exponential of the gradient."""

        def coefficients(self, step: int) -> Any:
            return record(lr=0.5)

        def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
            return torch.exp(grad), state

    optimizer = optim.optimizer_for(Exponential)
    plan = optimizer([torch.zeros(2)]).plan
    assert str(plan).startswith("flat: kernels do not know aten.exp.default")
    with pytest.raises(SettingError, match="Exponential: backend='compiled' must be possible, but kernels do not know"):
        optimizer([torch.zeros(2)], backend="compiled").plan  # noqa: B018


def test_a_kernel_that_disagrees_with_the_loop_is_never_used(monkeypatch: pytest.MonkeyPatch) -> None:
    correct = c_source.c_source
    monkeypatch.setattr(c_kernel, "c_source", lambda passes: re.sub(r"(v\d+) - ", r"\1 + ", correct(passes)))
    monkeypatch.setattr(kernel_cache, "_KERNELS", {})
    param = torch.ones(3, requires_grad=True)
    optimizer = optim.SGD([param], lr=0.25)
    assert str(optimizer.prepare()).startswith("flat: the compiled kernel and the loop disagree on this machine")
    param.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(param, torch.full((3,), 0.75))


def test_scalars_that_differ_are_combined_in_float64_on_every_backend() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Combining(Rule, scope="elementwise"):
        """A rule that computes with its scalars inside the step."""

        def coefficients(self, step: int) -> Any:
            return record(lr=0.5, d=0.1 / step)

        def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
            return grad * (1 - c.d * c.d), state

    ends = []
    for backend in ("loop", "flat", "compiled"):
        params = [torch.full((50,), 0.3, requires_grad=True) for _ in range(2)]
        optimizer = optim.optimizer_for(Combining)(params, backend=backend)
        for step in range(4):
            params[0].grad = torch.linspace(0.1, 1.7, 50)
            params[1].grad = torch.linspace(0.2, 1.1, 50) if step > 1 else None
            optimizer.step()
        ends.append([param.detach() for param in params])
    assert_same_bits(ends[1], ends[0])
    assert_same_bits(ends[2], ends[0])
