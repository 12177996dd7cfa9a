"""State: the tensors that a rule keeps for each parameter, declared by shape, unit and initial value."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from thalweg.errors import SettingError


@dataclass(frozen=True)
class StateTensor:
    """The declaration of one tensor of a rule's state.

    Attributes:
        unit: The unit, in those of the parameter (θ) and its gradient (g).
        key: The name in a ``state_dict``.
        init: The initial value, of the rule and the parameter.
        shape_of: The shape, of the rule and the parameter's shape.
        when: True if the tensor exists, of the rule and the parameter's shape.
        shared: True if it is of the whole model, so that every parameter holds the same values.
        missing: The value, of the rule, in checkpoints of earlier versions, which lack the tensor; None if all have it.
        rule: The rule at its settings; None until the declaration is part of a layout.
    """

    unit: str
    key: str
    init: Callable[[Any, Tensor], Tensor]
    shape_of: Callable[[Any, torch.Size], torch.Size]
    when: Callable[[Any, torch.Size], bool]
    shared: bool = False
    missing: Callable[[Any], float] | None = None
    rule: Any = None

    def shape(self, param: torch.Size) -> torch.Size:
        """Return the shape of this tensor for a parameter of shape ``param``."""
        return torch.Size(self.shape_of(self.rule, param))

    def with_rule(self, rule: Any) -> Self:
        """Return the declaration as a part of the layout of a rule."""
        # Not `dataclasses.replace`, which takes ten times as long: a schedule calls this at every step.
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__, rule=rule)
        return bound


def _always(rule: Any, shape: torch.Size) -> bool:
    return True


def _zero(rule: Any) -> float:
    return 0.0


def _scalar_shape(rule: Any, shape: torch.Size) -> torch.Size:
    return torch.Size([])


def like_param(
    *,
    unit: str,
    key: str,
    fill: Callable[[Any], float] = _zero,
    when: Callable[[Any, torch.Size], bool] = _always,
    reduced_dim: int | None = None,
) -> Any:
    """Declare a state tensor with the shape of the parameter.

    Args:
        unit: The unit, in those of the parameter (θ) and its gradient (g), such as ``"g²"``.
        key: The name in a ``state_dict``: torch's, if torch has the optimizer.
        fill: The initial value of all elements, of the rule.
        when: True if the tensor exists, of the rule and the parameter's shape.
        reduced_dim: A dimension that has size 1 in this tensor.

    Returns:
        A field of the class ``State`` of a rule.

    Example:
        >>> import torch
        >>> from thalweg.rules import Rule, like_param
        >>> class Momentum(Rule):
        ...     class State:
        ...         m = like_param(unit="g", key="momentum_buffer")
        >>> Momentum().init(torch.ones(2))
        Record(m=tensor([0., 0.]))
    """
    if reduced_dim is None:  # in the parameter's order in memory
        return StateTensor(
            unit,
            key,
            lambda rule, param: _filled(torch.empty_like(param), fill(rule), key),
            lambda rule, shape: shape,
            when,
        )

    def shape_of(rule: Any, shape: torch.Size) -> torch.Size:
        sizes = list(shape)
        sizes[reduced_dim] = 1
        return torch.Size(sizes)

    return of_shape(shape_of, unit=unit, key=key, fill=fill, when=when)


def copy_of_param(*, key: str, when: Callable[[Any, torch.Size], bool] = _always) -> Any:
    """Declare a state tensor whose initial value is the parameter.

    Args:
        key: The name in a ``state_dict``.
        when: True if the tensor exists, of the rule and the parameter's shape.

    Returns:
        A field of the class ``State`` of a rule.
    """
    return StateTensor("θ", key, lambda rule, param: param.detach().clone(), lambda rule, shape: shape, when)


def of_shape(
    shape_of: Callable[[Any, torch.Size], torch.Size] = _scalar_shape,
    *,
    unit: str,
    key: str,
    fill: Callable[[Any], float] = _zero,
    when: Callable[[Any, torch.Size], bool] = _always,
    init: Callable[[Any, Tensor], Tensor] | None = None,
    shared: bool = False,
    missing: Callable[[Any], float] | None = None,
) -> Any:
    """Declare a state tensor with a shape of its own.

    Args:
        shape_of: The shape, of the rule and the parameter's shape; 0-D by default.
        unit: The unit, in those of the parameter (θ) and its gradient (g).
        key: The name in a ``state_dict``.
        fill: The initial value of all elements, of the rule.
        when: True if the tensor exists, of the rule and the parameter's shape.
        init: The initial value, of the rule and the parameter, if its elements differ. It replaces ``fill``.
        shared: True if the tensor is of the whole model. It must follow from reductions over the model and from the
            ``shared_settings`` alone; then every parameter computes the same values. A parameter without a gradient
            receives them after the step, and one that joins late starts with them. The rule needs the trait
            ``has_shared_state``.
        missing: The value of all elements, of the rule, for checkpoints of earlier versions, which lack the tensor.

    Returns:
        A field of the class ``State`` of a rule.
    """

    def full(rule: Any, param: Tensor) -> Tensor:
        return _filled(param.new_empty(shape_of(rule, param.shape)), fill(rule), key)

    return StateTensor(unit, key, init or full, shape_of, when, shared, missing)


def _filled(tensor: Tensor, value: float, key: str) -> Tensor:
    """Fill a new tensor with its initial value."""
    if abs(value) > torch.finfo(tensor.dtype).max:
        raise SettingError(
            f"state[{key!r}]: the initial value must fit into {tensor.dtype}, got {value!r}. Use a smaller setting."
        )
    return tensor.fill_(value)
