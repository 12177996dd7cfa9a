"""Work: the trainings that the protocol asks for, done by a crew and stored as they end, or read from the store."""

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from thalweg.comparison.contenders.contender import Contender, Settings
from thalweg.comparison.contenders.record import ContenderRecord
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.planning.plan import ComparisonPlan
from thalweg.comparison.planning.proposals import propose
from thalweg.comparison.planning.seeds import derive
from thalweg.comparison.protocol.procedure import RECOMMENDED, START, Findings, TrialRequest, TrialScore, decide
from thalweg.comparison.results.records import ComparisonRecord, TrialRecord
from thalweg.comparison.results.store import Store
from thalweg.comparison.training.pruning import Rungs, rungs_of
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.target import FARTHEST
from thalweg.comparison.training.worker_pool import Job, WorkerPool
from thalweg.comparison.training.workload import Workload
from thalweg.errors import TaskError

# Stages whose curves are looked at. The others are many, and only their ends count.
SHOWN = ("race", "value")
LOOKS_UNSHOWN = 1

Key = tuple[str, str, int, int, int]


@dataclass(frozen=True)
class Progress:
    """How far a comparison is: in this stage, `done` of at most `total` trainings; `best` loss so far."""

    stage: str
    contender: str
    done: float = 0.0
    total: int = 0
    best: float = math.inf
    said: str = ""


def run(
    task: Workload,
    contenders: Sequence[Contender],
    store: Store,
    header: ComparisonRecord,
    watch: Callable[[Progress], None],
) -> None:
    """Do what the plan asks for and the store does not hold yet."""
    plan = ComparisonPlan.from_json(header.plan)
    with WorkerPool(task, plan.num_workers, lambda said: watch(Progress("", "", said=said))) as crew:
        work = _Work(task, contenders, plan, store, header, watch, crew)
        found(plan, header, work.answer)
    store.finish(header.id)


def read(plan: ComparisonPlan, header: ComparisonRecord, entries: Sequence[TrialRecord]) -> Findings:
    """What stored results decide. Raises KeyError where the comparison was not finished."""
    known = {_key_of_entry(entry): entry for entry in entries}
    return found(plan, header, lambda asks: {ask: outcome(known[key_of(ask, plan)], plan) for ask in asks})


def found(
    plan: ComparisonPlan,
    header: ComparisonRecord,
    answer: Callable[[Sequence[TrialRequest]], Mapping[TrialRequest, TrialScore]],
) -> Findings:
    """The findings of a plan, from whoever answers."""
    costs = plan.costs([ContenderRecord.from_json(stored) for stored in header.contenders])
    known = [one["name"] for one in header.contenders if one["recommended"]]
    return decide(plan.design, plan.draws, answer, cost=costs, margin=plan.scale.margin, recommended=known)


def outcome(entry: TrialRecord, plan: ComparisonPlan) -> TrialScore:
    """What a stored training came to, in scores."""
    result, score, completed = entry.result, plan.scale.score, entry.result.status == "ok"
    if plan.target is not None:
        took = plan.target.took(result)
        judged = score(took, plan.judged_on)
        if math.isfinite(took):
            return TrialScore(judged, judged)
        # Among settings that miss the target, the one that ends nearest is chosen.
        missed = plan.target.shortfall(result.evaluations) if completed else FARTHEST
        return TrialScore(judged + missed, judged, completed=False, clipped=True)
    selection_score, evaluation_score = (
        getattr(result, split) if completed else math.nan for split in (plan.selected_on, plan.judged_on)
    )
    clipped = not evaluation_score <= plan.scale.untrained[plan.judged_on]  # not a number is
    return TrialScore(
        score(selection_score, plan.selected_on), score(evaluation_score, plan.judged_on), completed, clipped
    )


def key_of(ask: TrialRequest, plan: ComparisonPlan) -> Key:
    """Under what a training is stored."""
    return (
        ask.stage,
        ask.contender,
        ask.study,
        ask.trial,
        derive(plan.seed, f"{ask.seed[0]}/{ask.seed[1]}", ask.seed[2]),
    )


def _key_of_entry(entry: TrialRecord) -> Key:
    return entry.stage, entry.contender, entry.study, entry.trial, entry.seed


class _Work:
    """Answers the protocol by training."""

    def __init__(
        self,
        task: Workload,
        contenders: Sequence[Contender],
        plan: ComparisonPlan,
        store: Store,
        header: ComparisonRecord,
        watch: Callable[[Progress], None],
        crew: WorkerPool,
    ) -> None:
        self.task, self.plan, self.store, self.header, self.crew = task, plan, store, header, crew
        self.watch = watch
        self.contenders = {contender.name: contender for contender in contenders}
        self.known = {_key_of_entry(entry): entry for entry in store.entries(header.id)}
        self.best = math.inf
        self._drawn: dict[tuple[str, int], list[dict[str, float]]] = {}

    def answer(self, asks: Sequence[TrialRequest]) -> dict[TrialRequest, TrialScore]:
        """The outcome of each training that is asked for, done now unless it is stored."""
        keys = {ask: key_of(ask, self.plan) for ask in asks}
        before = len(self.known)
        for wave in self._waves(asks):
            self._train(wave, keys)
        if len(self.known) > before and all(ask.stage == "search" for ask in asks):
            self._check_that_something_trains()
        return {ask: outcome(self.known[keys[ask]], self.plan) for ask in asks}

    def _waves(self, asks: Sequence[TrialRequest]) -> list[Sequence[TrialRequest]]:
        """Trainings that do not wait for one another. Pruned ones are judged by those of their study before them."""
        if not any(self._may_be_pruned(ask) for ask in asks):
            return [asks]
        waves: dict[int, list[TrialRequest]] = {}
        for ask in asks:
            waves.setdefault(ask.trial // self.plan.execution_modes[ask.contender].members, []).append(ask)
        return [waves[k] for k in sorted(waves)]

    def _may_be_pruned(self, ask: TrialRequest) -> bool:
        return self.plan.design.pruned and ask.stage == "search"

    def _rungs(self, first: TrialRequest, schedule: TrainingSchedule) -> Rungs:
        """The rungs of trainings of one study, with what is known of those before the first of them."""
        split = self.plan.selected_on
        losses: dict[int, list[float]] = {step: [] for step in rungs_of(schedule)}
        for entry in self._searched(first):
            for look in entry.result.evaluations:
                if look.step in losses and entry.trial < first.trial:
                    losses[look.step].append(getattr(look, split))
        return Rungs(split, losses)

    def _train(self, asks: Sequence[TrialRequest], keys: Mapping[TrialRequest, Key]) -> None:
        groups = {
            job: asked
            for job, asked in self._companies(asks)
            # A population is stored whole or not at all, so it is trained again in the same company.
            if not all(keys[ask] in self.known for ask in asked)
        }

        def tell(job: Job, share: float) -> None:
            stage, total = groups[job][0].stage, self._most()
            done = len(self.known) + share * len(job.trials)
            names = list(dict.fromkeys(one.name for one in job.contenders))
            who = names[0] if len(names) == 1 else f"{len(names)} optimizers"
            self.watch(Progress(stage, who, done, total, self.best))

        for job in list(groups)[:1]:
            tell(job, 0.0)
        for job, results in self.crew.run(list(groups), tell):
            entries = [
                TrialRecord(ask.contender, ask.stage, ask.study, ask.trial, trial.seed, trial.settings, result)
                for ask, trial, result in zip(groups[job], job.trials, results, strict=True)
                if keys[ask] not in self.known
            ]
            self.store.add(self.header.id, entries)
            self.known |= {_key_of_entry(entry): entry for entry in entries}
            ended = [getattr(one, self.plan.selected_on) for one in results if one.status == "ok"]
            self.best = min([self.best, *ended])
            tell(job, 0.0)

    def _most(self) -> int:
        design = self.plan.design
        return max(len(self.known) + 1, design.most_trainings * len(self.contenders) + design.value)

    def _horizon(self, contender: Contender, stage: str) -> TrainingSchedule:
        schedule = self.plan.schedules[contender.name]
        if stage in SHOWN or self.plan.target is not None:
            return schedule
        return replace(schedule, num_evaluations=min(LOOKS_UNSHOWN, schedule.num_evaluations))

    def _companies(self, asks: Sequence[TrialRequest]) -> Iterator[tuple[Job, list[TrialRequest]]]:
        """The trainings that are run together, whoever competes, as evenly as workers can share them.

        All of one length, and those of one program side by side (a momentum of 0 has no buffer).
        """
        alike: dict[Hashable, dict[Hashable, list[tuple[Contender, Trial, TrialRequest]]]] = {}
        for ask in asks:
            contender = self.contenders[ask.contender]
            trial = Trial(self._settings(ask), key_of(ask, self.plan)[-1])
            mode, schedule = self.plan.execution_modes[ask.contender], self._horizon(contender, ask.stage)
            # What is pruned together is one study of one contender.
            own = (ask.contender, ask.study) if self._may_be_pruned(ask) else None
            group = alike.setdefault((contender.population_key, schedule, mode.members, own), {})
            group.setdefault((ask.contender, contender.program(trial.settings)), []).append((contender, trial, ask))
        for parts in alike.values():
            together = [one for part in parts.values() for one in part]
            first, stage = together[0][0], together[0][2].stage
            mode, schedule = self.plan.execution_modes[first.name], self._horizon(first, stage)
            rungs = None
            if self._may_be_pruned(together[0][2]):
                size, rungs = len(together), self._rungs(together[0][2], schedule)
            else:
                count = math.ceil(len(together) / mode.members)
                count = self.plan.num_workers * math.ceil(count / self.plan.num_workers)
                size = math.ceil(len(together) / count) if mode.members > 1 else 1
            for start in range(0, len(together), size):
                contenders, trials, asked = zip(*together[start : start + size], strict=True)
                yield Job(contenders, trials, schedule, mode.seconds(len(trials)), rungs), list(asked)

    def _settings(self, ask: TrialRequest) -> dict[str, float]:
        if ask.trial == START[1]:
            return {}
        if ask.trial == RECOMMENDED[1]:
            return dict(self.contenders[ask.contender].recommended)
        key = (ask.contender, ask.study)
        if key not in self._drawn:
            self._drawn[key] = self.plan.draw_settings(self.contenders[ask.contender], ask.study)
        found = self._drawn[key]
        while ask.trial >= len(found):
            found += self._proposed(ask, len(found))
        return found[ask.trial]

    def _proposed(self, ask: TrialRequest, first: int) -> list[Settings]:
        """The settings of the round that begins with this trial, from what those before it in the study came to."""
        rounds = self.plan.design.rounds(self.plan.draws[ask.contender])
        number = next(k for k, trials in enumerate(rounds) if trials and trials.start == first)
        count = len(rounds[number])
        study = self._searched(ask)
        stored = [entry.settings for entry in study if first <= entry.trial < first + count]
        if len(stored) == count:
            return stored
        # What was given up counts no better than the worst that went on.
        scores = {entry.trial: outcome(entry, self.plan).selection_score for entry in study if entry.trial < first}
        ended = [scores[entry.trial] for entry in study if entry.trial < first and entry.result.status == "ok"]
        tried = [
            (entry.settings, max(ended) if entry.result.status == "pruned" and ended else scores[entry.trial])
            for entry in study
            if entry.trial < first
        ]
        space = self.plan.space_of(self.contenders[ask.contender])
        seed = derive(self.plan.seed, f"proposals/{ask.contender}/{ask.study}", first)
        return propose(space, tried, count, seed=seed, number=number - 1)

    def _searched(self, ask: TrialRequest) -> list[TrialRecord]:
        """What is known of the search of this study, in the order of its trials."""
        study = ("search", ask.contender, ask.study)
        return sorted((entry for key, entry in self.known.items() if key[:3] == study), key=lambda entry: entry.trial)

    def _check_that_something_trains(self) -> None:
        """Raise TaskError if every training raised: the task is at fault then, no optimizer, and nothing is kept."""
        entries = list(self.known.values())
        if all(entry.result.status == "failed" for entry in entries):
            self.store.forget(self.header.id)
            raise TaskError(
                f"{self.task.name}: at least one training must end, and all {len(entries)} failed, the first with "
                f"{entries[0].result.message}."
            )
