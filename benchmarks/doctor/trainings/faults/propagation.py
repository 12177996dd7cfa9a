"""Signals and gradients that do not pass through the network."""

from dataclasses import replace

import torch
from torch import nn

from benchmarks.doctor.trainings.architectures import Architecture
from benchmarks.doctor.trainings.cases import Pair, fault


def _linears(model: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]


def _drawn_by_he(model: nn.Module) -> None:
    for layer in _linears(model):
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)


@fault("vanishing_gradient", on=("mlp", "autoencoder", "table", "cnn"))
def vanishing(architecture: Architecture) -> Pair:
    """Many sigmoids in a row."""
    base = architecture.with_momentum()
    if architecture.name == "autoencoder":
        base = replace(base, lr=0.3, goal=0.5)
    else:
        base = replace(base.shaped(depth=6), goal=0.85, prepare=_drawn_by_he)
    return Pair(base.shaped(activation=nn.Sigmoid).run, base.run)


@fault("exploding_gradient", on=("mlp", "table", "cnn"))
def exploding(architecture: Architecture) -> Pair:
    """Each layer multiplies signals and gradients; the loss is cubic in them."""
    base = replace(architecture.with_momentum().shaped(depth=6), goal=0.85, prepare=_drawn_by_he)

    def enlarge(model: nn.Module) -> None:
        _drawn_by_he(model)
        with torch.no_grad():
            for layer in _linears(model):
                layer.weight.mul_(4.0)

    return Pair(replace(base, prepare=enlarge).run, base.run)


@fault("init_too_large", on=("mlp", "autoencoder", "attention", "cnn", "gpt"))
def init_too_large(architecture: Architecture) -> Pair:
    """Weights of normal distributions with deviation 1."""

    def enlarge(model: nn.Module) -> None:
        for layer in _linears(model):
            nn.init.normal_(layer.weight, std=2.0)

    return Pair(replace(architecture, prepare=enlarge).run, architecture.run)


@fault("zero_init", on=("mlp", "rnn", "table", "autoencoder", "curve", "cnn", "residual"))
def zero_init(architecture: Architecture) -> Pair:
    """All weights begin at zero, so all units of a layer stay alike."""

    def zeroed(model: nn.Module) -> None:
        with torch.no_grad():
            for name, param in model.named_parameters():
                if "norm" not in name:
                    param.zero_()

    return Pair(replace(architecture, prepare=zeroed).run, architecture.run)


@fault("dead_relu", on=("mlp", "table", "autoencoder", "curve", "cnn"))
def dead_relu(architecture: Architecture) -> Pair:
    """Biases so low that no unit of a layer is ever active."""

    def lower(model: nn.Module) -> None:
        with torch.no_grad():
            next(iter(model.get_submodule("hidden").children())).bias.fill_(-30.0)

    return Pair(replace(architecture, prepare=lower).run, architecture.run, "hidden.0")


@fault("saturation", on=("mlp", "table", "autoencoder", "cnn"))
def saturation(architecture: Architecture) -> Pair:
    """Weights so large that every hyperbolic tangent is at its end."""
    base = architecture.with_momentum(0.5).shaped(activation=nn.Tanh)
    base = replace(base, goal={"mlp": 0.88, "table": 0.93, "autoencoder": 0.6, "cnn": 0.88}[architecture.name])

    def saturate(model: nn.Module) -> None:
        with torch.no_grad():
            for layer in model.get_submodule("hidden").children():
                layer.weight.mul_(60.0)

    return Pair(replace(base, prepare=saturate).run, base.run, "hidden.0")


@fault("no_nonlinearity", on=("curve", "residual"))
def no_nonlinearity(architecture: Architecture) -> Pair:
    """Activations were forgotten: the network is a linear map."""
    base = architecture.shaped(norm=None)
    base = replace(base, goal=0.92 if architecture.name == "residual" else base.goal)
    return Pair(base.shaped(activation=nn.Identity).run, base.run)


@fault("attention_logit_growth", on=("attention", "gpt"))
def attention_logit_growth(architecture: Architecture) -> Pair:
    """Queries and keys three hundred times too large: attention looks at one token for each query."""

    def enlarge(model: nn.Module) -> None:
        with torch.no_grad():
            for block in model.get_submodule("hidden").children():
                weight = block.attention.weight if architecture.name == "gpt" else block.self_attn.in_proj_weight
                weight[: 2 * weight.shape[1]].mul_(300.0)

    where = "hidden.0.attention" if architecture.name == "gpt" else "hidden.0.self_attn"
    return Pair(replace(architecture, prepare=enlarge).run, architecture.run, where)
