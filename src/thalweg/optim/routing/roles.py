"""Roles: what each parameter of a model is for, told from the modules that hold it, from ties, shapes and names.

What the type of a module says comes first, what a name says last. What nothing tells is left open, to be asked.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import ParametrizationList

from thalweg.errors import RoutingError, nearest

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

# Names that a last layer has wherever it is, and those it has as a part of the model itself.
_HEADS = re.compile(r"(\w+_)?heads?(_\w+)?|classifier|qa_outputs|unembed(ding)?")
_HEADS_OF_MODEL = re.compile(r"fc(_out)?|cls|logits|score|(out|output)(s|_layer|_proj)?|proj_out|readout|predictions?")
_EMBEDDED = re.compile(r"embed|(^|_)pos(_|$)|position|(cls|class|mask|dist)_token|token(s)?$|registers?$|(^|_)w[tp]e$")
_QKV = re.compile(r"(to_)?qkv|c_attn|in_proj_weight|Wqkv|qkv_proj")
_INTERLEAVED = re.compile(r"query_key_value")
_ROUTERS = re.compile(r"gate|router|wg|gating")
_GATES = {"LSTM": 4, "LSTMCell": 4, "GRU": 3, "GRUCell": 3, "RNN": 1, "RNNCell": 1}
_SAID = "as you said"
_BY_ELEMENT = re.compile(r"A_log|dt_bias")  # of state space models


@dataclass(frozen=True)
class Part:
    """A parameter: its name, its role (None where nothing tells), why, and how it holds its matrices.

    `blocks` are settings of `Split`: how many equal stretches of rows or columns, or a stack.
    """

    name: str
    param: Tensor
    role: Role | None
    why: str
    blocks: Mapping[str, int | bool]


@dataclass(frozen=True)
class _Use:
    """Where a parameter is: the module that holds it, under which name, in which module of the tree."""

    module: nn.Module
    name: str  # within the module
    path: str  # of the module, in the model
    parent: nn.Module | None

    @property
    def full(self) -> str:
        return f"{self.path}.{self.name}".removeprefix(".")

    @property
    def words(self) -> list[str]:
        return self.full.split(".")

    @property
    def last(self) -> str:
        """The word that tells most: the parameter's own, or its module's where that is just `weight`."""
        own = self.name
        return own if own != "weight" or not self.path else self.path.rpartition(".")[2]

    @property
    def repeated(self) -> bool:
        """Whether it is a part of one of many alike: its module is in a numbered one."""
        return any(word.isdigit() for word in self.words[:-2])


def roles_of(model: nn.Module, answers: Mapping[str, str] | None = None, *, headless: bool = False) -> list[Part]:
    """Each trained parameter of a model, once, with its role.

    Args:
        model: any module
        answers: roles by name, or by a pattern of names (`*.qkv.weight`); they go before all else
        headless: the model has no last layer of its own, so none is looked for

    Raises RoutingError for an answer that is no role, or that no parameter goes by.

    """
    uses = _uses(model)
    parts = [_told(own, answers or {}) or _part(own) for own in uses]
    _check_answers(answers or {}, [own[0].full for own in uses])
    # transformers' models without a last layer are called base models.
    headless = headless or getattr(model, "base_model", None) is model
    if headless or any(part.role in ("head", "tied head") for part in parts):
        return parts
    head, why = _head(model, [own[0] for own in uses], parts)
    if head is not None:
        return [replace(part, role="head", why=why, blocks={}) if part.name in head else part for part in parts]
    return [
        replace(part, role=None, why="it may be the head: nothing tells which layer is the last")
        if part.role in ("hidden matrix", "convolution") and part.why != _SAID and not own[0].repeated
        else part
        for part, own in zip(parts, uses, strict=True)
    ]


def _uses(model: nn.Module) -> list[list[_Use]]:
    """All places of each trained parameter, in the order of `named_parameters`."""
    modules = dict(model.named_modules(remove_duplicate=False))
    found: dict[int, list[_Use]] = {}
    for path, module in modules.items():
        for name, param in module._parameters.items():
            if param is not None and param.requires_grad:
                parent = modules.get(path.rpartition(".")[0]) if path else None
                found.setdefault(id(param), []).append(_Use(module, name, path, parent))
    return list(found.values())


def _told(uses: list[_Use], answers: Mapping[str, str]) -> Part | None:
    """The parameter with the role that the user says it has."""
    for pattern, role in answers.items():
        if any(fnmatchcase(use.full, pattern) for use in uses):
            if role not in get_args(Role):
                raise RoutingError(
                    f"thalweg: a role must be one of {', '.join(get_args(Role))}, got {role!r} for {pattern!r}. "
                    f"{nearest(role, get_args(Role))}"
                )
            use = uses[0]
            param = use.module._parameters[use.name]
            assert param is not None
            blocks = _blocks(use, param, role)  # type: ignore[arg-type]  # checked above
            return Part(use.full, param, role, _SAID, blocks)  # type: ignore[arg-type]
    return None


def _check_answers(answers: Mapping[str, str], names: list[str]) -> None:
    for pattern in answers:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise RoutingError(
                f"thalweg: roles must name parameters of the model, got {pattern!r}, which none goes by. "
                f"{nearest(pattern, names)}"
            )


def _part(uses: list[_Use]) -> Part:
    use = uses[0]
    param = use.module._parameters[use.name]
    assert param is not None
    role, why = _tied(uses) or _by_module(use, param)
    return Part(use.full, param, role, why, _blocks(use, param, role))


def _tied(uses: list[_Use]) -> tuple[Role, str] | None:
    """What several modules hold, one of which looks it up, is the head too where another multiplies by it."""
    looked_up = [use for use in uses if _is_embedding(use)]
    others = [use for use in uses if not _is_embedding(use)]
    if looked_up and others:
        return "tied head", f"{others[0].path or 'the model'} shares it with {looked_up[0].path}"
    return None


def _by_module(use: _Use, param: Tensor) -> tuple[Role | None, str]:
    kind = type(use.module).__name__
    if isinstance(use.module, _NormBase | nn.LayerNorm | nn.GroupNorm | nn.RMSNorm) or "Norm" in kind:
        return "norm", f"in {kind}"
    if _is_embedding(use):
        return "embedding", f"{kind} looks it up"
    if _EMBEDDED.search(use.last) and kind not in ("Linear", "Conv1D"):
        return "embedding", f"called {use.last}"
    if sum(size > 1 for size in param.shape) < 2:
        if "bias" in use.name:
            return "bias", f"of {kind}"
        if param.dim() < 2 or not isinstance(use.module, nn.Linear | _ConvNd):
            return "scale", "a vector" if param.dim() else "one number"
    if isinstance(use.module, _ConvNd):
        return _of_convolution(use, use.module)
    if isinstance(use.module, nn.MultiheadAttention) and use.name == "in_proj_weight":
        return "fused qkv", f"{kind} keeps Q, K and V in it"
    if kind in _GATES and use.name.startswith(("weight_ih", "weight_hh")):
        return "recurrent", f"{kind} has {_GATES[kind]} gates in it" if _GATES[kind] > 1 else f"of {kind}"
    if _is_router(use):
        return "router", "beside experts, chooses among them"
    if "expert" in use.full.lower() and param.dim() == 3:
        return "experts", "a matrix for each expert"
    if _BY_ELEMENT.fullmatch(use.name):
        return "scale", f"called {use.name}: acts element by element"
    if _INTERLEAVED.search(use.last):
        return None, "'fused qkv' if Q, K and V lie one after the other in it, 'hidden matrix' if head by head"
    if _QKV.fullmatch(use.last):
        return _of_qkv(use, param)
    if _is_linear(use) or (kind == "MultiheadAttention" and param.dim() == 2) or use.name.startswith("weight_hr"):
        return "hidden matrix", f"of {kind}"
    return None, f"a parameter of its own in {kind}, of {param.dim()} dimensions"


def _of_convolution(use: _Use, module: _ConvNd) -> tuple[Role, str]:
    if any(_EMBEDDED.search(word) for word in use.words):
        return "embedding", "a convolution that embeds patches, by its name"
    if module.groups == 1:
        return "convolution", f"of {type(module).__name__}"
    if module.groups == module.in_channels or module.groups == module.out_channels:
        return "depthwise convolution", "one filter for each channel: no matrix"
    return "grouped convolution", f"{module.groups} groups, each with a matrix of its own"


def _of_qkv(use: _Use, param: Tensor) -> tuple[Role | None, str]:
    out, into = _sides(use, param)
    if out == 3 * into:
        return "fused qkv", f"called {use.last}, with three times as many rows as columns"
    return None, f"called {use.last}, but {out} rows are not 3 x {into}: 'hidden matrix' takes it as one"


def _blocks(use: _Use, param: Tensor, role: Role | None) -> dict[str, int | bool]:
    """How a parameter holds its matrices, as settings of `Split`."""
    kind = type(use.module).__name__
    if role == "experts":
        return {"stacked": True}
    if role == "fused qkv":
        return {"column_blocks" if _is_transposed(use) else "row_blocks": 3}
    if role == "recurrent" and _GATES.get(kind, 1) > 1:
        return {"row_blocks": _GATES[kind]}
    if role == "grouped convolution" and isinstance(use.module, _ConvNd):
        return {"row_blocks": use.module.groups}
    return {}


def _is_embedding(use: _Use) -> bool:
    return isinstance(use.module, nn.Embedding | nn.EmbeddingBag) or type(use.module).__name__.endswith("Embedding")


def _is_transposed(use: _Use) -> bool:
    """Whether the weight is kept as (in, out), as transformers' Conv1D does."""
    return type(use.module).__name__ == "Conv1D" and not isinstance(use.module, _ConvNd)


def _is_linear(use: _Use) -> bool:
    holder = use.parent if isinstance(use.module, ParametrizationList) else use.module
    if isinstance(use.module, ParametrizationList):  # model.layer.parametrizations.weight.original1
        return True
    return isinstance(holder, nn.Linear) or "Linear" in type(holder).__name__ or _is_transposed(use)


def _is_router(use: _Use) -> bool:
    if "Router" in type(use.module).__name__:
        return True
    siblings = dict(use.parent.named_children()) if use.parent else {}
    return bool(_ROUTERS.fullmatch(use.last)) and any("expert" in name.lower() for name in siblings)


def _sides(use: _Use, param: Tensor) -> tuple[int, int]:
    """(out, in) of a matrix."""
    return (param.shape[1], param.shape[0]) if _is_transposed(use) else (param.shape[0], param.shape[1:].numel())


def _head(model: nn.Module, uses: list[_Use], parts: list[Part]) -> tuple[set[str] | None, str]:
    """The parameters of the last layer, and how that is known."""
    matrices = {
        use.full: use
        for use, part in zip(uses, parts, strict=True)
        if part.role in ("hidden matrix", "convolution") and part.why != _SAID
    }
    if not matrices:
        return set(), ""
    declared = getattr(model, "get_output_embeddings", lambda: None)
    try:
        last = declared()
    except (NotImplementedError, AttributeError):
        last = None
    if found := {name for name, use in matrices.items() if use.module is last}:
        return found, "the model calls it its output embeddings"
    if found := {use.full for use in _end_of_sequence(model) if use.full in matrices}:
        return found, "the last layer of a Sequential"
    if found := {name for name, use in matrices.items() if _named_head(use)}:
        return _last_of_sequences(model, found), "called so"
    sizes = {use.module.num_embeddings for use in uses if isinstance(use.module, nn.Embedding)}
    outside = [name for name, use in matrices.items() if not use.repeated]
    if found := {name for name in outside if _sides(matrices[name], _weight(matrices[name]))[0] in sizes}:
        return found, "as many rows as the embedding"
    if len(outside) == 1 and outside[0] == list(matrices)[-1] and len(matrices) > 1:
        return set(outside), "the only matrix outside the repeated blocks, and the last"
    return None, ""


def _weight(use: _Use) -> Tensor:
    param = use.module._parameters[use.name]
    assert param is not None
    return param


def _end_of_sequence(model: nn.Module) -> Iterator[_Use]:
    """The weights of the last layer that has any, of a model that is a Sequential to the end."""
    module, path = model, ""
    while isinstance(module, nn.Sequential) and len(module):
        named = [(name, child) for name, child in module.named_children() if any(True for _ in child.parameters())]
        if not named:
            return
        name, module = named[-1]
        path = f"{path}.{name}".removeprefix(".")
    if path and not list(module.children()):
        for name in module._parameters:
            yield _Use(module, name, path, None)


def _named_head(use: _Use) -> bool:
    for depth, word in enumerate(use.words[:-1]):
        if word.isdigit():
            return False  # in one of many alike
        if _HEADS.fullmatch(word) or (depth == 0 and _HEADS_OF_MODEL.fullmatch(word)):
            return True
    return False


def _last_of_sequences(model: nn.Module, names: set[str]) -> set[str]:
    """Without those that a Sequential, called a head, has before its last layer."""
    for path, module in model.named_modules():
        if isinstance(module, nn.Sequential) and path and _HEADS.fullmatch(path.rpartition(".")[2]):
            last = {f"{path}.{use.full}" for use in _end_of_sequence(module)}
            inside = {name for name in names if name.startswith(f"{path}.")}
            names = (names - inside) | (last & inside)
    return names
