"""Conformance: run all checks on one optimizer and collect their results."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from thalweg.testing import cost, edge_cases, interface, resuming, sharded, steps
from thalweg.testing.fixtures import SHAPES, OptimizerFactory, RefusedError, SkippedError, Subject

CheckOutcome = Literal["passed", "failed", "refused", "skipped"]


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    Attributes:
        check: Name of the check.
        outcome: ``"passed"``, ``"failed"``, ``"refused"`` (the optimizer raised a clear error in place of a result) or
            ``"skipped"`` (the check does not apply).
        detail: Why the check failed, was refused or was skipped; empty if it passed.
        number: What the check measured, for example a relative error; None if it measures nothing.
    """

    check: str
    outcome: CheckOutcome
    detail: str = ""
    number: float | None = None


@dataclass(frozen=True)
class ConformanceResult:
    """The results of all checks that ran. ``str(result)`` has a line for each, and ``result[name]`` is one of them.

    Attributes:
        checks: The results, in the order of ``CHECKS``.
    """

    checks: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool:
        """True if no check failed. Refused and skipped checks count as passed."""
        return not self.failures

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """The checks that failed."""
        return tuple(result for result in self.checks if result.outcome == "failed")

    def __getitem__(self, check: str) -> CheckResult:
        return next(result for result in self.checks if result.check == check)

    def __str__(self) -> str:
        lines = []
        for result in self.checks:
            number = "" if result.number is None else f"{result.number:.3g}"
            lines.append(f"{result.outcome:8} {result.check:32} {number} {result.detail}".rstrip())
        return "\n".join(lines)


def check_optimizer(
    factory: OptimizerFactory,
    *,
    reference: OptimizerFactory | None = None,
    tolerance: float = 1e-9,
    variants: Mapping[str, OptimizerFactory] | None = None,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    only: Sequence[str] | None = None,
) -> ConformanceResult:
    """Check an optimizer for conformance with what users of ``torch.optim`` rely on.

    Args:
        factory: Makes the optimizer from parameters, named parameters or groups, always at the same settings. Include
            a weight decay if the optimizer has one. The check of sharded parameters needs a factory that can be
            pickled: a function of a module, or a ``functools.partial`` of one.
        reference: Makes an optimizer that ``factory`` must agree with over 20 steps in float64.
        tolerance: Largest relative error of the change of all parameters, against the reference; >= 0.
        variants: Other ways to run the same optimizer, by name. Each must agree with ``factory`` to the last bit.
        shapes: Shapes of the parameters that are trained. A rule for matrices needs shapes of two dimensions or more.
        only: Names of the checks to run, from ``CHECKS``. None runs all.

    Returns:
        The result of each check. An exception inside a check is a failure, with its text as the detail.

    Example:
        >>> import torch
        >>> from thalweg.testing import check_optimizer
        >>> result = check_optimizer(lambda params: torch.optim.AdamW(params, lr=1e-2), only=["calls_closures"])
        >>> result.passed
        True
        >>> print(result)
        passed   calls_closures
    """
    subject = Subject(factory, reference, tolerance, dict(variants or {}), tuple(shapes))
    return ConformanceResult(tuple(_run(name, subject) for name in CHECKS if only is None or name in only))


def _run(name: str, subject: Subject) -> CheckResult:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            number = CHECKS[name](subject)
    except RefusedError as refusal:
        return CheckResult(name, "refused", _one_line(refusal))
    except SkippedError as reason:
        return CheckResult(name, "skipped", _one_line(reason))
    except AssertionError as failure:
        return CheckResult(name, "failed", _one_line(failure))
    except Exception as error:  # an optimizer of another library may raise anything; all of it is a failure
        return CheckResult(name, "failed", f"{type(error).__name__}: {_one_line(error)}")
    return CheckResult(name, "passed", number=number)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


CHECKS: dict[str, Callable[[Subject], float | None]] = {
    check.__name__: check
    for check in (
        steps.agrees_with_the_reference,
        steps.is_the_same_every_way,
        interface.is_an_optimizer,
        steps.moves_nothing_before_the_first_step,
        steps.survives_a_tensor_lr_of_zero,
        steps.leaves_a_tensor_lr_alone,
        steps.leaves_the_settings_alone,
        steps.leaves_gradients_alone,
        steps.gives_a_late_parameter_a_first_step,
        steps.survives_a_zero_first_gradient,
        steps.moves_parameters_that_start_at_zero,
        resuming.resumes_exactly,
        resuming.resumes_exactly_in_bfloat16,
        resuming.resumes_from_a_distributed_checkpoint,
        resuming.resumes_exactly_from_an_evaluation,
        resuming.keeps_float32_state_of_bfloat16_parameters,
        resuming.follows_the_lr_after_resuming,
        resuming.copies_go_on_alike,
        resuming.pickles_go_on_alike,
        steps.leaves_parameters_without_a_gradient_alone,
        interface.takes_groups_with_their_own_settings,
        interface.takes_named_parameters,
        interface.calls_closures,
        interface.adds_the_gradients_of_a_closure,
        interface.evaluates_in_any_order,
        interface.obeys_schedulers,
        interface.calls_hooks,
        steps.climbs_when_maximizing,
        edge_cases.takes_single_numbers,
        edge_cases.takes_empty_parameters,
        edge_cases.takes_complex_parameters,
        edge_cases.takes_any_order_in_memory,
        steps.learns,
        sharded.steps_alike_when_sharded,
        cost.waits_for_no_parameter,
        cost.dispatches_a_parameter,
    )
}
"""All checks by name. Each takes the optimizer under test, raises if it finds a defect, and may return a number."""
