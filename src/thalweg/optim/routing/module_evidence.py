"""Module evidence: the role of a parameter from the type of its module, its shape and its names."""

import re
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from thalweg.optim.routing.parameter_use import NUM_GATES, ParameterUse
from thalweg.optim.routing.role import Conclusion

_EMBEDDING = re.compile(r"embed|(^|_)pos(_|$)|position|(cls|class|mask|dist)_token|token(s)?$|registers?$|(^|_)w[tp]e$")
_BIAS = re.compile(r"(^|_)bias(es)?(_|$)")
_QKV = re.compile(r"(to_)?qkv(_proj)?|c_attn|in_proj_weight|Wqkv|queries_keys_values")
_INTERLEAVED_QKV = re.compile(r"query_key_value")
_ROUTER = re.compile(r"gate|router|wg|gating")
_ELEMENTWISE = re.compile(r"A_log|dt_bias")  # of state space models
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def conclude(use: ParameterUse) -> Conclusion:
    """Return the role of a parameter and the reason, by the first evidence that applies."""
    return next(conclusion(use) for applies, conclusion in _EVIDENCE if applies(use))


def _is_norm(use: ParameterUse) -> bool:
    return isinstance(use.module, _NORMS) or use.kind.endswith("Norm") or ("Norm" in use.kind and use.is_vector)


def _embedding_name(use: ParameterUse) -> str | None:
    """Return the name that says that the parameter is an embedding."""
    if use.param.dim() < 2:
        return None
    return next((name for name in use.near_names if _EMBEDDING.search(name)), None)


def _is_router(use: ParameterUse) -> bool:
    siblings = {} if use.parent is None else dict(use.parent.named_children())  # a wrapper may have no length
    beside_experts = any("expert" in name.lower() for name in siblings)
    return "Router" in use.kind or (beside_experts and _ROUTER.fullmatch(use.main_name) is not None)


def _of_convolution(use: ParameterUse) -> Conclusion:
    module: Any = use.module
    if module.groups == 1:
        return "convolution", f"of {use.kind}"
    if module.groups in (module.in_channels, module.out_channels):
        return "depthwise convolution", "one filter for each channel: no matrix"
    return "grouped convolution", f"{module.groups} groups, each with a matrix of its own"


def _of_recurrent(use: ParameterUse) -> Conclusion:
    num_gates = NUM_GATES[use.kind]
    return "recurrent", f"{use.kind} has {num_gates} gates in it" if num_gates > 1 else f"of {use.kind}"


def _of_qkv(use: ParameterUse) -> Conclusion:
    num_outputs, num_inputs = use.sides
    if num_outputs == 3 * num_inputs:
        return "fused qkv", f"called {use.main_name}, with three times as many rows as columns"
    reason = f"{num_outputs} rows are not 3 x {num_inputs}: 'hidden matrix' treats it as one matrix"
    return None, f"called {use.main_name}, but {reason}"


# The first evidence that applies decides: a predicate, and the conclusion from it. The most certain comes first.
_EVIDENCE: tuple[tuple[Callable[[ParameterUse], Any], Callable[[ParameterUse], Conclusion]], ...] = (
    (_is_norm, lambda use: ("norm", f"in {use.kind}")),
    (lambda use: use.is_embedding, lambda use: ("embedding", f"{use.kind} looks it up")),
    (_embedding_name, lambda use: ("embedding", f"called {_embedding_name(use)}")),
    (lambda use: _BIAS.search(use.name), lambda use: ("bias", f"of {use.kind}")),
    (
        lambda use: _ELEMENTWISE.fullmatch(use.name),
        lambda use: ("scale", f"called {use.name}: acts element by element"),
    ),
    (
        lambda use: use.is_vector and not (use.param.dim() > 1 and use.is_weight),
        lambda use: ("scale", "a vector" if use.param.dim() else "one number"),
    ),
    (lambda use: isinstance(use.module, _ConvNd), _of_convolution),
    (
        lambda use: isinstance(use.module, nn.MultiheadAttention) and use.name == "in_proj_weight",
        lambda use: ("fused qkv", f"{use.kind} keeps Q, K and V in it"),
    ),
    (lambda use: use.kind in NUM_GATES and use.name.startswith(("weight_ih", "weight_hh")), _of_recurrent),
    (_is_router, lambda _: ("router", "beside experts, chooses among them")),
    (
        lambda use: "expert" in use.full_name.lower() and use.param.dim() == 3,
        lambda _: ("experts", "a matrix for each expert"),
    ),
    (
        lambda use: _INTERLEAVED_QKV.search(use.main_name),
        lambda _: (None, "'fused qkv' if Q, K and V lie one after the other in it, 'hidden matrix' if head by head"),
    ),
    (lambda use: _QKV.fullmatch(use.main_name), _of_qkv),
    (lambda use: use.param.dim() == 2 and use.is_weight, lambda use: ("hidden matrix", f"of {use.kind}")),
    (lambda _: True, lambda use: (None, f"a parameter of its own in {use.kind}, of {use.param.dim()} dimensions")),
)
