"""Implementations that are timed, for each rule: thalweg's backends, torch's, and other libraries if installed."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from thalweg import optim

MakeOptimizer = Callable[[Any], torch.optim.Optimizer]

# Each rule: its class in thalweg.optim, its class in torch.optim, and the settings at which both are timed.
RULES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "adam": ("Adam", "Adam", {}),
    "adamw": ("AdamW", "AdamW", {}),
    "momentum": ("SGD", "SGD", {"lr": 0.1, "momentum": 0.9}),
    "adagrad": ("AdaGrad", "Adagrad", {}),
    "rmsprop": ("RMSprop", "RMSprop", {}),
}

_TORCH: dict[str, dict[str, Any]] = {
    "torch loop": {"foreach": False},
    "torch foreach": {"foreach": True},
    "torch fused": {"fused": True},
    "torch default": {},
}
_THALWEG: dict[str, dict[str, Any]] = {
    "thalweg": {},
    "thalweg flat": {"backend": "flat"},
    "thalweg loop": {"backend": "loop"},
}

# Of each other library the optimizer that is nearest to AdamW, as module and class.
OTHER_LIBRARIES = {
    "optimi": "optimi:AdamW",
    "heavyball": "heavyball:AdamW",
    "pytorch_optimizer": "pytorch_optimizer:AdaBelief",
    "schedulefree": "schedulefree:AdamWScheduleFree",
    "prodigyopt": "prodigyopt:Prodigy",
}

COMPILED = ("heavyball",)  # by torch.compile, which does not work under a dispatch counter

IMPLEMENTATIONS = (*_THALWEG, *_TORCH, *OTHER_LIBRARIES)


def available(rule: str) -> dict[str, MakeOptimizer]:
    """Return the implementations of a rule that exist on this machine, by name, each as a function of parameters."""
    our_class, torch_class, settings = RULES[rule]
    implementations: dict[str, MakeOptimizer] = {
        name: partial(getattr(optim, our_class), **settings, **options) for name, options in _THALWEG.items()
    }
    for name, options in _TORCH.items():
        make = partial(getattr(torch.optim, torch_class), **settings, **options)
        if _is_supported(make):
            implementations[name] = make
    for name, location in OTHER_LIBRARIES.items() if rule == "adamw" else ():
        module, _, class_name = location.partition(":")
        try:
            kind = getattr(importlib.import_module(module), class_name)
        except ImportError:
            continue
        implementations[name] = partial(kind, lr=1e-3)
    return implementations


def _is_supported(make: MakeOptimizer) -> bool:
    try:
        make([torch.zeros(1)])
    except (TypeError, RuntimeError):  # torch's RMSprop has no `fused`
        return False
    return True
