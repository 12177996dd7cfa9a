"""Wiring: parameters that no gradient reaches, or that no optimizer holds."""

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks.doctor.trainings.architectures import Architecture
from benchmarks.doctor.trainings.cases import Pair, fault
from benchmarks.doctor.trainings.run import Run


def _narrow(architecture: Architecture) -> Architecture:
    """Return a network whose random hidden layers are of little use."""
    if architecture.name in ("gpt", "rnn", "autoencoder", "attention"):
        return architecture.shaped(width=32)
    return architecture.shaped(width=12, depth=4)


def _goal(architecture: Architecture, goal: float) -> Architecture:
    return replace(architecture, goal=goal)


def _base(architecture: Architecture) -> Architecture:
    goals = {
        "mlp": 0.85,
        "cnn": 0.9,
        "rnn": 0.85,
        "attention": 0.85,
        "table": 0.94,
        "residual": 0.75,
        "gpt": 0.9,
        "autoencoder": 0.5,
    }
    return _goal(_narrow(architecture), goals[architecture.name])


@fault("unregistered_parameters", on=("mlp", "rnn", "autoencoder", "attention", "residual", "gpt"))
def unregistered(architecture: Architecture) -> Pair:
    """The hidden layers are in a list of Python's own."""
    base = _base(architecture)

    def hide(model: nn.Module) -> None:
        layers = list(model.get_submodule("hidden").children())
        del model._modules["hidden"]
        model.hidden = layers

    return Pair(replace(base, prepare=hide).run, base.run, "hidden")


@fault("frozen_parameters", on=("mlp", "autoencoder", "cnn", "residual", "gpt"))
def frozen(architecture: Architecture) -> Pair:
    """Freezing was meant for a trained body; this one is random."""
    base = _base(architecture)

    def freeze(model: nn.Module) -> None:
        model.get_submodule("hidden").requires_grad_(False)
        if architecture.name in ("cnn", "mlp"):
            model.get_submodule("head").requires_grad_(False)
            model.head.bias.requires_grad_(True)

    return Pair(replace(base, prepare=freeze).run, base.run, "hidden")


@fault("stale_optimizer", on=("mlp", "rnn", "table", "attention", "cnn", "gpt"))
def stale(architecture: Architecture) -> Pair:
    """The model is copied after its optimizer was made, as by a late move or a compiled copy."""

    def copied(run: Run) -> Run:
        run.training.model = copy.deepcopy(run.training.model)
        return run

    return Pair(replace(architecture, after=copied).run, architecture.run)


@fault("detached_graph", on=("mlp", "rnn", "autoencoder", "attention", "residual", "gpt"))
def detached(architecture: Architecture) -> Pair:
    """The features are detached before the head."""
    base = _base(architecture)

    def detach(model: nn.Module) -> None:
        features = model.features
        model.features = lambda x: features(x).detach()

    return Pair(replace(base, prepare=detach).run, base.run, "hidden")


class _Bypassed(nn.Module):
    """A body that the forward pass leaves out."""

    def __init__(self, model: nn.Module, inputs: int) -> None:
        super().__init__()
        self.hidden, self.head = model.hidden, nn.Linear(inputs, model.head.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


@fault("no_gradient", on=("curve", "residual"))
def bypassed(architecture: Architecture) -> Pair:
    """``forward`` never calls the hidden layers."""
    build = architecture.build
    base = replace(architecture, goal={"curve": 0.8, "residual": 0.92}[architecture.name])
    inputs = {"curve": 4, "residual": 8}[architecture.name]
    sick = replace(base, build=lambda shape: _Bypassed(build(shape), inputs))
    return Pair(sick.run, base.run, "hidden")


@fault("parameter_twice", on=("table", "mlp", "cnn"))
def twice(architecture: Architecture) -> Pair:
    """Hidden layers are listed many times, so that each step moves them many times."""
    base = architecture.with_momentum()

    def listed(model: nn.Module, lr: float) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        (group,) = optimizer.param_groups
        group["params"] += list(model.get_submodule("hidden").parameters()) * 40
        return optimizer

    return Pair(replace(base, make_optimizer=listed).run, base.run, "hidden.0")
