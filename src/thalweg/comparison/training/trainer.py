"""Training: from a task, a contender, settings and a seed to a result.

One loop, `follow`, trains both a single model and a population; a user's own training function is its own loop.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training.pruning import Rungs
from thalweg.comparison.training.result import Evaluation, TrainingResult
from thalweg.comparison.training.runs import PopulationRun, Run, SingleRun, Trial
from thalweg.errors import TaskError
from thalweg.tasks import Task, TrainingFunction, seeded

ReportShare = Callable[[float], None]
TrainTogether = Callable[[Sequence[Contender], Sequence[Trial], ReportShare, Rungs | None], list[TrainingResult]]


def ignore_share(share: float) -> None:
    """Ignore the share of a training that is done."""


def follow(
    run: Run, schedule: TrainingSchedule, tell: Callable[[float], None] = lambda share: None, rungs: Rungs | None = None
) -> list[TrainingResult]:
    """Train to the horizon, looking on the way; one result for each member. `tell` hears the share that is done.

    At `rungs` members may be given up.
    """
    began, members = time.perf_counter(), run.members
    seconds = [0.0] * members
    looks: list[list[Evaluation]] = [[] for _ in range(members)]
    results: dict[int, TrainingResult] = {}
    left, taken = list(range(members)), 0
    for point in sorted({*schedule.evaluation_steps(), *(rungs.before if rungs else ())}):
        while taken < point:
            run.step(schedule.lr_factor(taken))
            taken += 1
        for member, *losses in zip(left, run.evaluate("train"), run.evaluate("validation"), strict=True):
            looks[member].append(Evaluation(taken, *losses))
        now = time.perf_counter()
        for member in left:  # a share each of the time since the last look
            seconds[member] += (now - began) / len(left)
        began = now
        tell(taken / schedule.steps)
        if not any(math.isfinite(looks[member][-1].train) for member in left):
            break
        if rungs and taken in rungs.before:
            kept = rungs.kept(taken, [getattr(looks[member][-1], rungs.split) for member in left])
            for k in set(range(len(left))) - set(kept):
                results[left[k]] = given_up(looks[left[k]], seconds[left[k]])
            left = [left[k] for k in kept]
            if not left:
                break
            if len(left) < run.members:
                run.keep(kept)
    tests = run.test() if left else []
    for member, test in zip(left, tests, strict=True):
        results[member] = ended(looks[member], *test, seconds[member] + (time.perf_counter() - began) / len(left))
    return [results[member] for member in range(members)]


def given_up(looks: list[Evaluation], seconds: float) -> TrainingResult:
    """The result of a training that did not pass a rung."""
    last = looks[-1]
    status = "pruned" if math.isfinite(last.train) or math.isfinite(last.validation) else "diverged"
    return TrainingResult(status, last.train, last.validation, seconds=seconds, evaluations=looks)


def ended(looks: list[Evaluation], test: float, test_error: float, seconds: float) -> TrainingResult:
    """The result of a training that was looked at so.

    It diverged if a loss is not finite, or the training loss ended ten times as high as it began.
    """
    first, last = looks[0].train, looks[-1].train
    losses = (last, looks[-1].validation, test)
    exploded = not all(math.isfinite(loss) for loss in losses) or last > first + 9 * abs(first)
    return TrainingResult("diverged" if exploded else "ok", *losses, test_error, seconds, looks)


class _GivenUp(BaseException):
    """Leaves a user's training function from within `report`; no `except Exception` of the user's stops it."""


def run_function(
    task: TrainingFunction, contender: Contender, trial: Trial, rungs: Rungs | None = None
) -> TrainingResult:
    """Call a user's training function once, and take what it reports. At `rungs`, counted in reports, it may end."""
    looks: list[Evaluation] = []
    tests: list[float] = []
    made = False

    def make_optimizer(
        model: nn.Module | Iterable[Any], roles: Mapping[str, str] | None = None
    ) -> torch.optim.Optimizer:
        nonlocal made
        made = True
        return contender.optimizer(model, trial.settings, roles)

    def report(value: Any, *, train: Any = math.nan, test: Any = None) -> None:
        looks.append(Evaluation(len(looks) + 1, _number(train), _number(value)))
        tests.append(_number(value if test is None else test))
        if rungs and len(looks) in rungs.before and not rungs.kept(len(looks), [looks[-1].validation]):
            raise _GivenUp

    began = time.perf_counter()
    try:
        task.train(make_optimizer, report)
    except _GivenUp:
        return given_up(looks, time.perf_counter() - began)
    if not looks:
        raise TaskError(f"{task.name}: the function must call report(value) at least once, and did not.")
    if not made:  # whatever it trained with, it was no contender
        raise TaskError(
            f"{task.name}: the function must call make_optimizer(model), and did not. "
            "Train with the optimizer that it returns."
        )
    last, test = looks[-1], tests[-1]
    status = "ok" if math.isfinite(last.validation) and math.isfinite(test) else "diverged"
    seconds = time.perf_counter() - began
    return TrainingResult(status, last.train, last.validation, test, seconds=seconds, evaluations=looks)


def _number(value: Any) -> float:
    return float(value.detach() if isinstance(value, torch.Tensor) else value)


def run_trials(
    task: Task,
    contenders: Sequence[Contender],
    trials: Sequence[Trial],
    schedule: TrainingSchedule,
    report_share: ReportShare = ignore_share,
    rungs: Rungs | None = None,
) -> list[TrainingResult]:
    """Train a single trial by itself, or several as a population; raise what a training raises."""
    single = len(trials) == 1
    run = SingleRun(task, contenders[0], trials[0]) if single else PopulationRun(task, contenders, trials)
    return follow(run, schedule, report_share, rungs)


def isolate_failures(
    train: TrainTogether,
    contenders: Contender | Sequence[Contender],
    trials: Sequence[Trial],
    report_share: ReportShare = ignore_share,
    rungs: Rungs | None = None,
) -> list[TrainingResult]:
    """Train trials together; if that raises, one by one.

    A single training that raises has a result of status ``failed`` with the error as its message.

    Args:
        train: Trains trials together.
        contenders: One contender for all trials, or one for each.
        trials: Settings and seeds; the first seed sets the random states.
        report_share: Called with the share of the training that is done; not called once trials train one by one.
        rungs: Points at which trainings are pruned.

    Returns:
        One result for each trial.
    """
    contenders = [contenders] * len(trials) if isinstance(contenders, Contender) else list(contenders)
    try:
        with seeded(trials[0].seed):
            return train(contenders, trials, report_share, rungs)
    except Exception as error:
        if len(trials) == 1:
            return [TrainingResult("failed", message=f"{type(error).__name__}: {error}")]
    results: list[TrainingResult] = []
    for contender, trial in zip(contenders, trials, strict=True):
        results += isolate_failures(train, contender, [trial], rungs=rungs)
        rungs = rungs and rungs.with_(results[-1].evaluations)
    return results
