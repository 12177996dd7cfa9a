"""LDoG: DoG with a separate learning rate for each tensor.

    g_t = ∇f(θ_{t-1}) + λ θ_{t-1}
    r_t = max(r_{t-1}, ‖θ_{t-1} - θ_0‖)        r_1 = ρ (1 + ‖θ_0‖)
    G_t = G_{t-1} + ‖g_t‖²
    θ_t = θ_{t-1} - η r_t / √(G_t + ε) g_t     norms over the tensor

Use: transformers: their layers need steps of different sizes. Keep η at 1.
Avoid: problems on which DoG diverges: LDoG is more aggressive.
Source: Ivgi, Hinder & Carmon 2023, arXiv:2302.12022, section 3.3.
Departs: an L2 penalty; the state holds √G.
"""

from dataclasses import dataclass

from thalweg.rules.core.state import copy_of_param, of_shape
from thalweg.rules.dog import DoGStep


@dataclass(frozen=True, kw_only=True)
class LDoG(DoGStep, scope="tensor"):
    """DoG with a separate learning rate for each tensor."""

    over = "tensor"

    class State:
        start = copy_of_param(key="x0")
        r = of_shape(unit="θ", key="distance")
        total_norm = of_shape(unit="g", key="grad_norm")
