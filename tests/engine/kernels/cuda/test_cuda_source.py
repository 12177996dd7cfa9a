"""The CUDA text of kernels, emulated on the CPU: the bits of the loop for every rule, wrapper, precision and layout."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from cases import rules as rule_cases
from cases import wrappers as wrapper_cases
from cases.emulated_cuda import FLAGS, compile_together
from tests.engine.kernels.cuda.emulated_kernel import EmulatedKernel, make_batch, run
from thalweg import rules
from thalweg.engine.core.batch import BatchStep, ParameterBatch
from thalweg.engine.core.precision import Rounding
from thalweg.engine.core.program import Program
from thalweg.engine.eager import loop
from thalweg.engine.kernels.cuda import grid, source
from thalweg.engine.kernels.cuda.source import NUM_GRADS, cuda_source
from thalweg.engine.kernels.kernel_spec import KernelSpec
from thalweg.engine.kernels.recording import UnknownOperationError

# Around the sizes of chunks, tiles, warps and vectors.
SHAPES: tuple[tuple[int, ...], ...] = (
    *((1,), (), (7,), (0,), (grid.CHUNK,), (grid.CHUNK + 3,), (2 * grid.WIDTH * grid.LANES,)),
    *((1, 1), (5, 8), (3, 300), (300, 3), (0, 3), (40, 260), (33, 512)),
    *((4, 3, 3, 3), (16, 17, 1, 3), (2, 1, 9, 8), (3, 2, 40, 1), (2, 1, 0, 3), (2, 5, 257)),
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


# --- layouts ----------------------------------------------------------------------------------------------------------

ONE_OF_EACH_KIND = [  # elementwise, sums of a tensor, of the model, of rows and columns, the largest of each
    rules.AdamW(weight_decay=0.1),
    rules.LAMB(weight_decay=0.1),
    rules.Clip(rules.Prodigy(), max_norm=1.0),
    rules.Clip(rules.Adafactor(weight_decay=0.1), max_norm=1.0),
    rules.SM3(),
]


def misaligned(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return a parameter that begins one element behind an aligned address."""
    param = draw(shape, dtype, torch.Generator().manual_seed(1))
    storage = torch.zeros(param.numel() + 1, dtype=dtype)
    return storage.as_strided(param.shape, param.stride(), 1).copy_(param)


@pytest.mark.parametrize("rule", ONE_OF_EACH_KIND, ids=lambda rule: rule.name)
def test_views_that_are_not_aligned_have_the_bits_of_the_loop(rule: rules.Rule) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        params = [misaligned(shape, dtype) for shape in ((5,), (1029,), (6, 8), (33, 260))]
        assert [param.data_ptr() % 16 for param in params] == [dtype.itemsize] * 4
        pairs = bound_pairs(Program(rule), params)
        step_pairs(pairs)
        assert [pair.count_differences() for pair in pairs] == [0] * len(pairs)


def test_dense_parameters_that_are_not_contiguous_have_the_bits_of_the_loop() -> None:
    params = [param.t() for param in random_params(torch.float32, [(5, 8), (300, 31)])]
    params.append(random_params(torch.float32, [(2, 3, 4, 5)])[0].to(memory_format=torch.channels_last))
    for rule in (rules.AdamW(weight_decay=0.1), rules.LAMB(weight_decay=0.1)):
        pairs = bound_pairs(Program(rule), params)
        step_pairs(pairs)
        assert [pair.count_differences() for pair in pairs] == [0] * len(pairs)


@pytest.mark.parametrize("scale", [1e-30, 1e30, float("nan")])
def test_extreme_gradients_have_the_bits_of_the_loop(scale: float) -> None:
    for rule in ONE_OF_EACH_KIND:
        pairs = bound_pairs(Program(rule), random_params(torch.float32, [(40, 300), (7,)]))
        step_pairs(pairs, scale=scale)
        assert [pair.count_differences() for pair in pairs] == [0] * len(pairs)


# --- launches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ONE_OF_EACH_KIND, ids=lambda rule: rule.name)
def test_more_tensors_than_a_call_has_gradients_take_several_launches(rule: rules.Rule) -> None:
    shapes = [(k % 5 + 1, 3 * k + 1) for k in range(20)]
    for rounding in ("nearest", "stochastic"):  # a row of scalars for all tensors, and one for each
        program = Program(rule, rounding=rounding)
        pairs = bound_pairs(program, random_params(torch.bfloat16, shapes), num_grads=7)
        step_pairs(pairs)
        assert [pair.count_differences() for pair in pairs] == [0] * len(pairs)


@pytest.mark.parametrize("rule", ONE_OF_EACH_KIND, ids=lambda rule: rule.name)
def test_the_order_of_blocks_and_threads_does_not_matter(rule: rules.Rule) -> None:
    results = []
    for backwards in (False, True):
        pairs = bound_pairs(Program(rule), random_params(torch.float32, [(70, 600), (9,), (3, 5)]))
        step_pairs(pairs, backwards=backwards)
        results.append([tensor for pair in pairs for tensor in tensors_of(pair.stepped)])
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("tuning", [grid.Tuning(vectors=1), grid.Tuning(chunk=4096, vectors=4, streaming=True)])
def test_tuning_changes_no_bit(tuning: grid.Tuning) -> None:
    for rule in (rules.LAMB(), rules.Clip(rules.Adafactor(), max_norm=1.0)):
        pairs = bound_pairs(
            Program(rule), random_params(torch.float32, [(70, 600), (9,), (4096 * 2 + 1,)]), tuning=tuning
        )
        step_pairs(pairs)
        assert [pair.count_differences() for pair in pairs] == [0] * len(pairs)


@pytest.mark.parametrize("rule", ONE_OF_EACH_KIND, ids=lambda rule: rule.name)
def test_a_step_that_is_skipped_writes_nothing(rule: rules.Rule) -> None:
    (pair,) = bound_pairs(Program(rule), random_params(torch.float32, [(40, 300)]))
    for found_inf, changes in ((1.0, False), (0.0, True)):
        before = [tensor.clone() for tensor in tensors_of(pair.stepped)]
        flag = torch.tensor(found_inf)
        pair.kernel.call.skip = flag.data_ptr()
        step_pairs([pair], num_steps=1)
        assert all(map(torch.equal, before, tensors_of(pair.stepped))) is not changes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_scaled_gradients_step_as_those_that_were_unscaled_before(dtype: torch.dtype) -> None:
    factor = torch.tensor(0.3)
    for rule in (rules.SGD(lr=0.5, momentum=0.9), rules.LAMB()):
        results = []
        for scaled in (False, True):
            (pair,) = bound_pairs(Program(rule), random_params(dtype, [(40, 300)]))
            (grad,) = random_params(dtype, [(40, 300)])
            if scaled:
                pair.kernel.call.grad_factor = factor.data_ptr()
            else:
                grad = (grad.float() * factor).to(dtype)
            run([pair.kernel], [pair.steps([grad], [pair.program.coefficients(1)])[1]])
            results.append(pair.stepped.params[0])
        assert torch.equal(*results)


def test_a_text_with_fused_operations_would_be_noticed() -> None:
    flags = ("-O2", "-mfma", "-ffp-contract=fast")
    compiled = [flag for flag in FLAGS if flag not in ("-O0", "-ffp-contract=off")]
    (pair,) = bound_pairs(Program(rules.AdamW()), random_params(torch.float32, [(1000,)]), flags=(*compiled, *flags))
    step_pairs([pair])
    assert pair.count_differences() > 100


def test_a_missing_synchronization_would_be_noticed() -> None:
    (pair,) = make_pairs(Program(rules.LAMB()), random_params(torch.float32, [(10, 10)]))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            source, "LIBRARY", source.LIBRARY.replace("all[thread + half]);\n        TOGETHER", "all[thread + half]);")
        )
        pair.bind()
    with pytest.raises(AssertionError, match="without TOGETHER"):
        step_pairs([pair])


def test_columns_of_many_tiles_are_shared_out_over_warps() -> None:
    (pair,) = bound_pairs(
        Program(rules.Adafactor()), random_params(torch.float32, [(grid.WIDTH * grid.TILE_ROWS + 1, 40)])
    )
    step_pairs([pair], num_steps=1)
    assert pair.count_differences() == 0
