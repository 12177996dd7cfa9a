"""Moments: the scalars of Adam's two running means, which most of its kin share."""

from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import Scalar
from thalweg.rules.math.roots import root


def scalars(rule: Any, step: int) -> dict[str, Scalar]:
    """The learning rate, ε, and what the means of gradients and of their squares need at a step.

    `m_correct` is 1 / (1 - β₁ᵗ), `root_v_correct` is 1 / √(1 - β₂ᵗ).
    """
    return {
        "lr": rule.lr,
        "beta1": rule.beta1,
        "beta2": rule.beta2,
        "fresh1": 1 - rule.beta1,
        "fresh2": 1 - rule.beta2,
        "m_correct": 1 / (1 - rule.beta1**step),
        "root_v_correct": 1 / (1 - rule.beta2**step) ** 0.5,
        "eps": rule.eps,
    }


def direction(g: Tensor, state: Any, c: Any) -> Any:
    """m̂ / (√v̂ + ε), and the new state; divided by the largest v so far if the state remembers that (`vmax`)."""
    m = c.beta1 * state.m + c.fresh1 * g
    v = c.beta2 * state.v + c.fresh2 * (g * g)
    state = state._replace(m=m, v=v)
    if "vmax" in state._fields:
        v = torch.maximum(state.vmax, v)
        state = state._replace(vmax=v)
    return (c.m_correct * m) / (c.root_v_correct * root(v) + c.eps), state
