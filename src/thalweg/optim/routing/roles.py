"""Roles: what each parameter of a model is for, told from the modules that hold it, from ties, shapes and names.

What the type of a module says comes first, what a name says last. What nothing tells is left open, to be asked. In
doubt a matrix is no hidden one: a rule of matrices harms a head more than the other rule harms a hidden matrix.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrize import ParametrizationList

from thalweg.errors import RoutingError, nearest
from thalweg.optim.routing.heads import HEADS, Layer, last_layers

Role = Literal[
    "embedding",
    "tied head",
    "head",
    "norm",
    "bias",
    "scale",
    "router",
    "depthwise convolution",
    "convolution",
    "grouped convolution",
    "fused qkv",
    "recurrent",
    "experts",
    "hidden matrix",
]
ROLES: tuple[Role, ...] = get_args(Role)
# Whose matrix acts on hidden features as a whole: what rules of matrices are for.
MATRICES: tuple[Role, ...] = (
    "convolution",
    "grouped convolution",
    "fused qkv",
    "recurrent",
    "experts",
    "hidden matrix",
)
# Neither pulls features together nor takes them apart: decay would only move them off the scale they keep.
UNDECAYED: tuple[Role, ...] = ("norm", "bias", "scale")
_MAY_BE_LAST: tuple[Role, ...] = ("hidden matrix", "convolution")

_EMBEDDED = re.compile(r"embed|(^|_)pos(_|$)|position|(cls|class|mask|dist)_token|token(s)?$|registers?$|(^|_)w[tp]e$")
_BIAS = re.compile(r"(^|_)bias(es)?(_|$)")
_QKV = re.compile(r"(to_)?qkv(_proj)?|c_attn|in_proj_weight|Wqkv|queries_keys_values")
_INTERLEAVED = re.compile(r"query_key_value")
_ROUTERS = re.compile(r"gate|router|wg|gating")
_BY_ELEMENT = re.compile(r"A_log|dt_bias")  # of state space models
_GATES = {"LSTM": 4, "LSTMCell": 4, "GRU": 3, "GRUCell": 3, "RNN": 1, "RNNCell": 1}
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_SAID = "as you said"


@dataclass(frozen=True, eq=False)
class Part:
    """A parameter: its name, its role (None where nothing tells), why, and how it holds its matrices.

    `blocks` are settings of `Split`: how many equal stretches of rows or columns, or a stack.
    """

    name: str
    param: Tensor
    role: Role | None
    why: str
    blocks: Mapping[str, int | bool] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Use:
    """Where a parameter is. Of a parametrized one the module is that whose weight it makes."""

    param: Tensor
    full: str  # its name in the model
    module: nn.Module
    name: str  # within the module
    path: str  # of the module
    parent: nn.Module | None

    @property
    def kind(self) -> str:
        return type(self.module).__name__.removeprefix("Parametrized")

    @property
    def last(self) -> str:
        """The word that tells most: the parameter's own, or its module's where that is just `weight`."""
        return self.name if self.name != "weight" or not self.path else self.path.rpartition(".")[2]

    @property
    def near(self) -> list[str]:
        """The parameter's name, its module's and its parent's."""
        return [self.name, *self.path.split(".")[-2:]]

    @property
    def is_embedding(self) -> bool:
        return isinstance(self.module, nn.Embedding | nn.EmbeddingBag) or self.kind.endswith("Embedding")

    @property
    def is_transposed(self) -> bool:
        """Whether the weight is kept as (in, out), as transformers' Conv1D does."""
        return self.kind == "Conv1D"

    @property
    def is_vector(self) -> bool:
        return sum(size > 1 for size in self.param.shape) < 2

    @property
    def sides(self) -> tuple[int, int]:
        """(out, in) of a matrix."""
        out, into = self.param.shape[0], self.param.shape[1:].numel()
        if self.is_transposed:
            return into, out
        if isinstance(self.module, _ConvNd):
            return self.module.out_channels, self.module.in_channels
        return out, into


def roles_of(model: nn.Module, answers: Mapping[str, str] | None = None, *, headless: bool = False) -> list[Part]:
    """Each trained parameter of a model, once, with its role.

    Args:
        model: any module
        answers: roles by name, or by a pattern of names (`*.qkv.weight`); they go before all else
        headless: what may be the last layer and what may not is not asked, but taken for hidden

    Raises RoutingError for an answer that is no role, that no parameter goes by, or that cannot be.

    """
    uses = _uses(model)
    answers = dict(answers or {})
    _check(answers, [own[0].full for own in uses])
    parts = [_told(own[0], answers) or _part(own) for own in uses]
    layers = [
        Layer(
            use.full,
            use.path,
            *use.sides,
            is_norm=part.role == "norm",
            is_matrix=part.role in MATRICES or part.role in ("router", "head"),
            is_convolution=isinstance(use.module, _ConvNd),
            asked=part.role in _MAY_BE_LAST and part.why != _SAID,
        )
        for (use, *_), part in zip(uses, parts, strict=True)
        if use.param.dim() > 1 or part.role == "norm"
    ]
    found = last_layers(model, layers, headless=headless)
    decided = []
    for (use, *_), part in zip(uses, parts, strict=True):
        if part.name in found:
            role, why = found[part.name]
            part = replace(part, role=role, why=why, blocks={})
        if use.is_vector and part.role in MATRICES and part.why != _SAID:
            part = replace(part, role="scale", why="a single row", blocks={})
        decided.append(part)
    return decided


def _uses(model: nn.Module) -> list[list[_Use]]:
    """All places of each trained parameter, in the order of `named_parameters`."""
    modules = dict(model.named_modules())
    found: dict[int, list[_Use]] = {}
    for path, module in modules.items():
        for name, param in module._parameters.items():
            if param is None or not param.requires_grad:
                continue
            full = f"{path}.{name}".removeprefix(".")
            if isinstance(param, UninitializedParameter):
                raise RoutingError(
                    f"thalweg: every parameter must have a shape, got {full}, which is not initialized yet. "
                    "Run the model on a batch first."
                )
            owner, own_name, own_path = module, name, path
            if isinstance(module, ParametrizationList):  # layer.parametrizations.weight.original0
                own_path, _, own_name = path.replace(".parametrizations.", "\0").rpartition("\0")
                owner = modules[own_path]
            parent = modules.get(own_path.rpartition(".")[0]) if own_path else None
            found.setdefault(id(param), []).append(_Use(param, full, owner, own_name, own_path, parent))
    return list(found.values())


def _check(answers: Mapping[Any, Any], names: list[str]) -> None:
    for pattern, role in answers.items():
        if not isinstance(pattern, str) or not any(fnmatchcase(name, pattern) for name in names):
            raise RoutingError(
                f"thalweg: roles must name trained parameters of the model, got {pattern!r}, which none goes by. "
                f"{nearest(str(pattern), names)}"
            )
        if role not in ROLES:
            raise RoutingError(
                f"thalweg: a role must be one of {', '.join(ROLES)}, got {role!r} for {pattern!r}. "
                f"{nearest(str(role), ROLES)}"
            )


def _told(use: _Use, answers: Mapping[str, str]) -> Part | None:
    """The parameter with the role that the user says it has; a pattern of names leaves vectors as they are."""
    for pattern, said in answers.items():
        if not fnmatchcase(use.full, pattern):
            continue
        role: Role = said  # type: ignore[assignment]  # checked
        if role in MATRICES and use.is_vector and pattern != use.full:
            continue
        blocks = _blocks(use, role)
        if reason := _why_not(use, role, blocks):
            raise RoutingError(
                f"thalweg: {use.full} must be able to be {role}, got shape {tuple(use.param.shape)}: {reason}."
            )
        return Part(use.full, use.param, role, _SAID, blocks)
    return None


def _why_not(use: _Use, role: Role, blocks: Mapping[str, int | bool]) -> str | None:
    if role not in MATRICES:
        return None
    if use.param.dim() < 2:
        return "a matrix has two dimensions or more"
    if role == "experts" and use.param.dim() < 3:
        return "experts have a matrix each, so three dimensions"
    if role in ("recurrent", "grouped convolution") and not blocks and _GATES.get(use.kind) != 1:
        return f"{use.kind} does not say how many blocks there are"
    for name, count in blocks.items():
        dim = 1 if name == "column_blocks" else 0
        if name != "stacked" and use.param.shape[dim] % count:
            return f"{count} blocks do not divide it"
    return None


def _part(uses: list[_Use]) -> Part:
    use = uses[0]
    role, why = _tied(uses) or _by_module(use)
    return Part(use.full, use.param, role, why, _blocks(use, role))


def _tied(uses: list[_Use]) -> tuple[Role, str] | None:
    """What several modules hold, one of which looks it up, is the head too where another multiplies by it."""
    looked_up = [use for use in uses if use.is_embedding]
    others = [use for use in uses if not use.is_embedding]
    if looked_up and others:
        return "tied head", f"{others[0].path or 'the model'} shares it with {looked_up[0].path}"
    # What is shared is named where it is first, which need not be where it ends the model.
    ends = [use for use in uses[1:] if use.param.dim() > 1 and HEADS.fullmatch(use.path.rpartition(".")[2])]
    if ends:
        return "head", f"{ends[0].path} shares it"
    return None


def _by_module(use: _Use) -> tuple[Role | None, str]:
    kind = use.kind
    if isinstance(use.module, _NORMS) or kind.endswith("Norm") or ("Norm" in kind and use.is_vector):
        return "norm", f"in {kind}"
    if use.is_embedding:
        return "embedding", f"{kind} looks it up"
    if any(map(_EMBEDDED.search, use.near)) and use.param.dim() > 1:
        return "embedding", f"called {next(word for word in use.near if _EMBEDDED.search(word))}"
    if _BIAS.search(use.name):
        return "bias", f"of {kind}"
    if _BY_ELEMENT.fullmatch(use.name):
        return "scale", f"called {use.name}: acts element by element"
    if use.is_vector and not (use.param.dim() > 1 and _is_weight(use)):
        return "scale", "a vector" if use.param.dim() else "one number"
    if isinstance(use.module, _ConvNd):
        return _of_convolution(use.module)
    if isinstance(use.module, nn.MultiheadAttention) and use.name == "in_proj_weight":
        return "fused qkv", f"{kind} keeps Q, K and V in it"
    if kind in _GATES and use.name.startswith(("weight_ih", "weight_hh")):
        return "recurrent", f"{kind} has {_GATES[kind]} gates in it" if _GATES[kind] > 1 else f"of {kind}"
    if _is_router(use):
        return "router", "beside experts, chooses among them"
    if "expert" in use.full.lower() and use.param.dim() == 3:
        return "experts", "a matrix for each expert"
    if _INTERLEAVED.search(use.last):
        return None, "'fused qkv' if Q, K and V lie one after the other in it, 'hidden matrix' if head by head"
    if _QKV.fullmatch(use.last):
        return _of_qkv(use)
    if use.param.dim() == 2 and _is_weight(use):
        return "hidden matrix", f"of {kind}"
    return None, f"a parameter of its own in {kind}, of {use.param.dim()} dimensions"


def _of_convolution(module: _ConvNd) -> tuple[Role, str]:
    if module.groups == 1:
        return "convolution", f"of {type(module).__name__}"
    if module.groups in (module.in_channels, module.out_channels):
        return "depthwise convolution", "one filter for each channel: no matrix"
    return "grouped convolution", f"{module.groups} groups, each with a matrix of its own"


def _of_qkv(use: _Use) -> tuple[Role | None, str]:
    out, into = use.sides
    if out == 3 * into:
        return "fused qkv", f"called {use.last}, with three times as many rows as columns"
    return None, f"called {use.last}, but {out} rows are not 3 x {into}: 'hidden matrix' takes it as one"


def _blocks(use: _Use, role: Role | None) -> dict[str, int | bool]:
    """How a parameter holds its matrices, as settings of `Split`."""
    if role == "experts":
        return {"stacked": True}
    if role == "fused qkv":
        return {"column_blocks" if use.is_transposed else "row_blocks": 3}
    if role == "recurrent" and _GATES.get(use.kind, 1) > 1:
        return {"row_blocks": _GATES[use.kind]}
    if role == "grouped convolution" and isinstance(use.module, _ConvNd):
        return {"row_blocks": use.module.groups}
    return {}


def _is_weight(use: _Use) -> bool:
    """Whether it is what a module multiplies by: of a Linear, a convolution, or attention."""
    if isinstance(use.module, nn.MultiheadAttention):
        return use.name.endswith("weight")
    if use.kind in _GATES:
        return use.name.startswith("weight")
    known = isinstance(use.module, _ConvNd) or "Linear" in use.kind or use.is_transposed
    return known and use.name.startswith("weight")


def _is_router(use: _Use) -> bool:
    siblings = dict(use.parent.named_children()) if use.parent else {}
    named = _ROUTERS.fullmatch(use.last) and any("expert" in name.lower() for name in siblings)
    return bool(named) or "Router" in use.kind
