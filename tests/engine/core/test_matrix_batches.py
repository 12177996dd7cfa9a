"""Operations on matrices that rules request: right answers, one by one and in batches, and few calls for many."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from thalweg import optim, rules
from thalweg.engine.core import matrix_batches
from thalweg.engine.core.matrix_batches import answer_in_batches, answer_one_by_one
from thalweg.engine.eager import batched
from thalweg.engine.eager.loop import run_in_lockstep
from thalweg.rules.core.matrix_requests import MatrixOperation, MatrixRequest, OperationGroup
from thalweg.rules.math.matrices import iteration_polynomials
from thalweg.rules.math.operations import Eigenbasis, InverseRoot, Orthogonal, PowerIteration

JORDAN = iteration_polynomials("jordan", 5)
POLAR = iteration_polynomials("polar-express", 4)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def positive(size: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a symmetric matrix whose eigenvalues are 1, 2, ..., in random directions."""
    basis, _ = torch.linalg.qr(normal(size, size, seed=seed, dtype=torch.float64))
    return (basis * torch.arange(1, size + 1, dtype=torch.float64) @ basis.mT).to(dtype)


def orthogonalized(matrix: Tensor, polynomials: Sequence[Sequence[float]], eps: float = 1e-7) -> Tensor:
    """Return the orthogonal part by singular values, in float64."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / max(values.norm(), eps)
    for a, b, c in polynomials:
        values = a * values + b * values**3 + c * values**5
    return (left * values) @ right


def requests() -> list[MatrixRequest]:
    """Return requests of all classes, with equal and unequal shapes, settings and dtypes."""
    shapes = [(8, 20), (20, 8), (8, 20), (8, 8), (1, 5), (5, 1), (20, 8)]
    matrices = [normal(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    double = normal(8, 20, seed=50, dtype=torch.float64)
    symmetric = [positive(size, seed=seed) for seed, size in enumerate((6, 6, 9, 6))]
    bases = [torch.linalg.qr(normal(6, 6, seed=seed)).Q for seed in (60, 61)]
    return [
        *(Orthogonal(matrix, JORDAN, 1e-7) for matrix in matrices),
        OperationGroup([Orthogonal(matrix, POLAR, 1e-7) for matrix in matrices[:2]]),
        Orthogonal(double, JORDAN, 1e-7),
        Orthogonal(matrices[0], JORDAN, 30.0),
        Orthogonal(matrices[1], JORDAN, torch.tensor(30.0)),
        Orthogonal(matrices[2], JORDAN, 1e-7, "float16"),
        OperationGroup([]),
        OperationGroup([InverseRoot(symmetric[0], 4), InverseRoot(symmetric[1], 2), Eigenbasis(symmetric[2])]),
        *(InverseRoot(matrix, 4) for matrix in symmetric),
        InverseRoot(symmetric[0], 4, torch.float32),
        *(Eigenbasis(matrix) for matrix in symmetric),
        *(PowerIteration(basis, matrix) for basis, matrix in zip(bases, symmetric, strict=False)),
    ]


def test_answers_in_batches_are_those_one_by_one_in_order() -> None:
    asked = dict(enumerate(requests()))
    single, many = answer_one_by_one(asked), answer_in_batches(asked)
    assert list(single) == list(many) == list(asked)
    for index, request in asked.items():
        torch.testing.assert_close(many[index], single[index], rtol=1e-5, atol=1e-5, msg=f"{index}: {request}")
    assert answer_in_batches({}) == answer_one_by_one({}) == {}


@pytest.mark.parametrize("answer", [answer_one_by_one, answer_in_batches])
def test_answers_are_right(answer: Any) -> None:
    for request, result in zip(requests(), answer(dict(enumerate(requests()))).values(), strict=True):
        results = (result,) if isinstance(request, MatrixOperation) else result
        for operation, part in zip(request.operations, results, strict=True):
            _check(operation, part)


def _check(operation: MatrixOperation, result: Any) -> None:
    if isinstance(operation, Orthogonal):
        assert result.shape == operation.matrix.shape
        assert result.dtype == operation.matrix.dtype
        exact = orthogonalized(operation.matrix, operation.polynomials, float(operation.eps))
        assert (result - exact).norm() < (1e-2 if operation.products == "float16" else 2e-5) * exact.norm()
    elif isinstance(operation, InverseRoot):
        power = torch.linalg.matrix_power(result.double(), operation.order) @ operation.matrix.double()
        torch.testing.assert_close(power, torch.eye(len(power), dtype=power.dtype), rtol=0, atol=3e-5)
    elif isinstance(operation, Eigenbasis):
        values = torch.arange(len(result), 0, -1)  # descending
        torch.testing.assert_close(operation.matrix @ result, result * values, rtol=0, atol=2e-5)
    else:
        assert isinstance(operation, PowerIteration)
        basis, order = result
        product = operation.matrix @ operation.basis
        estimates = (operation.basis * product).sum(0)
        assert torch.equal(order, estimates.argsort(descending=True))
        torch.testing.assert_close(basis.mT @ basis, torch.eye(len(basis)), rtol=0, atol=2e-6)
        triangle = basis.mT @ product[:, order]
        torch.testing.assert_close(triangle.tril(-1), torch.zeros_like(triangle), rtol=0, atol=2e-5)


def stack_sizes(operations: Sequence[MatrixOperation]) -> list[int]:
    stacks = list(matrix_batches._stacks(operations))
    assert sorted(index for stack in stacks for index in stack) == list(range(len(operations)))
    return sorted(map(len, stacks))


def test_equal_operations_share_a_stack_and_no_others() -> None:
    wide, tall, square = normal(4, 6), normal(6, 4), normal(6, 6)
    eps = torch.tensor(1e-7)
    assert stack_sizes([]) == []
    assert stack_sizes([Orthogonal(matrix, JORDAN, 1e-7) for matrix in (wide, tall, square, wide)]) == [1, 3]
    # Polynomials are equal by their values, however they are written.
    assert stack_sizes([Orthogonal(wide, JORDAN, 1e-7), Orthogonal(wide, tuple(map(list, JORDAN)), 1e-7)]) == [2]
    different = [
        Orthogonal(wide, JORDAN, 1e-7),
        Orthogonal(wide, JORDAN[:4], 1e-7),
        Orthogonal(wide, POLAR, 1e-7),
        Orthogonal(wide, JORDAN, 1e-8),
        Orthogonal(wide, JORDAN, 1e-7, "bfloat16"),
        Orthogonal(wide.double(), JORDAN, 1e-7),
        Orthogonal(wide.to("meta"), JORDAN, 1e-7),
        InverseRoot(square, 2),
        InverseRoot(square, 4),
        InverseRoot(square, 4, torch.float32),
        Eigenbasis(square),
        Eigenbasis(square, torch.float64),
        PowerIteration(square, square),
    ]
    assert stack_sizes(different) == [1] * len(different)
    assert stack_sizes(different * 2) == [2] * len(different)
    tensors = [eps, eps, eps.clone()]  # to compare their values could wait for a device
    assert stack_sizes([Orthogonal(wide, JORDAN, number) for number in tensors]) == [1, 2]


def test_stacks_are_bounded_in_rows_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    for device, rows in (("cpu", matrix_batches._MAX_ROWS_CPU), ("meta", matrix_batches._MAX_ROWS)):
        small, large = (torch.empty(size, size + 1, device=device) for size in (rows, rows + 1))
        assert stack_sizes([Orthogonal(small, JORDAN, 1e-7)] * 3) == [3]
        assert stack_sizes([Orthogonal(large, JORDAN, 1e-7)] * 3) == [1, 1, 1]
    monkeypatch.setattr(matrix_batches, "_MAX_BYTES_CPU", 2 * 4 * 4 * 6 + 1)
    assert stack_sizes([Orthogonal(normal(4, 6), JORDAN, 1e-7)] * 5) == [1, 2, 2]
    assert stack_sizes([Orthogonal(normal(40, 60), JORDAN, 1e-7)] * 2) == [1, 1]  # one alone may be larger


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38, 0.0])
def test_what_is_odd_stays_in_its_own_matrix(value: float) -> None:
    plain = [normal(6, 6, seed=seed) for seed in range(3)]
    odd = plain[1].clone() if value else torch.zeros(6, 6)
    odd[2, 3] = value
    scaled = [plain[0] * 1e30, odd, plain[2] * 1e-30]
    parts = answer_in_batches({k: Orthogonal(matrix, JORDAN, 1e-36) for k, matrix in enumerate(scaled)})
    for k in (0, 2):  # each is divided by its own norm
        torch.testing.assert_close(parts[k].double(), orthogonalized(plain[k], JORDAN), rtol=0, atol=2e-5)
    assert parts[1].isfinite().all() == (value in (0.0, 1e38))
    assert value or not parts[1].any()

    sums = [positive(6, seed=seed) for seed in range(3)]
    sums[1] = (odd + odd.mT).fill_diagonal_(abs(value))
    operations: dict[type[MatrixOperation], Any] = {
        InverseRoot: lambda matrix: InverseRoot(matrix, 4),
        Eigenbasis: Eigenbasis,
        PowerIteration: lambda matrix: PowerIteration(torch.eye(6), matrix),
    }
    for kind, operation in operations.items():
        scales = (1e30, 1.0, 1e-30)
        asked = {k: operation(scale * matrix) for k, (scale, matrix) in enumerate(zip(scales, sums, strict=True))}
        many, single = answer_in_batches(asked), answer_one_by_one(asked)
        for k in (0, 2):
            torch.testing.assert_close(many[k], single[k], rtol=1e-5, atol=1e-6)
            assert torch.stack([part.isfinite().all() for part in _parts(many[k])]).all(), kind
        if not torch.isfinite(torch.tensor(value)):
            assert _parts(many[1])[0].isnan().any(), kind


def _parts(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else result


class CallCounter(TorchDispatchMode):
    """Counts the calls of products, decompositions and all operators, by the shape of their first operand."""

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[tuple[int, ...]] = Counter()
        self.decompositions: Counter[tuple[int, ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("mm", "bmm", "addmm", "baddbmm"):
            self.products[tuple(args[0].shape)] += 1
        if name in ("_linalg_eigh", "geqrf"):
            self.decompositions[tuple(args[0].shape)] += 1
        return func(*args, **(kwargs or {}))


def counted_step(optimizer: torch.optim.Optimizer) -> CallCounter:
    """Return the calls of a step, with parameters of any device."""
    for group in optimizer.param_groups:
        for param in group["params"]:
            param.grad = torch.ones_like(param)
    with CallCounter() as calls:
        optimizer.step()
    return calls


def on_accelerator(*shapes: tuple[int, ...]) -> list[Tensor]:
    """Return parameters without data on a device that is no CPU: their steps show which operations run there."""
    return [torch.empty(shape, device="meta", requires_grad=True) for shape in shapes]


GPT2 = ((768, 768),) * 48 + ((3072, 768), (768, 3072)) * 12  # q, k, v and output; both layers of the perceptron


@pytest.mark.parametrize(
    ("products", "long_products"),
    # Products for 3 and 2 of the 5 steps, or for 2, 2 and 1; the last step also adds to the matrix itself.
    [("float32", 2), ("float16", 4), ("bfloat16", 4)],
)
def test_the_matrices_of_a_gpt_take_two_batched_iterations(products: str, long_products: int) -> None:
    optimizer = optim.Muon(on_accelerator(*GPT2), products=products)
    assert str(optimizer.plan).startswith(
        "batched: Muon multiplies whole matrices, and operations on matrices of one shape are computed together\n"
    )
    calls = counted_step(optimizer)
    square_iteration, long_grams = calls.products.pop((48, 768, 768)), calls.products.pop((24, 768, 3072))
    assert square_iteration == 15  # X Xᵀ, its square with all sums, and the product with X, five times
    assert long_grams == long_products
    assert set(calls.products) == {(24, 768, 768)}
    loop = counted_step(optim.Muon(on_accelerator(*GPT2), products=products, backend="loop"))
    assert loop.products[(768, 768)] > 15 * 48
    assert not any(len(shape) > 2 for shape in loop.products)


def test_blocks_of_a_parameter_and_parameters_of_other_shapes_share_a_batch() -> None:
    split = rules.Split(rules.Muon(), row_blocks=3)
    calls = counted_step(optim.optimizer_for(split)(on_accelerator(*[(2304, 768)] * 4)))
    assert calls.products == {(12, 768, 768): 15}
    calls = counted_step(optim.Muon(on_accelerator((64, 16, 3, 3), (144, 64), (64, 144), (64, 16, 9))))
    assert {shape[0] for shape in calls.products} == {4}  # of two, three and four dimensions
    # A rule over the whole model advances all tensors at once anyway.
    calls = counted_step(optim.optimizer_for(rules.ClipNorm(rules.Muon()))(on_accelerator(*[(48, 48)] * 6)))
    assert calls.products == {(6, 48, 48): 15}


def test_groups_and_rules_of_one_step_share_a_batch() -> None:
    groups = [{"params": on_accelerator((48, 48), (48, 48)), "lr": lr} for lr in (0.1, 0.2)]
    assert counted_step(optim.Muon(groups)).products == {(4, 48, 48): 15}
    groups[1]["ns_steps"] = 2
    assert counted_step(optim.Muon(groups)).products == {(2, 48, 48): 15 + 6}
    rule = rules.Routed((rules.Muon(), rules.NorMuon()))
    groups = [{"params": on_accelerator((48, 48), (48, 48)), "rule": name} for name in ("muon", "normuon")]
    assert counted_step(optim.optimizer_for(rule)(groups)).products == {(4, 48, 48): 15}


def test_large_matrices_step_one_by_one() -> None:
    rows = matrix_batches._MAX_ROWS + 1
    optimizer = optim.Muon(on_accelerator(*[(rows, rows)] * 2, *[(96, 96)] * 2))
    assert counted_step(optimizer).products == {(rows, rows): 30, (2, 96, 96): 15}
    assert str(optim.Muon(on_accelerator(*[(rows, rows)] * 2)).plan).startswith("loop: ")


@pytest.mark.parametrize("rule", [rules.Shampoo(), rules.Shampoo(roots="tracked"), rules.SOAP(update_every=1)], ids=str)
def test_decompositions_of_small_matrices_are_batched_on_a_cpu(rule: rules.Rule) -> None:
    params = [normal(12, 8, seed=seed).requires_grad_() for seed in range(5)]
    optimizer = optim.optimizer_for(rule)(params)
    for _ in range(2):
        calls = counted_step(optimizer)
        assert calls.decompositions == {(5, 12, 12): 1, (5, 8, 8): 1}
    large = [normal(97, 97, seed=seed).requires_grad_() for seed in range(4)]
    assert counted_step(optim.optimizer_for(rule)(large)).decompositions == {(97, 97): 8}


def test_parameters_that_advance_together_are_bounded_in_bytes_and_sorted_by_shape() -> None:
    steps: list[Any] = []

    class Slot:
        class batch:  # noqa: N801
            dtype, device = torch.float32, torch.device("cpu")
            params = tuple(torch.empty(shape) for shape in [(90, 40), (30, 30), (40, 90), (), (7,)] * 100)

    slots = [(Slot, k) for k in range(500)]
    steps = list(batched._chunks(slots))
    flat = [k for chunk in steps for _, k in chunk]
    assert sorted(flat) == list(range(500))
    sides = [batched._sides(Slot.batch.params[k]) for k in flat]
    assert sides == sorted(sides)
    for chunk in steps:
        assert sum(4 * Slot.batch.params[k].numel() for _, k in chunk) <= batched._TOGETHER_BYTES_CPU
    assert len(steps) == 1


def test_a_rule_may_request_a_group_and_receives_a_tuple() -> None:
    def step(matrix: Tensor) -> Any:
        return (yield OperationGroup([Eigenbasis(matrix), InverseRoot(matrix, 2)]))

    for in_batches in (False, True):
        ((basis, root),) = run_in_lockstep([step(positive(5))], in_batches=in_batches)
        torch.testing.assert_close(
            basis.mT @ positive(5) @ basis, torch.diag(torch.arange(5.0, 0, -1)), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(root @ root @ positive(5), torch.eye(5), atol=1e-5, rtol=0)


def test_operations_wait_for_reductions_so_that_all_are_in_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    compute = Orthogonal.compute

    def watched(operation: Orthogonal, *operands: Tensor) -> tuple[Tensor, ...]:
        sizes.append(len(operands[0]) if operands[0].dim() == 3 else 1)
        return compute(operation, *operands)

    monkeypatch.setattr(Orthogonal, "compute", watched)

    def step(matrix: Tensor, num_sums: int) -> Any:
        for _ in range(num_sums):
            yield rules.Sum(matrix)
        part = yield Orthogonal(matrix, JORDAN, 1e-7)
        return part, (yield rules.Sum(part, over="model"))

    results = run_in_lockstep([step(normal(4, 6, seed=k), k) for k in range(4)], in_batches=True)
    assert sizes == [4]
    total = sum(float(part.sum()) for part, _ in results)
    assert all(float(joint) == pytest.approx(total, rel=1e-5) for _, joint in results)
