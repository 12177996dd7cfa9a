"""Loss sites: the places at which outputs of the model meet targets, and the functions that made those outputs."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from thalweg.diagnosis.inspection.loss_behaviour import Behaviour, behaviour_of, class_dimension
from thalweg.diagnosis.inspection.observation import Observation
from thalweg.diagnosis.inspection.observation.trace import Call, source

Family = Literal["cross entropy", "likelihood", "logits", "probabilities", "difference"]

_FAMILIES: dict[str, Family] = {
    "cross_entropy": "cross entropy",
    "nll_loss": "likelihood",
    "nll_loss_nd": "likelihood",
    "nll_loss2d": "likelihood",
    "binary_cross_entropy_with_logits": "logits",
    "multilabel_soft_margin_loss": "logits",
    "binary_cross_entropy": "probabilities",
    "mse_loss": "difference",
    "l1_loss": "difference",
    "smooth_l1_loss": "difference",
    "huber_loss": "difference",
}
_SUBTRACTIONS = ("sub", "subtract", "__sub__", "__rsub__", "rsub")
_OF_BEHAVIOUR: dict[Behaviour, Family] = {
    "shift invariant": "cross entropy",
    "likelihood": "likelihood",
    "logits": "logits",
    "difference": "difference",
}
_TOLERANCE = 1e-2  # of a sum of probabilities; half precision adds up to that

# The range of the values of functions that often end a network.
_INF = math.inf
_RANGES = {
    "relu": (0.0, _INF),
    "relu_": (0.0, _INF),
    "relu6": (0.0, 6.0),
    "softplus": (0.0, _INF),
    "exp": (0.0, _INF),
    "abs": (0.0, _INF),
    "square": (0.0, _INF),
    "sigmoid": (0.0, 1.0),
    "sigmoid_": (0.0, 1.0),
    "hardsigmoid": (0.0, 1.0),
    "softmax": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "tanh_": (-1.0, 1.0),
    "hardtanh": (-1.0, 1.0),
    "softsign": (-1.0, 1.0),
    "sin": (-1.0, 1.0),
    "cos": (-1.0, 1.0),
    "logsigmoid": (-_INF, 0.0),
    "log_softmax": (-_INF, 0.0),
    "elu": (-1.0, _INF),
    "celu": (-1.0, _INF),
    "selu": (-1.7581, _INF),
    "gelu": (-0.17, _INF),
    "silu": (-0.2785, _INF),
    "mish": (-0.3089, _INF),
    "hardswish": (-0.375, _INF),
}


@dataclass(eq=False)
class Site:
    """A place at which an output meets a target.

    Attributes:
        family: The kind of loss.
        name: The function.
        output: The output, as the function gets it.
        target: The target.
        made_by: The call that made the entries of the output; None if unknown.
        where: The module that made the output; None if it is the model itself, or unknown.
        class_dim: The dimension of the classes, for losses of classes.
        is_of_data: True if the target comes from the batch, not from a module.
    """

    family: Family
    name: str
    output: Tensor
    target: Tensor
    made_by: Call | None
    where: str | None
    class_dim: int = 1
    is_of_data: bool = True

    @property
    def range(self) -> tuple[float, float]:
        """The range of the output, as its last function has it."""
        return value_range(self.made_by)


def value_range(call: Call | None) -> tuple[float, float]:
    """Return the range of the values that a call can return."""
    if call is None:
        return -_INF, _INF
    if call.name in ("clamp", "clip", "clamp_"):
        low, high = call.argument("min", 1), call.argument("max", 2)
        return (
            float(low) if isinstance(low, (int, float)) else -_INF,
            float(high) if isinstance(high, (int, float)) else _INF,
        )
    if call.name == "hardtanh":
        return float(call.argument("min_val", 1, -1.0)), float(call.argument("max_val", 2, 1.0))
    return _RANGES.get(call.name, (-_INF, _INF))


def loss_sites(observation: Observation) -> list[Site]:
    """Return the places of the first step at which an output meets a target, and the kind of loss there."""
    sites = [
        site for call in (observation.trace.calls if observation.trace else []) for site in _sites_of(call, observation)
    ]
    if observation.loss_calls and isinstance(observation.loss_calls[0].output, Tensor):
        site = _site_of_loss(observation)
        if site is not None and not any(site.family == call_site.family for call_site in sites):
            sites.append(site)
    return sites


def _sites_of(call: Call, observation: Observation) -> Iterator[Site]:
    if call.name == "log_softmax" and call.module is None:
        made_by = source(call.parents[0])
        if made_by is not None and made_by.name == "softmax":
            dim = int(call.argument("dim", 1, -1)) % call.tensors[0].ndim
            where = made_by.module or None
            yield Site("cross entropy", call.name, call.tensors[0], call.tensors[0], made_by, where, dim, False)
    if len(call.tensors) < 2:
        return
    if call.name in _FAMILIES:
        yield _site(_FAMILIES[call.name], call, 0, 1, observation)
    elif call.name in _SUBTRACTIONS:
        makers = model_makers(observation)
        for first, second in ((0, 1), (1, 0)):
            if source(call.parents[first]) in makers and is_target(call.tensors[second], observation):
                yield _site("difference", call, first, second, observation)


def _site(family: Family, call: Call, first: int, second: int, observation: Observation) -> Site:
    output, target = call.tensors[first], call.tensors[second]
    made_by, target_by = source(call.parents[first]), source(call.parents[second])
    where = made_by.module or None if made_by is not None else _module_of(output, observation)
    is_of_data = (target_by is None or target_by.module is None) and not target.requires_grad
    return Site(family, call.name, output, target, made_by, where, 1 if output.ndim > 1 else 0, is_of_data)


def _site_of_loss(observation: Observation) -> Site | None:
    """Return what the loss function of the training does with the output, found out by its behaviour."""
    call = observation.loss_calls[0]
    family = _OF_BEHAVIOUR.get(behaviour_of(observation, call))
    if family is None:
        return None
    made_by = source(observation.trace.maker(call.output)) if observation.trace is not None else None
    where = made_by.module or None if made_by is not None else _module_of(call.output, observation)
    dim = class_dimension(call.output, call.target)
    return Site(
        family, "loss_fn", call.output, call.target, made_by, where, call.output.ndim - 1 if dim is None else dim
    )


def _module_of(output: Tensor, observation: Observation) -> str | None:
    """Return the innermost module that returned a tensor; None if none did, or only the model itself."""
    calls = observation.trace.module_calls if observation.trace is not None else []
    return next((call.name or None for call in calls if any(tensor is output for tensor in call.outputs)), None)


def model_makers(observation: Observation) -> list[Call]:
    """Return the calls that made the entries of the model's outputs."""
    calls = observation.trace.module_calls if observation.trace is not None else []
    makers = [source(maker) for call in calls if call.name == "" for maker in call.output_calls]
    return [call for call in makers if call is not None]


def is_target(tensor: Tensor, observation: Observation) -> bool:
    """Return True if a tensor has the entries of the target of the first batch, in whatever shape."""
    target = observation.first_batch[-1] if observation.first_batch else None
    return (
        isinstance(target, Tensor)
        and target.numel() == tensor.numel()
        and target.numel() > 0
        and tensor.data_ptr() == target.data_ptr()
    )


def are_probabilities(tensor: Tensor, dim: int) -> bool:
    """Return True if the entries along a dimension are not negative and sum to 1.

    Args:
        tensor: The tensor.
        dim: The dimension, of at least two entries.
    """
    if not tensor.is_floating_point() or tensor.ndim <= dim or tensor.shape[dim] < 2 or tensor.numel() == 0:
        return False
    values = tensor.detach().to(torch.float64)
    return bool((values >= 0).all()) and bool((values.sum(dim) - 1).abs().max() < _TOLERANCE)


def are_log_probabilities(tensor: Tensor, dim: int) -> bool:
    """Return True if the exponentials of the entries along a dimension sum to 1.

    Args:
        tensor: The tensor.
        dim: The dimension.
    """
    if not tensor.is_floating_point() or tensor.ndim <= dim or tensor.numel() == 0:
        return False
    values = tensor.detach().to(torch.float64)
    return bool((values.exp().sum(dim) - 1).abs().max() < _TOLERANCE)
