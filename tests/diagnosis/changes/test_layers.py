"""Changes of layers and of their initialization."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cases.trainings import classes, images, mlp, paste, score, tokens, train
from tests.diagnosis.changes.by_name import BY_NAME
from thalweg.diagnosis.changes.data.scale import statistics_of
from thalweg.tasks import Training


class Branches(nn.Module):
    """Layers in a ModuleList, one of them under a second name; activations are modules or functions."""

    def __init__(self, activation: Any) -> None:
        super().__init__()
        self.hidden = nn.ModuleList([nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 8)])
        self.alias, self.activation, self.head = self.hidden[1], activation, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.hidden[0], self.alias, self.hidden[2]):
            x = self.activation(layer(x))
        return self.head(x)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("LayerNorm after hidden layers", nn.LayerNorm), ("BatchNorm after hidden layers", nn.BatchNorm1d)],
)
def test_a_normalization_follows_each_hidden_layer_and_is_trained(name: str, kind: type[nn.Module]) -> None:
    training = BY_NAME[name].apply(classes(Branches(torch.relu)), None)
    norms = [module for module in training.model.modules() if isinstance(module, kind)]
    assert len(norms) == 3
    assert training.model.alias is training.model.hidden[1]
    assert len(training.optimizer.param_groups[0]["params"]) == 8 + 6
    outputs: list[Tensor] = []
    norms[-1].register_forward_hook(lambda module, args, output: outputs.append(output))
    train(training, 1)
    assert outputs[0].std().item() == pytest.approx(1.0, abs=0.05)
    assert not torch.equal(norms[0].weight, torch.ones(8))
    assert BY_NAME[name].why_not(training, None)


def test_normalizations_of_tokens_and_images() -> None:
    assert BY_NAME["BatchNorm after hidden layers"].why_not(tokens(), None)
    training = BY_NAME["LayerNorm after hidden layers"].apply(images(), None)
    assert isinstance(training.model.second[1], nn.GroupNorm)  # the first convolution has a normalization
    assert isinstance(training.model.first, nn.Conv2d)


def test_batch_normalization_is_replaced_dropped_or_follows() -> None:
    assert isinstance(BY_NAME["GroupNorm instead of BatchNorm"].apply(images(), None).model.norm, nn.GroupNorm)
    assert isinstance(BY_NAME["no BatchNorm"].apply(images(), None).model.norm, nn.Identity)
    params = BY_NAME["no BatchNorm"].apply(images(), None).optimizer.param_groups[0]["params"]
    assert len(params) == 6
    slow = images()
    slow.model.norm.momentum = 1e-4
    assert BY_NAME["statistics of batch normalization that follow"].apply(slow, None).model.norm.momentum == 0.1
    assert BY_NAME["statistics of batch normalization that follow"].why_not(images(), None)
    free = BY_NAME["no running statistics"].apply(images(), None).model.eval()
    x = next(iter(images().batches))[0]
    torch.testing.assert_close(free.norm(free.first(x)).mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)


@pytest.mark.parametrize("spelling", ["module", "function", "method"])
def test_activations_are_replaced_however_they_are_called(spelling: str) -> None:
    def make(function: Any) -> Training:
        torch.manual_seed(0)
        return classes(Branches(function))

    old = {"module": nn.Sigmoid(), "function": torch.sigmoid, "method": lambda x: x.sigmoid()}[spelling]
    change = BY_NAME["ReLU instead of sigmoid and tanh"]
    assert train(change.apply(make(old), None), 4) == pytest.approx(train(make(torch.relu), 4))
    assert "relu" in change.code(make(old), None).lower()


@pytest.mark.parametrize("ending", ["module", "function"])
def test_an_activation_at_the_output_stays(ending: str) -> None:
    class Ends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp(4, 8, 3, activation=nn.Tanh, last=nn.Tanh() if ending == "module" else None)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) if ending == "module" else torch.tanh(self.body(x).tanh())

    training = BY_NAME["ReLU instead of sigmoid and tanh"].apply(classes(Ends()), None)
    if ending == "module":
        assert [type(module).__name__ for module in training.model.body] == ["Linear", "ReLU", "Linear", "Tanh"]
    assert training.model(torch.full((1, 4), 100.0)).abs().max() <= 1


def test_dead_units_are_cured() -> None:
    def make() -> Training:
        torch.manual_seed(0)
        model = mlp(4, 8, 8, 3)
        nn.init.constant_(model[0].bias, -30.0)
        return classes(model)

    sick = make()
    train(sick, 60)
    assert score(sick) < 0.6
    for name in ("default initialization", "He initialization"):
        torch.manual_seed(1)
        cured = BY_NAME[name].apply(make(), "0")
        train(cured, 100)
        assert score(cured) > 0.95


@pytest.mark.parametrize("where", [None, "0"])
def test_zero_weights_are_cured(where: str | None) -> None:
    def make() -> Training:
        model = mlp(4, 8, 8, 3)
        for param in model.parameters():
            nn.init.zeros_(param)
        return classes(model, lr=0.3)

    change = BY_NAME["constant weights drawn at random"]
    sick = make()
    train(sick, 60)
    assert score(sick) < 0.6
    torch.manual_seed(1)
    cured = change.apply(make(), None)
    train(cured, 100)
    assert score(cured) > 0.95
    touched = change.apply(make(), where).model
    assert bool(touched[0].weight.any())
    assert bool(touched[4].weight.any()) == (where is None)
    assert change.why_not(classes(), None) == "no layer has constant weights"


def test_initializations_have_their_sizes() -> None:
    torch.manual_seed(0)
    he = BY_NAME["He initialization"].apply(classes(mlp(64, 256, 3)), None).model[0]
    assert he.weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.03)
    assert not he.bias.any()
    xavier = BY_NAME["Xavier initialization"].apply(classes(mlp(64, 256, 3)), None).model[0]
    assert xavier.weight.std().item() == pytest.approx((2 / 320) ** 0.5, rel=0.03)
    turned = BY_NAME["orthogonal initialization"].apply(classes(mlp(64, 32, 3)), None).model[0].weight
    torch.testing.assert_close(turned @ turned.T, torch.eye(32), atol=1e-5, rtol=0)
    training = BY_NAME["LSUV initialization"].apply(classes(mlp(4, 32, 32, 32, 3)), None)
    x = next(iter(classes().batches))[0]
    for layer in training.model:
        x = layer(x)
        if isinstance(layer, nn.Linear):
            assert x.std().item() == pytest.approx(1.0, rel=1e-3)


def test_weights_that_are_too_large_are_scaled_to_their_default_size() -> None:
    training = classes(mlp(64, 64, 3))
    training.model[0].weight.data.mul_(100)
    before = training.model[2].weight.clone()
    BY_NAME["weights scaled to their default size"].apply(training, None)
    assert training.model[0].weight.std().item() == pytest.approx((3 * 64) ** -0.5, rel=1e-3)
    assert torch.equal(training.model[2].weight, before)


@pytest.mark.parametrize("model", ["chain", "branches"])
def test_a_nonlinearity_lies_between_layers(model: str) -> None:
    def make(activation: Any) -> Training:
        torch.manual_seed(0)
        return classes(mlp(4, 8, 8, 8, 3, activation=activation) if model == "chain" else Branches(activation()))

    change = BY_NAME["ReLU between layers"]
    assert train(change.apply(make(nn.Identity), None), 4) == pytest.approx(train(make(nn.ReLU), 4))
    assert train(paste(make(nn.Identity), change.code(make(nn.Identity), None)), 4) == pytest.approx(
        train(make(nn.ReLU), 4)
    )
    assert change.why_not(make(nn.ReLU), None) == "a nonlinearity lies between all layers"


def test_residual_connections_pass_by_the_layers_of_equal_width() -> None:
    training = classes(mlp(4, 8, 8, 8, 3, activation=nn.Sigmoid))
    x = torch.randn(5, 4)
    model = training.model
    hidden = torch.sigmoid(model[0](x))
    for number in (2, 4):
        hidden = hidden + torch.sigmoid(model[number](hidden))
    expected = model[6](hidden)
    change = BY_NAME["residual connections"]
    torch.testing.assert_close(change.apply(training, None).model(x), expected)
    assert len(training.optimizer.param_groups[0]["params"]) == 8
    assert change.why_not(classes(mlp(4, 8, 3)), None)


def test_a_deep_sigmoid_network_is_cured() -> None:
    def make() -> Training:
        torch.manual_seed(0)
        return classes(mlp(4, *[16] * 6, 3, activation=nn.Sigmoid), lr=0.3)

    sick = make()
    train(sick, 100)
    assert score(sick) < 0.6
    for name in ("ReLU instead of sigmoid and tanh", "residual connections", "BatchNorm after hidden layers"):
        cured = BY_NAME[name].apply(make(), None)
        train(cured, 120)
        assert score(cured) > 0.9, name


def test_weight_normalization_begins_at_the_same_function() -> None:
    training, plain = classes(), classes()
    BY_NAME["weight normalization"].apply(training, None)
    first, reference = train(training, 5), train(plain, 5)
    assert first[0] == pytest.approx(reference[0])
    assert len(training.optimizer.param_groups[0]["params"]) == 8
    length = training.model[0].parametrizations.weight.original0
    assert length.grad.any()


def test_queries_and_keys_are_normalized() -> None:
    training = tokens()
    training.model.qkv.weight.data[:16].mul_(1000)
    x = next(iter(training.batches))[0]
    query, key, value = training.model.qkv(training.model.norm(training.model.embedding(x))).chunk(3, -1)
    norm = nn.LayerNorm(8, elementwise_affine=False)
    attended = nn.functional.scaled_dot_product_attention(norm(query), norm(key), value)
    expected = training.model.head(training.model.embedding(x) + attended)
    BY_NAME["queries and keys normalized"].apply(training, None)
    torch.testing.assert_close(training.model(x)["logits"], expected)


@pytest.mark.parametrize("shape", [(64, 5), (64, 3, 4, 4), (64, 7, 5)])
def test_statistics_are_those_of_features(shape: tuple[int, ...]) -> None:
    values = torch.randn(shape) * 3 + 7
    mean, std = statistics_of(values)
    assert mean.numel() == (3 if len(shape) == 4 else 5)
    normal = (values - mean) / std
    assert normal.mean().abs() < 1e-5
    assert normal.std().item() == pytest.approx(1.0, abs=0.02)
    constant = torch.cat([values[:, :1], torch.ones_like(values[:, :1])], 1) if len(shape) == 2 else None
    if constant is not None:
        assert statistics_of(constant)[1][0, 1] == 1.0
