"""Entrants: who is measured, for each rule: ours, torch's ways, and other libraries where they are installed."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from thalweg import optim

Factory = Callable[[Any], torch.optim.Optimizer]

# Each rule with the settings it is measured at, by our name and by torch's.
RULES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "adam": ("Adam", "Adam", {}),
    "adamw": ("AdamW", "AdamW", {}),
    "momentum": ("SGD", "SGD", {"lr": 0.1, "momentum": 0.9}),
    "adagrad": ("AdaGrad", "Adagrad", {}),
    "rmsprop": ("RMSprop", "RMSprop", {}),
}

# torch's ways by its own names; `fused` is missing where torch has none.
_TORCH: dict[str, dict[str, Any]] = {
    "torch loop": {"foreach": False},
    "torch foreach": {"foreach": True},
    "torch fused": {"fused": True},
    "torch default": {},
}
_OURS: dict[str, dict[str, Any]] = {"thalweg": {}, "thalweg flat": {"way": "flat"}, "thalweg loop": {"way": "loop"}}

# The optimizer of each other library that is nearest to AdamW.
RIVALS = {
    "optimi": "optimi:AdamW",
    "heavyball": "heavyball:AdamW",
    "pytorch_optimizer": "pytorch_optimizer:AdaBelief",
    "schedulefree": "schedulefree:AdamWScheduleFree",
    "prodigyopt": "prodigyopt:Prodigy",
}

COMPILED = ("heavyball",)  # by torch.compile, which does not work under a watch

ENTRANTS = (*_OURS, *_TORCH, *RIVALS)


def factories(rule: str) -> dict[str, Factory]:
    """All entrants for a rule that exist here, by name."""
    ours, theirs, settings = RULES[rule]
    found: dict[str, Factory] = {
        name: partial(getattr(optim, ours), **settings, **options) for name, options in _OURS.items()
    }
    for name, options in _TORCH.items():
        factory = partial(getattr(torch.optim, theirs), **settings, **options)
        if _exists(factory):
            found[name] = factory
    for name, place in RIVALS.items() if rule == "adamw" else ():
        module, _, attribute = place.partition(":")
        try:
            made = getattr(importlib.import_module(module), attribute)
        except ImportError:
            continue
        found[name] = partial(made, lr=1e-3)
    return found


def _exists(factory: Factory) -> bool:
    try:
        factory([torch.zeros(1)])
    except (TypeError, RuntimeError):  # RMSprop has no `fused`
        return False
    return True
