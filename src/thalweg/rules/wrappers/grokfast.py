"""Grokfast: gradients with their slow part amplified.

    s_t = α s_{t-1} + (1 - α) g_t        s_1 = g_1
    g_t ← g_t + κ s_t                    θ_t by the inner rule, with this g_t

Use: tasks that are memorized early and generalize late (modular arithmetic, small data with weight decay).
Avoid: other tasks: in plain training it acts as a larger learning rate with more momentum.
Source: Lee, Kang, Kim & Lee 2024, arXiv:2405.20233, Algorithm 2 (EMA); s_1 = g_1 as in the authors' code.
Departs: nothing.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.hyper import Scalar, hyper
from thalweg.rules.core.state import like_param


@dataclass(frozen=True, kw_only=True)
class Grokfast(Wrapper):
    """Gradients with their slow part amplified."""

    slow_decay: Scalar = hyper(0.98, "[0, 1)", symbol="α", doc="decay of the slow gradient")
    gain: Scalar = hyper(2.0, ">= 0", symbol="κ", doc="weight of the slow gradient")

    class State:
        slow_grad = like_param(unit="g", key="slow_grad")

    def own_coefficients(self, step: int) -> dict[str, Any]:
        keep = 0.0 if step == 1 else self.slow_decay
        return {"slow_keep": keep, "slow_fresh": 1 - keep, "gain": self.gain}

    def gradient(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        slow = c.slow_keep * state.slow_grad + c.slow_fresh * grad
        return grad + c.gain * slow, state._replace(slow_grad=slow)
