"""Executor: runs the trainings that the procedure requests, and stores each result as soon as it exists."""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from thalweg.comparison.contenders.contender import Contender, Settings
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.failures import FailureMonitor, trials_to_keep
from thalweg.comparison.planning.device_choice import check_resumable
from thalweg.comparison.planning.proposals import propose
from thalweg.comparison.planning.seeds import derive
from thalweg.comparison.progress import Progress
from thalweg.comparison.protocol.trial import RECOMMENDED, START, TrialRequest, TrialScore
from thalweg.comparison.results.environment import hardware_of, other_hardware
from thalweg.comparison.results.records import ComparisonRecord, TrialRecord
from thalweg.comparison.results.scoring import trial_score
from thalweg.comparison.results.store import Store
from thalweg.comparison.results.stored_findings import decide_by_plan, key_of
from thalweg.comparison.results.unused_settings import refuse_unused_lr
from thalweg.comparison.training.pruning import Rungs, rungs_of
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.worker_pool import Job, WorkerPool
from thalweg.comparison.training.workload import Workload

# The report draws learning curves of these stages. The trainings of all others are many, and only their end counts.
STAGES_WITH_CURVES = ("race", "value")
EVALUATIONS_WITHOUT_CURVE = 1
MAX_TRIALS_TO_CHECK = 200  # by then it is clear whether a training function uses the learning rate


def run(
    workload: Workload,
    contenders: Sequence[Contender],
    store: Store,
    record: ComparisonRecord,
    watch: Callable[[Progress], None],
) -> None:
    """Run all trainings of a comparison that the store does not hold yet, and mark the comparison as finished.

    Args:
        workload: The task or the training function.
        contenders: The contenders of the comparison.
        store: The store that holds the comparison.
        record: The comparison with its plan.
        watch: Called with the progress.

    Raises:
        TaskError: If every training fails.
        DeviceError: If this machine lacks the device of the plan.
        StoreError: If the store cannot be written.
    """
    plan = record.plan
    usable = check_resumable(plan.device, store.label)
    num_workers = plan.num_workers
    if len(usable) < plan.num_devices:  # a smaller machine than the one that planned
        num_workers = math.ceil(num_workers * len(usable) / plan.num_devices)

    def notify(message: str) -> None:
        watch(Progress("", "", message=message))

    hardware_before = other_hardware(store.read_trials(record.id).trials, usable)
    if hardware_before:
        notify(f"resumed on other hardware: {' and '.join(hardware_before)} before, {hardware_of(usable)} now")
    with WorkerPool(workload, num_workers, notify, usable) as pool:
        executor = TrialExecutor(workload.name, contenders, store, record, watch, pool)
        decide_by_plan(record, executor.run_trials)
    store.finish(record.id)


class _Member(NamedTuple):
    """A training of a population."""

    contender: Contender
    trial: Trial
    request: TrialRequest


class TrialExecutor:
    """Answers the requests of the procedure by training, or from the store.

    Args:
        workload_name: The name of the task or the training function.
        contenders: The contenders of the comparison.
        store: The store that holds the comparison.
        record: The comparison with its plan.
        watch: Called with the progress.
        pool: The processes that train.
    """

    def __init__(
        self,
        workload_name: str,
        contenders: Sequence[Contender],
        store: Store,
        record: ComparisonRecord,
        watch: Callable[[Progress], None],
        pool: WorkerPool,
    ) -> None:
        self._workload_name, self._store, self._record, self._pool = workload_name, store, record, pool
        self._watch, self._plan = watch, record.plan
        self._contenders = {contender.name: contender for contender in contenders}
        kept = trials_to_keep(store, record, self._notify)
        self._trials = {trial.key: trial for trial in kept}
        self._monitor = FailureMonitor(workload_name, list(self._contenders), kept, self._notify, self._repeat)
        self._best = math.inf
        self._settings_of_study: dict[tuple[str, int], list[Settings]] = {}

    def run_trials(self, requests: Sequence[TrialRequest]) -> dict[TrialRequest, TrialScore]:
        """Return the scores of the requested trainings. Those that are not stored yet are trained now.

        Raises:
            TaskError: If every training so far has failed, or most fail alike and would fail on.
        """
        for wave in self._waves(requests):
            self._train(wave)
        if all(request.stage == "search" for request in requests):
            self._monitor.check_that_one_succeeded()
        return {request: trial_score(self._trials[key_of(request, self._plan)], self._plan) for request in requests}

    def _waves(self, requests: Sequence[TrialRequest]) -> list[Sequence[TrialRequest]]:
        """Requests that do not wait for one another. Pruning compares trainings with earlier ones of their study."""
        if not any(self._may_be_pruned(request) for request in requests):
            return [requests]
        waves: dict[int, list[TrialRequest]] = {}
        for request in requests:
            number = request.trial // self._plan.execution_modes[request.contender].members
            waves.setdefault(number, []).append(request)
        return [waves[number] for number in sorted(waves)]

    def _may_be_pruned(self, request: TrialRequest) -> bool:
        return self._plan.design.pruned and request.stage == "search"

    def _train(self, requests: Sequence[TrialRequest]) -> None:
        """Train requests and store their results."""
        # A population is stored whole or not at all, so an interrupted one is trained again with the same members.
        requests_of = {
            job: members
            for job, members in self._jobs(requests)
            if not all(self._is_stored(request) for request in members)
        }
        jobs = list(requests_of)

        def report_share(job: Job, share: float) -> None:
            self._report(requests_of[job][0].stage, job, share)

        if jobs:
            report_share(jobs[0], 0.0)
        for job, results in self._pool.run(jobs, report_share):
            ended = [
                TrialRecord(
                    request.contender, request.stage, request.study, request.trial, trial.seed, trial.settings, result
                )
                for request, trial, result in zip(requests_of[job], job.trials, results, strict=True)
                if not self._is_stored(request)
            ]
            trials = self._monitor.see(ended)
            self._store.add(self._record.id, trials)
            self._trials |= {trial.key: trial for trial in trials}
            self._check_that_settings_are_used()
            completed = [getattr(result, self._plan.selected_on) for result in results if result.status == "ok"]
            self._best = min([self._best, *completed])
            report_share(job, 0.0)
            self._monitor.check()

    def _repeat(self, proof: TrialRecord | str) -> TrainingResult:
        """Train a trial once more, or the defaults of a contender, to see whether trainings still succeed."""
        name, settings, seed = (
            (proof, {}, derive(self._plan.seed, "proof"))
            if isinstance(proof, str)
            else (proof.contender, proof.settings, proof.seed)
        )
        schedule, mode = self._plan.schedules[name], self._plan.execution_modes[name]
        job = Job((self._contenders[name],), (Trial(settings, seed),), schedule, mode.seconds(1))
        ((_, (result,)),) = self._pool.run([job], lambda job, share: None)
        return result

    def _notify(self, message: str) -> None:
        self._watch(Progress("", "", message=message))

    def _check_that_settings_are_used(self) -> None:
        """Raise TaskError if the training function sets the learning rate itself."""
        searched = [trial for trial in self._trials.values() if trial.stage == "search"]
        if len(searched) <= MAX_TRIALS_TO_CHECK:
            refuse_unused_lr(self._workload_name, searched)

    def _is_stored(self, request: TrialRequest) -> bool:
        return key_of(request, self._plan) in self._trials

    def _report(self, stage: str, job: Job, share: float) -> None:
        names = list(dict.fromkeys(contender.name for contender in job.contenders))
        label = names[0] if len(names) == 1 else f"{len(names)} optimizers"
        done = len(self._trials) + share * len(job.trials)
        self._watch(Progress(stage, label, done, self._max_trainings(), self._best))

    def _max_trainings(self) -> int:
        design = self._plan.design
        return max(len(self._trials) + 1, design.most_trainings * len(self._contenders) + design.value)

    def _jobs(self, requests: Sequence[TrialRequest]) -> Iterator[tuple[Job, list[TrialRequest]]]:
        """The jobs of these requests, each with its requests in the order of its trials."""
        for group in self._groups(requests):
            first = group[0]
            mode, schedule = self._plan.execution_modes[first.contender.name], self._schedule(first)
            is_pruned = self._may_be_pruned(first.request)
            rungs = self._rungs(first.request, schedule) if is_pruned else None
            size = len(group) if is_pruned else self._job_size(len(group), mode.members)
            for start in range(0, len(group), size):
                contenders, trials, members = zip(*group[start : start + size], strict=True)
                yield Job(contenders, trials, schedule, mode.seconds(len(trials)), rungs), list(members)

    def _groups(self, requests: Sequence[TrialRequest]) -> list[list[_Member]]:
        """Groups of trainings that can share a population, of one contender or of several.

        All members of a group have one length. Those with the same program stand side by side: a momentum of 0, for
        example, has no buffer.
        """
        groups: dict[Hashable, dict[Hashable, list[_Member]]] = {}
        for request in requests:
            contender = self._contenders[request.contender]
            trial = Trial(self._settings(request), key_of(request, self._plan).seed)
            member = _Member(contender, trial, request)
            # Only trainings of one study of one contender are pruned together.
            study = (request.contender, request.study) if self._may_be_pruned(request) else None
            num_members = self._plan.execution_modes[contender.name].members
            key = (contender.population_key, self._schedule(member), num_members, study)
            programs = groups.setdefault(key, {})
            programs.setdefault((contender.name, contender.program(trial.settings)), []).append(member)
        return [[member for members in programs.values() for member in members] for programs in groups.values()]

    def _job_size(self, num_trainings: int, max_members: int) -> int:
        """The number of trainings in a job, so that the workers share them evenly."""
        if max_members == 1:
            return 1
        num_workers = self._plan.num_workers
        num_jobs = num_workers * math.ceil(math.ceil(num_trainings / max_members) / num_workers)
        return math.ceil(num_trainings / num_jobs)

    def _schedule(self, member: _Member) -> TrainingSchedule:
        schedule = self._plan.schedules[member.contender.name]
        if member.request.stage in STAGES_WITH_CURVES or self._plan.target is not None:
            return schedule
        return replace(schedule, num_evaluations=min(EVALUATIONS_WITHOUT_CURVE, schedule.num_evaluations))

    def _rungs(self, first: TrialRequest, schedule: TrainingSchedule) -> Rungs:
        """The rungs of trainings of one study, with the losses of all trials before the first of them."""
        split = self._plan.selected_on
        losses: dict[int, list[float]] = {step: [] for step in rungs_of(schedule)}
        for trial in self._search_trials(first):
            for evaluation in trial.result.evaluations:
                if evaluation.step in losses and trial.trial < first.trial:
                    losses[evaluation.step].append(getattr(evaluation, split))
        return Rungs(split, losses)

    def _settings(self, request: TrialRequest) -> Settings:
        """The settings of a request: none at the start, the recommended ones, or those of a trial of a search."""
        if request.trial == START.trial:
            return {}
        contender = self._contenders[request.contender]
        if request.trial == RECOMMENDED.trial:
            return dict(contender.recommended)
        key = (request.contender, request.study)
        if key not in self._settings_of_study:
            self._settings_of_study[key] = self._plan.draw_settings(contender, request.study)
        settings = self._settings_of_study[key]
        while request.trial >= len(settings):
            settings += self._propose(request, len(settings))
        return settings[request.trial]

    def _propose(self, request: TrialRequest, first: int) -> list[Settings]:
        """The settings of the round that begins with trial `first`, which follow from all trials before it."""
        rounds = self._plan.design.rounds(self._plan.draws[request.contender])
        number = next(k for k, trials in enumerate(rounds) if trials and trials.start == first)
        count = len(rounds[number])
        study = self._search_trials(request)
        stored = [trial.settings for trial in study if first <= trial.trial < first + count]
        if len(stored) == count:
            return stored
        contender = self._contenders[request.contender]
        return propose(
            self._plan.space_of(contender),
            self._scored_settings([trial for trial in study if trial.trial < first]),
            count,
            seed=derive(self._plan.seed, f"proposals/{contender.name}/{request.study}", first),
            number=number - 1,
        )

    def _scored_settings(self, trials: Sequence[TrialRecord]) -> list[tuple[Settings, float]]:
        """The settings of trials with their selection scores; a pruned trial counts as the worst completed one."""
        scores = [trial_score(trial, self._plan).selection_score for trial in trials]
        completed = [score for trial, score in zip(trials, scores, strict=True) if trial.result.status == "ok"]
        return [
            (trial.settings, max(completed) if trial.result.status == "pruned" and completed else score)
            for trial, score in zip(trials, scores, strict=True)
        ]

    def _search_trials(self, request: TrialRequest) -> list[TrialRecord]:
        """The search trials of a request's study so far, in their order."""
        study = ("search", request.contender, request.study)
        trials = (trial for key, trial in self._trials.items() if (key.stage, key.contender, key.study) == study)
        return sorted(trials, key=lambda trial: trial.trial)
