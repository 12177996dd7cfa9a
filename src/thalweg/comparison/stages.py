"""Stages: what a plan means in trainings, done one after the other and stored as they end.

search      each contender's settings, all from one seed
retrain     its best few, from fresh seeds, which choose one
final       the one chosen, from more fresh seeds, the same for all, which judge it
"""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch

from thalweg.comparison import search
from thalweg.comparison.contenders import Contender
from thalweg.comparison.plan import Plan
from thalweg.comparison.runs import Trial
from thalweg.comparison.seeds import derive
from thalweg.comparison.store import Entry, Header, Store
from thalweg.comparison.summary import STAGES, loss_of, ranked
from thalweg.comparison.training import train_all
from thalweg.engine import stacked
from thalweg.errors import TaskError
from thalweg.tasks import Task, TrainingFunction


@dataclass(frozen=True)
class Progress:
    """How far a comparison is: in this stage, `done` of `total` trainings of the whole; `best` loss so far."""

    stage: str
    contender: str
    done: float = 0.0
    total: int = 0
    best: float = math.inf


def carry_out(
    task: Task | TrainingFunction,
    contenders: Sequence[Contender],
    store: Store,
    header: Header,
    watch: Callable[[Progress], None],
) -> None:
    """Do what the plan says and the store does not hold yet."""
    plan = Plan.from_json(header.plan)
    total = sum(_trainings(contender, plan) for contender in contenders)
    done = len(store.entries(header.id))
    for stage in STAGES:
        for contender in contenders:
            planned = trials_of(stage, contender, plan, store, header.id)
            stored = store.entries(header.id, stage, contender.name)
            finished = {(entry.trial, entry.seed) for entry in stored}
            for chunk in companies(planned, contender, plan.ways[contender.name].members):
                # A population is stored whole or not at all, so it is trained again in the same company.
                if all((index, trial.seed) in finished for index, trial in chunk):
                    continue
                best = min((loss_of(entry.result, plan.selected_on) for entry in stored), default=math.inf)

                def tell(share: float, name: str = contender.name, size: int = len(chunk), best: float = best) -> None:
                    watch(Progress(stage, name, done + share * size, total, best))  # noqa: B023 (called at once)

                tell(0.0)
                trials = [trial for _, trial in chunk]
                results = train_all(task, contender, trials, plan.horizons[contender.name], tell)
                entries = [
                    Entry(contender.name, stage, index, trial.seed, trial.settings, result)
                    for (index, trial), result in zip(chunk, results, strict=True)
                ]
                store.add(header.id, entries)
                stored += entries
                done += len(entries)
        if stage == "search":
            _check_that_something_trains(task, store, header)
    store.finish(header.id)


def _trainings(contender: Contender, plan: Plan) -> int:
    """How many trainings a contender gets: fewer where it has fewer settings to search than the plan allows."""
    counts = plan.counts
    searched = len(search.draws(contender, counts.trials, seed=0))
    return searched + min(counts.retrained, searched) * counts.reseeds + counts.finals


def _check_that_something_trains(task: Task | TrainingFunction, store: Store, header: Header) -> None:
    """Raise TaskError if every training raised: then the task is at fault, not an optimizer, and nothing is kept."""
    entries = store.entries(header.id)
    if all(entry.result.status == "failed" for entry in entries):
        store.forget(header.id)
        raise TaskError(
            f"{task.name}: at least one training must end, and all {len(entries)} failed, the first with "
            f"{entries[0].result.message}."
        )


def companies(
    planned: Sequence[tuple[int, Trial]], contender: Contender, members: int
) -> Iterator[list[tuple[int, Trial]]]:
    """The trainings that are run together: at most so many, and all of one program (a momentum of 0 has no buffer)."""
    shapes = [torch.Size([]), torch.Size([2]), torch.Size([2, 2])]
    by_program: dict[Hashable, list[tuple[int, Trial]]] = {}
    for index, trial in planned:
        program = stacked.program(contender.rule.with_(**trial.settings), shapes)
        by_program.setdefault(program, []).append((index, trial))
    for alike in by_program.values():
        for start in range(0, len(alike), members):
            yield alike[start : start + members]


def trials_of(stage: str, contender: Contender, plan: Plan, store: Store, comparison: int) -> list[tuple[int, Trial]]:
    """The trainings of one stage, each with the number of its setting; later stages read the results of earlier."""
    counts = plan.counts
    if stage == "search":
        drawn = search.draws(contender, counts.trials, seed=derive(plan.seed, "draws"))
        seed = derive(plan.seed, "search")
        return [(index, Trial(settings, seed)) for index, settings in enumerate(drawn)]
    searched = ranked(store.entries(comparison, "search", contender.name), plan.selected_on)
    if stage == "retrain":
        best = searched[: counts.retrained]
        seeds = [derive(plan.seed, "retrain", index) for index in range(counts.reseeds)]
        return [(trial, Trial(settings, seed)) for _, trial, settings in best for seed in seeds]
    retrained = ranked(store.entries(comparison, "retrain", contender.name), plan.selected_on)
    _, trial, settings = (retrained or searched)[0]
    seeds = [derive(plan.seed, "final", index) for index in range(counts.finals)]
    return [(trial, Trial(settings, seed)) for seed in seeds]
