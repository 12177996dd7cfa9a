"""The CUDA text of kernels, emulated on the CPU: the bits of the loop for every rule, wrapper, precision and layout."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from cases import rules as rule_cases
from cases import wrappers as wrapper_cases
from cases.emulated_cuda import compile_together
from tests.engine.cuda.emulated_kernel import EmulatedKernel, make_batch, run
from thalweg import rules
from thalweg.engine.core.batch import BatchStep, ParameterBatch
from thalweg.engine.core.precision import Rounding
from thalweg.engine.core.program import Program
from thalweg.engine.eager import loop
from thalweg.engine.kernels.cuda import grid
from thalweg.engine.kernels.cuda.source import NUM_GRADS, cuda_source
from thalweg.engine.kernels.kernel_spec import KernelSpec
from thalweg.engine.kernels.recording import UnknownOperationError

# Around the sizes of chunks, tiles, warps and vectors.
SHAPES: tuple[tuple[int, ...], ...] = (
    *((1,), (), (7,), (0,), (grid.CHUNK,), (grid.CHUNK + 3,), (2 * grid.WIDTH * grid.LANES,)),
    *((1, 1), (5, 8), (3, 300), (300, 3), (0, 3), (40, 260), (33, 512)),
    *((4, 3, 3, 3), (2, 1, 5, 2), (2, 5, 257)),
)
PRECISIONS: list[tuple[torch.dtype, Rounding]] = [
    (torch.float32, "nearest"),
    (torch.float64, "nearest"),
    (torch.float16, "nearest"),
    (torch.bfloat16, "nearest"),
    (torch.bfloat16, "kahan"),
    (torch.bfloat16, "stochastic"),
]
SUMS_IN_FLOAT64 = "sums in float64, whose bits depend on the order of the terms"
# Rules whose steps have no text, and the reason. Rules of whole matrices are not recorded: other backends run them.
WITHOUT_TEXT = {
    "AdaHessian": "aten.pow.Tensor_Tensor",
    "Mechanic": "a tensor of shape",
    "Noisy": "aten.arange.default, which creates a tensor in the step",
    "Orthogonalized": "aten.scalar_tensor.default, which creates a tensor in the step",
    "Split": "a tensor of shape",
}
CASES = [
    case
    for case in (*rule_cases.CASES, *wrapper_cases.CASES)
    if not case.rule.traits.needs_whole_matrices and case.rule.name.split("(")[0] not in WITHOUT_TEXT
]


class Pair:
    """Two equal batches: one for the loop, one for the kernels."""

    def __init__(self, program: Program, params: Sequence[Tensor]) -> None:
        self.program = program
        self.looped, self.stepped = (make_batch(program, [clone(param) for param in params]) for _ in range(2))
        self.spec = KernelSpec(self.looped)

    def text(self, num_grads: int = NUM_GRADS) -> str:
        """Return the text of the kernels, which must depend on no number."""
        return self.spec.print_source(partial(cuda_source, num_grads=num_grads))

    def bind(self, **settings: Any) -> None:
        self.kernel = EmulatedKernel(self.spec.passes, self.stepped, **settings)

    def steps(self, grads: Sequence[Tensor], coefficients: Sequence[Any]) -> tuple[BatchStep, BatchStep]:
        return BatchStep(self.looped, grads, coefficients), BatchStep(self.stepped, grads, coefficients)

    def count_differences(self) -> int:
        pairs = zip(tensors_of(self.looped), tensors_of(self.stepped), strict=True)
        return sum(int((~((a == b) | (a.isnan() & b.isnan()))).sum()) for a, b in pairs)


def clone(param: Tensor) -> Tensor:
    """Return a copy with the strides of a tensor, and an address that is aligned as its own."""
    start = param.storage_offset()
    storage = torch.zeros(start + param.numel(), dtype=param.dtype)
    return storage.as_strided(param.shape, param.stride(), start).copy_(param)


def tensors_of(batch: ParameterBatch) -> list[Tensor]:
    return [*batch.params, *(entry for column in batch.columns.values() for entry in column)]


def draw(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64).to(dtype)


def step_pairs(pairs: Sequence[Pair], num_steps: int = 3, *, scale: float = 1, backwards: bool = False) -> None:
    """Take the same steps by the loop and by kernels, with gradients of a size."""
    generator = torch.Generator().manual_seed(2)
    program = pairs[0].program
    previous = program.initial_recurrent_scalars()
    for count in range(1, num_steps + 1):
        steps, position = [], 0
        for pair in pairs:
            params = pair.looped.params
            own = [program.coefficients(count, previous=previous, position=position + k) for k in range(len(params))]
            rows = own if program.needs_keys else [own[0]] * len(params)
            position += len(params)
            drawn = [scale * draw(param.shape, torch.float64, generator) for param in params]
            steps.append(pair.steps([clone(p).copy_(grad) for p, grad in zip(params, drawn, strict=True)], rows))
        previous = program.recurrent_scalars_of(rows[0])
        with torch.no_grad():
            loop.run([looped for looped, _ in steps])
        run([pair.kernel for pair in pairs], [stepped for _, stepped in steps], backwards=backwards)


def make_pairs(program: Program, params: Iterable[Tensor]) -> list[Pair]:
    """Return a pair for each number of dimensions that needs a text of its own."""
    by_text: dict[int, list[Tensor]] = {}
    for param in params:
        dims = 1 if program.rule.traits.scope == "elementwise" else max(1, param.dim())
        by_text.setdefault(dims, []).append(param)
    return [Pair(program, members) for members in by_text.values()]


def random_params(dtype: torch.dtype, shapes: Iterable[tuple[int, ...]]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [draw(shape, dtype, generator) for shape in shapes]


def bound_pairs(program: Program, params: Iterable[Tensor], **settings: Any) -> list[Pair]:
    pairs = make_pairs(program, params)
    for pair in pairs:
        pair.bind(**settings)
    return pairs


def shapes_for(case: Any) -> list[tuple[int, ...]]:
    """Return the shapes for which a rule has a text: not all for SM3, which takes the largest of each slice."""
    if case.rule.name == "SM3":
        return [shape for shape in SHAPES if len(shape) <= case.kernel_dims and 0 not in shape]
    return list(SHAPES)


def has_text(rule: rules.Rule, dtype: torch.dtype) -> bool:
    return dtype != torch.float64 or (rule.traits.scope == "elementwise" and rule.name != "MADGRAD")


# --- bits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_have_the_bits_of_the_loop(case: Any) -> None:
    groups = {}
    for dtype, rounding in PRECISIONS:
        if has_text(case.rule, dtype):
            params = random_params(dtype, shapes_for(case))
            groups[dtype, rounding] = make_pairs(Program(case.rule, rounding=rounding), params)
    compile_together(pair.text() for pairs in groups.values() for pair in pairs)
    differences = {}
    for precision, pairs in groups.items():
        for pair in pairs:
            pair.bind()
        step_pairs(pairs)
        differences[precision] = sum(pair.count_differences() for pair in pairs)
    assert differences == dict.fromkeys(groups, 0)


def test_float64_has_a_text_where_no_sum_is_made() -> None:
    for case in CASES:
        pairs = make_pairs(Program(case.rule), random_params(torch.float64, [(3, 2)]))
        if has_text(case.rule, torch.float64):
            assert all(pair.text() for pair in pairs)
        else:
            with pytest.raises(UnknownOperationError, match=f"{SUMS_IN_FLOAT64}|pow|sums"):
                pairs[0].text()


@pytest.mark.parametrize("name", WITHOUT_TEXT)
def test_rules_without_a_text_say_why(name: str) -> None:
    cases = [c for c in (*rule_cases.CASES, *wrapper_cases.CASES) if c.rule.name.split("(")[0] == name]
    assert cases
    for case in cases:
        for pair in make_pairs(Program(case.rule), random_params(torch.float32, case.shapes)):
            with pytest.raises(UnknownOperationError, match=WITHOUT_TEXT[name]):
                pair.text()
