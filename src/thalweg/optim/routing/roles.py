"""Roles: the role of each parameter of a model, from modules, sharing, shapes, names and the user's answers.

The type of a module is the most certain evidence, a name the least. A role that nothing shows stays open: the plan asks
the user. A doubtful matrix is no hidden one, since a matrix rule harms a head more than the other rule harms a hidden
matrix.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from thalweg.errors import RoutingError, nearest, shown
from thalweg.optim.routing import module_evidence
from thalweg.optim.routing.heads import HEAD_NAMES, Layer, last_layers
from thalweg.optim.routing.parameter_use import NUM_GATES, ParameterUse, uses_of_parameters
from thalweg.optim.routing.role import MATRIX_ROLES, ROLES, Conclusion, Role
from thalweg.optim.routing.wrapped_modules import clean_name

_POSSIBLE_HEADS: tuple[Role, ...] = ("hidden matrix", "convolution")

Blocks = Mapping[str, int | bool]  # settings of `Split`: a number of equal blocks of rows or columns, or a stack


@dataclass(frozen=True, eq=False)
class ParameterRole:
    """The role of a parameter.

    Attributes:
        name: The name of the parameter in the model.
        param: The parameter.
        role: The role, or None if it is ambiguous.
        why: The evidence for the role, or the possible answers.
        blocks: The matrices that the parameter holds, as settings of ``Split``.
        is_answer: True if the user has given the role.
    """

    name: str
    param: Tensor
    role: Role | None
    why: str
    blocks: Blocks = field(default_factory=dict)
    is_answer: bool = False


def roles_of(
    model: nn.Module, answers: Mapping[str, str] | None = None, *, headless: bool = False
) -> list[ParameterRole]:
    """Return the role of each parameter of a model that can be trained.

    Args:
        model: The model.
        answers: Roles by name or by pattern of names (``*.qkv.weight``), which override all evidence.
        headless: True if the model has no last layer. Then a matrix that may be one is a hidden matrix.

    Returns:
        Each parameter once, in the order of ``named_parameters``.

    Raises:
        RoutingError: If an answer is not a role, names no parameter or does not fit its parameter, or if a parameter
            is not initialized.
    """
    uses_by_param = uses_of_parameters(model)
    if answers is not None and not isinstance(answers, Mapping):
        raise RoutingError(f"route: roles must be a dictionary from names to roles, got {shown(answers)}.")
    answers = {
        clean_name(model, name) if isinstance(name, str) else name: role for name, role in dict(answers or {}).items()
    }
    _check_answers(answers, [uses[0].full_name for uses in uses_by_param])
    roles = [_from_answers(uses[0], answers) or _from_evidence(uses) for uses in uses_by_param]
    layers = [_layer(uses[0], role) for uses, role in zip(uses_by_param, roles, strict=True) if _is_layer(role)]
    heads = last_layers(model, layers, headless=headless)
    return [_final(uses[0], role, heads.get(role.name)) for uses, role in zip(uses_by_param, roles, strict=True)]


def _is_layer(role: ParameterRole) -> bool:
    return role.param.dim() > 1 or role.role == "norm"


def _layer(use: ParameterUse, role: ParameterRole) -> Layer:
    return Layer(
        use.full_name,
        use.path,
        *use.sides,
        is_norm=role.role == "norm",
        is_matrix=role.role in MATRIX_ROLES or role.role in ("router", "head"),
        is_convolution=isinstance(use.module, _ConvNd),
        may_be_head=role.role in _POSSIBLE_HEADS and not role.is_answer,
    )


def _final(use: ParameterUse, role: ParameterRole, head: Conclusion | None) -> ParameterRole:
    """Return a role with the conclusion whether the parameter is a head, and without matrices of a single row."""
    if head is not None:
        role = replace(role, role=head[0], why=head[1], blocks={})
    if use.is_vector and role.role in MATRIX_ROLES and not role.is_answer:
        role = replace(role, role="scale", why="a single row", blocks={})
    return role


def _check_answers(answers: Mapping[Any, Any], names: list[str]) -> None:
    for pattern, role in answers.items():
        if not isinstance(pattern, str) or not any(fnmatchcase(name, pattern) for name in names):
            raise RoutingError(
                f"route: roles must name parameters of the model, got {shown(pattern)}, which matches none. "
                f"{nearest(pattern, names)}"
            )
        if not isinstance(role, str) or role not in ROLES:
            raise RoutingError(
                f"route: a role must be one of {', '.join(ROLES)}, got {shown(role)} for {pattern!r}. "
                f"{nearest(role, ROLES)}"
            )


def _from_answers(use: ParameterUse, answers: Mapping[str, str]) -> ParameterRole | None:
    """Return the role that the user has given, if any. A pattern of names does not make a vector a matrix."""
    for pattern, answer in answers.items():
        if not fnmatchcase(use.full_name, pattern):
            continue
        role: Role = answer  # type: ignore[assignment]  # _check_answers has checked it
        if role in MATRIX_ROLES and use.is_vector and pattern != use.full_name:
            continue
        blocks = _blocks(use, role)
        if reason := _unfit_reason(use, role, blocks):
            raise RoutingError(
                f"route: {use.full_name} must fit the role {role}, got shape {tuple(use.param.shape)}: {reason}."
            )
        return ParameterRole(use.full_name, use.param, role, "given in roles", blocks, is_answer=True)
    return None


def _unfit_reason(use: ParameterUse, role: Role, blocks: Blocks) -> str | None:
    """Return why a parameter cannot have a role, or None if it can."""
    if role not in MATRIX_ROLES:
        return None
    if use.param.dim() < 2:
        return "a matrix has two dimensions or more"
    if role == "experts" and use.param.dim() < 3:
        return "experts have a matrix each, so three dimensions"
    if role in ("recurrent", "grouped convolution") and not blocks and NUM_GATES.get(use.kind) != 1:
        return f"{use.kind} does not say how many blocks there are"
    for name, count in blocks.items():
        dim = 1 if name == "column_blocks" else 0
        if name != "stacked" and use.param.shape[dim] % count:
            return f"{count} blocks do not divide it"
    return None


def _from_evidence(uses: list[ParameterUse]) -> ParameterRole:
    use = uses[0]
    role, why = _from_sharing(uses) or module_evidence.conclude(use)
    return ParameterRole(use.full_name, use.param, role, why, _blocks(use, role))


def _from_sharing(uses: list[ParameterUse]) -> Conclusion | None:
    """Return the role of a parameter that several modules share, if the sharing shows it."""
    embeddings = [use for use in uses if use.is_embedding]
    multiplications = [use for use in uses if not use.is_embedding]
    if embeddings and multiplications:
        return "tied head", f"{multiplications[0].path or 'the model'} shares it with {embeddings[0].path}"
    # A shared parameter has the name of its first use, which need not be the one that ends the model.
    heads = [use for use in uses[1:] if use.param.dim() > 1 and HEAD_NAMES.fullmatch(use.path.rpartition(".")[2])]
    if heads:
        return "head", f"{heads[0].path} shares it"
    return None


def _blocks(use: ParameterUse, role: Role | None) -> dict[str, int | bool]:
    """Return the matrices that a parameter holds, as settings of `Split`."""
    if role == "experts":
        return {"stacked": True}
    if role == "fused qkv":
        return {"column_blocks" if use.is_transposed else "row_blocks": 3}
    if role == "recurrent" and NUM_GATES.get(use.kind, 1) > 1:
        return {"row_blocks": NUM_GATES[use.kind]}
    if role == "grouped convolution" and isinstance(use.module, _ConvNd):
        return {"row_blocks": use.module.groups}
    return {}
