"""Forms of trainings: batches, models, optimizers and steps of many kinds are looked at without an error or a clue."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cases.small_trainings import (
    CLASSES,
    FEATURES,
    classes,
    inspected,
    named,
    network,
    plain_step,
    training,
    values,
)
from thalweg import Training


class Output(NamedTuple):
    """An output with names."""

    logits: Tensor
    features: Tensor


class Named(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.net, self.kind = network(), kind

    def forward(self, x: Tensor, *others: Tensor) -> Any:
        logits = self.net(x + sum(other.mean() for other in others))
        return {"tuple": (logits, x), "named": Output(logits, x), "dict": {"logits": logits}, "tensor": logits}[
            self.kind
        ]


def logits_of(output: Any) -> Tensor:
    if isinstance(output, dict):
        return output["logits"]
    return output if isinstance(output, Tensor) else output[0]


@pytest.mark.parametrize("kind", ["tuple", "named", "dict", "tensor"])
def test_outputs_of_all_kinds(kind: str) -> None:
    assert named(training(Named(kind), loss_fn=lambda o, y: functional.cross_entropy(logits_of(o), y))) == []


def test_several_inputs() -> None:
    batches = [(x, torch.randn(32, 4), y) for x, y in classes()]
    assert named(training(Named("tensor"), batches)) == []


def test_inputs_in_a_dictionary_and_targets_in_a_list() -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, batch: dict[str, Any]) -> Tensor:
            return self.net(batch["x"])

    batches = [({"x": x, "id": "a"}, [y, "text"]) for x, y in classes()]
    assert named(training(Reading(), batches, lambda o, y: functional.cross_entropy(o, y[0]))) == []


def test_batches_of_one_part() -> None:
    def step(subject: Training, x: Tensor) -> Tensor:
        subject.optimizer.zero_grad()
        loss = (subject.model(x) - x.mean(1, keepdim=True)).square().mean()
        loss.backward()
        subject.optimizer.step()
        return loss.detach()

    assert named(training(network(1), [(x,) for x, _ in classes()], step=step)) == []


def test_a_batch_of_one_example_and_a_target_without_dimensions() -> None:
    assert named(training(network(), classes(size=1))) == []
    scalars = [(x[0], y[0, 0]) for x, y in values()]
    assert named(training(network(1), scalars, lambda o, y: (o[0] - y).square())) == []


def test_sparse_gradients() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.EmbeddingBag(50, 16, sparse=True), nn.Tanh(), nn.Linear(16, CLASSES))
    sparse, dense = (
        torch.optim.SparseAdam(model[0].parameters(), lr=0.01),
        torch.optim.Adam(model[2].parameters(), lr=0.01),
    )

    class Both:
        param_groups = sparse.param_groups + dense.param_groups

        def zero_grad(self) -> None:
            sparse.zero_grad()
            dense.zero_grad()

        def step(self) -> None:
            sparse.step()
            dense.step()

    tokens = [(torch.randint(50, (32, 6)), y) for _, y in classes()]
    assert named(training(model, tokens, optimizer=Both())) == []


def test_an_optimizer_that_is_no_optimizer_of_torch() -> None:
    model = network()

    class Descent:
        def __init__(self) -> None:
            self.param_groups = [{"params": list(model.parameters()), "lr": 0.05}]

        def zero_grad(self) -> None:
            for param in self.param_groups[0]["params"]:
                param.grad = None

        @torch.no_grad()
        def step(self) -> None:
            for param in self.param_groups[0]["params"]:
                param.sub_(param.grad, alpha=0.05)

    assert named(training(model, optimizer=Descent())) == []


def test_groups_with_rates_of_their_own() -> None:
    model = network()
    groups = [
        {"params": model[0].parameters(), "lr": 1e-2},
        {"params": [*model[2].parameters(), *model[4].parameters()]},
    ]
    assert named(training(model, optimizer=torch.optim.AdamW(groups, lr=1e-3))) == []


def ascending(subject: Training, x: Tensor, y: Tensor) -> Tensor:
    """Take a step of sharpness-aware minimization, which goes up first."""
    subject.optimizer.zero_grad()
    subject.loss_fn(subject.model(x), y).backward()
    params = list(subject.model.parameters())
    steps = [0.05 * param.grad.clone() for param in params]
    with torch.no_grad():
        for param, up in zip(params, steps, strict=True):
            param.add_(up)
    subject.optimizer.zero_grad()
    loss = subject.loss_fn(subject.model(x), y)
    loss.backward()
    with torch.no_grad():
        for param, up in zip(params, steps, strict=True):
            param.sub_(up)
    subject.optimizer.step()
    return loss.detach()


def penalized(subject: Training, x: Tensor, y: Tensor) -> Tensor:
    """Take a step with a penalty on the gradient of the inputs."""
    subject.optimizer.zero_grad()
    x.requires_grad_(True)
    output = subject.model(x)
    (gradient,) = torch.autograd.grad(output.logsumexp(-1).sum(), x, create_graph=True)
    loss = subject.loss_fn(output, y) + 0.1 * gradient.square().mean()
    loss.backward()
    subject.optimizer.step()
    return loss.detach()


def by_grad(subject: Training, x: Tensor, y: Tensor) -> float:
    """Take a step without ``backward``."""
    loss = subject.loss_fn(subject.model(x), y)
    params = list(subject.model.parameters())
    for param, gradient in zip(params, torch.autograd.grad(loss, params), strict=True):
        param.grad = gradient
    subject.optimizer.step()
    return float(loss.detach())


def mixed(subject: Training, x: Tensor, y: Tensor) -> Tensor:
    """Take a step with autocast."""
    subject.optimizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = subject.loss_fn(subject.model(x), y)
    loss.backward()
    subject.optimizer.step()
    return loss.detach()


@pytest.mark.parametrize("step", [plain_step, ascending, penalized, by_grad, mixed])
def test_steps_of_all_kinds(step: Callable[..., Any]) -> None:
    assert named(training(network(), step=step)) == []


def test_images_and_recurrent_layers() -> None:
    torch.manual_seed(0)
    images = [(torch.randn(16, 3, 8, 8), y[:16]) for _, y in classes()]
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)]
    assert named(training(nn.Sequential(*layers), images)) == []

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.lstm, self.head = nn.LSTM(2, 16, batch_first=True), nn.Linear(16, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x.reshape(-1, FEATURES // 2, 2))[0][:, -1])

    assert named(training(Recurrent())) == []


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_a_transformer_of_torch_in_double_precision() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dtype=torch.float64)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Linear(8, CLASSES, dtype=torch.float64))
    batches = [(x.double()[:, None].expand(-1, 3, -1), y) for x, y in classes()]

    def loss_fn(output: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(output.mean(1), y)

    model_adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    assert named(training(model, batches, loss_fn, model_adam)) == []


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_a_scripted_model_has_no_functions_to_see() -> None:
    model = torch.jit.trace(network(3, nn.Softmax(dim=-1)), torch.randn(32, FEATURES))
    assert "softmax_before_cross_entropy" in [clue.kind for clue in inspected(training(model))]


def test_a_compiled_model_is_not_compiled_for_it() -> None:
    def backend(graph: Any, inputs: Any) -> Any:
        raise AssertionError

    model = torch.compile(network(3, nn.Softmax(dim=-1)), backend=backend)
    assert named(training(model)) == [("softmax_before_cross_entropy", "certain", "_orig_mod.5")]


def test_inputs_that_are_optimized_themselves() -> None:
    model = network().requires_grad_(False)
    picture = torch.zeros(4, FEATURES, requires_grad=True)

    def step(subject: Training, x: Tensor, y: Tensor) -> Tensor:
        subject.optimizer.zero_grad()
        loss = functional.cross_entropy(subject.model(picture), y[:4])
        loss.backward()
        subject.optimizer.step()
        return loss.detach()

    clues = named(training(model, optimizer=torch.optim.SGD([picture], lr=0.1), step=step))
    assert not [kind for kind, certainty, _ in clues if certainty == "certain"]
