"""Clues about output and loss, found by the functions that are called and by what the loss does."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cases.small_trainings import answers, classes, inspected, named, network, plain_step, training, values
from thalweg import Training


def by_hand(output: Tensor, y: Tensor) -> Tensor:
    return -output.log_softmax(-1)[torch.arange(len(y)), y].mean()


def by_logsumexp(output: Tensor, y: Tensor) -> Tensor:
    return (output.logsumexp(-1) - output.gather(1, y[:, None])[:, 0]).mean()


class Named(nn.Module):
    """A loss in a module of the user's."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.CrossEntropyLoss(label_smoothing=0.1)

    def forward(self, output: Tensor, y: Tensor) -> Tensor:
        return 2 * self.inner(output, y)


CROSS_ENTROPIES: dict[str, Callable[..., Tensor]] = {
    "function": functional.cross_entropy,
    "module": nn.CrossEntropyLoss(),
    "weighted": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0])),
    "lambda": lambda output, y: functional.cross_entropy(output, y),
    "named": Named(),
    "by hand": by_hand,
    "logsumexp": by_logsumexp,
}


@pytest.mark.parametrize("name", CROSS_ENTROPIES)
def test_probabilities_into_cross_entropy(name: str) -> None:
    loss_fn = CROSS_ENTROPIES[name]
    sick = training(network(3, nn.Softmax(dim=-1)), loss_fn=loss_fn)
    assert ("softmax_before_cross_entropy", "certain", "5") in named(sick)
    assert named(training(network(), loss_fn=loss_fn)) == []


def test_log_probabilities_into_cross_entropy_are_harmless() -> None:
    assert named(training(network(3, nn.LogSoftmax(dim=-1)))) == []


def test_a_softmax_in_the_users_own_step() -> None:
    def step(subject: Training, x: Tensor, y: Tensor) -> Tensor:
        subject.optimizer.zero_grad()
        loss = functional.cross_entropy(subject.model(x).softmax(1), y)
        loss.backward()
        subject.optimizer.step()
        return loss.detach()

    assert named(training(network(), step=step)) == [("softmax_before_cross_entropy", "certain", None)]


def test_a_softmax_of_a_nested_module_is_named() -> None:
    model = nn.Sequential()
    model.add_module("net", network(3, nn.Softmax(dim=-1)))
    assert named(training(model)) == [("softmax_before_cross_entropy", "certain", "net.5")]


class Dictionary(nn.Module):
    """A model with several outputs, in a dictionary."""

    def __init__(self, end: nn.Module) -> None:
        super().__init__()
        self.net, self.end = network(), end

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits = self.net(x)
        return {"features": x, "logits": self.end(logits)}


def test_outputs_in_a_dictionary() -> None:
    def loss_fn(output: dict[str, Tensor], y: Tensor) -> Tensor:
        return functional.cross_entropy(output["logits"], y)

    assert named(training(Dictionary(nn.Softmax(dim=-1)), loss_fn=loss_fn)) == [
        ("softmax_before_cross_entropy", "certain", "end")
    ]
    assert named(training(Dictionary(nn.Identity()), loss_fn=loss_fn)) == []


class Gate(nn.Module):
    """Attention over features: a softmax inside the network."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scores, self.net = nn.Linear(8, 8), network()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(8 * x * self.scores(x).softmax(-1))


def test_a_softmax_inside_the_network_gives_no_clue() -> None:
    assert named(training(Gate())) == []


BCE: dict[str, Callable[..., Tensor]] = {
    "module": nn.BCEWithLogitsLoss(),
    "weighted": nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0])),
    "function": functional.binary_cross_entropy_with_logits,
    "by hand": lambda output, y: (functional.softplus(output) - y * output).mean(),
}


@pytest.mark.parametrize("name", BCE)
def test_probabilities_into_the_binary_cross_entropy_of_logits(name: str) -> None:
    assert ("sigmoid_before_bce_logits", "certain", "5") in named(
        training(network(1, nn.Sigmoid()), answers(), BCE[name])
    )
    assert named(training(network(1), answers(), BCE[name])) == []


def test_probabilities_into_the_binary_cross_entropy_of_probabilities_are_right() -> None:
    assert named(training(network(1, nn.Sigmoid()), answers(), nn.BCELoss())) == []


@pytest.mark.parametrize(
    "loss_fn",
    [
        nn.MSELoss(),
        functional.l1_loss,
        lambda output, y: (output - y).square().mean(),
        lambda o, y: (y - o).abs().mean(),
    ],
)
def test_targets_that_broadcast(loss_fn: Callable[..., Tensor]) -> None:
    flat = [(x, y[:, 0]) for x, y in values()]
    (clue,) = inspected(training(network(1), flat, loss_fn))
    assert (clue.kind, clue.certainty, clue.where) == ("broadcast_targets", "certain", None)
    assert named(training(network(1), values(), loss_fn)) == []
    assert named(training(network(1, nn.Flatten(0)), flat, loss_fn)) == []


def test_outputs_that_broadcast() -> None:
    assert named(training(network(1, nn.Flatten(0)), values(), nn.MSELoss())) == [
        ("broadcast_targets", "certain", None)
    ]


@pytest.mark.parametrize(
    ("end", "certainty"),
    [(nn.ReLU(), "certain"), (nn.ReLU(inplace=True), "certain"), (nn.Sigmoid(), "certain"), (nn.Tanh(), "certain")],
)
def test_an_activation_that_cannot_reach_the_targets(end: nn.Module, certainty: str) -> None:
    assert ("output_activation", certainty, "5") in named(training(network(1, end), values(), nn.MSELoss()))


def test_activations_that_reach_the_targets_give_no_clue() -> None:
    near = [(x, 0.3 * y.clamp(-3, 3)) for x, y in values()]
    assert named(training(network(1, nn.Tanh()), near, nn.MSELoss())) == []
    positive = [(x, y.abs()) for x, y in values()]
    assert named(training(network(1, nn.ReLU()), positive, nn.MSELoss())) == []
    assert named(training(network(1, nn.Softplus()), positive, nn.MSELoss())) == []
    assert named(training(network(1, nn.Sigmoid()), answers(), nn.MSELoss())) == []


def test_bounded_logits() -> None:
    ten = [(x, torch.arange(32) % 10) for x, _ in classes()]
    assert ("output_activation", "likely", "5") in named(training(network(10, nn.Sigmoid()), ten))
    assert ("output_activation", "likely", "5") in named(training(network(10, nn.ReLU()), ten))
    assert ("output_activation", "certain", "5") in named(
        training(network(1, nn.ReLU()), answers(), nn.BCEWithLogitsLoss())
    )


@pytest.mark.parametrize("end", [nn.Softmax(dim=0), nn.LogSoftmax(dim=0)])
def test_a_softmax_over_the_batch(end: nn.Module) -> None:
    assert named(training(network(3, end), loss_fn=nn.NLLLoss())) == [("softmax_wrong_dim", "certain", "5")]


def test_a_softmax_over_places_instead_of_classes() -> None:
    batches = [(x[:, None].expand(-1, 5, -1), y[:, None].expand(-1, 5)) for x, y in classes()]

    def loss_fn(output: Tensor, y: Tensor) -> Tensor:
        return functional.nll_loss(output.flatten(0, 1), y.flatten())

    assert named(training(network(3, nn.LogSoftmax(dim=1)), batches, loss_fn))[0] == (
        "softmax_wrong_dim",
        "certain",
        "5",
    )
    assert named(training(network(3, nn.LogSoftmax(dim=2)), batches, loss_fn)) == []


def test_a_softmax_over_the_batch_before_a_loss_of_differences() -> None:
    goals = [(x, functional.one_hot(y, 3).float()) for x, y in classes()]
    assert named(training(network(3, nn.Softmax(dim=0)), goals, nn.MSELoss())) == [
        ("softmax_wrong_dim", "certain", "5")
    ]
    assert named(training(network(3, nn.Softmax(dim=1)), goals, nn.MSELoss())) == []


def test_a_softmax_of_one_unit() -> None:
    assert named(training(network(1, nn.Softmax(dim=1)), answers(), nn.BCELoss())) == [
        ("softmax_of_one_unit", "certain", "5")
    ]
    one = [(x, torch.zeros_like(y)) for x, y in classes()]
    assert ("softmax_of_one_unit", "certain", "4") in named(training(network(1), one))


def nll_by_hand(output: Tensor, y: Tensor) -> Tensor:
    return -output[torch.arange(len(y)), y].mean()


@pytest.mark.parametrize("loss_fn", [nn.NLLLoss(), functional.nll_loss, nll_by_hand])
def test_the_likelihood_of_values_that_are_no_logarithms(loss_fn: Callable[..., Tensor]) -> None:
    assert named(training(network(3, nn.Softmax(dim=1)), loss_fn=loss_fn)) == [("nll_without_log", "certain", "5")]
    assert named(training(network(3), loss_fn=loss_fn)) == [("nll_without_log", "certain", "4")]
    assert named(training(network(3, nn.LogSoftmax(dim=1)), loss_fn=loss_fn)) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_summed_loss(dtype: torch.dtype) -> None:
    batches = [(x.to(dtype), y) for x, y in classes()]
    sick = training(network().to(dtype), batches, nn.CrossEntropyLoss(reduction="sum"))
    (clue,) = inspected(sick)
    assert (clue.kind, clue.certainty) == ("loss_summed", "likely")
    assert clue.evidence["loss of the batch twice"] == pytest.approx(2 * clue.evidence["loss of a batch"], rel=1e-4)


def test_a_summed_loss_of_small_steps_is_possible_only() -> None:
    model = network()
    small = torch.optim.SGD(model.parameters(), lr=1e-4)
    loss_fn = nn.CrossEntropyLoss(reduction="sum")
    assert named(training(model, loss_fn=loss_fn, optimizer=small)) == [("loss_summed", "possible", None)]


def test_a_sum_over_features_and_a_mean_over_examples_gives_no_clue() -> None:
    goals = [(x, torch.cat([x, -x], 1)) for x, _ in values()]
    assert named(training(network(16), goals, lambda o, y: (o - y).square().sum(1).mean())) == []


def test_a_summed_loss_in_the_users_own_step() -> None:
    sick = training(network(), loss_fn=nn.CrossEntropyLoss(reduction="sum"), step=plain_step)
    assert named(sick) == [("loss_summed", "likely", None)]
