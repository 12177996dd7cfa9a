"""Clues about wiring: the sick training, its cured twin, and healthy ones that look alike."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cases.small_trainings import CLASSES, FEATURES, classes, inspected, named, network, plain_step, training
from thalweg import Training


class Body(nn.Module):
    """Two hidden layers in a container of some kind, and a head."""

    def __init__(self, container: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Linear(FEATURES, 16), nn.Linear(16, 16)]
        self.kind = container
        self.body = {
            "registered": nn.ModuleList,
            "list": list,
            "tuple": tuple,
            "dict": lambda layers: {"first": layers[0], "rest": [layers[1]]},
        }[container](layers)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        layers = self.body if self.kind != "dict" else [self.body["first"], *self.body["rest"]]
        for layer in layers:
            x = torch.relu(layer(x))
        return self.head(x)


@pytest.mark.parametrize("container", ["list", "tuple", "dict"])
def test_layers_in_a_container_of_python_are_not_registered(container: str) -> None:
    assert ("unregistered_parameters", "certain", "body") in named(training(Body(container)))


def test_a_nested_list_is_named_with_its_module() -> None:
    model = nn.Sequential()
    model.add_module("encoder", Body("list"))
    clues = inspected(training(model))
    assert [(clue.kind, clue.where) for clue in clues] == [("unregistered_parameters", "encoder.body")]
    assert clues[0].evidence["parameters"] == 4


def test_a_plain_tensor_that_requires_a_gradient_is_not_registered() -> None:
    model = network()
    model.scale = torch.ones(FEATURES, requires_grad=True)
    model.register_forward_pre_hook(lambda module, inputs: (inputs[0] * module.scale,))
    assert named(training(model)) == [("unregistered_parameters", "certain", "scale")]


def test_registered_layers_give_no_clue() -> None:
    assert named(training(Body("registered"))) == []


def test_a_list_of_registered_layers_gives_no_clue() -> None:
    model = network()
    model.layers = [model[0], model[2]]
    assert named(training(model)) == []


def test_unregistered_layers_that_the_optimizer_holds_give_no_clue() -> None:
    model = Body("list")
    parameters = [*model.parameters(), *(param for layer in model.body for param in layer.parameters())]
    assert named(training(model, optimizer=torch.optim.SGD(parameters, lr=0.05))) == []


def test_a_target_network_in_a_list_gives_no_clue() -> None:
    model = network()
    model.target = [copy.deepcopy(model)]

    def step(subject: Training, x: Tensor, y: Tensor) -> Tensor:
        subject.optimizer.zero_grad()
        with torch.no_grad():
            teacher = subject.model.target[0](x)
        output = subject.model(x)
        loss = functional.cross_entropy(output, y) + (output - teacher).square().mean()
        loss.backward()
        subject.optimizer.step()
        return loss.detach()

    assert named(training(model, step=step)) == []


def test_an_optimizer_of_another_copy_is_stale() -> None:
    model = network()
    stale = training(copy.deepcopy(model), optimizer=torch.optim.Adam(model.parameters(), lr=1e-3))
    assert named(stale) == [("stale_optimizer", "certain", None)]


def test_a_head_that_was_replaced_after_the_optimizer_was_made_is_stale() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    model[4] = nn.Linear(16, CLASSES)
    assert named(training(model, optimizer=optimizer)) == [("stale_optimizer", "certain", "4")]


def test_a_random_layer_in_no_group_is_likely_a_fault() -> None:
    model = network(width=32)
    optimizer = torch.optim.SGD([*model[0].parameters(), *model[4].parameters()], lr=0.05)
    assert named(training(model, optimizer=optimizer)) == [("stale_optimizer", "likely", "2")]


def test_a_second_optimizer_in_the_step_counts() -> None:
    model = network()
    second = torch.optim.SGD(model[4].parameters(), lr=0.05)

    def step(subject: Training, x: Tensor, y: Tensor) -> Tensor:
        second.zero_grad()
        loss = plain_step(subject, x, y)
        second.step()
        return loss

    body = torch.optim.SGD([*model[0].parameters(), *model[2].parameters()], lr=0.05)
    assert named(training(model, optimizer=body, step=step)) == []


def test_frozen_random_layers_are_likely_a_fault_if_they_are_most_of_the_network() -> None:
    model = network(width=32)
    model[0].requires_grad_(False)
    model[2].requires_grad_(False)
    (clue,) = inspected(training(model))
    assert (clue.kind, clue.certainty, clue.where) == ("frozen_parameters", "likely", "2")


def test_a_frozen_trained_body_gives_no_clue() -> None:
    model = network(width=32)
    rates = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        for x, y in classes():
            plain_step(training(model, optimizer=rates), x, y)
    model[0].requires_grad_(False)
    model[2].requires_grad_(False)
    model[4] = nn.Linear(32, CLASSES)
    assert named(training(model, optimizer=torch.optim.Adam(model[4].parameters(), lr=0.01))) == []


def test_an_optimizer_that_holds_frozen_parameters_only_is_certainly_wrong() -> None:
    model = network()
    optimizer = torch.optim.SGD(model[4].parameters(), lr=0.05)
    model[4].requires_grad_(False)
    assert ("frozen_parameters", "certain", "4") in named(training(model, optimizer=optimizer))


def test_a_model_that_is_frozen_as_a_whole_is_certainly_wrong() -> None:
    model = network().requires_grad_(False)
    assert named(training(model)) == [("frozen_parameters", "certain", None)]


class Cut(nn.Module):
    """An encoder and a head with something between them."""

    def __init__(self, cut: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
        self.head = nn.Linear(16, CLASSES)
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.cut != "no_grad"):
            features = self.encoder(x)
        return self.head(CUTS[self.cut](features))


CUTS = {
    "detach": lambda x: x.detach(),
    "data": lambda x: x.data,
    "numpy": lambda x: torch.from_numpy(x.detach().numpy()),
    "tolist": lambda x: torch.tensor(x.tolist()),
    "no_grad": lambda x: x,
    "comparison": lambda x: (x > 0).float(),
}


@pytest.mark.parametrize("cut", CUTS)
def test_a_graph_that_is_cut(cut: str) -> None:
    (clue,) = inspected(training(Cut(cut)))
    assert (clue.kind, clue.certainty, clue.where) == ("detached_graph", "certain", "encoder")
    assert clue.evidence["last module without a gradient"] == "encoder.2"


def test_a_detached_encoder_that_no_optimizer_holds_gives_no_clue() -> None:
    model = Cut("detach")
    assert named(training(model, optimizer=torch.optim.SGD(model.head.parameters(), lr=0.05))) == []


def test_a_loss_without_a_graph_is_certainly_wrong() -> None:
    cut = training(network(), loss_fn=lambda output, y: functional.cross_entropy(output.detach(), y))
    assert named(cut) == [("detached_graph", "certain", None)]


def test_a_step_that_raises_for_want_of_a_graph_is_certainly_wrong() -> None:
    cut = training(network(), step=plain_step, loss_fn=lambda output, y: functional.cross_entropy(output.detach(), y))
    assert named(cut) == [("detached_graph", "certain", None)]


class Bypass(nn.Module):
    """A body that the forward pass leaves out, or an unused head of little size."""

    def __init__(self, *, is_small: bool) -> None:
        super().__init__()
        self.used = network()
        self.body = (
            nn.Linear(FEATURES, 16) if is_small else nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 8))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def test_a_body_that_is_never_called_is_likely_a_fault_and_a_small_head_is_not() -> None:
    assert named(training(Bypass(is_small=False))) == [("no_gradient", "likely", "body")]
    assert named(training(Bypass(is_small=True))) == [("no_gradient", "possible", "body")]


def test_a_parameter_that_is_listed_twice() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    optimizer.param_groups[0]["params"] += list(model[2].parameters())
    clues = inspected(training(model, optimizer=optimizer))
    assert [(clue.kind, clue.certainty, clue.where) for clue in clues] == [("parameter_twice", "certain", "2")]
    assert clues[0].evidence["times"] == 2


def test_two_optimizers_that_step_the_same_parameter_are_likely_a_fault() -> None:
    model = network()
    second = torch.optim.SGD(model[2].parameters(), lr=0.05)

    def step(subject: Training, x: Tensor, y: Tensor) -> Tensor:
        loss = plain_step(subject, x, y)
        second.step()
        return loss

    assert named(training(model, step=step)) == [("parameter_twice", "likely", "2")]


def test_tied_weights_give_no_clue() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(11, 16), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 11, bias=False))
    model[3].weight = model[0].weight
    model[3].weight.data.mul_(0.1)
    tokens = [(torch.randint(11, (32,)), torch.randint(11, (32,))) for _ in range(4)]
    assert named(training(model, tokens)) == []


class TargetNetwork(nn.Module):
    """A network and a copy that follows it slowly, or never moves."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.target = copy.deepcopy(self.net)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.parametrize("is_followed", [True, False])
def test_a_target_network_that_the_optimizer_lists_gives_no_clue(*, is_followed: bool) -> None:
    def step(subject: Training, x: Tensor, y: Tensor) -> Tensor:
        subject.optimizer.zero_grad()
        with torch.no_grad():
            goal = subject.model.target(x)
        output = subject.model(x)
        loss = (output - goal).square().mean() + functional.cross_entropy(output, y)
        loss.backward()
        subject.optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(subject.model.target.parameters(), subject.model.net.parameters(), strict=True):
                slow.lerp_(fast, 0.1 * is_followed)
        return loss.detach()

    assert named(training(TargetNetwork(), step=step)) == []


@pytest.mark.parametrize("every", [1, 5, 20])
def test_a_generator_that_steps_now_and_then_gives_no_clue(every: int) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"made": nn.Linear(FEATURES, FEATURES), "judge": network(1)})
    second = torch.optim.SGD(model["judge"].parameters(), lr=0.05)
    count = 0

    def step(subject: Training, x: Tensor, y: Tensor) -> Tensor:
        nonlocal count
        count += 1
        second.zero_grad()
        made = subject.model["made"](x).detach()
        loss = (subject.model["judge"](made) - subject.model["judge"](x)).mean()
        loss.backward()
        second.step()
        if count % every == 0:
            subject.optimizer.zero_grad()
            (-subject.model["judge"](subject.model["made"](x)).mean()).backward()
            subject.optimizer.step()
        return loss.detach()

    first = torch.optim.SGD(model["made"].parameters(), lr=0.05)
    assert named(training(model, optimizer=first, step=step)) == []


def test_a_trained_network_of_a_perceptual_loss_in_a_list_is_no_certain_fault() -> None:
    judge = network(1, width=32)
    rates = torch.optim.Adam(judge.parameters(), lr=0.02)
    for _ in range(60):
        for x, y in classes():
            plain_step(training(judge, optimizer=rates, loss_fn=lambda o, y: (o[:, 0] - y).square().mean()), x, y)
    model = network(FEATURES)
    model.judge = [judge]

    def step(subject: Training, x: Tensor, y: Tensor) -> Tensor:
        subject.optimizer.zero_grad()
        loss = (subject.model.judge[0](subject.model(x)) - subject.model.judge[0](x)).square().mean()
        loss.backward()
        subject.optimizer.step()
        return loss.detach()

    assert named(training(model, step=step)) == [("unregistered_parameters", "possible", "judge")]


def test_lazy_layers_are_left_alone() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, CLASSES))
    assert named(training(model)) == []
    assert isinstance(model[0].weight, nn.UninitializedParameter)
