"""Records: the saved state of one parameter is checked and copied, before anything of the optimizer is changed."""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from thalweg.engine.core import precision
from thalweg.engine.core.program import Program
from thalweg.engine.core.shards import distribute_like, is_dtensor
from thalweg.errors import ParameterError, SettingError
from thalweg.optim.checkpoints.evaluation import TRAIN_PARAM
from thalweg.optim.checkpoints.origins import Origin
from thalweg.optim.state.shared_state import MODEL_STEPS
from thalweg.optim.state.state_entries import as_engine_tensor, check_shape
from thalweg.rules import Rule
from thalweg.rules.composition.wrapper import unwrap
from thalweg.rules.core.state import StateTensor, like_param

_MAX_STEP = 2.0**53  # beyond, float64 does not hold every whole number
_MAX_NUMBER = torch.finfo(torch.float32).max
_TRAIN_PARAM = like_param(unit="θ", key=TRAIN_PARAM)


class RecordReader:
    """Reads the records of the parameters of one group.

    Args:
        who: The name of the rule of the optimizer, for messages.
        rule: The rule at the settings of the group.
        group: The saved group.
        max_step: The largest number of steps of a parameter of the group.
        origin: The checkpoint.
        warn: Called with a topic and a message if an entry is missing that starts anew.
    """

    def __init__(
        self,
        who: str,
        rule: Rule,
        group: Mapping[str, Any],
        max_step: int,
        origin: Origin,
        warn: Callable[[str, str], None],
    ) -> None:
        self._who, self._group, self._origin, self._warn = who, group, origin, warn
        # A rule that varies by step has had one of two layouts; a parameter may have stopped in the first.
        self._rules = [rule.for_step(step) for step in (max(1, max_step), 1)]

    def read(self, record: Any, param: Tensor) -> dict[Any, Any]:
        """Return the state of a parameter from its record: copies on its device.

        Args:
            record: The record.
            param: The parameter.

        Raises:
            ParameterError: If the record cannot be the state of the parameter.
        """
        if not isinstance(record, Mapping):
            raise ParameterError(
                f"{self._who}: the state of a parameter must be a dictionary, got {type(record).__name__}. "
                "Pass the result of state_dict()."
            )
        if is_lazy(param):
            raise ParameterError(
                f"{self._who}: every parameter must have a shape before its state is loaded, got one of a lazy module "
                "that has none yet. Pass one batch through the model first."
            )
        layouts = [self._layout(rule, param) for rule in self._rules]
        scalars = ("step", *self._rules[0].traits.recurrent_scalars)
        declared = {tensor.key: tensor for layout in reversed(layouts) for tensor in layout.values()}
        present = {key: _placed(value, param) for key, value in record.items() if value is not None}
        if not present:
            return {}
        for layout in layouts:
            self._add_missing(present, layout, param)
        self._check_other_keys(record, {*scalars, *declared})
        for key in scalars:
            if key in record:
                self._check_scalar(key, record[key])
        for key, tensor in declared.items():
            if key in present:
                self._check_tensor(present[key], tensor, param)
        if TRAIN_PARAM in present:
            self._check_tensor(present[TRAIN_PARAM], _TRAIN_PARAM, param)
        self._check_complete(present, layouts, scalars)
        return {
            key: _scalar(value)
            if key in scalars
            else _tensor(value, param)
            if key in declared or key == TRAIN_PARAM
            else copy.deepcopy(value)
            for key, value in present.items()
        }

    def _layout(self, rule: Rule, param: Tensor) -> dict[str, StateTensor]:
        engine_param = as_engine_tensor(param)
        rounding = precision.effective_rounding(self._group.get("rounding", "nearest"), engine_param.dtype)
        return Program(rule, rounding=rounding).layout(engine_param.shape)

    def _add_missing(self, present: dict[Any, Any], layout: dict[str, StateTensor], param: Tensor) -> None:
        """Add the entries that checkpoints of earlier versions lack to a record that has all others of its layout."""
        if not all(tensor.key in present for tensor in layout.values() if tensor.missing is None):
            return
        engine_param = as_engine_tensor(param)
        for tensor in layout.values():
            if tensor.missing is not None and tensor.key not in present:
                dtype = precision.compute_dtype(engine_param.dtype)
                value = tensor.missing(tensor.rule)
                present[tensor.key] = torch.full(tensor.shape(engine_param.shape), value, dtype=dtype)

    def _check_other_keys(self, record: Mapping[Any, Any], known: set[str]) -> None:
        """Raise ParameterError if an entry would be kept and not used, unless it is one of the user's own."""
        if self._origin.keeps_own_entries:
            return
        known |= {"residual", TRAIN_PARAM}
        known |= {
            tensor.key for tensor in vars(unwrap(self._rules[0]).State).values() if isinstance(tensor, StateTensor)
        }
        if unknown := [str(key) for key in record if key not in known]:
            raise ParameterError(
                f"{self._who}: the state of a parameter must hold {', '.join(sorted(known))} alone, got "
                f"{', '.join(unknown)}, too. Load the checkpoint into the optimizer that saved it, or remove them."
            )

    def _check_scalar(self, key: str, value: Any) -> None:
        number = step_count(value) if key == "step" else _finite_number(value)
        if number is None or (key != "step" and abs(number) > _MAX_NUMBER):
            condition = "a whole number of steps" if key == "step" else "one number that float32 can hold"
            raise ParameterError(
                f"{self._who}: state[{key!r}] must be {condition}, got {_shown(value)}. Pass the result of "
                "state_dict()."
            )

    def _check_tensor(self, entry: Any, declared: StateTensor, param: Tensor) -> None:
        """Raise ParameterError unless an entry can be copied into the state of a parameter."""
        reason = None
        if not isinstance(entry, Tensor):
            # Rules with one number for all elements: other libraries keep a plain number.
            number = _finite_number(entry)
            is_scalar = declared.shape(as_engine_tensor(param).shape) == torch.Size([])
            if is_scalar and number is not None and abs(number) <= _MAX_NUMBER:
                return
            reason = _shown(entry)
        elif entry.layout != torch.strided or entry.is_nested:
            reason = "a nested one" if entry.is_nested else f"one of {entry.layout}"
        elif entry.is_meta and not param.is_meta:
            reason = "one on the meta device, which has no values"
        elif hasattr(entry, "to_local") and not hasattr(param, "to_local"):
            reason = "a sharded one for a whole parameter"
        elif not (entry.is_floating_point() or (entry.is_complex() and param.is_complex())):
            reason = f"one of {entry.dtype}"
        if reason is not None:
            raise ParameterError(
                f"{self._who}: state[{declared.key!r}] must be a dense tensor of floating-point numbers, got "
                f"{reason}. Pass the result of state_dict()."
            )
        check_shape(as_engine_tensor(entry), declared.shape(as_engine_tensor(param).shape), declared.key)

    def _check_complete(
        self, present: Mapping[Any, Any], layouts: list[dict[str, StateTensor]], scalars: tuple[str, ...]
    ) -> None:
        """Raise ParameterError if an entry is missing that the record must have had. Warn if it starts anew."""
        keys = [[tensor.key for tensor in layout.values()] for layout in layouts]
        if not self._origin.has_steps and "step" not in present:
            return  # torch's classes that count no steps create their one entry at the first step
        # Checkpoints of earlier versions have no step count of the model.
        missing = [key for key in scalars if key not in present and key != MODEL_STEPS]
        if any(all(key in present for key in layout_keys) for layout_keys in keys):
            required: list[str] = []
        else:
            required = [key for key in keys[0] if key not in present]
        for key in required:
            if (setting := self._setting_that_adds(key, present)) is None:
                missing.append(key)
            else:
                self._warn(
                    key,
                    f"{self._who}: the checkpoint must hold state[{key!r}], since {setting} is on, got none. It starts "
                    f"anew. If {setting} was on in the last step, load a complete checkpoint.",
                )
        if missing:
            raise ParameterError(
                f"{self._who}: the state of a parameter must be complete, got none of {', '.join(missing)}. "
                "Pass the result of state_dict(). To start a parameter anew, remove its whole state."
            )

    def _setting_that_adds(self, key: str, present: Mapping[Any, Any]) -> str | None:
        """Return the setting whose value adds an entry to the state, if one alone does.

        Such an entry is missing if the setting was turned on after the last step.
        """
        if key == "residual":
            return "rounding" if "rounding" in self._group else None
        rule = self._rules[0]
        for name, declared in rule.hypers().items():
            off: Any = False if declared.kind == "switch" else 0.0
            if declared.kind in ("switch", "number") and rule.settings()[name]:
                try:
                    layout = rule.with_(**{name: off}).layout(torch.Size([2, 2]))
                except SettingError:
                    continue
                if key not in {tensor.key for tensor in layout.values()}:
                    return name
        return None


def _placed(value: Any, param: Tensor) -> Any:
    """Return an entry; a whole one of a parameter that is divided over processes is divided likewise."""
    if isinstance(value, Tensor) and not is_dtensor(value) and value.dim() and value.shape == param.shape:
        return distribute_like(value, param)
    return value


def _finite_number(value: Any) -> float | None:
    """Return a real number, or the one in a tensor; None if the value is none or is not finite."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_meta or value.is_nested or value.numel() != 1:
            return None
        if value.is_complex() or value.dtype == torch.bool:
            return None
        value = value.item()
    elif isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def step_count(value: Any) -> int | None:
    """Return a number of steps; None if the value is none."""
    number = _finite_number(value)
    return int(number) if number is not None and number == int(number) and 0 <= number < _MAX_STEP else None


def _shown(value: Any) -> str:
    if isinstance(value, Tensor) and (value.numel() != 1 or value.is_meta):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"{value!r:.80}"


def _scalar(value: Any) -> Tensor:
    """Return a copy of a number, as the state holds it. Old checkpoints of torch count steps in plain numbers."""
    number = value.detach() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
    return number.to("cpu", torch.float64, copy=True).reshape(())


def _tensor(value: Any, param: Tensor) -> Tensor:
    """Return a copy of an entry on the device of its parameter, in the dtype that was saved."""
    if not isinstance(value, Tensor):
        value = torch.tensor(float(value), dtype=precision.compute_dtype(as_engine_tensor(param).dtype))
    return value.detach().to(device=param.device, copy=True)
