"""TrialRunner: trains in the pool, stores each result as soon as it exists, and keeps the time."""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from statistics import fmean
from typing import NamedTuple

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.execution.job import Job
from thalweg.comparison.execution.worker_pool import WorkerPool
from thalweg.comparison.failures import FailureMonitor, stored_by_outcome
from thalweg.comparison.planning.clock import Clock
from thalweg.comparison.planning.plan import ComparisonPlan
from thalweg.comparison.planning.seeds import derive
from thalweg.comparison.progress import Progress
from thalweg.comparison.protocol.design import SettingDesign
from thalweg.comparison.results.functions.unused_settings import refuse_unused_lr
from thalweg.comparison.results.records import ComparisonRecord, TrialKey, TrialRecord
from thalweg.comparison.results.scoring import plan_covering
from thalweg.comparison.results.store import Store
from thalweg.comparison.training.functions.reports import check_direction
from thalweg.comparison.training.pruning import Rungs
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.runs import Trial

# The report draws learning curves of these stages. The trainings of all others are many, and only their end counts.
STAGES_WITH_CURVES = ("race", "value")
EVALUATIONS_WITHOUT_CURVE = 1
MAX_TRIALS_TO_CHECK = 200  # by then it is clear whether a training function uses the learning rate
# Seconds after which a training that was told to leave at its next evaluation is ended by force.
GRACE_S, GRACE_SHARE = 1.0, 0.01


class Training(NamedTuple):
    """A training to be done, and the key under which the store will hold it.

    Attributes:
        contender: The contender.
        trial: Settings and seed.
        key: The key.
    """

    contender: Contender
    trial: Trial
    key: TrialKey


@dataclass(frozen=True)
class Pruning:
    """The pruning of the trainings of one call.

    Attributes:
        group: Returns a key; only trainings that share it are pruned together.
        rungs: Returns the rungs of the trainings of a group, given the first of them.
    """

    group: Callable[[Training], Hashable]
    rungs: Callable[[Training, TrainingSchedule], Rungs]


class TrialRunner:
    """Runs trainings of one comparison and keeps their results.

    Args:
        contenders: The contenders of the comparison.
        store: The store that holds the comparison.
        record: The comparison with its plan.
        watch: Called with the progress.
        pool: The processes that train.
        clock: The clock of the comparison.

    Attributes:
        plan: The plan of the comparison. A provisional one is replaced when it is complete.
        trials: All stored trials, by key.
        clock: The clock of the comparison.
        monitor: Sees failed trainings, and stops the run if they fail alike.
        passes: Passes over the data of a training.
        total: The number of trainings that the budget pays for, for the progress; 0 if it is unknown.
        has_trained: True once a training has ended in this session.
    """

    def __init__(
        self,
        contenders: Sequence[Contender],
        store: Store,
        record: ComparisonRecord,
        watch: Callable[[Progress], None],
        pool: WorkerPool,
        clock: Clock,
    ) -> None:
        self.contenders = {contender.name: contender for contender in contenders}
        self.plan = self._stored_plan = record.plan  # the latter without the scale that later values require
        self.clock, self.passes, self.total = clock, record.workload.passes or 1, 0
        self.has_trained = False
        self._store, self._record, self._watch, self._pool = store, record, watch, pool
        kept, failed = stored_by_outcome(store, record, self.notify)
        self._failed = {trial.key: trial for trial in failed}
        self.trials: dict[TrialKey, TrialRecord] = {trial.key: trial for trial in kept}
        self.monitor = FailureMonitor(record.workload.name, list(self.contenders), kept, self.notify)
        self._held: list[TrialRecord] | None = None
        self.scale_changed()
        self._best: tuple[float, str] | None = None
        for trial in self.trials.values():
            self._note_best(trial)

    def train(
        self,
        trainings: Sequence[Training],
        *,
        pruning: Pruning | None = None,
        stop_at_s: float | None = None,
        keep_stopped: bool = False,
    ) -> None:
        """Train what is not stored yet, and store the results.

        Args:
            trainings: The trainings.
            pruning: How they are pruned; None prunes nothing.
            stop_at_s: Reading of the clock at which trainings that have not ended are stopped. Defaults to the end of
                the budget.
            keep_stopped: True to store trainings that were stopped, with their losses so far. They are trained anew
                otherwise, if the comparison is resumed.
        """
        stop_at_s = self.clock.stop_at_s if stop_at_s is None else min(stop_at_s, self.clock.stop_at_s)
        # A population is stored whole or not at all, so an interrupted one is trained again with the same members.
        members_of = {
            job: members
            for job, members in self._jobs(trainings, pruning, stop_at_s)
            if not all(member.key in self.trials for member in members)
        }
        if not members_of:
            return

        def report_share(job: Job, share: float) -> None:
            if job in members_of:
                self._report(members_of[job][0].key.stage, job, share)

        proofs: dict[Job, str] = {}

        def jobs() -> Iterator[Job]:
            for job in sorted(members_of, key=lambda job: -job.predicted_s):
                for proof in self._proof_jobs(stop_at_s):
                    proofs[proof] = proof.contenders[0].name
                    yield proof
                yield job

        report_share(next(iter(members_of)), 0.0)
        grace_s = max(GRACE_S, GRACE_SHARE * (self.clock.budget_s or 0.0))
        with closing(self._pool.run(jobs(), report_share, deadline_s=stop_at_s + grace_s)) as ended:
            for job, results in ended:
                if job in proofs:
                    self.monitor.see_proof(proofs[job], results[0])
                    continue
                self.has_trained = True
                self._keep(members_of[job], results, keep_stopped=keep_stopped)
                report_share(job, 0.0)

    @property
    def places_evaluations(self) -> bool:
        """True if trainings are evaluated where we like; False for a training function, which reports itself."""
        return not self._record.workload.is_function

    def predicted_s(self, trainings: Sequence[Training]) -> float:
        """Return the seconds that the plan predicts for trainings that run as one batch."""
        if not trainings or self.plan.is_provisional:
            return 0.0
        seconds = [job.predicted_s for job, _ in self._jobs(trainings, None, math.inf)]
        num_workers = self.plan.num_workers  # the prediction shares the time of a job among all workers
        return math.ceil(len(seconds) / num_workers) * num_workers * fmean(seconds)

    def change_design(self, design: SettingDesign) -> None:
        """Store another design for the adaptive search."""
        self.plan = replace(self.plan, design=design)
        self._stored_plan = replace(self._stored_plan, design=design)
        self._add([], self._stored_plan)

    def _proof_jobs(self, stop_at_s: float) -> Iterator[Job]:
        """The trainings that show whether trainings still succeed, if many failed alike."""
        for proof in self.monitor.proofs():
            name = proof if isinstance(proof, str) else proof.contender
            settings = {} if isinstance(proof, str) else proof.settings
            seed = derive(self.plan.seed, "proof") if isinstance(proof, str) else proof.seed
            predicted_s = math.inf if self.plan.is_provisional else self.plan.execution_modes[name].seconds(1)
            trial = Trial(settings, seed)
            yield Job((self.contenders[name],), (trial,), self.plan.schedules[name], predicted_s, None, stop_at_s)

    def notify(self, message: str) -> None:
        """Tell the user something, through the progress."""
        self._watch(Progress("", "", message=message))

    def hold(self) -> None:
        """Keep results in memory until ``release``: a provisional plan is stored together with what completed it."""
        self._held = []

    def release(self, plan: ComparisonPlan | None) -> None:
        """Store the results that were held, and the plan that they completed.

        Args:
            plan: The complete plan; None if it is still provisional.
        """
        held, self._held = self._held or [], None
        if plan is not None:
            self.plan = self._stored_plan = plan
        self._add(held, plan)

    def _add(self, trials: Sequence[TrialRecord], plan: ComparisonPlan | None = None) -> None:
        """Store trials in place of those that they replace, the time that is used, and the plan if it is complete."""
        replaced = self._replaced_by(trials)
        self._store.add(self._record.id, trials, elapsed_s=self.clock.elapsed_s, plan=plan, replaced=replaced)

    def _replaced_by(self, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Return the failed trials of earlier runs that these replace, each once.

        An adaptive search may never propose the settings of a failed trial again. There any training of its stage
        replaces one.
        """
        replaced = []
        for trial in trials:
            failed = self._failed.pop(trial.key, None)
            if failed is None and isinstance(self.plan.design, SettingDesign):
                key = next((key for key in self._failed if key.stage == trial.stage), None)
                failed = None if key is None else self._failed.pop(key)
            if failed is not None:
                replaced.append(failed)
        return replaced

    def _keep(self, members: Sequence[Training], results: Sequence[TrainingResult], *, keep_stopped: bool) -> None:
        trials = [
            TrialRecord(
                stage=member.key.stage,
                contender=member.key.contender,
                study=member.key.study,
                trial=member.key.trial,
                seed=member.key.seed,
                settings=member.trial.settings,
                result=result,
            )
            for member, result in zip(members, results, strict=True)
            if member.key not in self.trials and (keep_stopped or result.status != "stopped")
        ]
        trials = self.monitor.see(trials)
        if self._held is None:
            self._add(trials)
        else:
            self._held += trials
        self.trials |= {trial.key: trial for trial in trials}
        searched = [trial for trial in self.trials.values() if trial.stage == "search"]
        if len(searched) <= MAX_TRIALS_TO_CHECK:
            refuse_unused_lr(self._record.workload.name, searched)
        for trial in trials:
            if not self.plan.is_provisional:
                check_direction(trial.result, maximize=self.plan.maximize, who=self._record.workload.name)
            self._note_best(trial)

    def scale_changed(self) -> bool:
        """Take over the scale that all values so far require; True if scores and margins change by it."""
        before, self.plan = self.plan, plan_covering(self.plan, self.trials.values())
        return not self.plan.scale.decides_like(before.scale)

    def _note_best(self, trial: TrialRecord) -> None:
        value = getattr(trial.result, self.plan.selected_on)
        if trial.result.status != "ok" or not math.isfinite(value):
            return
        if self._best is None or self.plan.cost_of(value) < self.plan.cost_of(self._best[0]):
            self._best = value, trial.contender

    def _report(self, stage: str, job: Job, share: float) -> None:
        names = list(dict.fromkeys(contender.name for contender in job.contenders))
        label = names[0] if len(names) == 1 else f"{len(names)} optimizers"
        done = len(self.trials) + share * len(job.trials)
        best, leader = self._best or (math.inf, "")
        of_count = min(1.0, done / self.total) if self.total else 0.0
        self._watch(
            Progress(
                stage,
                label,
                done,
                self.total,
                best,
                leader=leader,
                elapsed_s=self.clock.elapsed_s,
                left_s=self.clock.left_s,
                share=of_count if self.clock.budget_s is None else self.clock.share,
            )
        )

    # --- jobs -------------------------------------------------------------------------------------------------------

    def _jobs(
        self, trainings: Sequence[Training], pruning: Pruning | None, stop_at_s: float
    ) -> Iterator[tuple[Job, list[Training]]]:
        """The jobs of these trainings, each with its members in the order of its trials.

        Studies come one after another: if the time ends before all jobs, every contender has had about as many.
        """
        return iter(sorted(self._unordered_jobs(trainings, pruning, stop_at_s), key=_first_study))

    def _unordered_jobs(
        self, trainings: Sequence[Training], pruning: Pruning | None, stop_at_s: float
    ) -> Iterator[tuple[Job, list[Training]]]:
        for group in self._groups(trainings, pruning):
            first = group[0]
            mode, schedule = self.plan.execution_modes[first.contender.name], self._schedule(first)
            rungs = None if pruning is None else pruning.rungs(first, schedule)
            size = len(group) if pruning is not None else self._job_size(len(group), mode.members)
            for start in range(0, len(group), size):
                members = group[start : start + size]
                contenders = tuple(member.contender for member in members)
                trials = tuple(member.trial for member in members)
                predicted_s = math.inf if self.plan.is_provisional else mode.seconds(len(trials))
                yield Job(contenders, trials, schedule, predicted_s, rungs, stop_at_s), members

    def _groups(self, trainings: Sequence[Training], pruning: Pruning | None) -> list[list[Training]]:
        """Groups of trainings that can share a population, of one contender or of several.

        All members of a group have one length. Those with the same program stand side by side: a momentum of 0, for
        example, has no buffer.
        """
        groups: dict[Hashable, dict[Hashable, list[Training]]] = {}
        for training in trainings:
            contender = training.contender
            pruned_with = None if pruning is None else pruning.group(training)
            num_members = self.plan.execution_modes[contender.name].members
            key = (contender.population_key, self._schedule(training), num_members, pruned_with)
            programs = groups.setdefault(key, {})
            program = (contender.name, contender.program(training.trial.settings))
            programs.setdefault(program, []).append(training)
        return [[member for members in programs.values() for member in members] for programs in groups.values()]

    def _job_size(self, num_trainings: int, max_members: int) -> int:
        """The number of trainings in a job, so that the workers share them evenly."""
        if max_members == 1:
            return 1
        num_workers = self.plan.num_workers
        num_jobs = num_workers * math.ceil(math.ceil(num_trainings / max_members) / num_workers)
        return math.ceil(num_trainings / num_jobs)

    def _schedule(self, training: Training) -> TrainingSchedule:
        schedule = self.plan.schedules[training.contender.name]
        counts_best = self._record.workload.result == "best"
        if training.key.stage in STAGES_WITH_CURVES or self.plan.target is not None or counts_best:
            return schedule
        return replace(schedule, num_evaluations=min(EVALUATIONS_WITHOUT_CURVE, schedule.num_evaluations))


def _first_study(job: tuple[Job, Sequence[Training]]) -> int:
    return min(member.key.study for member in job[1])
