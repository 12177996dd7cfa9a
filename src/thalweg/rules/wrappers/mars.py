"""Mars: gradients corrected by their change since the last step, which removes a part of their noise.

    c_t = g_t + γ β₁ / (1 - β₁) (g_t - g_{t-1})        c_1 = g_1
    g_t ← c_t / max(1, ‖c_t‖)                          θ_t by the inner rule, with this g_t

Use: pre-training with AdamW or Lion, if the noise of the gradient limits progress.
Avoid: models that leave little memory: it stores the last gradient, one more number for each parameter.
Source: Yuan, Liu, Wu, Zhou & Gu 2024, arXiv:2411.10438, Algorithm 2 (MARS-approx), equations 4 and 5.
Departs: β₁ is that of the inner rule. The authors' code starts from a last gradient of 0 and uses AdamW for vectors;
here c_1 = g_1, and every tensor is corrected. g_{t-1} is the gradient that the last step used.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import SettingError
from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.hyper import Scalar, hyper
from thalweg.rules.core.reductions import Norm, ReductionGenerator
from thalweg.rules.core.state import like_param


@dataclass(frozen=True, kw_only=True)
class Mars(Wrapper, scope="tensor"):
    """Gradients corrected by their change since the last step, which removes a part of their noise."""

    gamma: Scalar = hyper(0.025, "[0, 1]", symbol="γ", doc="share of the full correction")

    class State:
        last = like_param(unit="g", key="last_grad")

    def check_consistency(self) -> None:
        if "beta1" not in self.inner.hypers():
            raise SettingError(
                f"Mars: the inner rule must have a beta1, got {self.inner.name}. Wrap AdamW, for example."
            )

    def own_coefficients(self, step: int) -> dict[str, Any]:
        beta1 = self.inner.settings()["beta1"]
        return {"correction": self.gamma * beta1 / (1 - beta1) if step > 1 else 0.0}

    def gradient(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> ReductionGenerator:
        corrected = grad + c.correction * (grad - state.last)
        norm = yield Norm(corrected)
        return corrected / torch.clamp(norm, min=1.0), state._replace(last=grad)
