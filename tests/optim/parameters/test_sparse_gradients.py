"""Sparse gradients that move only the rows they hold, and gradients of another dtype than their parameters."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from cases.rules import CASES, Case
from tests.optim.training import assert_same
from thalweg import optim
from thalweg.errors import ParameterError

SETTINGS = {"lr": 0.05, "betas": (0.7, 0.9), "eps": 1e-2}


def rows(step: int) -> Tensor:
    """Return the gradient of a table of ten rows for a batch that uses some of them, one of them twice."""
    generator = torch.Generator().manual_seed(step)
    indices = torch.randint(0, 10, (1, 4), generator=generator)
    values = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    return torch.sparse_coo_tensor(
        torch.cat([indices, indices[:, :1]], 1), torch.cat([values, values[:1]]), (10, 3), check_invariants=False
    )


def table() -> Tensor:
    return torch.linspace(-1, 1, 30, dtype=torch.float64).view(10, 3).requires_grad_()


def train(optimizer: torch.optim.Optimizer, param: Tensor, steps: range) -> None:
    for step in steps:
        param.grad = rows(step).to(param.dtype)
        optimizer.step()


@pytest.mark.parametrize("maximize", [False, True])
def test_sparse_adam_is_torchs(maximize: bool) -> None:
    ours, theirs = table(), table()
    train(optim.SparseAdam([ours], **SETTINGS, maximize=maximize), ours, range(20))
    train(torch.optim.SparseAdam([theirs], **SETTINGS, maximize=maximize), theirs, range(20))
    assert_same([ours], [theirs], rtol=1e-13, atol=1e-14)


def test_rows_without_a_gradient_keep_their_numbers_and_their_state() -> None:
    param = table()
    optimizer = optim.SparseAdam([param], **SETTINGS)
    train(optimizer, param, range(5))
    before = [param.detach().clone(), *(optimizer.state[param][key].clone() for key in ("exp_avg", "exp_avg_sq"))]
    param.grad = torch.sparse_coo_tensor([[3]], torch.ones(1, 3, dtype=torch.float64), (10, 3), check_invariants=False)
    optimizer.step()
    after = [param.detach(), *(optimizer.state[param][key] for key in ("exp_avg", "exp_avg_sq"))]
    for old, new in zip(before, after, strict=True):
        assert {int(row) for row in (old != new).any(1).nonzero()} == {3}


@pytest.mark.parametrize("to_torch", [True, False])
def test_its_checkpoints_go_both_ways(to_torch: bool) -> None:
    kinds: list[Any] = [optim.SparseAdam, torch.optim.SparseAdam]
    first, second = kinds if to_torch else kinds[::-1]
    whole, resumed = table(), table()
    optimizer = first([whole], **SETTINGS)
    train(optimizer, whole, range(10))
    with torch.no_grad():
        resumed.copy_(whole)
    other = second([resumed], **SETTINGS)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(optimizer, whole, range(10, 15))
    train(other, resumed, range(10, 15))
    # torch corrects biases in float32 if it counts steps in a tensor.
    assert_same([resumed], [whole], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("rounding", ["nearest", "kahan", "stochastic"])
def test_bfloat16_rows_are_rounded_as_requested(rounding: Any) -> None:
    param = torch.nn.Parameter(table().detach().bfloat16())
    exact = torch.nn.Parameter(param.detach().float())
    for kept in (param, exact):
        optimizer = optim.SparseAdam([kept], lr=1e-3, rounding=rounding if kept is param else "nearest")
        for step in range(60):
            kept.grad = rows(step).abs().to(kept.dtype)
            optimizer.step()
    start = table().detach().bfloat16().double()
    moved, expected = (float((end.detach().double() - start).mean()) for end in (param, exact))
    if rounding == "nearest":  # steps below half a unit in the last place are lost
        assert abs(moved) < 0.8 * abs(expected)
    else:
        assert moved == pytest.approx(expected, rel=0.1)


def test_other_rules_of_momentum_still_refuse_sparse_gradients() -> None:
    param = table()
    with pytest.raises(ParameterError, match=r"gradients must be dense, .* \(SGD, AdaGrad, SparseAdam\)"):
        train(optim.Adam([param]), param, range(1))


needs_any_dtype = pytest.mark.skipif(
    not hasattr(torch.Tensor, "grad_dtype"), reason="this version of torch allows no other dtype of a gradient"
)
WIDE = [case for case in CASES if case.rule.traits.needs != "closure"]


@needs_any_dtype
@pytest.mark.parametrize("case", WIDE, ids=str)
def test_a_gradient_in_float32_moves_a_bfloat16_parameter_as_all_of_its_bits_say(case: Case) -> None:
    def run(backend: Any, dtype: torch.dtype, *, alternate: bool = False) -> list[Tensor]:
        params = [
            torch.linspace(-1, 1, 35).cos()[: torch.Size(shape).numel()].view(shape) for shape in ((5, 3), (4, 4))
        ]
        params = [param.to(dtype).requires_grad_() for param in params]
        optimizer = case.optimizer(params, **case.settings, backend=backend)
        optimizer.prepare()
        for step in range(3):
            for param in params:
                param.grad_dtype = None
                grad = torch.linspace(step, 3, param.numel()).sin().view(param.shape)
                param.grad = grad.bfloat16() if alternate and step == 1 else grad
            optimizer.step()
        return [param.detach() for param in params]

    for alternate in (False, True):
        assert_same(
            run(None, torch.bfloat16, alternate=alternate),
            run("loop", torch.bfloat16, alternate=alternate),
            rtol=1e-2 if case.rule.traits.needs_whole_matrices else 0.0,
            atol=0.0,
        )


@needs_any_dtype
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_takes_the_float32_gradient_as_torch_does(momentum: float) -> None:
    ends = []
    for kind in (optim.SGD, torch.optim.SGD):
        param = torch.nn.Parameter(torch.ones(4).bfloat16())
        param.grad_dtype = torch.float32
        optimizer = kind([param], lr=1.0, momentum=momentum)
        for step in range(3):
            param.grad = torch.tensor([0.0039, 0.00390625, 0.0041, 0.3]) * (step + 1)
            optimizer.step()
        ends.append(param.detach())
    assert torch.equal(*ends)
