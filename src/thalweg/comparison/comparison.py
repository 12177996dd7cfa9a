"""Comparison: from a task and contenders to a verdict, and the object that holds the results."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.schedule import DEFAULT_SCHEDULE, check_schedule
from thalweg.comparison.entrants import entrants_of, with_optimizer_names
from thalweg.comparison.executor import run
from thalweg.comparison.failures import Failure, failures_of, reopen_if_incomplete
from thalweg.comparison.parts import Parts, plain
from thalweg.comparison.plain_results import summary_json
from thalweg.comparison.planning import budget as budgets
from thalweg.comparison.planning.device_choice import ONLY_CPU, choose_device, usable_devices
from thalweg.comparison.planning.fingerprint import key_of
from thalweg.comparison.planning.plan import ComparisonPlan, make_plan, schedules_of
from thalweg.comparison.planning.seeds import derive
from thalweg.comparison.progress import Progress
from thalweg.comparison.protocol.procedure import Findings
from thalweg.comparison.results import environment
from thalweg.comparison.results.cautions import cautions
from thalweg.comparison.results.environment import hardware_of_trials, mixed_hardware
from thalweg.comparison.results.half_sample_check import half_sample_check
from thalweg.comparison.results.records import ComparisonRecord, TrialRecord
from thalweg.comparison.results.report_writer import load_report_writer
from thalweg.comparison.results.store import Store, StoredTrials
from thalweg.comparison.results.stored_findings import stored_findings
from thalweg.comparison.results.summary import Summary, summarize
from thalweg.comparison.results.terms import name_of_metric, name_of_untrained, terms_of
from thalweg.comparison.results.verdict import Verdict, judge
from thalweg.comparison.training.workload import Workload, as_workload
from thalweg.engine.core import devices
from thalweg.errors import SettingError, StoreError
from thalweg.rules import Rule
from thalweg.tasks import Task, TrainingFunction, as_task, load


def compare(
    task: str | Task | TrainingFunction | Callable[..., Any],
    contenders: Iterable[str | Rule | Contender | Callable[..., Any]] | None = None,
    *,
    budget: str | None = None,
    seed: int = 0,
    schedule: str | None = None,
    workers: int | None = None,
    prune: bool = False,
    refine: bool = False,
    target: float | None = None,
    control: bool = False,
    device: str | None = None,
    fixed: Mapping[str, float] | None = None,
    start: Sequence[str] = (),
    store: str | Path | Store | None = None,
    watch: Callable[[Progress], None] = lambda progress: None,
) -> "Comparison":
    """Find the best optimizer for a task. Each contender is tuned in its own search space with the same budget.

    Args:
        task: A ``Task``, a function ``train(make_optimizer, report)``, or a name: ``"digits"``,
            ``"path/to/file.py:name"``.
        contenders: Names such as ``"adamw"``, ``"adam:beta2=0.95,lr=1e-4..1e-2"`` or ``"torch.optim:NAdam"``, rules,
            optimizer classes, functions ``(params, lr=...)``, or ``Contender`` objects. A single one is tuned. Defaults
            to seven classics, without full-batch gradient descent if the task has no full batch.
        budget: A time for the whole comparison (``"90s"``, ``"2m"``, ``"1h"``); or, for each contender, search trials
            (``"16trials"``), those of several studies (``"8x24trials"``), optimizer steps (``"100000steps"``) or
            passes over the data (``"500passes"``). A small budget answers which setting to use; a larger one also
            which optimizer ranks where. Defaults to ``"2m"``, or to the smallest comparison if that takes longer.
        seed: The seed of all random numbers. With a budget in trials, the same seed gives the same verdict on a machine
            where the pilot chooses the same execution modes. The choice of the pilot is stored, so resuming never
            changes it.
        schedule: The learning rate schedule of each training: ``"linear"`` (the default) or ``"cosine"``, each also
            with ``"warm-up-"`` before it, ``"constant"`` or ``"none"``. A training function has its own, unless it
            takes this one: ``optimizer, scheduler = make_optimizer(model, scheduler=True, steps=N)``.
        workers: The number of processes that train. Defaults to one, or to more if a measurement shows that they are
            faster.
        prune: Stop settings that do badly early. The time saved is spent on more settings of the same contender.
        refine: Let a model propose the second half of the settings of each study. Needs Optuna.
        target: A validation loss (the training loss if the optimum is known). The time to this loss is compared instead
            of the final loss.
        control: Enter the first contender twice. The difference between the two shows the noise.
        device: The device that trains: ``"cpu"``, ``"cuda"`` (all GPUs of CUDA, one for each worker), ``"cuda:1"``,
            ``"xpu"``, ``"mps"``. ``"auto"`` takes an accelerator if there is one and a measurement on this task shows
            that it is faster. Defaults to the device of the task, which is ``"auto"`` unless the task has one.
        fixed: Values of numbers of the task that are declared by ``thalweg.choice``, say, and not to be tuned now.
        start: Settings of yours that the search tries first: ``["adamw:lr=3e-4"]``.
        store: The file that keeps every result. If the run is interrupted, the same call resumes it. Defaults to the
            memory.
        watch: Called with the progress.

    Returns:
        The finished comparison. A training that diverges or raises an error is a result in it, not an exception.

    Raises:
        TaskError: If the task cannot be loaded or trained.
        UnknownNameError: If no task, optimizer or schedule has a given name.
        KeywordError: If a contender has no setting of a given name.
        SettingError: If an option or a setting is out of its bounds.
        BudgetError: If the budget cannot be parsed or is too small.
        DeviceError: If the device does not exist on this machine.
        StoreError: If the store cannot be opened, read or written.

    Example:
        >>> comparison = compare("quadratic", ["gd", "adam"], budget="4trials", workers=1)
        >>> len(comparison.contenders)
        2
        >>> comparison.verdict.recommended in ("gd", "adam")
        True
    """
    loaded = load(task) if isinstance(task, str) else as_task(task)
    requested = _requested_device(loaded, device)
    workload = as_workload(loaded.on(devices.AUTO))
    entrants = entrants_of(workload, contenders, control=control, fixed=fixed, start=start)
    schedule, chosen_schedule = schedule or DEFAULT_SCHEDULE, schedule
    allowed = check_request(budget, seed, schedule)
    _check_target(workload, target)
    store = store if isinstance(store, Store) else Store(store)
    options: dict[str, Any] = {"prune": prune, "refine": refine, "target": target}
    if requested != devices.AUTO:
        options["device"] = requested
    key = key_of(workload, entrants, allowed, seed, schedule, options)
    record = store.find(key)
    choice = None
    workload = workload.at(fixed or {})
    names = record.contenders[0].optimizer_names if record else None
    entrants = with_optimizer_names(workload, entrants, names, derive(seed, "pilot"), chosen_schedule)
    if record is None:

        def report(name: str) -> None:
            watch(Progress("pilot", name))

        choice = choose_device(
            workload,
            entrants,
            requested,
            schedules_of(workload, entrants, schedule, target),
            derive(seed, "pilot"),
            num_workers=workers,
            report=report,
        )
        if choice.is_choice:
            watch(Progress("", "", message=f"device: {choice.device} ({choice.reason})"))
        plan = make_plan(
            workload,
            entrants,
            allowed,
            seed=seed,
            schedule=schedule,
            num_workers=workers,
            prune=prune,
            refine=refine,
            target=target,
            report=report,
            choice=choice,
        )
        record = _create_record(store, key, workload, entrants, plan)
    if record.finished is None or reopen_if_incomplete(store, record):
        run(workload, entrants, store, record, watch)
    finished = store.find(key)
    assert finished is not None
    return Comparison(store, finished)


def _requested_device(task: Task | TrainingFunction, device: str | None) -> str:
    """Return the device that the user requests, in the words of ``DeviceChoice``."""
    requested = task.device if device is None else device
    return devices.AUTO if requested == devices.AUTO else str(devices.parse(requested))


def check_request(budget: str | None, seed: int, schedule: str) -> budgets.Budget:
    """Return the parsed budget after checking the options that do not depend on a task.

    Raises:
        BudgetError: If the budget cannot be parsed.
        SettingError: If there is no such schedule, or the seed is no whole number.
    """
    allowed = budgets.parse(budget)
    check_schedule(schedule)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise SettingError(f"thalweg: seed must be a whole number, got {seed!r}.")
    return allowed


def _check_target(workload: Workload, target: float | None) -> None:
    """Raise SettingError for a target that no training can meet."""
    if target is None:
        return
    if isinstance(target, bool) or not isinstance(target, int | float) or not math.isfinite(target):
        raise SettingError(f"thalweg: target must be a finite number, got {target!r}.")
    if workload.optimum is not None and target < workload.optimum:
        raise SettingError(
            f"{workload.name}: the target must be at least the optimum, {workload.optimum:.7g}, got {target:g}."
        )


def _create_record(
    store: Store, key: str, workload: Workload, contenders: Sequence[Contender], plan: ComparisonPlan
) -> ComparisonRecord:
    described = [
        replace(
            contender.describe(workload.roles),
            state_bytes=workload.state_bytes(contender),
            searched=list(plan.draw_settings(contender, 0)[0]),
        )
        for contender in contenders
    ]
    return store.create(
        key,
        workload=workload.record,
        contenders=described,
        plan=plan,
        environment=environment.describe(usable_devices(plan.device)),
    )


class Comparison:
    """A finished comparison, read from its store.

    Attributes:
        store: The store that holds it.
        record: The stored facts: task, contenders, plan and environment.
        parts: Makes the parts of the result, and knows those that could not be made.

    Example:
        >>> comparison = compare("quadratic", ["gd", "adam"], budget="4trials", workers=1)
        >>> Comparison(comparison.store, comparison.record).metric
        'training height'
    """

    def __init__(self, store: Store, record: ComparisonRecord) -> None:
        """Open a comparison.

        Args:
            store: The store that holds it.
            record: The comparison, from ``Store.find``.

        Raises:
            StoreError: If the comparison is not finished.
        """
        if record.finished is None:
            raise StoreError(
                f"{store.path}: the comparison on {record.workload.name} must be finished, and is not. "
                "Run the same compare command again to resume it."
            )
        self.store = store
        self.record = record
        self.parts = Parts()

    @property
    def plan(self) -> ComparisonPlan:
        """The plan, made before the first trial."""
        return self.record.plan

    @cached_property
    def _stored(self) -> StoredTrials:
        stored = self.store.read_trials(self.record.id)
        if stored.damaged:
            self.parts.add("a part of the trainings", StoreError(self.store.sentence_of(stored.damaged)))
        if self.store.damage:
            self.parts.add("a part of the store", StoreError(f"{self.store.label}: {self.store.damage}"))
        return stored

    @property
    def _trials(self) -> list[TrialRecord]:
        return self._stored.trials

    @cached_property
    def failures(self) -> list[Failure]:
        """The errors that trainings raised, the most frequent first. The same ``compare`` call tries them again."""
        return failures_of(self._trials)

    @cached_property
    def findings(self) -> Findings:
        """The decisions that follow from the stored trials, by the same procedure that requested them."""
        return stored_findings(self.record, self._trials)

    @cached_property
    def contenders(self) -> list[Summary]:
        """The results of each contender: those that remain in the race, the best first, then the dropped ones."""
        race = self.findings.race
        order = race.remaining + [name for names in reversed(race.dropped) for name in reversed(names)]
        described = {contender.name: contender for contender in self.record.contenders}
        return [summarize(described[name], self._trials, self.plan, self.findings) for name in order]

    @cached_property
    def verdict(self) -> Verdict:
        """The statements that the evidence allows."""
        terms = terms_of(self.record, self.findings.race, self.contenders)
        return judge(self.findings, {summary.name: summary.value for summary in self.contenders}, terms)

    @property
    def metric(self) -> str:
        """The name of the values, such as ``test cross-entropy``."""
        return name_of_metric(self.record)

    @property
    def device(self) -> str:
        """The hardware that trained and the reason, as a phrase; empty if there was nothing to choose."""
        hardware = " and ".join(hardware_of_trials(self._trials))
        if not hardware or self.plan.device_reason in ("", ONLY_CPU):
            return ""
        return f"trained on {hardware} ({self.plan.device_reason})"

    @property
    def half_sample_check(self) -> list[str]:
        """The results of half of the studies and of half of the seeds, in sentences."""
        return half_sample_check(self.findings)

    @property
    def cautions(self) -> list[str]:
        """Facts that a reader should know before trusting the verdict, in sentences."""
        stated = cautions(self.record, self.contenders, self.verdict, name_of_untrained(self.record))
        return [*stated, *mixed_hardware(self._trials), *self._stored.caution]

    @property
    def code(self) -> str:
        """The lines of code for the recommended contender; empty if none is recommended."""
        recommended = next((summary for summary in self.contenders if summary.name == self.verdict.recommended), None)
        if recommended is None:
            return ""
        scheduler = self.plan.schedules[recommended.name].line_of_code()
        if not scheduler or recommended.trials["race"][0].result.optimizers:  # its lines hold the scheduler
            return recommended.line
        passes = self.record.workload.passes
        return f"{recommended.line}\n{scheduler}  # {passes} passes; scheduler.step() after each batch"

    def to_json(self) -> dict[str, Any]:
        """Return the results as plain JSON. Numbers that are not finite become None.

        A part that cannot be made is empty, and ``missing_parts`` says why.
        """
        make = self.parts.make
        values = {
            "task": self.record.workload.name,
            "metric": make("the metric", lambda: self.metric, ""),
            "optimum": self.plan.optimum,
            "trainings": make("the trainings", lambda: len(self._trials), 0),
            "contenders": [
                part
                for summary in make("the results of the contenders", lambda: self.contenders, [])
                if (part := make(f"the result of {summary.name}", partial(summary_json, summary, self.plan), None))
            ],
            "verdict": make("the verdict", lambda: vars(self.verdict), None),
            "hindsight": make("the half-sample check", lambda: self.half_sample_check, []),
            "cautions": make("the cautions", lambda: self.cautions, []),
            "code": make("the code", lambda: self.code, ""),
            "device": {
                "name": self.plan.device,
                "reason": self.plan.device_reason,
                "hardware": make("the hardware", lambda: hardware_of_trials(self._trials), []),
            },
            "failures": make("the failed trainings", lambda: [vars(failure) for failure in self.failures], []),
        }
        return plain(values | {"missing_parts": [vars(part) for part in self.parts.missing]})

    def report(self, path: str | Path) -> Path:
        """Write the report, one self-contained HTML file.

        Args:
            path: The file to write.

        Returns:
            The path of the file.

        Raises:
            StoreError: If the file cannot be written, or the installed package declares no report writer.
        """
        return load_report_writer("comparison")(self, path)
