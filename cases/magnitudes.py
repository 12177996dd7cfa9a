"""Runs of rules over gradients of any size, in one dtype and in float64, and what must hold between the two."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from thalweg import rules
from thalweg.engine.core.precision import compute_dtype
from thalweg.engine.core.program import Program
from thalweg.engine.eager import loop
from thalweg.registry import RULES, WRAPPERS

Structure = Literal["dense", "one element", "every other row", "rank 1"]

SCALES = (1e-42, 1e-38, 1e-30, 1e-20, 1e-10, 1e-5, 1.0, 5e3, 1e5, 1e10, 1e18)
# The first two determine the eigenvectors of rules for matrices; in the others rounding decides about some of them.
SHAPES = ((4, 4), (5,), (), (2, 7), (3, 2, 2, 2), (1, 6), (24, 20))
_NUM_DIRECTIONS = 4  # gradients that take turns

# In float64 the smallest root mean square of Adafactor would be another one.
_ADAFACTOR = rules.Adafactor(eps1=torch.finfo(torch.float32).eps)


def all_rules() -> list[rules.Rule]:
    """Return every rule that takes one step at a time, and each wrapper around rules that show different faults."""
    alone = [_ADAFACTOR if kind is rules.Adafactor else kind() for kind in RULES.values()]
    wrapped = [kind(rules.Adam()) for kind in WRAPPERS.values()]
    by_sign = [kind(rules.Signum()) for name, kind in WRAPPERS.items() if name != "mars"]  # which needs a beta1
    return [rule for rule in (*alone, *wrapped, *by_sign) if rule.traits.needs != "closure"]


def shapes_of(rule: rules.Rule, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[tuple[int, ...]]:
    """Return the shapes that parameters of a rule may have."""
    highest = math.inf if rule.traits.max_dims is None else rule.traits.max_dims
    return [shape for shape in shapes if rule.traits.min_dims <= len(shape) <= highest]


def starting_points(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> list[Tensor]:
    """Return normal parameters of these shapes."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def gradients(
    shapes: Sequence[tuple[int, ...]], scales: Sequence[float], dtype: torch.dtype, structure: Structure = "dense"
) -> Iterator[list[Tensor]]:
    """Yield, for each scale, a gradient of that size for each shape."""
    generator = torch.Generator().manual_seed(2)
    directions = [
        [_structured(torch.randn(shape, generator=generator, dtype=torch.float64) + 0.3, structure) for shape in shapes]
        for _ in range(_NUM_DIRECTIONS)
    ]
    for step, scale in enumerate(scales):
        yield [(scale * direction).to(dtype) for direction in directions[step % _NUM_DIRECTIONS]]


def _structured(direction: Tensor, structure: Structure) -> Tensor:
    if structure == "one element":
        kept = torch.zeros_like(direction)
        kept.view(-1)[direction.numel() // 2] = 1.0
        return direction * kept
    if structure == "every other row" and direction.dim():
        return direction * (torch.arange(len(direction)) % 2).view(-1, *[1] * (direction.dim() - 1))
    if structure == "rank 1" and direction.dim() > 1:
        matrix = direction.reshape(len(direction), -1)
        return (matrix[:, :1] @ matrix[:1]).reshape(direction.shape)
    return direction


@dataclass
class Run:
    """A run of a rule over gradients.

    Attributes:
        changes: The change of each parameter, in float64.
        largest_steps: The largest change of an element in a step, of each parameter.
        is_finite: True if all parameters and states were finite in the end.
    """

    changes: list[Tensor]
    largest_steps: list[float]
    is_finite: bool


def run(rule: rules.Rule, start: Sequence[Tensor], gradients: Iterator[list[Tensor]]) -> Run:
    """Take a step for each list of gradients."""
    program, params = Program(rule), list(start)
    states = [program.init(param) for param in params]
    previous = [program.initial_recurrent_scalars()] * len(params)
    largest = [0.0] * len(params)
    for step, grads in enumerate(gradients, start=1):
        coefficients = [program.coefficients(step, previous=scalars, position=k) for k, scalars in enumerate(previous)]
        if rule.traits.needs == "curvature":
            states = [
                rule.update_curvature(state, (3 * wide * wide).clamp(max=torch.finfo(wide.dtype).max), c)
                for state, grad, c in zip(states, grads, coefficients, strict=True)
                for wide in [grad.to(compute_dtype(grad.dtype))]
            ]
        items = [loop.TensorStep(program, *item) for item in zip(params, grads, states, coefficients, strict=True)]
        if rule.traits.needs == "second gradient":
            assert all(param.isfinite().all() for param in loop.perturbed_parameters(items))
        results = list(loop.update(items))
        for k, (param, _) in enumerate(results):
            moved = (param.double() - params[k].double()).abs().max().item()
            largest[k] = max(largest[k], moved) if moved == moved else math.nan
        params, states = [param for param, _ in results], [state for _, state in results]
        previous = [program.recurrent_scalars_of(c) for c in coefficients]
    changes = [param.double() - was.double() for param, was in zip(params, start, strict=True)]
    finite = all(bool(entry.isfinite().all()) for tensors in (params, *states) for entry in tensors)
    return Run(changes, largest, finite)


@dataclass(frozen=True)
class Deviation:
    """The difference of a run from that of the same rule in float64, for one parameter.

    Attributes:
        shape: The shape of the parameter.
        change: The largest difference of an element's total change, as a share of the largest such change.
        step: The largest step over that in float64.
        is_finite: True if parameters and states stayed finite in both runs.
    """

    shape: tuple[int, ...]
    change: float
    step: float
    is_finite: bool


def deviations(
    rule: rules.Rule,
    scales: Sequence[float],
    dtype: torch.dtype,
    *,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    structure: Structure = "dense",
) -> list[Deviation]:
    """Run a rule in a dtype and in float64 from the same parameters with the same gradients."""
    shapes = shapes_of(rule, shapes)
    start = starting_points(shapes, dtype)
    narrow = run(rule, start, gradients(shapes, scales, dtype, structure))
    exact = ([grad.double() for grad in grads] for grads in gradients(shapes, scales, dtype, structure))
    wide = run(rule, [param.double() for param in start], exact)
    compared = []
    for k, shape in enumerate(shapes):
        # What rounding of the parameter itself may add up to, if it never cancels.
        unit = torch.finfo(dtype).eps * float(max(1.0, (start[k].double() + wide.changes[k]).abs().max()))
        error = float((narrow.changes[k] - wide.changes[k]).abs().max())
        size = float(wide.changes[k].abs().max())
        compared.append(
            Deviation(
                shape,
                max(0.0, error - len(scales) * unit) / (size + unit) if error == error else math.inf,
                max(0.0, narrow.largest_steps[k] - unit) / (wide.largest_steps[k] + unit),
                narrow.is_finite and wide.is_finite,
            )
        )
    return compared
