"""Role: the use that a model makes of a parameter."""

from typing import Literal, get_args

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
# Roles of matrices from hidden features to hidden features, for which matrix rules are made.
MATRIX_ROLES: tuple[Role, ...] = (
    "convolution",
    "grouped convolution",
    "fused qkv",
    "recurrent",
    "experts",
    "hidden matrix",
)
# Roles without a matrix. Decay would only move these parameters off the scale that they keep.
UNDECAYED_ROLES: tuple[Role, ...] = ("norm", "bias", "scale")

Conclusion = tuple[Role | None, str]  # a role, or None if it is ambiguous, and the reason
