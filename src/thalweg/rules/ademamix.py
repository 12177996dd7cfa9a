"""AdEMAMix: AdamW with a second, much slower mean of the gradients added to the first.

    m_t = β₁ m_{t-1} + (1 - β₁) g_t                 m̂_t = m_t / (1 - β₁ᵗ)
    s_t = β₃(t) s_{t-1} + (1 - β₃(t)) g_t
    v_t = β₂ v_{t-1} + (1 - β₂) g_t²                v̂_t = v_t / (1 - β₂ᵗ)
    θ_t = (1 - ηλ) θ_{t-1} - η (m̂_t + α(t) s_t) / (√v̂_t + ε)

    α(t) = α min(1, t / T_α)        β₃(t) rises from β₁ to β₃ in T_β steps; its half-life grows linearly

Use: long training of language models: old gradients still help after thousands of steps.
Avoid: training with fewer than 1 / (1 - β₃) steps. Set both warm-ups to the number of training steps.
Source: Pagliardini, Ablin & Grangier 2024, arXiv:2409.03137, Algorithm 1 and section 3.1.
Departs: nothing.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.core.hyper import Range, Scalar, epsilon, hyper, learning_rate, mean_decay, square_decay
from thalweg.rules.core.records import record
from thalweg.rules.core.state import like_param
from thalweg.rules.math import decay, moments
from thalweg.rules.math.roots import root
from thalweg.rules.math.scalars import exp, log


@dataclass(frozen=True, kw_only=True)
class AdEMAMix(decay.Decoupled, scope="elementwise", corrects_bias=True):
    """AdamW with a second, much slower mean of the gradients added to the first."""

    lr: Scalar = learning_rate(1e-3)
    beta1: Scalar = mean_decay(0.9)
    beta2: Scalar = square_decay(0.999)
    beta3: Scalar = hyper(
        0.9999,
        "(0, 1)",
        symbol="β₃",
        search=Range(0.99, 0.9999, "log-to-one"),
        doc="decay of the slow mean gradient",
        keyword="betas",
    )
    alpha: Scalar = hyper(5.0, ">= 0", symbol="α", search=Range(1.0, 10.0, "log"), doc="weight of the slow mean")
    alpha_warmup: Scalar = hyper(0, ">= 0", symbol="T_α", unit="steps", doc="warm-up of α")
    beta3_warmup: Scalar = hyper(0, ">= 0", symbol="T_β", unit="steps", doc="warm-up of β₃")
    eps: Scalar = epsilon(1e-8)
    weight_decay: Scalar = decay.shrinkage()

    class State:
        m = like_param(unit="g", key="exp_avg")
        s = like_param(unit="g", key="exp_avg_slow")
        v = like_param(unit="g²", key="exp_avg_sq")

    def coefficients(self, step: int) -> Any:
        alpha = self.alpha * (min(1.0, step / self.alpha_warmup) if self.alpha_warmup else 1.0)
        beta3 = self._beta3(step)
        return record(
            **moments.coefficients(self, step),
            beta3=beta3,
            fresh3=1 - beta3,
            alpha=alpha,
            shrink=decay.shrink(self),
        )

    def _beta3(self, step: int) -> Any:
        if step >= self.beta3_warmup or self.beta1 == 0:
            return self.beta3
        share, first, last = step / self.beta3_warmup, log(self.beta1), log(self.beta3)
        return min(exp(first * last / ((1 - share) * last + share * first)), self.beta3)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        m = c.beta1 * state.m + c.fresh1 * grad
        s = c.beta3 * state.s + c.fresh3 * grad
        v = c.beta2 * state.v + c.fresh2 * (grad * grad)
        d = (c.m_correct * m + c.alpha * s) / (c.root_v_correct * root(v) + c.eps)
        return d, state._replace(m=m, s=s, v=v)
