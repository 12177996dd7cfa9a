"""Implementations that are timed, for each rule: thalweg's backends, torch's, and other libraries if installed."""

import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from thalweg import optim
from thalweg.errors import UnknownNameError, nearest

MakeOptimizer = Callable[[Any], torch.optim.Optimizer]


class TimedRule(NamedTuple):
    """A rule that can be timed.

    Attributes:
        ours: Its class in ``thalweg.optim``.
        torch: Its class in ``torch.optim``; None if there is none.
        settings: The settings at which both are timed.
        libraries: Its class in other libraries, by the name of the library, as module and class.
    """

    ours: str
    torch: str | None
    settings: dict[str, Any]
    libraries: dict[str, str]


# Of each other library the optimizer that is nearest to AdamW, as module and class.
OTHER_LIBRARIES = {
    "optimi": "optimi:AdamW",
    "heavyball": "heavyball:AdamW",
    "pytorch_optimizer": "pytorch_optimizer:AdaBelief",
    "schedulefree": "schedulefree:AdamWScheduleFree",
    "prodigyopt": "prodigyopt:Prodigy",
}

RULES: dict[str, TimedRule] = {
    "adam": TimedRule("Adam", "Adam", {}, {}),
    "adamw": TimedRule("AdamW", "AdamW", {}, OTHER_LIBRARIES),
    "momentum": TimedRule("SGD", "SGD", {"lr": 0.1, "momentum": 0.9}, {}),
    "adagrad": TimedRule("AdaGrad", "Adagrad", {}, {}),
    "rmsprop": TimedRule("RMSprop", "RMSprop", {}, {}),
    "nadam": TimedRule("NAdam", "NAdam", {}, {"heavyball": "heavyball:NAdam"}),
    "radam": TimedRule("RAdam", "RAdam", {}, {"optimi": "optimi:RAdam"}),
    "adafactor": TimedRule("Adafactor", "Adafactor", {}, {}),
    "lion": TimedRule("Lion", None, {}, {"optimi": "optimi:Lion", "pytorch_optimizer": "pytorch_optimizer:Lion"}),
    "adan": TimedRule("Adan", None, {}, {"optimi": "optimi:Adan", "pytorch_optimizer": "pytorch_optimizer:Adan"}),
    "adopt": TimedRule(
        "ADOPT", None, {}, {"heavyball": "heavyball:ADOPT", "pytorch_optimizer": "pytorch_optimizer:ADOPT"}
    ),
    "prodigy": TimedRule("Prodigy", None, {}, {"prodigyopt": "prodigyopt:Prodigy"}),
    "lamb": TimedRule("LAMB", None, {}, {"pytorch_optimizer": "pytorch_optimizer:Lamb"}),
}

# The rules that the command times if none is named.
DEFAULT_RULES = ("adam", "adamw", "momentum", "adagrad", "rmsprop")

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

# On a device, in the order in which they are built: if memory ends, the last ones are left for another session.
_TORCH_ON_DEVICE: dict[str, dict[str, Any]] = {
    "torch fused": {"fused": True},
    "torch foreach": {"foreach": True},
    "torch capturable": {"capturable": True},
    "torch captured": {"capturable": True},
    "torch loop": {"foreach": False},
    "torch compiled": {"foreach": True},
}
_THALWEG_ON_DEVICE: dict[str, dict[str, Any]] = {
    "thalweg": {},
    "thalweg capturable": {"capturable": True},
    "thalweg captured": {"capturable": True},
    "thalweg flat": {"backend": "flat"},
    "thalweg loop": {"backend": "loop"},
}

# Timed on a device only: kernels in Triton. Further keywords stand behind the class.
LIBRARIES_ON_DEVICE = {"optimi triton": "optimi:AdamW:triton", "flashoptim": "flashoptim:FlashAdamW"}

COMPILED = ("heavyball",)  # by torch.compile, which does not work under a dispatch counter
COMPILED_STEP = "torch compiled"  # its step goes through torch.compile; half a minute, so only if it is named
CAPTURED = ("thalweg captured", "torch captured")  # their step is the replay of a CUDA graph

IMPLEMENTATIONS = tuple(
    dict.fromkeys([*_THALWEG, *_TORCH, *OTHER_LIBRARIES, *_THALWEG_ON_DEVICE, *_TORCH_ON_DEVICE, *LIBRARIES_ON_DEVICE])
)


def available(rule: str) -> dict[str, MakeOptimizer]:
    """Return the implementations of a rule that exist on this machine's CPU, each as a function of parameters."""
    timed = RULES[rule]
    implementations: dict[str, MakeOptimizer] = {
        name: partial(getattr(optim, timed.ours), **timed.settings, **options) for name, options in _THALWEG.items()
    }
    for name, options in _TORCH.items() if timed.torch else ():
        make = partial(getattr(torch.optim, str(timed.torch)), **timed.settings, **options)
        if not _unsupported_reason(make, torch.zeros(1)):
            implementations[name] = make
    for name, location in timed.libraries.items():
        make_other = _from_library(location)
        if not isinstance(make_other, str):
            implementations[name] = make_other
    return implementations


def available_on(device: torch.device, rule: str) -> tuple[dict[str, MakeOptimizer], dict[str, str]]:
    """Return the implementations of a rule on a device, and those that are absent.

    Returns:
        The implementations by name, each as a function of parameters; and by name the reason why others are absent.
    """
    timed = RULES[rule]
    implementations: dict[str, MakeOptimizer] = {}
    absent: dict[str, str] = {}
    for name, options in _THALWEG_ON_DEVICE.items():
        implementations[name] = partial(getattr(optim, timed.ours), **timed.settings, **options)
    for name, options in _TORCH_ON_DEVICE.items() if timed.torch else ():
        make = partial(getattr(torch.optim, str(timed.torch)), **timed.settings, **options)
        if reason := _unsupported_reason(make, torch.zeros(1, device=device, requires_grad=True)):
            absent[name] = reason
        else:
            implementations[name] = make
    if timed.torch is None:
        absent["torch"] = f"torch.optim has no {timed.ours}"
    libraries = timed.libraries | (LIBRARIES_ON_DEVICE if rule == "adamw" else {})
    for name, location in libraries.items():
        make_other = _from_library(location)
        if isinstance(make_other, str):
            absent[name] = make_other
        else:
            implementations[name] = make_other
    return implementations, absent


def is_other_library(name: str) -> bool:
    """Return True if an implementation is neither thalweg's nor torch's."""
    return not name.startswith(("thalweg", "torch"))


def choose_baseline(names: Collection[str]) -> str:
    """Return the implementation to which ratios refer: torch's fastest, else another library's, else our loop."""
    preferred = [name for name in ("torch fused", "torch default", "torch foreach") if name in names]
    libraries = [name for name in names if is_other_library(name)]
    loop = [name for name in names if name == "thalweg loop"]
    return [*preferred, *libraries, *loop, *names][0]


def select(
    requested: Sequence[str] | None,
    factories: Mapping[str, MakeOptimizer],
    baseline: str,
    rule: str,
    *,
    default: Callable[[str], bool],
) -> list[str]:
    """Return the names to time: the baseline and those that were requested, or those of the default.

    Raises:
        UnknownNameError: If an implementation that was requested does not exist here.
    """
    if requested is None:
        requested = [name for name in factories if default(name)]
        return requested if baseline in requested else [baseline, *requested]
    names = list(dict.fromkeys([baseline, *requested]))
    for name in names:
        if name not in factories:
            raise UnknownNameError(
                f"bench: there is no implementation {name!r} of {rule} here. {nearest(name, factories)}"
            )
    return names


def _from_library(location: str) -> MakeOptimizer | str:
    """Return the optimizer of another library, or the reason why it is absent."""
    module, class_name, *options = location.split(":")
    try:
        kind = getattr(importlib.import_module(module), class_name)
    except (ImportError, AttributeError) as error:
        return describe(error)
    return partial(kind, lr=1e-3, **dict.fromkeys(options, True))


def _unsupported_reason(make: MakeOptimizer, param: torch.Tensor) -> str:
    """Return why torch's optimizer cannot step this parameter; empty if it can. One that cannot learn is only made."""
    try:
        optimizer = make([param])
        if param.requires_grad:
            param.grad = torch.ones_like(param)
            optimizer.step()
    except Exception as error:  # torch's RMSprop has no `fused`; capturable=True needs a device that has graphs
        return describe(error)
    return ""


def describe(error: Exception) -> str:
    """Return the kind of an error and its first line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
