"""Changes of the wiring and of the loop."""

import copy

import pytest
import torch
from torch import Tensor, nn

from cases.trainings import classes, mlp, paste, score, take_step, train, values
from tests.diagnosis.changes.by_name import BY_NAME
from thalweg.tasks import Training


class Listed(nn.Module):
    """Layers in plain lists and dicts."""

    def __init__(self, form: str) -> None:
        super().__init__()
        first, second = nn.Linear(4, 8), nn.Linear(8, 8)
        self.head, self.scale = nn.Linear(8, 3), [1.0, 2.0]
        layers = {"list": [first, second], "tuple": (first, second), "nested": [[first], [second]]}
        self.layers = layers.get(form, {"first": first, "second": second})

    def forward(self, x: Tensor) -> Tensor:
        layers = self.layers.values() if hasattr(self.layers, "values") else self.layers
        for layer in layers:
            for each in [layer] if isinstance(layer, nn.Linear) else layer:
                x = each(x).relu()
        return self.head(x)


@pytest.mark.parametrize("form", ["list", "tuple", "dict", "nested"])
def test_layers_in_lists_and_dicts_are_registered_and_trained(form: str) -> None:
    training = classes(Listed(form))
    assert len(list(training.model.parameters())) == 2
    plain = classes(Listed(form))
    x = next(iter(plain.batches))[0]
    training.model.head.load_state_dict(plain.model.head.state_dict())
    change = BY_NAME["layers registered"]
    again = paste(classes(Listed(form)), change.code(training, "layers"))
    assert len(list(again.model.parameters())) == 6
    change.apply(training, "layers")
    assert len(list(training.model.parameters())) == 6
    assert len(training.optimizer.param_groups[0]["params"]) == 6
    assert training.model.scale == [1.0, 2.0]
    assert training.model(x).shape == (16, 3)
    before = [param.clone() for param in training.model.parameters()]
    train(training, 1)
    assert all(not torch.equal(a, b) for a, b in zip(before, training.model.parameters(), strict=True))


def test_parameters_that_are_missing_join_the_optimizer() -> None:
    training = classes()
    training.optimizer = torch.optim.SGD(training.model[0].parameters(), lr=0.1)
    BY_NAME["missing parameters added to the optimizer"].apply(training, None)
    assert train(training, 4) == pytest.approx(train(classes(), 4))


@pytest.mark.parametrize("groups", [1, 2])
def test_a_stale_optimizer_gets_the_models_parameters_in_its_groups(groups: int) -> None:
    def make(stale: bool) -> Training:
        training = classes()
        params = list(training.model.parameters())
        listed = [{"params": params[:2]}, {"params": params[2:], "lr": 0.03}] if groups == 2 else params
        training.optimizer = torch.optim.SGD(listed, lr=0.1, momentum=0.9)
        if stale:
            training.model = copy.deepcopy(training.model)
        return training

    change = BY_NAME["optimizer of the model's own parameters"]
    training = change.apply(make(stale=True), None)
    losses = train(training, 4)
    assert losses == pytest.approx(train(make(stale=False), 4))
    if groups == 1:
        assert train(paste(make(stale=True), change.code(make(stale=True), None)), 4) == pytest.approx(losses)


def test_frozen_parameters_are_trained_where_they_are_to_blame() -> None:
    training = classes()
    training.model.requires_grad_(False)
    training.model[4].requires_grad_(True)
    training.optimizer = torch.optim.SGD(training.model[4].parameters(), lr=0.1)
    change = BY_NAME["parameters unfrozen"]
    assert change.code(training, "0").startswith("model[0].requires_grad_(True)")
    change.apply(training, "0")
    flags = [param.requires_grad for param in training.model.parameters()]
    assert flags == [True, True, False, False, True, True]
    assert len(training.optimizer.param_groups[0]["params"]) == 4
    BY_NAME["all parameters unfrozen"].apply(training, "0")
    assert train(training, 4) == pytest.approx(train(classes(), 4))


class Cut(nn.Module):
    """Cuts the graph after an encoder in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.encoder, self.head, self.way = mlp(4, 8, 4), nn.Linear(4, 3), way

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "no_grad":
            with torch.no_grad():
                features = self.encoder(x)
        elif self.way == "decorator":
            features = self.encode(x)
        else:
            features = self.encoder(x)
        if self.way == "detach":
            features = features.detach()
        elif self.way == "data":
            features = features.data
        elif self.way == "list":
            features = torch.tensor(features.tolist())
        elif self.way == "array":
            features = torch.from_numpy(features.detach().numpy())
        elif self.way == "tensor":
            features = torch.as_tensor(features.detach().cpu().numpy())
        return self.head(features)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x)


@pytest.mark.parametrize("way", ["detach", "data", "list", "array", "tensor", "no_grad", "decorator"])
def test_a_cut_graph_is_joined(way: str) -> None:
    change = BY_NAME["graph not cut"]
    code = change.code(classes(Cut(way)), "encoder")
    assert code.startswith("# ")
    assert {"no_grad": "torch.no_grad", "decorator": "encode", "list": "tolist"}.get(way, "features") in code
    training = change.apply(classes(Cut(way)), "encoder")
    train(training, 1)
    assert training.model.encoder[0].weight.grad.abs().sum() > 0
    assert torch.no_grad.__enter__.__qualname__ == "no_grad.__enter__"
    with torch.no_grad():
        assert not training.model(torch.zeros(1, 4)).requires_grad
    reference = classes(Cut("none"))
    torch.manual_seed(0)
    training = change.apply(classes(Cut(way)), "encoder")
    reference.model.load_state_dict(training.model.state_dict())
    assert train(training, 3) == pytest.approx(train(reference, 3))


def test_a_cut_in_the_step_is_joined() -> None:
    def step(training: Training, x: Tensor, y: Tensor) -> Tensor:
        training.optimizer.zero_grad()
        with torch.no_grad():
            features = training.model.encoder(x)
        loss = training.loss_fn(training.model.head(features), y)
        loss.backward()
        training.optimizer.step()
        return loss.detach()

    change = BY_NAME["graph not cut"]
    assert change.code(classes(Cut("none"), step=step), "encoder").splitlines()[1:] == ["# with torch.no_grad():"]
    torch.manual_seed(0)
    training = change.apply(classes(Cut("none"), step=step), "encoder")
    reference = classes(Cut("none"))
    reference.model.load_state_dict(training.model.state_dict())
    assert train(training, 3) == pytest.approx(train(reference, 3))


def test_nothing_cuts_a_whole_graph() -> None:
    assert BY_NAME["graph not cut"].why_not(classes(), None) == "nothing in the forward pass or the step cuts the graph"


def test_a_parameter_that_is_listed_twice_is_stepped_once() -> None:
    training = classes()
    training.optimizer.param_groups[0]["params"] += list(training.model[0].parameters()) * 3
    BY_NAME["each parameter stepped once"].apply(training, None)
    assert train(training, 3) == pytest.approx(train(classes(), 3))


def forgetful(training: Training, x: Tensor, y: Tensor) -> Tensor:
    """Forget to zero the gradients."""
    loss = training.loss_fn(training.model(x), y)
    loss.backward()
    training.optimizer.step()
    return loss.detach()


def test_gradients_are_zeroed_before_each_step() -> None:
    change = BY_NAME["gradients zeroed before each step"]
    code = change.code(classes(step=forgetful), None)
    assert code.splitlines()[2] == "    training.optimizer.zero_grad()"
    assert code.endswith("step = forgetful")
    losses = train(change.apply(classes(step=forgetful), None), 4)
    assert losses == pytest.approx(train(classes(), 4))
    assert train(paste(classes(step=forgetful), code), 4) == pytest.approx(losses)
    assert train(BY_NAME["the plain step"].apply(classes(step=forgetful), None), 4) == pytest.approx(losses)


def test_a_step_without_a_text_is_wrapped() -> None:
    step = eval("lambda training, x, y: own(training, x, y)", {"own": forgetful})
    change = BY_NAME["gradients zeroed before each step"]
    code = change.code(classes(step=step), None)
    assert "own_step(training, *batch)" in code
    assert train(paste(classes(step=step), code), 4) == pytest.approx(train(classes(), 4))


def test_the_model_is_put_into_training_mode() -> None:
    def evaluating(training: Training, x: Tensor, y: Tensor) -> Tensor:
        loss = take_step(Training(training.model, training.optimizer, [], training.loss_fn), (x, y))
        training.model.eval()
        return torch.tensor(loss)

    def make(step: object = None) -> Training:
        return classes(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)), step=step)

    change = BY_NAME["training mode before each step"]
    torch.manual_seed(0)
    reference = make()
    training = make(evaluating)
    training.model.load_state_dict(reference.model.state_dict())
    assert train(change.apply(training, None), 3) == pytest.approx(train(reference, 3))
    assert change.why_not(make(), None) == "the model is in training mode"
    left = make()
    left.model[1].eval()
    assert change.code(left, None).startswith("model.train()")
    assert change.apply(left, None).model[1].training


@pytest.mark.parametrize("name", ["learning rate x 1000", "Adam at learning rate 0.01"])
def test_a_learning_rate_that_is_too_low_is_cured(name: str) -> None:
    training, cured = classes(lr=1e-4), classes(lr=1e-4)
    train(training, 120)
    train(BY_NAME[name].apply(cured, None), 120)
    assert score(training) < 0.7
    assert score(cured) > 0.95


def test_a_change_that_does_not_suit_leaves_the_training_as_it_was() -> None:
    training = values()
    assert BY_NAME["gradients zeroed before each step"].why_not(training, None)
    assert train(training, 3) == pytest.approx(train(values(), 3))
