"""Prodigy: AdamW whose learning rate is an estimate of the distance to the solution; faster than D-Adaptation.

    r_t = β₃ r_{t-1} + d_{t-1}² / d_0 η' ⟨g_t, θ_0 - θ_{t-1}⟩        sums over the whole model
    m_t = β₁ m_{t-1} + (1 - β₁) d_{t-1} g_t
    v_t = β₂ v_{t-1} + (1 - β₂) d_{t-1}² g_t²
    s_t = β₃ s_{t-1} + d_{t-1}² / d_0 η g_t
    D_t = κ r_t / ‖s_t‖₁        d_t = min(max of all D so far, d_{t-1} G)
    θ_t = (1 - d_{t-1} η λ) θ_{t-1} - d_{t-1} η m_t / (√v_t + d_t ε)

d and r are of the whole model. η is the learning rate of the parameter's group, η' the highest of all groups. The sums
cover all parameters with a gradient in groups with η > 0. A group at η = 0 is left out and does not move.

Use: training with AdamW without tuning a learning rate. Let η follow a schedule from 1 to near zero.
Avoid: β₂ far from 1, since β₂ also sets the memory of the estimate; gradients clipped by an absolute norm.
Source: Mishchenko & Defazio 2023, arXiv:2306.06101, Algorithm 4.
Departs: it follows the authors' package `prodigyopt` 1.1 with use_bias_correction=False and safeguard_warmup=False. β₃
= 0 stands for √β₂. `prodigyopt` refuses groups with several learning rates above 0; here a group at ρη' takes the steps
that it would take at η' with its parameters in units ρ times as large.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import Range, Scalar, epsilon, hyper, learning_rate, mean_decay, square_decay
from thalweg.rules.core.records import record
from thalweg.rules.core.reductions import Sum
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import copy_of_param, like_param, of_shape
from thalweg.rules.math import decay
from thalweg.rules.math.distance_estimate import counts_in_sums, initial_distance, max_growth, mean_weights
from thalweg.rules.math.roots import root
from thalweg.rules.math.scalars import sqrt


@dataclass(frozen=True, kw_only=True)
class Prodigy(
    Rule,
    scope="model",
    lr_in_state=True,
    estimates_lr=True,
    has_shared_state=True,
    shared_settings=("beta2", "beta3", "d0", "d_coef", "growth_rate"),
    uses_model_lr=True,
):
    """AdamW whose learning rate is an estimate of the distance to the solution; faster than D-Adaptation."""

    lr: Scalar = learning_rate(1.0, low=0.1, high=10.0, unit="1")
    beta1: Scalar = mean_decay(0.9)
    beta2: Scalar = square_decay(0.999)
    beta3: Scalar = hyper(0.0, "[0, 1)", symbol="β₃", doc="decay of the sums of the estimate; 0: √β₂")
    d0: Scalar = initial_distance()
    d_coef: Scalar = hyper(1.0, "> 0", symbol="κ", search=Range(0.5, 2.0, "log"), doc="factor of the estimate")
    growth_rate: Scalar = max_growth()
    eps: Scalar = epsilon(1e-8)
    weight_decay: Scalar = decay.shrinkage(doc="shrinks the parameter by dηλ per step", place=decay.IN_STEP)

    class State:
        m = like_param(unit="θg", key="exp_avg")
        v = like_param(unit="θ²g²", key="exp_avg_sq")
        s = like_param(unit="θg", key="s")
        start = copy_of_param(key="p0")
        d = of_shape(unit="θ", key="d", fill=lambda rule: rule.d0, shared=True)
        d_max = of_shape(unit="θ", key="d_max", fill=lambda rule: rule.d0, shared=True)
        r = of_shape(unit="θ²g", key="d_numerator", shared=True)

    def coefficients(self, step: int) -> Any:
        counts = counts_in_sums(self.lr)
        beta3 = self.beta3 if self.beta3 else sqrt(self.beta2)
        beta1, fresh1 = mean_weights(self.beta1, counts)
        beta2, fresh2 = mean_weights(self.beta2, counts)
        return record(
            lr=self.lr,
            counts=counts,
            over_d0=1 / self.d0,
            d0=self.d0,
            beta1=beta1,
            fresh1=fresh1,
            beta2=beta2,
            fresh2=fresh2,
            beta3=beta3,
            s_keep=beta3 if counts else 1.0,
            d_coef=self.d_coef,
            growth_rate=self.growth_rate,
            eps=self.eps,
            weight_decay=self.weight_decay,
        )

    def model_settings(self) -> dict[str, Any]:
        settings = super().model_settings()
        if self.beta3:  # then β₂ enters nothing of the model
            del settings["beta2"]
        return settings

    def model_coefficients(self, step: int, model_lr: float) -> dict[str, Any]:
        return {"model_lr": model_lr}

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Generator[Any, Any, Any]:
        square = state.d * c.over_d0 * state.d
        product = yield Sum(c.counts * grad * (state.start - param), over="model")
        r = c.beta3 * state.r + square * c.model_lr * product
        scaled = state.d * grad
        m = c.beta1 * state.m + c.fresh1 * scaled
        v = c.beta2 * state.v + c.fresh2 * (scaled * scaled)
        s = c.s_keep * state.s + square * c.lr * grad
        norm = yield Sum(c.counts * s.abs(), over="model")
        estimate = torch.where(norm > 0, c.d_coef * r / norm, state.d)
        # The limit of the growth does not apply until the estimate has left its first value.
        d = torch.where(state.d == c.d0, torch.maximum(state.d, estimate), state.d)
        d_max = torch.maximum(state.d_max, estimate)
        # Before the first gradient, and if no group counts, nothing moves and nothing of the model changes.
        d = torch.where(norm > 0, torch.minimum(d_max, d * c.growth_rate), state.d)
        r = torch.where(norm > 0, r, state.r)
        factor = torch.where(norm > 0, state.d, torch.zeros_like(state.d))
        direction = factor * (m / (root(v) + d * c.eps) + c.weight_decay * param)
        return direction, state._replace(m=m, v=v, s=s, d=d, d_max=d_max, r=r)
