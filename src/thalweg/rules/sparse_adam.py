"""SparseAdam: Adam for sparse gradients, which moves only the elements that the gradient holds.

    m_t = β₁ m_{t-1} + (1 - β₁) g_t
    v_t = β₂ v_{t-1} + (1 - β₂) g_t²
    θ_t = θ_{t-1} - η m_t √(1 - β₂ᵗ) / (1 - β₁ᵗ) / (√v_t + ε)

Elements that a sparse gradient does not hold keep θ, m and v; t counts the steps of the whole parameter.

Use: large embeddings with `sparse=True`: a step costs as much as the rows of the batch, not as the whole table.
Avoid: dense gradients: Adam does the same at ε √(1 - β₂ᵗ). Momentum does not go on in rows that a batch leaves out.
Source: torch.optim.SparseAdam; Kingma & Ba 2015, arXiv:1412.6980, Section 2, the order of computation with ε̂.
Departs: dense gradients are accepted: they hold all elements.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.core.hyper import Scalar, epsilon, learning_rate, mean_decay, square_decay
from thalweg.rules.core.records import record
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import like_param
from thalweg.rules.math import moments


@dataclass(frozen=True, kw_only=True)
class SparseAdam(Rule, scope="elementwise", corrects_bias=True, supports_sparse=True, lazy_sparse=True):
    """Adam for sparse gradients, which moves only the elements that the gradient holds."""

    lr: Scalar = learning_rate(1e-3)
    beta1: Scalar = mean_decay(0.9)
    beta2: Scalar = square_decay(0.999)
    eps: Scalar = epsilon(1e-8)

    class State:
        m = like_param(unit="g", key="exp_avg")
        v = like_param(unit="g²", key="exp_avg_sq")

    def coefficients(self, step: int) -> Any:
        scalars = moments.coefficients(self, step)
        # ε is added to √v, before √v is corrected for its bias.
        return record(**scalars | {"eps": scalars["root_v_correct"] * scalars["eps"]})

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        return moments.direction(grad, state, c)
