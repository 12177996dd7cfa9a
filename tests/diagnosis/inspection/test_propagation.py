"""Clues about initial weights and activations."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cases.small_trainings import CLASSES, FEATURES, classes, inspected, named, network, training, values


def perceptron(activation: type[nn.Module], *, width: int = 32, depth: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for number in range(depth):
        layers += [nn.Linear(FEATURES if number == 0 else width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, CLASSES))


def filled(model: nn.Sequential, value: float, *places: int) -> nn.Sequential:
    for place in places:
        nn.init.constant_(model[place].weight, value)
        nn.init.zeros_(model[place].bias)
    return model


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid])
@pytest.mark.parametrize("value", [0.0, 0.1])
def test_units_that_begin_alike_and_stay_alike(activation: type[nn.Module], value: float) -> None:
    model = filled(perceptron(activation), value, 0, 2, 4, 6)
    assert ("zero_init", "certain", "0") in named(training(model))


def test_two_layers_of_zeros_block_each_other() -> None:
    assert named(training(filled(network(), 0.0, 2, 4))) == [("zero_init", "certain", "2")]


def test_a_head_of_zeros_gives_no_clue() -> None:
    assert named(training(filled(network(), 0.0, 4))) == []


def test_a_hidden_layer_of_zeros_that_the_first_step_moves_gives_no_clue() -> None:
    assert named(training(filled(perceptron(nn.Tanh), 0.0, 2))) == []


class Adapter(nn.Module):
    """A residual branch whose last weights, or whose gate, begin at zero."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.up, self.down = nn.Linear(FEATURES, 16), nn.Linear(16, 4), nn.Linear(4, 16)
        self.gate, self.head = nn.Parameter(torch.zeros(1) if kind == "gate" else torch.ones(1)), nn.Linear(16, CLASSES)
        if kind == "branch":
            nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.head(x + self.gate * self.down(torch.relu(self.up(x))))


@pytest.mark.parametrize("kind", ["branch", "gate"])
def test_branches_that_begin_at_zero_give_no_clue(kind: str) -> None:
    assert named(training(Adapter(kind))) == []


@pytest.mark.parametrize("activation", [nn.ReLU, lambda: nn.ReLU(inplace=True), nn.ReLU6])
def test_units_that_are_never_active(activation: type[nn.Module]) -> None:
    model = perceptron(activation)
    nn.init.constant_(model[2].bias, -30.0)
    assert named(training(model)) == [("dead_relu", "certain", "2")]


def test_units_before_a_normalization_are_named_by_their_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(FEATURES, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, CLASSES))
    nn.init.constant_(model[1].bias, -30.0)
    assert ("dead_relu", "likely", "0") in [(kind, "likely", where) for kind, _, where in named(training(model))]


def test_mostly_inactive_units_give_no_warning() -> None:
    model = perceptron(nn.ReLU, width=256, depth=1)
    nn.init.constant_(model[0].bias, -1.0)
    assert all(certainty == "possible" for _, certainty, _ in named(training(model)))


def test_dead_units_of_a_convolution() -> None:
    torch.manual_seed(0)
    images = [(torch.randn(16, 1, 8, 8), y[:16]) for _, y in classes()]
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3))
    nn.init.constant_(model[0].bias, -30.0)
    assert ("dead_relu", "certain", "0") in named(training(model, images))


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid])
def test_saturated_units(activation: type[nn.Module]) -> None:
    model = perceptron(activation)
    with torch.no_grad():
        model[0].weight.mul_(60.0)
    assert named(training(model))[0] == ("saturation", "likely", "0")
    assert named(training(perceptron(activation))) == []


def test_saturated_states_of_a_recurrent_layer() -> None:
    class Recurrent(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.rnn, self.head = nn.RNN(2, 16, batch_first=True), nn.Linear(16, CLASSES)
            with torch.no_grad():
                self.rnn.weight_hh_l0.mul_(scale)
                self.rnn.weight_ih_l0.mul_(scale)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x.reshape(-1, 4, 2))[0][:, -1])

    assert ("saturation", "likely", "rnn") in named(training(Recurrent(50.0)))
    assert named(training(Recurrent(1.0))) == []


def test_weights_that_are_too_large() -> None:
    model = perceptron(nn.ReLU)
    for place in (0, 2, 4, 6):
        nn.init.normal_(model[place].weight, std=2.0)
    (clue,) = [clue for clue in inspected(training(model)) if clue.certainty != "possible"]
    assert (clue.kind, clue.certainty, clue.where) == ("init_too_large", "likely", None)
    model = perceptron(nn.ReLU)
    nn.init.normal_(model[4].weight, std=2.0)
    assert ("init_too_large", "likely", "4") in named(training(model))


def test_weights_that_multiply_over_depth() -> None:
    model = perceptron(nn.ReLU, depth=6)
    with torch.no_grad():
        for place in range(0, 13, 2):
            model[place].weight.mul_(8.0)
    assert ("exploding_gradient", "likely", None) in named(training(model))


@pytest.mark.parametrize("init", [nn.init.kaiming_normal_, nn.init.orthogonal_, nn.init.xavier_uniform_])
def test_usual_initializations_give_no_clue(init: object) -> None:
    model = perceptron(nn.ReLU, depth=6)
    for place in range(0, 13, 2):
        init(model[place].weight)
    assert named(training(model)) == []


class Attention(nn.Module):
    """Attention by torch's function, or by hand."""

    def __init__(self, scale: float, *, is_by_hand: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.scores, self.head = nn.Linear(4, 16), nn.Linear(16, 48), nn.Linear(16, CLASSES)
        self.is_by_hand = is_by_hand
        with torch.no_grad():
            self.scores.weight[:32].mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.reshape(-1, 8, 1).expand(-1, -1, 4))
        query, key, value = self.scores(x).chunk(3, -1)
        if self.is_by_hand:
            x = (query @ key.transpose(1, 2) / 4).softmax(-1) @ value
        else:
            x = functional.scaled_dot_product_attention(query, key, value)
        return self.head(torch.relu(x).mean(1))


@pytest.mark.parametrize("is_by_hand", [True, False])
def test_attention_that_looks_at_one_place(*, is_by_hand: bool) -> None:
    assert named(training(Attention(100.0, is_by_hand=is_by_hand)))[0][::2] == ("attention_logit_growth", "scores")
    assert named(training(Attention(1.0, is_by_hand=is_by_hand))) == []


def test_layers_without_a_nonlinearity() -> None:
    model = perceptron(nn.Identity)
    assert named(training(model)) == [("no_nonlinearity", "likely", None)]
    assert named(training(nn.Sequential(*perceptron(nn.Identity), nn.LogSoftmax(-1)), loss_fn=nn.NLLLoss())) == [
        ("no_nonlinearity", "likely", None)
    ]
    normalized = nn.Sequential(nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.Linear(16, CLASSES))
    assert named(training(normalized)) == [("no_nonlinearity", "likely", None)]


def test_one_layer_and_parallel_layers_give_no_clue() -> None:
    assert named(training(nn.Linear(FEATURES, CLASSES))) == []

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(FEATURES, 1), nn.Linear(FEATURES, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.left(x) + self.right(x)

    assert named(training(Two(), values(), nn.MSELoss())) == []


def test_a_linear_bottleneck_in_a_network_gives_no_clue() -> None:
    model = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, 4), nn.Linear(4, CLASSES))
    assert named(training(model)) == []
