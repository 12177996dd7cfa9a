"""NovoGrad: momentum of gradients, each divided by a running norm of its tensor.

    v_t = β₂ v_{t-1} + (1 - β₂) ‖g_t‖²            v_1 = ‖g_1‖²
    m_t = β₁ m_{t-1} + g_t / (√v_t + ε) + λ θ_{t-1}
    θ_t = θ_{t-1} - η m_t

Use: speech models and other convolutional models: it allows a high learning rate without warm-up, with SGD's memory.
Avoid: tensors whose elements differ much in scale: embeddings.
Source: Ginsburg et al. 2019, arXiv:1905.11286, Algorithm 1.
Departs: the state holds √v.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.core.hyper import Range, Scalar, epsilon, hyper, learning_rate, mean_decay, square_decay
from thalweg.rules.core.records import record
from thalweg.rules.core.reductions import Norm
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import like_param, of_shape
from thalweg.rules.math.roots import hypot
from thalweg.rules.math.scalars import sqrt


@dataclass(frozen=True, kw_only=True)
class NovoGrad(Rule, scope="tensor"):
    """Momentum of gradients, each divided by a running norm of its tensor."""

    lr: Scalar = learning_rate(1e-3)
    beta1: Scalar = mean_decay(0.95)
    beta2: Scalar = square_decay(0.98)
    eps: Scalar = epsilon(1e-8)
    weight_decay: Scalar = hyper(
        0.0,
        ">= 0",
        symbol="λ",
        unit="1/θ",
        search=Range(1e-4, 1.0, "log"),
        moves_optimum=True,
        doc="λθ is added to the scaled gradient",
        place="added to the scaled gradient",
    )

    class State:
        m = like_param(unit="1", key="exp_avg")
        norm = of_shape(unit="g", key="exp_avg_norm")  # √v: the square of a norm leaves the range of float32 early

    def coefficients(self, step: int) -> Any:
        keep = self.beta2 if step > 1 else 0.0
        return record(
            lr=self.lr,
            beta1=self.beta1,
            root_keep=sqrt(keep),
            root_fresh=sqrt(1 - keep),
            eps=self.eps,
            weight_decay=self.weight_decay,
        )

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Generator[Any, Any, Any]:
        norm = hypot(c.root_keep * state.norm, c.root_fresh * (yield Norm(grad)))
        m = c.beta1 * state.m + (grad * (norm + c.eps).reciprocal() + c.weight_decay * param)
        return m, state._replace(m=m, norm=norm)
