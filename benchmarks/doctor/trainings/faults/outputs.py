"""Output and loss that do not fit each other."""

from dataclasses import replace

from torch import Tensor, nn
from torch.nn import functional

from benchmarks.doctor.trainings.architectures import Architecture
from benchmarks.doctor.trainings.cases import Pair, fault
from benchmarks.doctor.trainings.data import Data


class Probabilities(nn.Module):
    """A softmax over the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        return x.softmax(-1)


class OverBatch(nn.Module):
    """A softmax over the wrong dimension."""

    def forward(self, x: Tensor) -> Tensor:
        return x.log_softmax(0)


class LogProbabilities(nn.Module):
    """A logarithmic softmax over the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        return x.log_softmax(-1)


def nll(output: Tensor, target: Tensor) -> Tensor:
    """Return the negative mean of what the output says of the target."""
    return functional.nll_loss(output.flatten(0, -2), target.flatten())


@fault("softmax_before_cross_entropy", on=("mlp", "rnn", "attention", "cnn", "gpt"))
def softmax_twice(architecture: Architecture) -> Pair:
    base = architecture.with_momentum({"gpt": 0.3, "attention": 0.3, "rnn": 0.3}.get(architecture.name, 0.1))
    base = replace(base, goal={"mlp": 0.6, "rnn": 0.6, "attention": 0.8, "cnn": 0.85, "gpt": 0.9}[architecture.name])
    return Pair(base.shaped(last=Probabilities).run, base.run, "last")


@fault("sigmoid_before_bce_logits", on=("table",))
def sigmoid_twice(architecture: Architecture) -> Pair:
    """The user, too, takes the outputs for logits: all answers are 1."""
    return Pair(architecture.shaped(last=nn.Sigmoid).run, architecture.run, "last")


def _flat_targets(examples: Data, seed: int) -> Data:
    return replace(examples, y=examples.y[:, 0], held_out_y=examples.held_out_y[:, 0])


@fault("broadcast_targets", on=("curve", "residual"))
def broadcast(architecture: Architecture) -> Pair:
    """Outputs of shape (batch, 1) beside targets of shape (batch,)."""
    return Pair(replace(architecture, change_data=_flat_targets).run, architecture.run)


@fault("output_activation", on=("autoencoder", "curve", "residual"))
def output_activation(architecture: Architecture) -> Pair:
    """A ReLU after the last layer, where targets are negative, too."""
    return Pair(architecture.shaped(last=nn.ReLU).run, architecture.run, "last")


@fault("softmax_wrong_dim", on=("mlp", "rnn", "attention", "cnn", "gpt"))
def wrong_dim(architecture: Architecture) -> Pair:
    """Right on batches, it seems; an example by itself always has the same output."""

    def one_by_one(model: nn.Module, x: Tensor, y: Tensor) -> float:
        right = [architecture.score(model, x[k : k + 1], y[k : k + 1]) for k in range(100)]
        return sum(right) / len(right)

    base = replace(architecture, loss_fn=nll, score=one_by_one)
    return Pair(base.shaped(last=OverBatch).run, base.shaped(last=LogProbabilities).run, "last")


@fault("softmax_of_one_unit", on=("table",))
def one_unit(architecture: Architecture) -> Pair:
    base = replace(
        architecture,
        loss_fn=nn.BCELoss(),
        score=lambda model, x, y: ((model(x) > 0.5) == (y > 0.5)).float().mean().item(),
    )
    return Pair(base.shaped(last=Probabilities).run, base.shaped(last=nn.Sigmoid).run, "last")


@fault("nll_without_log", on=("mlp", "cnn", "gpt"))
def without_log(architecture: Architecture) -> Pair:
    """The negative likelihood of probabilities instead of their logarithms."""
    base = replace(architecture.with_momentum(0.2), loss_fn=nll)
    base = replace(base, goal={"mlp": 0.85, "cnn": 0.9, "gpt": 0.9}[architecture.name])
    return Pair(base.shaped(last=Probabilities).run, base.shaped(last=LogProbabilities).run, "last")


@fault("loss_summed", on=("mlp", "table", "autoencoder", "curve", "attention", "cnn"))
def summed(architecture: Architecture) -> Pair:
    base = architecture.with_momentum()
    losses = {"classes": nn.CrossEntropyLoss, "binary": nn.BCEWithLogitsLoss, "values": nn.MSELoss}
    return Pair(replace(base, loss_fn=losses[architecture.task](reduction="sum")).run, base.run)
