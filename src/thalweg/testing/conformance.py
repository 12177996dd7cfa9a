"""Conformance: all checks, carried out on one optimizer, and what they found."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from thalweg.testing import cost, edge_cases, interface, resuming, sharded, steps
from thalweg.testing.kit import SHAPES, Factory, Kit, RefusedError, SkippedError

Outcome = Literal["passed", "failed", "refused", "skipped"]


@dataclass(frozen=True)
class Finding:
    """What one check found: `refused` is a clear error in place of a result, `skipped` says what was missing."""

    check: str
    outcome: Outcome
    detail: str = ""
    number: float | None = None


@dataclass(frozen=True)
class Conformance:
    """What all checks found."""

    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The checks that failed."""
        return tuple(finding for finding in self.findings if finding.outcome == "failed")

    def __getitem__(self, check: str) -> Finding:
        return next(finding for finding in self.findings if finding.check == check)

    def __str__(self) -> str:
        lines = []
        for one in self.findings:
            number = "" if one.number is None else f"{one.number:.3g}"
            lines.append(f"{one.outcome:8} {one.check:32} {number} {one.detail}".rstrip())
        return "\n".join(lines)


def check_optimizer(
    factory: Factory,
    *,
    reference: Factory | None = None,
    tolerance: float = 1e-9,
    variants: Mapping[str, Factory] | None = None,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    only: Sequence[str] | None = None,
) -> Conformance:
    """Run every check on the optimizers that `factory(params)` makes.

    Args:
        factory: makes the optimizer for parameters, named parameters or groups, always at the same settings, which
            should include a weight decay if there is one
        reference: makes one to agree with, in float64 over 20 steps
        tolerance: the relative error of the whole change that is allowed to it
        variants: other ways to run the same optimizer, by name; each must agree to the last bit
        shapes: of the parameters that are trained; those of a rule for matrices need two dimensions
        only: names of the checks to run

    An exception counts as a failure, with its text.

    """
    kit = Kit(factory, reference, tolerance, dict(variants or {}), tuple(shapes))
    return Conformance(tuple(_carried_out(name, kit) for name in CHECKS if only is None or name in only))


def _carried_out(name: str, kit: Kit) -> Finding:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            number = CHECKS[name](kit)
    except RefusedError as refusal:
        return Finding(name, "refused", _line(refusal))
    except SkippedError as reason:
        return Finding(name, "skipped", _line(reason))
    except AssertionError as failure:
        return Finding(name, "failed", _line(failure))
    except Exception as error:  # whatever another's optimizer raises is what was found
        return Finding(name, "failed", f"{type(error).__name__}: {_line(error)}")
    return Finding(name, "passed", number=number)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


CHECKS: dict[str, Callable[[Kit], float | None]] = {
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
        resuming.resumes_exactly,
        resuming.resumes_exactly_in_bfloat16,
        resuming.resumes_from_a_distributed_checkpoint,
        resuming.keeps_float32_state_of_bfloat16_parameters,
        resuming.follows_the_lr_after_resuming,
        resuming.copies_go_on_alike,
        resuming.pickles_go_on_alike,
        steps.leaves_parameters_without_a_gradient_alone,
        interface.takes_groups_with_their_own_settings,
        interface.takes_named_parameters,
        interface.calls_closures,
        interface.obeys_schedulers,
        interface.calls_hooks,
        steps.climbs_when_maximizing,
        edge_cases.takes_single_numbers,
        edge_cases.takes_empty_parameters,
        edge_cases.takes_complex_parameters,
        edge_cases.takes_any_order_in_memory,
        edge_cases.moves_parameters_that_start_at_zero,
        steps.learns,
        sharded.steps_alike_when_sharded,
        cost.waits_for_no_parameter,
        cost.dispatches_a_parameter,
    )
}
