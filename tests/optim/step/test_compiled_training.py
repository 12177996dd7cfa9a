"""Training under ``torch.compile``: a step is called as it is, and costs one graph break."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters
from torch.optim import lr_scheduler

from thalweg import optim

Training = Callable[[nn.Module, Any], Callable[[], torch.Tensor]]
BATCH = torch.linspace(-1, 1, 12).view(4, 3)


def loss_of(model: nn.Module) -> torch.Tensor:
    return (model(BATCH) - BATCH.sum(dim=1, keepdim=True)).square().mean()


def backward(model: nn.Module) -> torch.Tensor:
    loss = loss_of(model)
    value = loss.detach()  # the loss itself must not live on: Dynamo reads its gradient, and torch warns
    loss.backward()
    return value


def plain(model: nn.Module, optimizer: Any) -> Callable[[], torch.Tensor]:
    def train_step() -> torch.Tensor:
        loss = backward(model)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return train_step


def scheduled(model: nn.Module, optimizer: Any) -> Callable[[], torch.Tensor]:
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    step = plain(model, optimizer)

    def train_step() -> torch.Tensor:
        loss = step()
        scheduler.step()
        return loss

    return train_step


def with_closure(model: nn.Module, optimizer: Any) -> Callable[[], torch.Tensor]:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        return backward(model)

    return lambda: optimizer.step(closure)


def evaluated(model: nn.Module, optimizer: Any) -> Callable[[], torch.Tensor]:
    step = plain(model, optimizer)

    def train_step() -> torch.Tensor:
        step()
        optimizer.eval()
        loss = loss_of(model).detach()
        optimizer.train()
        return loss

    return train_step


def saved(model: nn.Module, optimizer: Any) -> Callable[[], torch.Tensor]:
    step = plain(model, optimizer)

    def train_step() -> torch.Tensor:
        loss = step()
        assert optimizer.plan
        optimizer.load_state_dict(optimizer.state_dict())
        return loss

    return train_step


def with_curvature(model: nn.Module, optimizer: Any) -> Callable[[], torch.Tensor]:
    def train_step() -> torch.Tensor:
        optimizer.estimate_curvature(loss_of(model))
        loss = backward(model)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return train_step


def make(name: str, model: nn.Module) -> Any:
    return optim.route(model, name).optimizer() if name == "muon" else optim.optimizer_for(name)(model.parameters())


# The name, the training, and the graphs that are compiled: those of the model's loss, and none of the optimizer.
TRAININGS: list[tuple[str, Training, int]] = [
    ("adamw", plain, 1),
    ("adamw", scheduled, 1),
    ("soap", plain, 1),
    ("muon", plain, 1),
    ("sam(sgd)", with_closure, 0),
    ("lbfgs", with_closure, 0),
    ("schedule_free_adamw", evaluated, 2),
    ("moving_average(adamw)", evaluated, 2),
    ("sophia", with_curvature, 2),
    ("adamw", saved, 1),
]


@pytest.mark.parametrize(
    ("name", "training", "graphs"), TRAININGS, ids=[f"{name}-{kind.__name__}" for name, kind, _ in TRAININGS]
)
def test_a_compiled_training_calls_the_optimizer_and_does_not_trace_it(
    name: str, training: Training, graphs: int
) -> None:
    torch._dynamo.reset()
    counters.clear()
    counter = CompileCounter()
    ends = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
        train_step = training(model, make(name, model))
        if compiled:
            train_step = torch.compile(train_step, backend=counter)
        losses = [float(train_step()) for _ in range(6)]
        ends.append([*losses, *(param.detach().clone() for param in model.parameters())])
    assert counter.frame_count == graphs  # no recompilation either
    reasons = " ".join(counters["graph_break"])
    assert "thalweg" not in reasons.replace("thalweg compiles steps itself", "")
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-6, atol=1e-7)


def test_the_step_alone_is_never_traced() -> None:
    torch._dynamo.reset()
    counters.clear()
    counter = CompileCounter()
    param = nn.Parameter(torch.ones(3))
    optimizer = optim.SOAP([param])
    step = torch.compile(optimizer.step, backend=counter)
    for _ in range(3):
        param.grad = torch.ones(3)
        step()
    assert (counter.frame_count, len(counters["graph_break"]), float(optimizer.state[param]["step"])) == (0, 1, 3)


def test_a_full_graph_is_refused_with_the_reason() -> None:
    torch._dynamo.reset()
    optimizer = optim.AdamW([nn.Parameter(torch.ones(3))])
    with pytest.raises(torch._dynamo.exc.Unsupported, match="thalweg compiles steps itself"):
        torch.compile(lambda: optimizer.step(), fullgraph=True, backend="eager")()


def test_optimizers_in_backward_hooks_of_a_compiled_model() -> None:
    torch._dynamo.reset()
    ends = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(3, 1)
        optimizers = {param: optim.AdamW([param], lr=0.1) for param in model.parameters()}

        def step(param: torch.Tensor, optimizers: Any = optimizers) -> None:
            optimizers[param].step()
            optimizers[param].zero_grad()

        for param in model.parameters():
            param.register_post_accumulate_grad_hook(step)

        def train_step(model: nn.Module = model) -> None:
            backward(model)

        for _ in range(3):
            (torch.compile(train_step, backend="eager") if compiled else train_step)()
        ends.append([param.detach() for param in model.parameters()])
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-6, atol=1e-7)


def test_a_subclass_with_its_own_step_is_not_traced_either() -> None:
    torch._dynamo.reset()
    counters.clear()

    class Logged(optim.AdamW):
        steps = 0

        def step(self, closure: Any = None) -> Any:
            self.steps += 1
            return super().step(closure)

    param = nn.Parameter(torch.ones(3))
    optimizer = Logged([param], lr=0.1)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    step = torch.compile(lambda: optimizer.step(), backend="eager")
    for _ in range(2):
        param.grad = torch.ones(3)
        step()
    assert (optimizer.steps, len(counters["graph_break"])) == (2, 1)
    assert param.detach().tolist() == pytest.approx([0.798] * 3, abs=2e-3)
