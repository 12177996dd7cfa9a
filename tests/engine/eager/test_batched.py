"""Batched: stacked tensors of one shape take the steps of the loop, in fewer operations."""

import pytest
import torch
from torch import Tensor

from cases.rules import CASES, Case
from tests.engine.stepping import assert_same_bits, run_case
from thalweg import optim, rules
from thalweg.bench.measure import DispatchCounter
from thalweg.engine.backends import Backend
from thalweg.engine.core.batch import ParameterBatch
from thalweg.engine.core.program import Program
from thalweg.engine.eager import batched
from thalweg.errors import SettingError

WHOLE = [case for case in CASES if case.rule.traits.scope in ("tensor", "matrix")]
BATCHED = [case for case in WHOLE if case.rule.traits.supports_vmap or case.rule.traits.requests_operations]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", BATCHED, ids=str)
def test_stacked_tensors_take_the_steps_of_the_loop(case: Case, dtype: torch.dtype) -> None:
    # One tensor of each shape joins late and one skips a step, so that stacks are of several sizes.
    shapes = [shape for shape in (*case.shapes, (24, 24), (6, 40)) for _ in range(4)]
    actual, expected = (
        run_case(case, backend, dtype, shapes=shapes, transposed=False) for backend in ("batched", "loop")
    )
    if case.rule.traits.scope == "tensor":
        assert_same_bits(actual, expected)
        return
    # Products of matrices are added up in another order, and the difference may change a rounding to bfloat16.
    tolerances = {torch.float64: 1e-12, torch.float32: 5e-5, torch.bfloat16: 2**-7}
    for tensor, reference in zip(actual, expected, strict=True):
        assert tensor.dtype == reference.dtype
        error = (tensor.double() - reference.double()).abs().max()
        allowed = max(tolerances[tensor.dtype], case.reference_error)  # products may be in float32
        assert error <= allowed * reference.double().abs().max()


def small_matrices(num: int, rows: int, columns: int) -> list[Tensor]:
    return [torch.zeros(rows, columns, requires_grad=True) for _ in range(num)]


def test_small_tensors_of_one_shape_are_batched_and_the_plan_says_so() -> None:
    many = small_matrices(4, 8, 8)
    assert str(optim.Muon(many).plan).startswith(
        "batched: Muon multiplies whole matrices, and small tensors of one shape are stacked\n    0  8x8"
    )
    for params in (many[:3], small_matrices(4, 97, 97)):
        reason = "Muon multiplies whole matrices, and no 4 small tensors have the same shape"
        assert str(optim.Muon(params).plan).startswith(f"loop: {reason}\n")
    assert str(optim.Muon(small_matrices(1, 97, 97), backend="batched").plan).startswith("batched: requested")
    assert "and its operations depend on the numbers of each tensor" in str(optim.PSGDKron(many).plan)
    assert "and each tensor has its own random numbers" in str(
        optim.Dion([param.detach().bfloat16() for param in many], rounding="stochastic").plan
    )
    assert "and a parameter is not contiguous" in str(optim.Dion([param.detach()[:, :4] for param in many]).plan)
    together = "multiplies whole matrices, and operations on matrices of one shape are computed together"
    assert str(optim.SOAP(many).plan).startswith(f"batched: SOAP {together}")
    assert str(optim.Muon([param.detach()[:, :4] for param in many]).plan).startswith(f"batched: Muon {together}")
    with pytest.raises(
        SettingError, match="AdamW: backend='batched' must be possible, but elementwise rules have faster backends"
    ):
        optim.AdamW(many, backend="batched").plan  # noqa: B018
    with pytest.raises(SettingError, match="Muon: backend='flat' must be possible, but Muon looks at whole tensors"):
        optim.Muon(many, backend="flat").plan  # noqa: B018


def test_a_stack_takes_the_operations_of_one_tensor_and_bounded_memory() -> None:
    def watch_step(num: int, backend: Backend) -> DispatchCounter:
        params = small_matrices(num, 96, 96)
        optimizer = optim.Muon(params, backend=backend)
        for _ in range(2):
            for param in params:
                param.grad = torch.ones_like(param)
            with DispatchCounter() as watched:
                optimizer.step()
        return watched

    assert watch_step(100, "batched").operations < watch_step(4, "loop").operations
    assert 20e6 < watch_step(1000, "batched").peak_bytes < 64e6  # of 37 MB of parameters


def test_stacks_hold_all_tensors_once_and_stay_within_their_limit() -> None:
    params = small_matrices(250, 96, 96)
    batch = ParameterBatch(Program(rules.Muon()), params, {"buffer": small_matrices(250, 96, 96)})
    stacks = list(batched._stacks(batch, range(250)))
    assert [k for stack in stacks for k in stack] == list(range(250))
    assert all(len(stack) * 96 * 96 * 4 <= batched._BUCKET_BYTES for stack in stacks)
    assert len(stacks) == 3
