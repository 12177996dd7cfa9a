"""Tensors without memory: fake tensors, meta tensors, wrappers and those under ``torch.func``."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor

from cases import wrappers
from cases.rules import CASES, give_curvature
from thalweg import optim
from thalweg.errors import ParameterError

Make = Callable[[list[torch.Tensor]], Any]
Layout = dict[str, tuple[Any, ...]]

RULES: dict[str, tuple[Make, tuple[tuple[int, ...], ...]]] = (
    {
        case.optimizer.__name__: (lambda params, case=case: case.optimizer(params, **case.settings), case.shapes[:1])  # type: ignore[misc]
        for case in CASES
    }
    | {
        case.rule.name: (lambda params, case=case: optim.optimizer_for(case.rule)(params), case.shapes[:1])  # type: ignore[misc]
        for case in wrappers.CASES
    }
)


def step_once(make: Make, shapes: tuple[tuple[int, ...], ...]) -> list[Layout]:
    """Take a step, and return the layout of the state of each parameter."""
    params = [torch.ones(shape, requires_grad=True) for shape in shapes]
    optimizer = make(params)

    def closure() -> torch.Tensor:
        for param in params:
            param.grad = param.detach().clone()
        return torch.ones(())

    closure()
    give_curvature(optimizer, [param.detach() for param in params])
    optimizer.zero_grad()
    optimizer.step(closure)
    return [
        {key: (entry.shape, entry.dtype, entry.stride(), entry.device) for key, entry in optimizer.state[param].items()}
        for param in params
    ]


@pytest.mark.parametrize("name", RULES)
def test_state_of_fake_parameters_has_the_layout_of_real_ones(name: str) -> None:
    make, shapes = RULES[name]
    with FakeTensorMode():
        fake = step_once(make, shapes)
    assert fake == step_once(make, shapes)


def model(**options: Any) -> nn.Module:
    sizes = [(4, 6), (6, 6), (6, 2)]
    return nn.Sequential(*(layer for size in sizes for layer in (nn.Linear(*size, **options), nn.Tanh())))


def train(model: nn.Module, optimizer: Any, steps: int, **options: Any) -> None:
    for _ in range(steps):
        model(torch.ones(3, 4, **options)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", ["adamw", "muon", "schedule_free_adamw", "prodigy"])
def test_fake_training_counts_saves_and_evaluates(name: str) -> None:
    with FakeTensorMode():
        fake = model()
        optimizer = optim.route(fake, name).optimizer()
        train(fake, optimizer, 3)
        optimizer.eval()
        optimizer.train()
        optimizer.load_state_dict(optimizer.state_dict())
        train(fake, optimizer, 1)
        assert {planned.choice.backend for planned in optimizer.prepare().parameters} == {"loop"}
    entries = [entry for record in optimizer.state.values() for entry in record.values()]
    assert all(isinstance(entry, FakeTensor) for entry in entries)
    assert {float(record["step"]) for record in optimizer.state.values()} == {4.0}


@pytest.mark.parametrize("rounding", ["kahan", "stochastic"])
def test_fake_half_precision(rounding: str) -> None:
    with FakeTensorMode():
        fake = model(dtype=torch.bfloat16)
        optimizer = optim.AdamW(fake.parameters(), rounding=rounding)
        train(fake, optimizer, 2, dtype=torch.bfloat16)
    assert len(optimizer.state) == 6


def test_fake_parameters_step_outside_of_their_mode() -> None:
    with FakeTensorMode():
        fake = model()
    optimizer = optim.AdamW(fake.parameters())
    for _ in range(2):
        for param in fake.parameters():
            param.grad = torch.zeros_like(param)
        optimizer.step()
    record = optimizer.state[next(fake.parameters())]
    assert (float(record["step"]), type(record["exp_avg"])) == (2.0, FakeTensor)


@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize("options", [{}, {"allow_non_fake_inputs": True}])
def test_real_parameters_are_refused_under_the_mode_and_unchanged(bound: bool, options: dict[str, bool]) -> None:
    param, reference = (nn.Parameter(torch.ones(3)) for _ in range(2))
    ours, theirs = optim.AdamW([param], lr=0.1), torch.optim.AdamW([reference], lr=0.1)
    param.grad, reference.grad = torch.ones(3), torch.ones(3)
    if bound:
        ours.prepare()
        ours.step()
        theirs.step()
    before = param.detach().clone()
    with (
        FakeTensorMode(**options),
        pytest.raises(ParameterError, match=r"^AdamW: parameters must be fake tensors .* \(3,\)"),
    ):
        ours.step()
    assert torch.equal(param, before)
    ours.step()
    theirs.step()
    assert type(ours.state[param]["step"]) is torch.Tensor
    assert float(ours.state[param]["step"]) == float(theirs.state[reference]["step"])
    torch.testing.assert_close(param, reference, rtol=1e-6, atol=0)


def test_a_real_parameter_with_a_fake_gradient_is_refused_by_torch() -> None:
    param = nn.Parameter(torch.ones(3))
    optimizer = optim.AdamW([param], lr=0.1)
    param.grad = torch.ones(3)
    optimizer.prepare()
    optimizer.step()
    before = param.detach().clone()
    with FakeTensorMode():
        param.grad = torch.ones(3)
    with pytest.raises(AssertionError, match="convert all Tensors to FakeTensors"):
        optimizer.step()
    assert torch.equal(param, before)


@pytest.mark.parametrize("device", ["fake", "meta"])
def test_a_line_search_says_that_it_needs_the_number_of_the_loss(device: str) -> None:
    def step() -> None:
        param = nn.Parameter(torch.ones(3, device=None if device == "fake" else "meta"))
        optimizer = optim.LBFGS([param])

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = param.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)

    with pytest.raises(ParameterError, match="the tensor is fake or on the meta device|got some on the meta device"):
        if device == "fake":
            with FakeTensorMode():
                step()
        else:
            step()


def test_meta_parameters_get_their_state_on_the_meta_device() -> None:
    meta = model(device="meta")
    optimizer = optim.route(meta, "soap").optimizer()
    for param in meta.parameters():
        param.grad = torch.zeros_like(param)
    optimizer.step()
    for record in optimizer.state.values():
        assert {entry.device.type for key, entry in record.items() if key != "step"} == {"meta"}
        assert float(record["step"]) == 1


def test_wrappers_of_other_tensors_step_like_these() -> None:
    ends = []
    for kind in (torch.clone, lambda tensor: TwoTensor(tensor, 2 * tensor)):
        param = nn.Parameter(kind(torch.ones(3)))
        optimizer = optim.AdamW([param], lr=0.1)
        for _ in range(3):
            param.grad = kind(torch.tensor([1.0, 2.0, -3.0]))
            optimizer.step()
        ends.append(param.detach())
    torch.testing.assert_close(ends[1].a, ends[0], rtol=1e-6, atol=0)


def test_a_step_under_vmap_equals_that_of_each_member() -> None:
    grads = torch.tensor([[1.0, -2.0], [0.5, 3.0]])

    def stepped(param: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
        param = param.clone()
        optimizer = optim.SGD([param], lr=0.5)
        param.grad = grad
        optimizer.step()
        return param

    assert torch.equal(torch.func.vmap(stepped)(torch.ones(2, 2), grads), 1 - 0.5 * grads)
