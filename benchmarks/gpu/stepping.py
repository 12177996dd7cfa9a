"""The same steps on the CPU and on a device, and the difference of their results in units of the last place."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cases import rules as rule_cases
from cases import wrappers as wrapper_cases
from cases.rules import SHAPES
from thalweg import optim
from thalweg.bench.floors import moved_bytes
from thalweg.engine.kernels.kernel_spec import UnavailableError
from thalweg.rules import Rule

# Beside the usual shapes: no element, several chunks of a kernel, odd lengths, and more rows than a block has.
ELEMENTWISE_SHAPES = (*SHAPES, (0, 3), (33, 5), (8192,), (70_001,))
REDUCING_SHAPES = (*SHAPES, (2, 3, 4), (300, 131), (33, 5), (2, 70, 65))
PRECISIONS = {
    "float32": (torch.float32, {}),
    "float64": (torch.float64, {}),
    "bfloat16": (torch.bfloat16, {}),
    "bfloat16 kahan": (torch.bfloat16, {"rounding": "kahan"}),
    "bfloat16 stochastic": (torch.bfloat16, {"rounding": "stochastic", "seed": 5}),
    "float16": (torch.float16, {}),
    "float16 kahan": (torch.float16, {"rounding": "kahan"}),
}


@dataclass(frozen=True)
class Subject:
    """A rule to step, from a case of rules or of wrappers.

    Attributes:
        name: The name of the case.
        make: Makes its optimizer from parameters and keywords.
        rule: The rule at its settings.
        shapes: The shapes of the parameters.
    """

    name: str
    make: Callable[..., optim.RuleOptimizer]
    rule: Rule
    shapes: tuple[tuple[int, ...], ...]

    def has_kernel(self, dtype: torch.dtype) -> bool:
        """Return True if the rule can be recorded, and thus must run as a kernel."""
        if dtype == torch.float64 and self.rule.traits.scope != "elementwise":
            return False  # sums in float64 depend on their order
        try:
            return moved_bytes(self.rule, self.shapes, dtype) is not None
        except UnavailableError:
            return False


def subjects() -> Iterator[Subject]:
    """Yield all rules and all wrappers, at settings that differ from the defaults."""
    for case in rule_cases.CASES:
        rule = case.rule
        shapes = ELEMENTWISE_SHAPES if rule.traits.scope == "elementwise" else REDUCING_SHAPES
        if case.shapes is not SHAPES or rule.traits.needs_whole_matrices:
            shapes = case.shapes
        fitting = tuple(shape for shape in shapes if len(shape) <= case.kernel_dims)
        yield Subject(str(case), _maker(case.optimizer, case.settings), rule, fitting)
    for wrapper in wrapper_cases.CASES:
        yield Subject(
            f"wrapper {wrapper}", _maker(optim.optimizer_for(wrapper.rule), {}), wrapper.rule, tuple(wrapper.shapes)
        )


def _maker(kind: type[optim.RuleOptimizer], settings: dict[str, Any]) -> Callable[..., optim.RuleOptimizer]:
    def make(params: Any, **options: Any) -> optim.RuleOptimizer:
        return kind(params, **(settings | options))

    return make


class Steps(NamedTuple):
    """The result of some steps.

    Attributes:
        tensors: The parameters and their state, on the CPU, by name.
        backends: The backends that took the steps, with their reasons.
    """

    tensors: dict[str, Tensor]
    backends: dict[str, str]


def take_steps(subject: Subject, device: torch.device, dtype: torch.dtype, num_steps: int = 8, **options: Any) -> Steps:
    """Take steps on a device, with gradients that are drawn on the CPU. One parameter joins late, one skips a step.

    Args:
        subject: The rule.
        device: The device of the parameters.
        dtype: The dtype of the parameters.
        num_steps: The number of steps.
        options: Keywords of the optimizer, such as ``backend``.
    """
    generator = torch.Generator().manual_seed(3)

    def draw(shape: Sequence[int]) -> Tensor:
        return torch.randn(tuple(shape), generator=generator, dtype=torch.float64).to(dtype)

    params = [draw(shape).to(device).requires_grad_() for shape in subject.shapes]
    optimizer = subject.make(params, **options)
    optimizer.prepare()
    for step in range(num_steps):
        grads: list[Tensor | None] = []
        for k, param in enumerate(params):
            grad = (draw(param.shape).double() + 0.3).to(dtype).to(device)
            grads.append(None if (k == 2 and step < 3) or (k == 0 and step == 4) else grad)
        _step(optimizer, params, grads)
    tensors = {f"parameter {k}": param.detach().cpu() for k, param in enumerate(params)}
    for k, param in enumerate(params):
        entries = sorted(optimizer.state[param].items())
        tensors |= {f"{name} of {k}": value.cpu() for name, value in entries if isinstance(value, Tensor)}
    return Steps(tensors, {planned.choice.backend: planned.choice.why for planned in optimizer.plan.parameters})


def _step(optimizer: optim.RuleOptimizer, params: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
    """Take a step with these gradients, in the way that the rule needs."""
    needs = optimizer.rule.traits.needs

    def set_gradients() -> float:
        for param, grad in zip(params, grads, strict=True):
            param.grad = None if grad is None else grad.clone()
        return 1.0

    if needs in ("closure", "second gradient"):
        optimizer.step(set_gradients)
        return
    set_gradients()
    if needs == "curvature":
        optimizer.absorb_gauss_newton(3)
    optimizer.step()


class Difference(NamedTuple):
    """The difference of two results.

    Attributes:
        elements: The number of elements that differ.
        units: The largest difference, in units of the last place of the larger number.
        tensor: The tensor that has it.
    """

    elements: int
    units: float
    tensor: str


def difference(actual: Steps, expected: Steps) -> Difference:
    """Return the difference of all tensors of two results. Two NaN are equal."""
    assert actual.tensors.keys() == expected.tensors.keys(), "the states have different entries"
    elements, worst, tensor = 0, 0.0, ""
    for name, reference in expected.tensors.items():
        value = actual.tensors[name]
        assert value.dtype == reference.dtype, f"{name} is {value.dtype}, not {reference.dtype}"
        assert value.shape == reference.shape, (
            f"{name} has the shape {tuple(value.shape)}, not {tuple(reference.shape)}"
        )
        differ = (value != reference) & ~(value.isnan() & reference.isnan())
        count = int(differ.sum())
        if not count:
            continue
        elements += count
        units = _units(value[differ], reference[differ])
        if units > worst:
            worst, tensor = units, name
    return Difference(elements, worst, tensor)


def _units(value: Tensor, reference: Tensor) -> float:
    """Return the largest difference in units of the last place."""
    if not value.dtype.is_floating_point:
        return float((value.long() - reference.long()).abs().max())
    info = torch.finfo(value.dtype)
    value, reference = value.double(), reference.double()
    size = torch.maximum(value.abs(), reference.abs()).clamp(min=info.tiny)
    unit = torch.exp2(torch.floor(torch.log2(size))) * info.eps
    return float(torch.nan_to_num((value - reference).abs() / unit, nan=torch.inf).max())
