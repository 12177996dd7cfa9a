"""Rprop: a step size for each parameter that grows while the gradient keeps its sign.

    k_t = g_t p_{t-1}
    s_t = clip(s_{t-1} × (η⁺ where k_t > 0, η⁻ where k_t < 0, 1 where k_t = 0), s_min, s_max)        s_0 = η
    p_t = 0 where k_t < 0, else g_t
    θ_t = θ_{t-1} - s_t sign(p_t)

Use: full batches: small networks and physics-informed networks. It needs no tuning there.
Avoid: mini-batches: their noise changes signs at random, and the step sizes shrink without reason.
Source: Riedmiller & Braun 1993 (IEEE ICNN), in the form without backtracking (iRprop-: Igel & Hüsken 2000).
Departs: it follows torch.optim.Rprop. η sets the size of the first step only. Later changes of η do nothing, except
that no parameter moves while η is 0.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import SettingError
from thalweg.rules.core.hyper import Scalar, hyper, learning_rate
from thalweg.rules.core.records import record
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import like_param


@dataclass(frozen=True, kw_only=True)
class Rprop(Rule, scope="elementwise", lr_in_state=True):
    """A step size for each parameter that grows while the gradient keeps its sign."""

    lr: Scalar = learning_rate(1e-2, doc="size of the first step")
    eta_minus: Scalar = hyper(0.5, "(0, 1)", symbol="η⁻", doc="factor by which a step size shrinks", keyword="etas")
    eta_plus: Scalar = hyper(1.2, "> 1", symbol="η⁺", doc="factor by which a step size grows", keyword="etas")
    smallest: Scalar = hyper(1e-6, ">= 0", symbol="s_min", unit="θ", doc="smallest step", keyword="step_sizes")
    largest: Scalar = hyper(50.0, "> 0", symbol="s_max", unit="θ", doc="largest step", keyword="step_sizes")

    def check_consistency(self) -> None:
        if self.smallest > self.largest:
            raise SettingError(
                f"{self.name}: smallest must be at most largest, got {self.smallest!r} and {self.largest!r}. "
                "Exchange them."
            )

    class State:
        p = like_param(unit="g", key="prev")
        s = like_param(unit="θ", key="step_size", fill=lambda rule: rule.lr)

    def coefficients(self, step: int) -> Any:
        moves = float(self.lr != 0)
        return record(
            moves=moves,
            eta_minus=self.eta_minus,
            eta_plus=self.eta_plus,
            smallest=self.smallest,
            largest=self.largest,
        )

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        k = torch.sign(grad) * torch.sign(state.p)  # the product of small gradients would be 0
        size = torch.where(k > 0, state.s * c.eta_plus, torch.where(k < 0, state.s * c.eta_minus, state.s))
        s = torch.clamp(size, min=c.smallest, max=c.largest)
        p = torch.where(k < 0, 0 * grad, grad)
        return s * torch.sign(p), state._replace(p=p, s=s)

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> Any:
        return param - c.moves * direction, state
