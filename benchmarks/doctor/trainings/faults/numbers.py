"""Numbers that leave their format."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from benchmarks.doctor.trainings.architectures import Architecture, cross_entropy
from benchmarks.doctor.trainings.cases import Pair, fault
from benchmarks.doctor.trainings.data import Data


def _with_nan(examples: Data, seed: int) -> Data:
    x = examples.x.clone()
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[: len(x) // 50]
    x.view(len(x), -1)[rows, 3] = float("nan")
    return replace(examples, x=x)


@fault("nan_in_data", on=("mlp", "rnn", "table", "autoencoder", "curve", "cnn", "residual"))
def nan_in_data(architecture: Architecture) -> Pair:
    """Missing values in 2 % of the rows."""
    base = architecture
    if architecture.name == "autoencoder":
        return Pair(replace(base, change_data=lambda examples, seed: _with_nan(examples, seed)).run, base.run)
    return Pair(replace(base, change_data=_with_nan).run, base.run)


@fault("nan_from_sqrt", on=("autoencoder", "curve", "residual"))
def nan_from_sqrt(architecture: Architecture) -> Pair:
    """The root of a squared error that is 0 at times: its gradient there is infinite."""

    def loss(output: Tensor, target: Tensor) -> Tensor:
        error = (output - target).square()
        return (error * (error > 1e-4)).sqrt().mean()

    def safe(output: Tensor, target: Tensor) -> Tensor:
        error = (output - target).square()
        return (error * (error > 1e-4) + 1e-8).sqrt().mean()

    goal = {"autoencoder": 0.5, "curve": 0.8, "residual": 0.85}[architecture.name]
    base = replace(architecture, goal=goal)
    return Pair(replace(base, loss_fn=loss).run, replace(base, loss_fn=safe).run)


@fault("nan_from_log", on=("mlp", "rnn", "attention", "cnn", "gpt"))
def nan_from_log(architecture: Architecture) -> Pair:
    """The entropy of the output, computed from probabilities, some of which are 0."""

    def loss(output: Tensor, target: Tensor) -> Tensor:
        sharp = (30 * output).softmax(-1)
        return cross_entropy(output, target) + 0.01 * (sharp * sharp.log()).sum(-1).mean()

    def safe(output: Tensor, target: Tensor) -> Tensor:
        sharp = (30 * output).softmax(-1)
        return cross_entropy(output, target) + 0.01 * (sharp * (30 * output).log_softmax(-1)).sum(-1).mean()

    return Pair(replace(architecture, loss_fn=loss).run, replace(architecture, loss_fn=safe).run)


class _Standardized(nn.Module):
    """Standardizes each example by its own deviation, which may be 0."""

    def __init__(self, model: nn.Module, eps: float) -> None:
        super().__init__()
        self.hidden, self.head, self.model, self.eps = model.hidden, model.head, model, eps

    def forward(self, x: Tensor) -> Tensor:
        deviation = x.std(-1, keepdim=True)
        return self.model((x - x.mean(-1, keepdim=True)) / (deviation + self.eps))


def _with_empty(examples: Data, seed: int) -> Data:
    x = examples.x.clone()
    x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[: len(x) // 50]] = 0.0
    return replace(examples, x=x)


@fault("nan_from_division", on=("mlp", "table", "cnn"))
def nan_from_division(architecture: Architecture) -> Pair:
    """Some examples are empty, and each is divided by its deviation."""
    build = architecture.build
    base = replace(architecture, change_data=_with_empty, goal=0.9)
    sick = replace(base, build=lambda shape: _Standardized(build(shape), 0.0))
    return Pair(sick.run, replace(base, build=lambda shape: _Standardized(build(shape), 1e-3)).run)


@fault("fp16_overflow", on=("mlp", "table"))
def fp16_overflow(architecture: Architecture) -> Pair:
    """A penalty on the partition function, whose exponentials overflow in half precision."""
    losses = {"classes": cross_entropy, "binary": nn.BCEWithLogitsLoss()}
    criterion = losses[architecture.task]

    def penalized(output: Tensor, target: Tensor) -> Tensor:
        return criterion(output.float(), target) + 1e-4 * (4 * output).exp().sum(-1).log().square().mean().float()

    def safe(output: Tensor, target: Tensor) -> Tensor:
        return criterion(output.float(), target) + 1e-4 * (4 * output.float()).logsumexp(-1).square().mean()

    def half(examples: Data, seed: int) -> Data:
        return replace(examples, x=examples.x.half(), held_out_x=examples.held_out_x.half())

    def adam_of_halves(model: nn.Module, lr: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.half().parameters(), lr=lr, eps=1e-4)

    base = replace(architecture, change_data=half, make_optimizer=adam_of_halves, goal=0.85)
    return Pair(replace(base, loss_fn=penalized).run, replace(base, loss_fn=safe).run)


@fault("adam_eps_underflow", on=("mlp", "rnn", "table", "attention", "cnn", "gpt"))
def adam_eps_underflow(architecture: Architecture) -> Pair:
    """A loss in tiny units: gradients are far below Adam's epsilon."""
    criterion = architecture.loss_fn
    sick = replace(architecture, loss_fn=lambda output, target: 1e-10 * criterion(output, target))
    return Pair(sick.run, architecture.run)


class _FromOne(nn.Module):
    """Stores each weight as its difference from -1, as some libraries store the gains of norms."""

    def forward(self, stored: Tensor) -> Tensor:
        return stored - 1

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight + 1


def _from_one(model: nn.Module) -> None:
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            parametrize.register_parametrization(layer, "weight", _FromOne())


@fault("update_below_precision", on=("mlp", "autoencoder", "cnn"))
def update_below_precision(architecture: Architecture) -> Pair:
    """Weights near 1 in bfloat16, whose steps of 0.001 are below half of their last digit."""

    def rounded(model: nn.Module, lr: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.to(torch.bfloat16).parameters(), lr=lr)

    def half(examples: Data, seed: int) -> Data:
        targets = (
            {"y": examples.y.bfloat16(), "held_out_y": examples.held_out_y.bfloat16()}
            if examples.y.is_floating_point()
            else {}
        )
        return replace(examples, x=examples.x.bfloat16(), held_out_x=examples.held_out_x.bfloat16(), **targets)

    goal = {"mlp": 0.9, "autoencoder": 0.5, "cnn": 0.9}[architecture.name]
    base = replace(architecture, lr=1e-3, goal=goal, prepare=_from_one)
    return Pair(replace(base, make_optimizer=rounded, change_data=half).run, base.run)
