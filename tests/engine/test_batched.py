"""Tensors of one shape as one: what the loop does with them one by one, in fewer operations."""

import pytest
import torch
from torch import Tensor

from cases.rules import CASES, Case
from tests.engine.stepping import assert_same_bits, taken
from thalweg import optim, rules
from thalweg.bench.measure import DispatchCounter
from thalweg.engine.backends import Backend
from thalweg.engine.core.batch import ParameterBatch
from thalweg.engine.core.program import Program
from thalweg.engine.eager import batched
from thalweg.errors import SettingError

WHOLE = [case for case in CASES if case.rule.scope in ("tensor", "matrix")]
BATCHED = [case for case in WHOLE if case.rule.supports_vmap]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", BATCHED, ids=str)
def test_tensors_of_one_shape_step_as_one_as_they_do_one_by_one(case: Case, dtype: torch.dtype) -> None:
    # One of each shape joins late and one rests now and then, so that batches are of several sizes.
    shapes = [shape for shape in (*case.shapes, (24, 24), (6, 40)) for _ in range(4)]
    found, expected = (taken(case, backend, dtype, shapes=shapes, transposed=False) for backend in ("batched", "loop"))
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
    assert str(optim.Muon(small_matrices(1, 97, 97), backend="batched").plan).startswith("batched: asked for")
    assert "and what it does to one depends on its numbers" in str(optim.SOAP(many).plan)
    assert "and each has random numbers of its own" in str(
        optim.Muon([param.detach().bfloat16() for param in many], rounding="stochastic").plan
    )
    assert "and a parameter is not contiguous" in str(optim.Muon([param.detach()[:, :4] for param in many]).plan)
    with pytest.raises(
        SettingError, match="AdamW: backend='batched' must be possible, but it looks at single elements"
    ):
        optim.AdamW(many, backend="batched").plan  # noqa: B018
    with pytest.raises(SettingError, match="Muon: backend='flat' must be possible, but Muon looks at whole tensors"):
        optim.Muon(many, backend="flat").plan  # noqa: B018


def test_a_batch_takes_the_operations_of_one_and_bounded_memory() -> None:
    def watched(num: int, backend: Backend) -> DispatchCounter:
        params = small_matrices(num, 96, 96)
        optimizer = optim.Muon(params, backend=backend)
        for _ in range(2):
            for param in params:
                param.grad = torch.ones_like(param)
            with DispatchCounter() as watching:
                optimizer.step()
        return watching

    assert watched(100, "batched").operations < watched(4, "loop").operations
    assert 20e6 < watched(1000, "batched").peak_bytes < 64e6  # of 37 MB of parameters


def test_batches_hold_all_tensors_once_and_no_more_than_they_may() -> None:
    params = small_matrices(250, 96, 96)
    batch = ParameterBatch(Program(rules.Muon()), params, {"buffer": small_matrices(250, 96, 96)})
    parts = list(batched._buckets(batch, range(250)))
    assert [k for part in parts for k in part] == list(range(250))
    assert all(len(part) * 96 * 96 * 4 <= batched._BUCKET_BYTES for part in parts)
    assert len(parts) == 3
