"""Session: one run of a comparison, from a stored plan to its end, or as far as the time goes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.execution.worker_pool import WorkerPool
from thalweg.comparison.executor import StudyExecutor
from thalweg.comparison.planning.budget import RANKING_LIMIT
from thalweg.comparison.planning.clock import Clock
from thalweg.comparison.planning.device_choice import check_resumable
from thalweg.comparison.planning.plan import ComparisonPlan
from thalweg.comparison.planning.planner import Request, complete_plan
from thalweg.comparison.progress import Progress
from thalweg.comparison.protocol.design import Design, SettingDesign
from thalweg.comparison.protocol.procedure import Findings
from thalweg.comparison.protocol.setting_search import search_settings
from thalweg.comparison.protocol.trial import seed_requests
from thalweg.comparison.results.environment import hardware_of, other_hardware
from thalweg.comparison.results.records import ComparisonRecord
from thalweg.comparison.results.scoring import ScaleChangedError
from thalweg.comparison.results.store import Store
from thalweg.comparison.results.stored_findings import (
    best_of_studies,
    conclude_by_plan,
    decide_by_plan,
    rank_by_plan,
)
from thalweg.comparison.setting_source import SettingSource, has_ended
from thalweg.comparison.training.timing import measurement_of_trainings
from thalweg.comparison.training.workload import Workload
from thalweg.comparison.trial_runner import TrialRunner

KNOWN_SETTINGS = 2  # of each contender, the best of its studies, that the adaptive search begins with


def run(
    workload: Workload,
    contenders: Sequence[Contender],
    store: Store,
    record: ComparisonRecord,
    request: Request,
    clock: Clock,
    watch: Callable[[Progress], None],
) -> None:
    """Run the trainings of a comparison that the store does not hold yet, and mark the comparison as finished.

    Args:
        workload: The task or the training function.
        contenders: The contenders of the comparison.
        store: The store that holds the comparison.
        record: The comparison with its plan.
        request: The request that the plan follows.
        clock: The clock of the comparison.
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
    with WorkerPool(workload, num_workers, notify, usable, request.timeout_s, contenders) as pool:
        runner = TrialRunner(contenders, store, record, watch, pool, clock)
        _Session(workload, contenders, record, request, runner).run()
        runner.monitor.check_that_one_succeeded()
    store.finish(record.id, elapsed_s=clock.elapsed_s)


@dataclass
class _Session:
    workload: Workload
    contenders: Sequence[Contender]
    record: ComparisonRecord
    request: Request
    runner: TrialRunner

    @property
    def plan(self) -> ComparisonPlan:
        return self.runner.plan

    def run(self) -> None:
        if self.plan.is_provisional:
            if not self._measure():
                return
            self.record = replace(self.record, plan=self.plan)
        self._notice_unused_option()
        repeats = self.plan.scale.decides_like(self.record.plan.scale)
        while True:
            try:
                self._answer(repeats=repeats)
                return
            except ScaleChangedError:  # what is stored answers again, on the new scale
                repeats = False

    def _notice_unused_option(self) -> None:
        if self.request.refine and self.plan.studies is None:
            self.runner.notify("refine changes the studies of a ranking, which this budget does not include.")

    def _answer(self, *, repeats: bool) -> None:
        """Run what the design requests."""
        self.record = replace(self.record, plan=self.plan)
        if isinstance(self.plan.design, Design):
            self.runner.total = self.plan.design.most_trainings * len(self.contenders) + self.plan.design.value
            decide_by_plan(self.record, StudyExecutor(self.runner).run_trials)
            return
        if self.plan.ranking is not None:
            self._rank()
        self._search(self.plan.design, repeats=repeats)

    def _measure(self) -> bool:
        """Run the first trainings of a function, and complete the plan with them; False if none has ended."""
        runner = self.runner
        runner.hold()
        plan = None
        try:
            SettingSource(runner).run_first()
        finally:  # also if it is interrupted
            names = [contender.name for contender in self.contenders]
            trials = sorted(runner.trials.values(), key=lambda trial: names.index(trial.contender))
            measurement = measurement_of_trainings([trial.result for trial in trials if has_ended(trial)])
            if measurement is not None:
                plan = complete_plan(self.plan, self.workload, self.contenders, self.request, measurement, runner.clock)
            runner.release(plan)
        runner.monitor.check_that_one_succeeded()
        return plan is not None

    def _rank(self) -> None:
        """Run the studies that rank the optimizers, as far as their part of the time goes."""
        clock = self.runner.clock
        assert clock.budget_s is not None
        stop_at_s = clock.start_s - clock.earlier_s + RANKING_LIMIT * clock.budget_s
        rank_by_plan(self.plan, StudyExecutor(self.runner, stop_at_s).run_trials)

    def _search(self, design: SettingDesign, *, repeats: bool) -> None:
        """Search for the setting to use until the budget is spent."""
        known = best_of_studies(self.plan, self.runner.trials.values(), KNOWN_SETTINGS) if self.plan.ranking else []
        source = SettingSource(self.runner, known, repeats=repeats)
        budget = self.request.budget
        if budget.trials is not None:
            self.runner.total = int(budget.total(len(self.contenders)))
        if self.runner.clock.budget_s is not None:
            if not any(map(has_ended, self.runner.trials.values())):
                source.run_first()
            if not any(map(has_ended, self.runner.trials.values())):
                return
        redesign = None if self.runner.clock.budget_s is None else lambda: self._designed_by_speed(source)
        is_begun = True
        while is_begun:
            search_settings(
                design,
                source,
                cost=self.plan.costs(self.record.contenders),
                margin=self.plan.margin,
                trades=self.plan.prefer == "cheap",
                redesign=redesign,
            )
            is_begun = redesign is not None and source.search_again()
        if self._setting_design.value:
            self._fill(source, self._setting_design)

    @property
    def _setting_design(self) -> SettingDesign:
        assert isinstance(self.plan.design, SettingDesign)
        return self.plan.design

    def _designed_by_speed(self, source: SettingSource) -> SettingDesign:
        """Return the design for as many trainings as the time pays for by the latest speed, and store it.

        The first training was cold, a pilot is short, and a ranking may have taken longer than predicted. The rule sees
        times and no scores. Once a later stage has begun, the design stays, unless the search begins again.
        """
        trainings = source.trainings_in_all()
        if trainings is not None:
            design = SettingDesign.for_trainings(trainings, len(self.contenders), stops=self.request.prune)
            if design != self.plan.design:
                self.runner.change_design(design)
        return self._setting_design

    def _fill(self, source: SettingSource, design: SettingDesign) -> None:
        """Measure the recommended setting from further seeds, with what the later stages have left of the budget."""
        findings = self._conclude(design)
        name, count = findings.race.recommended, design.value
        while name is not None and source.trainings_left() >= 1:
            seeds = range(count, count + max(1, min(source.capacity, int(source.trainings_left()))))
            requests = seed_requests("value", name, findings.chosen_settings[name], seeds)
            if len(source.run_trials(requests)) < len(requests):
                break
            count = seeds.stop

    def _conclude(self, design: SettingDesign) -> Findings:
        return conclude_by_plan(self.record, self.runner.trials.values(), design)
