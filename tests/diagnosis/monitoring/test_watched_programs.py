"""Programs that a monitor can watch: any optimizer, several models, compiled, distributed and checkpointed ones."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import thalweg
from tests.diagnosis.monitoring.training import batches, hooks_of, perceptron, step_on_sum, train
from thalweg.diagnosis.monitoring import watch


class Proxy:
    """An optimizer around another one, as trainers have."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def step(self) -> None:
        self.optimizer.step()

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups


class SignDescent:
    """An optimizer of its own, unknown to torch."""

    def __init__(self, params: Any) -> None:
        self.param_groups = [{"params": list(params), "lr": 0.01}]

    def zero_grad(self) -> None:
        for param in self.param_groups[0]["params"]:
            param.grad = None

    def step(self) -> None:
        with torch.no_grad():
            for param in self.param_groups[0]["params"]:
                param -= 0.01 * param.grad.sign()


@pytest.mark.parametrize(
    "make",
    [lambda p: Proxy(torch.optim.SGD(p, 0.01)), SignDescent, lambda p: thalweg.optim.AdamW(p, lr=0.01, backend="loop")],
)
def test_any_optimizer_can_be_watched(make: Callable[..., Any]) -> None:
    model = perceptron()
    optimizer = make(list(model.parameters()))
    with watch(model, optimizer, every=1) as monitor:
        train(model, optimizer, monitor, count=3)
    record = monitor.record
    assert record.steps == [0, 1, 2]
    assert all(0 < ratio < 1 for ratio in record.update_ratios["2.weight"])
    assert record.lrs == [(0.01,)] * 3
    assert "step" not in vars(optimizer)


def test_a_copy_of_a_watched_optimizer_of_its_own_steps_its_own_parameters() -> None:
    model = perceptron()
    optimizer = SignDescent(model.parameters())
    with watch(model, optimizer, every=1):
        twin_model, twin = copy.deepcopy((model, optimizer))
        before = model[0].weight.detach().clone()
        twin_model(torch.ones(2, 4)).sum().backward()
        twin.step()
        assert torch.equal(model[0].weight, before)
        assert not torch.equal(twin_model[0].weight, before)
    assert hooks_of(model) == 0


def test_several_optimizers_and_models_have_names_of_their_own() -> None:
    generator, critic = perceptron(), perceptron(seed=1)
    first, second = torch.optim.Adam(generator.parameters(), 1e-4), torch.optim.SGD(critic.parameters(), 0.1)
    with watch({"generator": generator, "critic": critic}, [first, second], every=1) as monitor:
        for x, _ in batches(4):
            for _ in range(2):  # the critic takes two steps for each of the generator's
                step_on_sum(critic, second, x)
            monitor.step(step_on_sum(generator, first, x))
    record = monitor.record
    assert record.steps == [0, 1, 2, 3]
    assert record.optimizer_steps == 12
    assert {"generator.0.weight", "critic.4.bias"} <= record.gradient_norms.keys()
    assert [group.optimizer for group in record.groups] == ["Adam", "SGD"]
    assert list(record.sharpness) == ["Adam0", "SGD1"]


def test_parameters_that_are_frozen_or_added_later() -> None:
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer, every=1) as monitor:
        train(model, optimizer, monitor, count=2)
        model[0].requires_grad_(False)
        model[0].zero_grad()
        model.append(nn.Linear(2, 2))
        optimizer.add_param_group({"params": model[5].parameters(), "lr": 0.5})
        train(model, optimizer, monitor, count=2)
    record = monitor.record
    assert [value > 0 for value in record.gradient_norms["0.weight"]] == [True, True, False, False]
    assert record.update_ratios["0.weight"][2:] == [0.0, 0.0]
    assert [value > 0 for value in record.gradient_norms["5.weight"]] == [False, False, True, True]
    assert record.lrs[-1] == (0.01, 0.5)


def test_compiled_models_are_not_recompiled() -> None:
    compilations = []

    def backend(graph: Any, inputs: Any) -> Any:
        compilations.append(graph)
        return graph.forward

    torch._dynamo.reset()
    model = perceptron()
    compiled = torch.compile(model, backend=backend)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(compiled, optimizer, every=2) as monitor:
        train(compiled, optimizer, monitor, count=6)
    torch._dynamo.reset()
    record = monitor.record
    assert len(compilations) == 1
    assert len(record.gradient_norms["0.weight"]) == 3
    assert record.activation_scales == {}
    assert "compiled" in record.limits[0]
    assert "compiled" in monitor.summary()


def test_distributed_models_are_named_as_inside(tmp_path: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        plain, model = perceptron(), perceptron()
        wrapped = nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.05)
        with watch(wrapped, optimizer, every=1) as monitor:
            losses = train(wrapped, optimizer, monitor)
        assert losses == train(plain, torch.optim.SGD(plain.parameters(), lr=0.05), None)
    finally:
        torch.distributed.destroy_process_group()
    assert set(monitor.record.gradient_norms) == dict(plain.named_parameters()).keys()
    assert "0" in monitor.record.dead


def test_checkpointed_models_are_not_computed_anew() -> None:
    model = perceptron()
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer, every=1) as monitor:
        for x, _ in batches(3):
            optimizer.zero_grad()
            loss = torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False).sum()
            loss.backward()
            optimizer.step()
            monitor.step(loss)
    assert len(calls) == 6  # forward, and once more in the backward pass
    assert "checkpoints" in monitor.record.limits[0]
    assert len(monitor.record.activation_scales["0"]) == 3


def test_a_model_can_be_copied_and_pickled_meanwhile() -> None:
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, _ = next(batches())
    with watch(model, optimizer, every=1) as monitor:
        model(x)
        twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        for twin in twins:
            assert torch.equal(twin(x), model(x))
        monitor.step(step_on_sum(model, optimizer, x))
    assert hooks_of(model) == 0
