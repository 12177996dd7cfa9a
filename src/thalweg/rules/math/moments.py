"""Moments: the two running means of Adam, which most of its relatives share."""

from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import Scalar
from thalweg.rules.core.records import Record
from thalweg.rules.math.roots import root
from thalweg.rules.math.scalars import sqrt


def coefficients(rule: Any, step: int) -> dict[str, Scalar]:
    """Return the scalars of a step: the learning rate, ε, and those of the mean gradient and the mean square.

    `m_correct` is 1 / (1 - β₁ᵗ), `root_v_correct` is 1 / √(1 - β₂ᵗ).
    """
    return {
        "lr": rule.lr,
        "beta1": rule.beta1,
        "beta2": rule.beta2,
        "fresh1": 1 - rule.beta1,
        "fresh2": 1 - rule.beta2,
        "m_correct": 1 / (1 - rule.beta1**step),
        "root_v_correct": 1 / sqrt(1 - rule.beta2**step),
        "eps": rule.eps,
    }


def direction(g: Tensor, state: Any, c: Any) -> tuple[Tensor, Record]:
    """Return m̂ / (√v̂ + ε) and the new state. If the state has `vmax`, the largest v so far takes the place of v."""
    m = c.beta1 * state.m + c.fresh1 * g
    v = c.beta2 * state.v + c.fresh2 * (g * g)
    state = state._replace(m=m, v=v)
    if "vmax" in state._fields:
        v = torch.maximum(state.vmax, v)
        state = state._replace(vmax=v)
    return (c.m_correct * m) / (c.root_v_correct * root(v) + c.eps), state
