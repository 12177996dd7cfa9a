"""State: the tensors that a rule keeps for each parameter, declared by their shape, unit and first value."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class StateTensor:
    """One tensor of a rule's state: its unit, its name in a `state_dict`, its first value, shape, and when it exists.

    `first` is called with the rule and the parameter; `shaped` and `when` with the rule and the parameter's shape.
    """

    unit: str
    key: str
    first: Callable[[Any, Tensor], Tensor]
    shaped: Callable[[Any, torch.Size], torch.Size]
    when: Callable[[Any, torch.Size], bool]
    rule: Any = None  # whose leaf it is, where it is one of a layout

    def shape(self, param: torch.Size) -> torch.Size:
        """The shape of this tensor for a parameter of shape `param`."""
        return torch.Size(self.shaped(self.rule, param))


def _always(rule: Any, shape: torch.Size) -> bool:
    return True


def like_param(
    *,
    unit: str,
    key: str,
    fill: Callable[[Any], float] = lambda rule: 0.0,
    when: Callable[[Any, torch.Size], bool] = _always,
    reduced_dim: int | None = None,
) -> Any:
    """Declare a tensor of the state that is shaped like the parameter, or has size 1 along its `reduced_dim`.

    `key` is its name in a `state_dict` (torch's, where torch has the optimizer); `fill(rule)` its first value;
    `when(rule, shape)` whether it exists for these settings and this shape of parameter.
    """
    if reduced_dim is None:  # in the parameter's order in memory
        return StateTensor(
            unit, key, lambda rule, param: torch.full_like(param, fill(rule)), lambda rule, shape: shape, when
        )

    def shaped(rule: Any, shape: torch.Size) -> torch.Size:
        sizes = list(shape)
        sizes[reduced_dim] = 1
        return torch.Size(sizes)

    return of_shape(shaped, unit=unit, key=key, fill=fill, when=when)


def copy_of_param(*, key: str, when: Callable[[Any, torch.Size], bool] = _always) -> Any:
    """Declare a tensor of the state that starts as the parameter."""
    return StateTensor("θ", key, lambda rule, param: param.detach().clone(), lambda rule, shape: shape, when)


def of_shape(
    shaped: Callable[[Any, torch.Size], torch.Size] = lambda rule, shape: torch.Size([]),
    *,
    unit: str,
    key: str,
    fill: Callable[[Any], float] = lambda rule: 0.0,
    when: Callable[[Any, torch.Size], bool] = _always,
    first: Callable[[Any, Tensor], Tensor] | None = None,
) -> Any:
    """Declare a tensor of the state of another shape, that of `shaped(rule, shape)`; a single number by default.

    `first(rule, param)` makes its first value, where that is not one number everywhere.
    """

    def filled(rule: Any, param: Tensor) -> Tensor:
        return param.new_full(shaped(rule, param.shape), fill(rule))

    return StateTensor(unit, key, first or filled, shaped, when)
