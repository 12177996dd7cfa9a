"""The one mechanism that makes a `torch.optim.Optimizer` out of a rule."""

import copy
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from thalweg.engine import loop
from thalweg.errors import ParameterError, ParameterTypeError
from thalweg.optim import keywords
from thalweg.rules import Rule, row


class RuleOptimizer(torch.optim.Optimizer):
    """A rule, run as torch's users expect: groups, schedulers, closures, hooks and checkpoints are torch's own.

    `param_groups` hold torch's keywords and are the only place where settings live, so a scheduler that writes to
    them is all there is to a schedule. `state[param]` holds `step` and the rule's state under torch's keys; state
    keeps its own dtype through `load_state_dict`. The gradient is never written.
    """

    rule: ClassVar[type[Rule]]

    def __init_subclass__(cls, *, rule: type[Rule] | None = None) -> None:
        if rule is None:  # a subclass of one of these, with the same formula
            return
        cls.rule = rule
        cls.__signature__ = keywords.signature(rule)  # type: ignore[attr-defined]
        cls.__doc__ = _document(rule)
        _MADE.setdefault(rule, cls)

    def __init__(self, params: Iterable[Any], *args: Any, maximize: bool = False, **settings: Any) -> None:
        if isinstance(params, Tensor) or not isinstance(params, Iterable):
            got = f"one tensor of shape {tuple(params.shape)}" if isinstance(params, Tensor) else type(params).__name__
            raise ParameterTypeError(
                f"{self._who}: params must be a list of tensors, got {got}. Pass [tensor], or model.parameters()."
            )
        params = list(params)
        if not params:
            raise ParameterError(
                f"{self._who}: params must hold at least one parameter, got none. Pass model.parameters(), "
                "and mind that an iterator can be used only once."
            )
        super().__init__(params, keywords.bind(self.rule, args, settings) | {"maximize": maximize})

    @property
    def _who(self) -> str:
        return type(self).__name__

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, as in torch; settings out of bounds and unusable parameters are refused."""
        keywords.check_group(self.rule, param_group)
        params = param_group["params"]
        if not isinstance(params, Tensor | set):  # torch wraps the one, and refuses the other with a reason
            param_group["params"] = params = list(params)
            for entry in params:
                self._check_param(entry[1] if isinstance(entry, tuple) else entry)
        keywords.to_rule(self.rule, self.defaults | param_group)
        super().add_param_group(param_group)

    def _check_param(self, param: Any) -> None:
        if not isinstance(param, Tensor):
            raise ParameterTypeError(
                f"{self._who}: every parameter must be a tensor, got {type(param).__name__} ({param!r:.60}). "
                "Pass model.parameters(), or a list of tensors."
            )
        if not param.is_floating_point():
            raise ParameterError(
                f"{self._who}: every parameter must be of a real floating-point dtype, got {param.dtype} "
                f"of shape {tuple(param.shape)}."
            )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; `closure`, if given, is called first to compute the loss, which is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        stepping = [
            (param, rule, group["maximize"])
            for group in self.param_groups
            for rule in [keywords.to_rule(self.rule, group)]
            for param in group["params"]
            if param.grad is not None
        ]
        updated = loop.update(self._item(rule, param, maximize=maximize) for param, rule, maximize in stepping)
        for (param, rule, _), (new_param, new_state) in zip(stepping, updated, strict=True):
            param.copy_(new_param)
            self._remember(rule, param, new_state)
        return loss

    def _item(self, rule: Rule, param: Tensor, *, maximize: bool) -> loop.Item:
        grad = param.grad
        assert grad is not None
        if grad.is_sparse:
            raise ParameterError(
                f"{self._who}: gradients must be dense, got a sparse one for a parameter of shape "
                f"{tuple(param.shape)}. Use sparse=False in the embedding, or torch.optim.SparseAdam."
            )
        saved, layout = self.state[param], rule.layout(param.shape)
        if all(saved.get(leaf.key) is not None for leaf in layout.values()):
            state = row(**{name: saved[leaf.key] for name, leaf in layout.items()})
        else:  # the first step, or a setting that asks for more state was changed on the way
            fresh = loop.init(rule, param)
            kept = {name: saved.get(leaf.key) for name, leaf in layout.items()}
            state = row(**{name: getattr(fresh, name) if value is None else value for name, value in kept.items()})
        coefficients = rule.coefficients(self._steps_taken(rule, param) + 1)
        return loop.Item(rule, param, -grad if maximize else grad, state, coefficients)

    def _steps_taken(self, rule: Rule, param: Tensor) -> int:
        saved = self.state[param]
        if "step" in saved:
            return int(saved["step"])
        # torch's SGD keeps no count: what remembers something has stepped before.
        return int(any(saved.get(leaf.key) is not None for leaf in rule.layout(param.shape).values()))

    def _remember(self, rule: Rule, param: Tensor, state: Any) -> None:
        step = torch.tensor(float(self._steps_taken(rule, param) + 1))
        remembered = {leaf.key: getattr(state, name) for name, leaf in rule.layout(param.shape).items()}
        self.state[param] |= {"step": step} | remembered

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint of this class, or of torch's class of the same name; another one's raises ParameterError.

        torch casts state to the dtype of the parameter (pytorch#43706); here it keeps the dtype it was saved in.
        """
        loaded: dict[str, Any] = {}

        def check(_: torch.optim.Optimizer, final: dict[str, Any]) -> None:
            for group in final["param_groups"]:
                keywords.check_checkpoint(self.rule, group)
            loaded.update(final)

        # Hooks run in the order they were registered: this one, the last, sees what is loaded in the end.
        last_hook = self.register_load_state_dict_pre_hook(check)
        try:
            super().load_state_dict(state_dict)
        finally:
            last_hook.remove()
        saved_ids = [index for group in loaded["param_groups"] for index in group["params"]]
        params = [param for group in self.param_groups for param in group["params"]]
        for index, param in zip(saved_ids, params, strict=True):
            if index in loaded["state"]:
                self.state[param] = {
                    key: _in_its_own_dtype(key, value, param.device) for key, value in loaded["state"][index].items()
                }
        for group in self.param_groups:
            group.setdefault("maximize", False)
            for keyword in keywords.TORCH_ONLY:
                group.pop(keyword, None)


def _in_its_own_dtype(key: str, value: Any, device: torch.device) -> Any:
    """A saved entry of state, as it is to be kept. Old checkpoints of torch count steps in plain numbers."""
    if key == "step":
        return torch.as_tensor(value, dtype=torch.float32, device="cpu").clone()
    return value.to(device=device, copy=True) if isinstance(value, Tensor) else copy.deepcopy(value)


_MADE: dict[type[Rule], type[RuleOptimizer]] = {}


def optimizer_for(rule: type[Rule]) -> type[RuleOptimizer]:
    """The optimizer class of a rule: the one already made, or a new one for a rule of your own."""
    return _MADE.get(rule) or type(rule.__name__, (RuleOptimizer,), {}, rule=rule)


def _document(rule: type[Rule]) -> str:
    lines = [rule.__doc__ or "", "", "Args:", "    params: parameters to optimize, or dicts that define groups"]
    for keyword, names in keywords.members(rule).items():
        declared = [rule.hypers()[name] for name in names]
        texts = [f"{one.symbol}: {one.doc} ({one.bound})" if one.symbol else one.doc for one in declared]
        default = keywords.from_rule(rule())[keyword]
        lines.append(f"    {keyword}: {'; '.join(texts)}; default {default}")
    lines.append("    maximize: climb instead of descending; default False")
    return "\n".join(lines)
