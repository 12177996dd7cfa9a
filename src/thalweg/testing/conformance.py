"""Conformance: run all checks on one optimizer and collect their results."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, cast, get_args

import torch

from thalweg.errors import DeviceError, SettingError, UnknownNameError, nearest
from thalweg.testing import process_state
from thalweg.testing.checks import (
    cost,
    edge_cases,
    evaluation,
    interface,
    magnitudes,
    model_wide,
    parallel,
    resuming,
    sharded,
    steps,
)
from thalweg.testing.fixtures import (
    SHAPES,
    Calling,
    OptimizerFactory,
    RefusedError,
    SkippedError,
    Subject,
)
from thalweg.testing.isolation import can_fork, run_isolated

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
    device: str | torch.device = "cpu",
    isolate: bool = True,
    timeout_s: float = 120.0,
) -> ConformanceResult:
    """Check an optimizer for conformance with what users of ``torch.optim`` rely on.

    Args:
        factory: Makes the optimizer from parameters, named parameters or groups, always at the same settings. Include
            a weight decay if the optimizer has one. The checks that need another program need a factory that can be
            pickled: a function of a module, or a ``functools.partial`` of one. An optimizer whose ``step`` needs a
            closure gets one.
        reference: Makes an optimizer that ``factory`` must agree with over 20 steps in float64.
        tolerance: Largest relative error of the change of all parameters, against the reference; >= 0.
        variants: Other ways to run the same optimizer, by name. Each must agree with ``factory`` to the last bit.
        shapes: Shapes of the parameters that are trained. A rule for matrices needs shapes of two dimensions or more.
        only: Names of the checks to run, from ``CHECKS``. None runs all.
        device: The device of the parameters and gradients, ``"cuda"`` for example. Checks that make no sense on it are
            skipped, with the reason.
        isolate: Run the checks in a forked process, so that a crash, an exit or an endless loop fails one check and the
            others are still reported. False runs them in this process, for a debugger. On other systems than Linux,
            and once CUDA has been used, they run in this process.
        timeout_s: Time limit of one check in seconds, if they are isolated; > 0.

    Returns:
        The result of each check. An exception inside a check is a failure, with its text as the detail.

    Raises:
        SettingError: If the factory does not make an optimizer that takes a step, if ``timeout_s`` is not positive, or
            if ``shapes`` is empty.
        DeviceError: If tensors cannot be made on this device.
        UnknownNameError: If ``only`` has a name that is no check.

    Example:
        >>> import torch
        >>> from thalweg.testing import check_optimizer
        >>> result = check_optimizer(lambda params: torch.optim.AdamW(params, lr=1e-2), only=["calls_closures"])
        >>> result.passed
        True
        >>> print(result)
        passed   calls_closures
    """
    for name in only or ():
        if name not in CHECKS:
            raise UnknownNameError(f"check_optimizer: there is no check {name!r}. {nearest(name, CHECKS)}")
    if not timeout_s > 0:
        raise SettingError(f"check_optimizer: timeout_s must be > 0, got {timeout_s!r}. Give a number of seconds.")
    if not shapes:
        raise SettingError(f"check_optimizer: shapes must not be empty, got {shapes!r}. Give the shape of a parameter.")
    subject = Subject(
        factory, reference, tolerance, dict(variants or {}), tuple(shapes), device=_existing_device(device)
    )
    isolate = isolate and can_fork()
    subject = replace(subject, calling=_find_calling(subject, isolate, timeout_s))
    names = [name for name in CHECKS if only is None or name in only]
    # A check with processes of its own runs no code of the optimizer in this one.
    in_this_process = [name for name in names if CHECKS[name] in _CHECKS_WITH_PROCESSES or not isolate]
    results = {name: _run(name, subject) for name in in_this_process}
    isolated_names = [name for name in names if name not in results]
    before = process_state.snapshot()
    isolated = run_isolated(
        [partial(_run, name, subject) for name in isolated_names],
        timeout_s=timeout_s,
        failure=lambda index, reason: CheckResult(isolated_names[index], "failed", reason),
        keep_process=lambda: process_state.snapshot() == before,
    )
    results |= {result.check: result for result in isolated}
    return ConformanceResult(tuple(results[name] for name in names))


def _existing_device(name: str | torch.device) -> torch.device:
    """Return a device on which tensors can be made."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, TypeError) as error:  # torch without CUDA fails by an assertion
        raise DeviceError(
            f"check_optimizer: tensors must be possible on the device, got {name!r}: {_one_line(error)}"
        ) from error


def _find_calling(subject: Subject, isolate: bool, timeout_s: float) -> Calling:
    """Return how a step is taken. Raise SettingError if the factory makes nothing that can be checked."""
    if isolate:
        outcomes = run_isolated(
            [partial(_try_steps, subject)],
            timeout_s=timeout_s,
            failure=lambda _, reason: reason,
            keep_process=lambda: True,
        )
        outcome = outcomes[0]
    else:
        outcome = _try_steps(subject)
    for calling in get_args(Calling):
        if outcome == calling:
            return cast("Calling", calling)
    shapes = ", ".join(map(str, subject.shapes))
    raise SettingError(
        f"check_optimizer: the factory must make an optimizer that takes a step, got: {outcome.rstrip('.')}. Try "
        f"factory([torch.ones(shape, requires_grad=True) for shape in [{shapes}]]); other shapes can be given as "
        "shapes=..."
    )


def _try_steps(subject: Subject) -> str:
    """Return the first way in which a step can be taken, or what went wrong with ``step()``."""
    error = ""
    for calling in get_args(Calling):
        problem = _try_step(replace(subject, calling=calling))
        if not problem:
            return str(calling)
        error = error or problem
        if "closure" not in error:
            break
    return error


def _try_step(subject: Subject) -> str:
    """Take one step; return what went wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            params = subject.params()
            optimizer = subject.optimizer(params)
            if not callable(getattr(optimizer, "step", None)):
                return f"a {type(optimizer).__name__}, which has no step()"
            subject.train(optimizer, params, range(1))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # an optimizer of another library may raise anything, SystemExit too
        return _describe(error)
    return ""


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
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # an optimizer of another library may raise anything; all of it is a failure
        return CheckResult(name, "failed", _describe(error))
    return CheckResult(name, "passed", number=number)


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {_one_line(error)}"


def _one_line(error: BaseException) -> str:
    try:
        text = str(error)
    except BaseException as second:  # an optimizer of another library may raise here, too
        text = f"(its text cannot be read: {type(second).__name__})"
    return " ".join(text.split())[:200]


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
        magnitudes.survives_any_magnitude,
        magnitudes.survives_gradients_that_vanish,
        model_wide.trains_a_late_parameter_like_the_others,
        model_wide.trains_groups_at_their_own_rates,
        resuming.resumes_exactly,
        resuming.resumes_exactly_in_bfloat16,
        resuming.resumes_from_a_distributed_checkpoint,
        resuming.keeps_float32_state_of_bfloat16_parameters,
        resuming.follows_the_lr_after_resuming,
        resuming.copies_go_on_alike,
        resuming.pickles_go_on_alike,
        evaluation.switches_modes_any_number_of_times,
        evaluation.saves_while_evaluating,
        steps.leaves_parameters_without_a_gradient_alone,
        interface.takes_groups_with_their_own_settings,
        interface.takes_named_parameters,
        interface.calls_closures,
        interface.accumulates_in_closures,
        interface.adds_the_gradients_of_a_closure,
        interface.obeys_schedulers,
        interface.calls_hooks,
        interface.leaves_the_process_alone,
        steps.climbs_when_maximizing,
        edge_cases.takes_single_numbers,
        edge_cases.takes_empty_parameters,
        edge_cases.takes_complex_parameters,
        edge_cases.takes_any_order_in_memory,
        steps.learns,
        sharded.steps_alike_when_sharded,
        parallel.steps_in_a_forked_process,
        parallel.leaves_threads_to_forked_processes,
        parallel.counts_steps_in_shared_memory,
        cost.waits_for_no_parameter,
        cost.dispatches_a_parameter,
    )
}
"""All checks by name. Each takes the optimizer under test, raises if it finds a defect, and may return a number."""

_CHECKS_WITH_PROCESSES = (
    sharded.steps_alike_when_sharded,
    parallel.steps_in_a_forked_process,
    parallel.leaves_threads_to_forked_processes,
)
