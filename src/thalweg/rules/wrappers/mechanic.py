"""Mechanic: the total displacement by the inner rule, scaled by a factor that is learned during training.

    u_t = the change of θ_{t-1} by the inner rule for g_t        Δ_t = Δ_{t-1} + u_t
    h_t = ⟨Δ_{t-1}, g_t + κ S_{t-1} ‖g_t‖ θ_{t-1} / ‖θ_{t-1}‖⟩    sums over the whole model
    for each β of 0.9, 0.99, ..., 0.999999:
        m_t = max(β m_{t-1}, |h_t|)
        v_t = β² v_{t-1} + h_t²
        r_t = max(0, β r_{t-1} - s_{t-1} h_t)
        s_t = (σ m_t / 6 + r_t) / (√v_t + ε_s)
    S_t = Σ s_t of all β
    θ_t = θ_{t-1} + S_t Δ_t - S_{t-1} Δ_{t-1}                     that is, θ_0 + S_t Δ_t

m, v, r and s are of the whole model; the sums cover all parameters with a gradient, of all groups. The first step moves
no parameter, and the first step of a parameter that joins late moves it by S_t u_t.

Use: rules with a schedule but without a tuned learning rate: the schedule keeps its shape.
Avoid: rules that estimate their own learning rate, and training of a few dozen steps: S starts near 0.
Source: Cutkosky, Defazio & Mehta 2023, arXiv:2306.00144, Algorithm 1.
Departs: |h_t| in m, as in the authors' code. θ moves by differences, so changes of θ by other wrappers (bounds around
this one) persist.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.hyper import Scalar, hyper
from thalweg.rules.core.reductions import Norm, ReductionGenerator, RequestGenerator, Sum, resolve_reductions
from thalweg.rules.core.state import like_param, of_shape
from thalweg.rules.math.roots import hypot

_NUM_DECAYS = 6


def _decays_shape(rule: Any, shape: torch.Size) -> torch.Size:
    return torch.Size([_NUM_DECAYS])


@dataclass(frozen=True, kw_only=True)
class Mechanic(
    Wrapper,
    scope="model",
    estimates_lr=True,
    has_shared_state=True,
    shared_settings=("s_init", "s_decay", "mechanic_eps"),
):
    """The total displacement by the inner rule, scaled by a factor that is learned during training."""

    s_init: Scalar = hyper(1e-8, "> 0", symbol="σ", doc="approximate first factor; any small value works")
    s_decay: Scalar = hyper(1e-2, ">= 0", symbol="κ", doc="strength of a pull towards smaller parameters")
    mechanic_eps: Scalar = hyper(1e-8, "> 0", symbol="ε_s", unit="θg", doc="keeps the division finite")

    effects = frozenset({"moves parameters", "may exceed bounds", "substitutes parameters"})

    class State:
        delta = like_param(unit="θ", key="delta")
        scale = of_shape(unit="1", key="scale")
        scales = of_shape(_decays_shape, unit="1", key="scales", shared=True)
        largest_slope = of_shape(_decays_shape, unit="θg", key="slope_max", shared=True)
        slope_norm = of_shape(_decays_shape, unit="θg", key="slope_norm", shared=True)  # √v
        reward = of_shape(_decays_shape, unit="θg", key="reward", shared=True)

    def own_coefficients(self, step: int) -> dict[str, Any]:
        return {
            "s_share": self.s_init / _NUM_DECAYS,
            "s_decay": self.s_decay,
            "s_eps": self.mechanic_eps,
        }

    def gradient(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> ReductionGenerator:
        param_norm = yield Norm(param, over="model")
        grad_norm = yield Norm(grad, over="model")
        # The model's S of the last step. `state.scale` is that of the parameter's last step, which may be earlier.
        pull = torch.where(param_norm > 0, c.s_decay * state.scales.sum() * grad_norm / param_norm, 0.0)
        h = yield Sum(state.delta * (grad + pull * param), over="model")
        largest = torch.finfo(h.dtype).max
        h = torch.clamp(h, min=-largest, max=largest)
        beta = 1 - 10.0 ** -torch.arange(1, _NUM_DECAYS + 1, dtype=h.dtype, device=h.device)
        m = torch.maximum(beta * state.largest_slope, h.abs())
        slope_norm = hypot(beta * state.slope_norm, h.abs())
        r = torch.clamp(beta * state.reward - state.scales * h, min=0.0, max=largest)
        s = (c.s_share * m + r) / (slope_norm + c.s_eps)
        return grad, state._replace(scales=s, largest_slope=m, slope_norm=slope_norm, reward=r)

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> RequestGenerator:
        target, state = yield from resolve_reductions(self.inner.apply(param, direction, state, c))
        delta, scale = state.delta + (target - param), state.scales.sum()
        return param + (scale * delta - state.scale * state.delta), state._replace(delta=delta, scale=scale)
