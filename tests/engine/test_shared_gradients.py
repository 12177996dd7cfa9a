"""Gradients in memory that a step writes: all of them are read before anything is written, by every backend."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from thalweg import optim
from thalweg.errors import SettingError

SHAPE = (40, 30)
Share = Callable[[list[Tensor], optim.RuleOptimizer], None]


def state_of(optimizer: optim.RuleOptimizer, param: Tensor) -> Tensor:
    return next(entry for entry in optimizer.state[param].values() if entry.shape == param.shape)


def give(target: int, source: Callable[[list[Tensor], optim.RuleOptimizer], Tensor]) -> Share:
    def share(params: list[Tensor], optimizer: optim.RuleOptimizer) -> None:
        params[target].grad = source(params, optimizer).view(params[target].shape)

    return share


SHARES = {
    "an earlier parameter": give(1, lambda params, _: params[0].detach()),
    "a later parameter": give(0, lambda params, _: params[1].detach()),
    "its own parameter": give(0, lambda params, _: params[0].detach()),
    "a part of another group": give(3, lambda params, _: params[0].detach().view(-1)[7:20]),
    "a parameter of a later group": give(0, lambda params, _: params[2].detach()),
    "another gradient": give(1, lambda params, _: params[0].grad),  # type: ignore[arg-type, return-value]
    "its state": give(0, lambda params, optimizer: state_of(optimizer, params[0])),
    "the state of another": give(1, lambda params, optimizer: state_of(optimizer, params[0])),
}


def trained(kind: Any, backend: Any, share: Share, *, cloned: bool = False) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (SHAPE, SHAPE, (1200,), (13,))
    params = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    optimizer = kind([{"params": params[:2]}, {"params": params[2:], "weight_decay": 0.1}], lr=0.1, backend=backend)
    for step in range(3):
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator)
        if step:
            share(params, optimizer)
        if cloned:
            for param in params:
                param.grad = param.grad.clone()
        optimizer.step()
    return params


@pytest.mark.parametrize("kind", [optim.AdamW, optim.LAMB, optim.Prodigy], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("share", SHARES.values(), ids=SHARES)
def test_every_backend_reads_gradients_before_it_writes(kind: Any, share: Share) -> None:
    expected = trained(kind, "loop", share, cloned=True)
    backends = ["loop", "compiled"]
    for backend in (*backends, "flat", "batched"):
        try:
            actual = trained(kind, backend, share)
        except SettingError:  # the rule cannot run on it
            assert backend not in backends
            continue
        assert all(map(torch.equal, actual, expected)), backend


def test_a_sparse_gradient_whose_values_are_a_parameter_is_read_first() -> None:
    whole = torch.ones(4)
    first, table = whole.view(4).requires_grad_(), torch.zeros(3, 4, requires_grad=True)
    optimizer = optim.SGD([{"params": [first]}, {"params": [table], "maximize": True}], lr=0.5)
    first.grad = torch.full((4,), 3.0)
    indices = torch.tensor([[1]])
    values = whole.detach().view(1, 4)
    table.grad = torch.sparse_coo_tensor(indices, values, (3, 4), is_coalesced=True, check_invariants=True)
    optimizer.step()
    assert first.tolist() == [-0.5] * 4
    assert table.tolist() == [[0.0] * 4, [0.5] * 4, [0.0] * 4]


def test_state_that_two_parameters_share_is_written_in_their_order() -> None:
    ends = []
    for backend in ("loop", None, "flat"):
        params = [torch.full((50,), value).requires_grad_() for value in (1.0, 2.0)]
        optimizer = optim.SGD(params, lr=0.1, momentum=0.9, backend=backend)  # type: ignore[arg-type]
        for step in range(4):
            for value, param in enumerate(params):
                param.grad = torch.full((50,), value + 1.0)
            if step and backend == "flat":  # it reads both before it writes one
                with pytest.raises(SettingError, match="share memory"):
                    optimizer.step()
                break
            optimizer.step()
            optimizer.state[params[1]]["momentum_buffer"] = optimizer.state[params[0]]["momentum_buffer"]
        ends.append(params)
    assert all(map(torch.equal, *ends[:2]))


def test_a_gradient_behind_the_start_of_two_overlapping_parameters_is_found() -> None:
    whole = torch.ones(8)
    params = [whole[:4].requires_grad_(), whole[2:].requires_grad_(), torch.zeros(2, requires_grad=True)]
    optimizer = optim.SGD(params, lr=0.5)
    params[0].grad, params[1].grad = torch.ones(4), torch.ones(6)
    params[2].grad = whole.detach()[6:]
    optimizer.step()
    assert params[2].tolist() == [-0.5, -0.5]
    assert whole.tolist() == [0.5, 0.5, 0.0, 0.0, 0.5, 0.5, 0.5, 0.5]
