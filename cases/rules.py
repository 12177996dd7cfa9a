"""Cases of rules: every argument differs from its default, beside a reference optimizer with the same settings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import prodigyopt
import schedulefree
import torch

from cases import curvature
from cases.references import by_tensor, elementwise, estimating, matrices, orthogonal
from cases.references.transcription import CurvatureTranscription
from thalweg import optim, rules
from thalweg.optim.settings import keywords

Shapes = Sequence[tuple[int, ...]]
SHAPES = ((5, 3), (4, 3, 3, 3), (7,), ())
# For rules for matrices; and for rules whose eigenvectors would not be determined by fewer elements.
MATRICES = ((5, 3), (4, 3, 3, 3), (3, 6))
WELL_DETERMINED = ((4, 4), (4, 3), (3, 4, 5), ())


@dataclass(frozen=True)
class Case:
    """A rule at its settings, and its reference.

    Attributes:
        optimizer: The optimizer of the rule.
        reference: An independent optimizer with the same keywords.
        settings: The keywords of both.
        reference_error: The relative error of a reference that computes partly in float32, else 0.
        float32_error: The relative difference of both in float32 that is allowed.
        has_kernel: True if the rule has a C kernel.
        kernel_dims: The largest number of dimensions of a parameter for which it has one.
        shapes: The shapes of the parameters.
    """

    optimizer: type[optim.RuleOptimizer]
    reference: Callable[..., torch.optim.Optimizer]
    settings: dict[str, Any]
    reference_error: float = 0.0
    float32_error: float = 2e-6
    has_kernel: bool = True
    kernel_dims: int = 6
    shapes: tuple[tuple[int, ...], ...] = SHAPES

    def __str__(self) -> str:
        return f"{self.optimizer.__name__}-{'-'.join(self.settings)}"

    @property
    def rule(self) -> rules.Rule:
        group = self.optimizer([torch.zeros(1, 1)], **self.settings).param_groups[0]
        return keywords.to_rule(self.optimizer.rule, group)


def decoupled(optimizer: type[torch.optim.Optimizer]) -> Any:
    """Return an optimizer of torch with its option for decoupled decay."""
    return partial(optimizer, decoupled_weight_decay=True)


def schedule_free(optimizer: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """Return an optimizer of the package `schedulefree` in training mode, tensor by tensor."""

    def make(params: Any, **settings: Any) -> torch.optim.Optimizer:
        running = optimizer(params, **settings, foreach=False)
        running.train()
        return running

    return make


MOMENTS = {"lr": 0.01, "betas": (0.8, 0.97), "eps": 1e-3, "weight_decay": 0.05}
SOAP_SETTINGS = {
    "lr": 0.02,
    "betas": (0.8, 0.9),
    "shampoo_beta": 0.7,
    "eps": 1e-2,
    "update_every": 3,
    "weight_decay": 0.05,
}
CASES = [
    Case(optim.SGD, torch.optim.SGD, {"lr": 0.05}),
    Case(optim.SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.05}),
    Case(optim.SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.05}),
    Case(
        optim.AdaGrad,
        torch.optim.Adagrad,
        {"lr": 0.03, "lr_decay": 0.05, "weight_decay": 0.05, "initial_accumulator_value": 0.2, "eps": 1e-2},
    ),
    Case(optim.RMSprop, torch.optim.RMSprop, {"lr": 0.003, "alpha": 0.95, "eps": 1e-3, "weight_decay": 0.05}),
    Case(
        optim.RMSprop,
        torch.optim.RMSprop,
        {"lr": 0.003, "alpha": 0.95, "eps": 1e-3, "weight_decay": 0.05, "momentum": 0.7, "centered": True},
    ),
    Case(optim.Adam, torch.optim.Adam, MOMENTS),
    Case(optim.Adam, torch.optim.Adam, MOMENTS | {"amsgrad": True}),
    Case(optim.AdamW, torch.optim.AdamW, MOMENTS),
    Case(optim.AdamW, torch.optim.AdamW, MOMENTS | {"amsgrad": True}),
    Case(
        optim.SparseAdam,
        elementwise.SparseAdam,
        {"lr": 0.01, "betas": (0.8, 0.97), "eps": 1e-3},
    ),
    Case(optim.Adadelta, torch.optim.Adadelta, {"lr": 0.7, "rho": 0.8, "eps": 1e-2, "weight_decay": 0.05}),
    Case(optim.Adamax, torch.optim.Adamax, MOMENTS),
    Case(optim.NAdam, torch.optim.NAdam, MOMENTS | {"momentum_decay": 0.02}, 1e-7),
    Case(optim.NAdamW, decoupled(torch.optim.NAdam), MOMENTS | {"momentum_decay": 0.02}, 1e-7, 1e-5),
    Case(optim.RAdam, torch.optim.RAdam, MOMENTS),
    Case(optim.RAdamW, decoupled(torch.optim.RAdam), MOMENTS),
    Case(
        optim.Rprop,
        torch.optim.Rprop,
        {"lr": 0.02, "etas": (0.4, 1.3), "step_sizes": (0.01, 0.03)},
    ),
    Case(optim.ASGD, torch.optim.ASGD, {"lr": 0.05, "lambd": 0.1, "alpha": 0.5, "t0": 5.0, "weight_decay": 0.05}, 1e-7),
    Case(
        optim.Adafactor,
        torch.optim.Adafactor,
        {"lr": 0.02, "beta2_decay": -0.7, "eps": (0.2, 0.5), "d": 1.1, "weight_decay": 0.05},
    ),
    Case(optim.HeavyBall, elementwise.HeavyBall, {"lr": 0.05, "momentum": 0.8, "weight_decay": 0.05}),
    Case(optim.Lion, elementwise.Lion, {"lr": 0.01, "betas": (0.7, 0.8), "weight_decay": 0.05}, float32_error=1e-5),
    Case(optim.Signum, elementwise.Signum, {"lr": 0.01, "momentum": 0.8, "weight_decay": 0.05}),
    Case(optim.Signum, elementwise.Signum, {"lr": 0.01, "momentum": 0.0, "weight_decay": 0.05}),
    Case(optim.Adan, elementwise.Adan, MOMENTS | {"betas": (0.8, 0.7, 0.97)}, float32_error=1e-5),
    Case(optim.AdaBelief, elementwise.AdaBelief, MOMENTS),
    Case(optim.ADOPT, elementwise.ADOPT, MOMENTS | {"eps": 0.3}),
    Case(
        optim.AdEMAMix,
        elementwise.AdEMAMix,
        MOMENTS | {"betas": (0.8, 0.97, 0.99), "alpha": 3.0, "alpha_warmup": 20, "beta3_warmup": 30},
        float32_error=1e-5,
    ),
    Case(optim.LaProp, elementwise.LaProp, MOMENTS),
    Case(
        optim.MADGRAD,
        elementwise.MADGRAD,
        {"lr": 0.01, "momentum": 0.8, "eps": 1e-2, "weight_decay": 0.05},
        has_kernel=False,
    ),
    Case(optim.Yogi, elementwise.Yogi, MOMENTS | {"initial_accumulator": 0.1}),
    Case(optim.QHM, elementwise.QHM, {"lr": 0.05, "momentum": 0.9, "nu": 0.6, "weight_decay": 0.05}),
    Case(optim.QHAdam, elementwise.QHAdam, MOMENTS | {"nus": (0.6, 0.8)}),
    Case(optim.AggMo, elementwise.AggMo, {"lr": 0.02, "momenta": (0.2, 0.6, 0.9), "weight_decay": 0.05}),
    Case(curvature.Sophia, elementwise.Sophia, MOMENTS | {"rho": 0.5, "eps": 1.0}),
    Case(curvature.AdaHessian, elementwise.AdaHessian, MOMENTS | {"hessian_power": 0.7}, has_kernel=False),
    Case(
        optim.LARS,
        by_tensor.LARS,
        {"lr": 0.5, "momentum": 0.8, "trust": 0.02, "eps": 0.5, "weight_decay": 0.05, "nesterov": True},
    ),
    Case(optim.LAMB, by_tensor.LAMB, MOMENTS),
    Case(optim.NovoGrad, by_tensor.NovoGrad, MOMENTS | {"eps": 0.3}),
    Case(optim.SM3, by_tensor.SM3, {"lr": 0.05, "momentum": 0.8, "weight_decay": 0.05}, kernel_dims=2),
    Case(
        optim.CAME,
        by_tensor.CAME,
        {"lr": 0.01, "weight_decay": 0.05, "betas": (0.8, 0.97, 0.98), "eps1": 0.05, "eps2": 1e-2, "clip": 1.1},
    ),
    Case(optim.StableAdamW, by_tensor.StableAdamW, MOMENTS, float32_error=1e-5),
    Case(optim.AdamMini, by_tensor.AdamMini, MOMENTS),
    Case(optim.DoG, by_tensor.DoG, {"lr": 0.7, "reps_rel": 0.01, "eps": 3.0, "weight_decay": 0.05}),
    Case(optim.LDoG, by_tensor.LDoG, {"lr": 0.7, "reps_rel": 0.01, "eps": 3.0, "weight_decay": 0.05}),
    Case(optim.DoWG, estimating.DoWG, {"lr": 0.7, "eps": 0.01, "weight_decay": 0.05}),
    Case(
        optim.DAdaptAdam,
        estimating.DAdaptAdam,
        {"lr": 0.7, "betas": (0.8, 0.97), "d0": 0.01, "eps": 0.1, "growth": 1.1, "weight_decay": 0.05},
    ),
    Case(
        optim.DAdaptSGD,
        estimating.DAdaptSGD,
        {"lr": 0.7, "momentum": 0.8, "d0": 0.01, "growth": 1.1, "weight_decay": 0.05},
    ),
    Case(
        optim.Prodigy,
        prodigyopt.Prodigy,
        {
            "lr": 0.7,
            "betas": (0.8, 0.97),
            "beta3": 0.9,
            "d0": 0.01,
            "d_coef": 0.8,
            "growth_rate": 1.1,
            "eps": 0.1,
            "weight_decay": 0.05,
        },
    ),
    Case(
        optim.ScheduleFreeSGD,
        schedule_free(schedulefree.SGDScheduleFree),
        {
            "lr": 0.05,
            "momentum": 0.8,
            "weight_decay": 0.05,
            "warmup_steps": 10,
            "r": 0.5,
            "weight_lr_power": 1.5,
        },
    ),
    Case(
        optim.ScheduleFreeAdamW,
        schedule_free(schedulefree.AdamWScheduleFree),
        MOMENTS | {"warmup_steps": 10, "r": 0.5, "weight_lr_power": 1.5},
    ),
    Case(
        optim.Muon,
        orthogonal.Muon,
        {
            "lr": 0.02,
            "weight_decay": 0.05,
            "momentum": 0.8,
            "nesterov": True,
            "ns_coefficients": (3.0, -4.0, 1.8),
            "eps": 2.0,
            "ns_steps": 4,
            "adjust_lr_fn": "match_rms_adamw",
        },
        shapes=MATRICES,
    ),
    Case(
        optim.Muon,
        orthogonal.Muon,
        {"lr": 0.02, "weight_decay": 0.05, "momentum": 0.8, "eps": 2.0, "ns_steps": 4, "polynomials": "polar-express"},
        float32_error=1e-5,
        shapes=MATRICES,
    ),
    Case(
        optim.NorMuon,
        orthogonal.NorMuon,
        {
            "lr": 0.02,
            "momentum": 0.8,
            "beta2": 0.9,
            "nesterov": True,
            "ns_steps": 4,
            "eps": 0.1,
            "weight_decay": 0.05,
            "polynomials": "polar-express",
        },
        float32_error=1e-5,
        shapes=MATRICES,
    ),
    Case(
        optim.Scion,
        orthogonal.Scion,
        {
            "lr": 0.002,
            "momentum": 0.8,
            "radius": 20.0,
            "constrained": True,
            "ns_steps": 4,
            "polynomials": "polar-express",
        },
        float32_error=1e-5,
    ),
    *(
        Case(optimizer, reference, {"lr": 0.02, "products": "float32"}, 1e-5, 1e-5, shapes=MATRICES)
        for optimizer, reference in (
            (optim.Muon, orthogonal.Muon),
            (optim.NorMuon, orthogonal.NorMuon),
            (optim.Scion, orthogonal.Scion),
        )
    ),
    Case(
        optim.Dion,
        orthogonal.Dion,
        {"lr": 0.02, "momentum": 0.8, "rank_fraction": 0.4, "eps": 0.1, "weight_decay": 0.05},
        shapes=MATRICES,
    ),
    Case(
        optim.Shampoo,
        matrices.Shampoo,
        {"lr": 0.1, "momentum": 0.6, "eps": 0.1, "update_every": 3, "max_dim": 5, "weight_decay": 0.05},
        float32_error=1e-5,
    ),
    Case(
        optim.Shampoo,
        matrices.Shampoo,
        {"lr": 0.1, "momentum": 0.6, "eps": 0.1, "update_every": 3, "roots": "tracked", "weight_decay": 0.05},
        float32_error=1e-5,
        shapes=WELL_DETERMINED,
    ),
    Case(
        optim.SOAP,
        matrices.SOAP,
        {**SOAP_SETTINGS, "max_dim": 4, "precondition_1d": True},
        shapes=(*WELL_DETERMINED, (2,)),
    ),
    Case(optim.SOAP, matrices.SOAP, {**SOAP_SETTINGS, "one_sided": True}, shapes=(*WELL_DETERMINED, (5,))),
    Case(
        optim.PSGDKron,
        matrices.PSGDKron,
        {
            "lr": 0.02,
            "momentum": 0.8,
            "precond_lr": 0.2,
            "precond_init": 1.5,
            "update_every": 3,
            "update_first": 6,
            "max_size": 6,
            "max_skew": 2,
            "clip": 0.9,
            "eps": 0.1,
            "weight_decay": 0.05,
        },
        shapes=(*SHAPES, (6, 4)),
    ),
]

ELEMENTWISE = [case for case in CASES if case.rule.traits.scope == "elementwise"]
REDUCING = [
    case for case in CASES if case.rule.traits.scope in ("tensor", "model") and case.rule.traits.needs == "gradient"
]
TORCH_CASES = [
    case for case in CASES if isinstance(case.reference, type) and case.reference.__module__.startswith("torch.optim")
]


def parameters(dtype: torch.dtype, shapes: Shapes = SHAPES) -> list[torch.Tensor]:
    """Return parameters of several shapes, among them a convolution and a 0-D parameter."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def gradients(steps: int, dtype: torch.dtype, shapes: Shapes = SHAPES) -> list[list[torch.Tensor]]:
    """Return the gradient of each parameter at each step."""
    generator = torch.Generator().manual_seed(2)
    return [
        [(torch.randn(shape, generator=generator, dtype=torch.float64) + 0.3).to(dtype) for shape in shapes]
        for _ in range(steps)
    ]


def parameter_change(
    optimizer: Callable[..., torch.optim.Optimizer],
    settings: dict[str, Any],
    dtype: torch.dtype,
    *,
    evaluated: bool = False,
    shapes: Shapes = SHAPES,
) -> torch.Tensor:
    """Return the change of the parameters in 50 steps, and if `evaluated` of the eval parameters, as one vector."""
    start = parameters(dtype, shapes)
    params = [param.clone().requires_grad_() for param in start]
    running = optimizer(params, **settings)
    for grads in gradients(50, dtype, shapes):
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad.clone()
        give_curvature(running, grads)
        running.step()
    ends = [param.detach().clone() for param in params]
    if evaluated:
        running.eval()
        ends, start = ends + params, start + start
    return torch.cat([(end.detach() - at).flatten() for end, at in zip(ends, start, strict=True)]).double()


def give_curvature(optimizer: torch.optim.Optimizer, grads: list[torch.Tensor]) -> None:
    """Give an optimizer that needs it the Gauss-Newton estimate of the curvature, from the gradients."""
    if isinstance(optimizer, CurvatureTranscription):
        optimizer.curvature([3 * grad * grad for grad in grads])
    elif isinstance(optimizer, optim.RuleOptimizer) and optimizer.rule.traits.needs == "curvature":
        optimizer.absorb_gauss_newton(3)


def relative_error(actual: torch.Tensor, reference: torch.Tensor) -> float:
    """Return ‖Δ − Δref‖ / ‖Δref‖."""
    return float((actual - reference).norm() / reference.norm())
