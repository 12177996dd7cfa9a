"""Comparison: from a task and contenders to a verdict, and the object that holds the results."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.schedule import DEFAULT_SCHEDULE, check_schedule
from thalweg.comparison.entrants import entrants_of, with_optimizer_names
from thalweg.comparison.planning import budget as budgets
from thalweg.comparison.planning.clock import Clock
from thalweg.comparison.planning.device_choice import ONLY_CPU, choose_device, usable_devices
from thalweg.comparison.planning.fingerprint import key_of
from thalweg.comparison.planning.num_workers import check_num_workers
from thalweg.comparison.planning.plan import ComparisonPlan
from thalweg.comparison.planning.planner import Request, make_plan, pilot_time, schedules_of
from thalweg.comparison.planning.seeds import derive
from thalweg.comparison.progress import Progress
from thalweg.comparison.protocol.procedure import Findings
from thalweg.comparison.protocol.score_scale import Margin
from thalweg.comparison.results import environment
from thalweg.comparison.results.cautions import cautions
from thalweg.comparison.results.environment import hardware_of_trials, mixed_hardware
from thalweg.comparison.results.half_sample_check import half_sample_check
from thalweg.comparison.results.records import ComparisonRecord, TrialRecord
from thalweg.comparison.results.report_writer import load_report_writer
from thalweg.comparison.results.scoring import plan_covering
from thalweg.comparison.results.store import Store
from thalweg.comparison.results.stored_findings import stored_findings
from thalweg.comparison.results.summary import Summary, summarize
from thalweg.comparison.results.terms import name_of_metric, name_of_untrained, terms_of
from thalweg.comparison.results.verdict import Verdict, judge, run_state
from thalweg.comparison.session import run
from thalweg.comparison.training.workload import Workload, as_workload
from thalweg.engine.core import devices
from thalweg.errors import ComparisonInterrupted, SettingError, StoreError
from thalweg.rules import Rule
from thalweg.tasks import Task, TrainingFunction, as_task, load
from thalweg.tasks.measurement import RESULTS, SCALES


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
    scale: Literal["log", "linear"] | None = None,
    margin: str | float | None = None,
    prefer: Literal["best", "cheap"] = "best",
    result: Literal["last", "best"] | None = None,
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
            with ``"warm-up-"`` before it, ``"onecycle"``, ``"step:0.3:0.1"``, ``"constant"`` or ``"none"``. A training
            function has its own, unless it takes this one:
            ``optimizer, scheduler = make_optimizer(model, scheduler=True, steps=N)``.
        workers: The number of processes that train. Defaults to one, or to more if a measurement shows that they are
            faster.
        prune: Stop settings that do badly early. The time saved is spent on more settings of the same contender.
        refine: Let a model propose the second half of the settings of each study. Needs Optuna.
        target: A validation loss or metric (the training loss if the optimum is known). The time to this value is
            compared instead of the final value.
        scale: ``"log"`` compares values by their ratios, ``"linear"`` by their differences. Defaults to that of the
            task. Values of zero or below are always compared by their differences.
        margin: The difference that is too small to matter: a share of the value (``"3%"``), or a difference in its unit
            (``0.002``). Defaults to 3 %, or to 0.003 for values between 0 and 1 that are compared by differences, such
            as accuracies.
        prefer: ``"best"`` never recommends a contender that is shown to be worse. ``"cheap"`` recommends the cheapest
            within the margin, even if it is shown to be worse by less than that.
        result: The measurement of a training that counts: the ``"last"`` one, or that with the ``"best"`` validation.
            Defaults to that of the task.
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
    schedule, chosen_schedule = schedule or DEFAULT_SCHEDULE, schedule
    allowed = check_request(budget, seed, schedule, workers)
    clock = Clock(allowed.seconds)
    loaded = _measured_as(load(task) if isinstance(task, str) else as_task(task), scale, result)
    tolerance = None if margin is None else Margin.parse(margin)
    if prefer not in ("best", "cheap"):
        raise SettingError(f"thalweg: prefer must be 'best' or 'cheap', got {prefer!r}.")
    requested = _requested_device(loaded, device)
    workload = as_workload(loaded.on(devices.AUTO))
    entrants = entrants_of(workload, contenders, control=control, fixed=fixed, start=start)
    _check_target(workload, target)
    store = store if isinstance(store, Store) else Store(store)
    options: dict[str, Any] = {"prune": prune, "refine": refine, "target": target}
    options |= {name: value for name, value in (("margin", margin), ("prefer", prefer)) if value not in (None, "best")}
    if requested != devices.AUTO:
        options["device"] = requested
    key = key_of(workload, entrants, allowed, seed, schedule, options)
    request = Request(allowed, seed, schedule, workers, prune, refine, target, tolerance, prefer)
    try:
        record = store.find(key)
        workload = workload.at(fixed or {})
        names = record.contenders[0].optimizer_names if record else None
        entrants = with_optimizer_names(workload, entrants, names, derive(seed, "pilot"), chosen_schedule)
        if record is None:
            record = _create_record(
                store, key, workload, entrants, _plan(workload, entrants, request, requested, clock, watch)
            )
        elif record.finished is None:
            clock.earlier_s = store.elapsed_s(record.id)
        if record.finished is None:
            run(workload, entrants, store, record, request, clock, watch)
    except KeyboardInterrupt as interrupt:
        raise ComparisonInterrupted(_comparison_so_far(store, key)) from interrupt
    finished = store.find(key)
    assert finished is not None
    return Comparison(store, finished)


def _measured_as(
    task: Task | TrainingFunction, scale: Literal["log", "linear"] | None, result: Literal["last", "best"] | None
) -> Task | TrainingFunction:
    """Return the task with the scale and the result that the user requests for this comparison."""
    for name, value, known in (("scale", scale, SCALES), ("result", result, RESULTS)):
        if value is not None and value not in known:
            raise SettingError(f"thalweg: {name} must be {' or '.join(map(repr, known))}, got {value!r}.")
    if scale is not None:
        task = replace(task, scale=scale)
    return task if result is None else replace(task, result=result)


def _plan(
    workload: Workload,
    entrants: Sequence[Contender],
    request: Request,
    requested_device: str,
    clock: Clock,
    watch: Callable[[Progress], None],
) -> ComparisonPlan:
    """Choose the device and make the plan."""

    def report(name: str) -> None:
        watch(Progress("pilot", name, elapsed_s=clock.elapsed_s, left_s=clock.left_s, share=clock.share))

    choice = choose_device(
        workload,
        entrants,
        requested_device,
        schedules_of(workload, entrants, request.schedule, request.target),
        derive(request.seed, "pilot"),
        num_workers=request.num_workers,
        report=report,
        time_left=pilot_time(request.budget, clock),
    )
    if choice.is_choice:
        watch(Progress("", "", message=f"device: {choice.device} ({choice.reason})"))
    return make_plan(workload, entrants, request, report=report, choice=choice, clock=clock)


def _comparison_so_far(store: Store, key: str) -> "Comparison | None":
    """Return the comparison that was interrupted, with the best answer so far; None if no training has ended."""
    record = store.find(key)
    if record is None or not store.trials(record.id):
        return None
    return Comparison(store, record)


def _requested_device(task: Task | TrainingFunction, device: str | None) -> str:
    """Return the device that the user requests, in the words of ``DeviceChoice``."""
    requested = task.device if device is None else device
    return devices.AUTO if requested == devices.AUTO else str(devices.parse(requested))


def check_request(budget: str | None, seed: int, schedule: str, workers: int | None = None) -> budgets.Budget:
    """Return the parsed budget after checking the options that do not depend on a task.

    Raises:
        BudgetError: If the budget cannot be parsed.
        SettingError: If there is no such schedule, or the seed or the number of workers is no whole number in bounds.
    """
    allowed = budgets.parse(budget)
    check_num_workers(workers)
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
            searched=list(plan.space_of(contender)),
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
            StoreError: If the comparison is not finished, and none of its trainings is stored.
        """
        if record.finished is None and not store.trials(record.id):
            raise StoreError(
                f"{store.path}: a training of the comparison on {record.workload.name} must be stored, and none is. "
                "Run the same compare command again to resume it."
            )
        self.store = store
        self.record = record  # the trials are found by its number
        self.record = replace(record, plan=plan_covering(record.plan, self._trials))

    @property
    def plan(self) -> ComparisonPlan:
        """The plan, made before the first trial, with the scale that the measured values require."""
        return self.record.plan

    @cached_property
    def _trials(self) -> list[TrialRecord]:
        return self.store.trials(self.record.id)

    @cached_property
    def findings(self) -> Findings:
        """The decisions that follow from the stored trials, by the same procedure that requested them."""
        return stored_findings(self.record, self._trials)

    @cached_property
    def contenders(self) -> list[Summary]:
        """The results of each contender: those that remain in the race, the best first, then the dropped ones."""
        race = self.findings.race
        evidence = self.findings.evidence
        order = [*race.remaining, *(name for names in reversed(race.dropped) for name in reversed(names))]
        order += [*race.unraced, *(evidence.untried if evidence is not None else [])]
        described = {contender.name: contender for contender in self.record.contenders}
        return [summarize(described[name], self._trials, self.plan, self.findings) for name in order]

    @cached_property
    def verdict(self) -> Verdict:
        """The statements that the evidence allows."""
        terms = terms_of(self.record, self.findings.race, self.contenders)
        values = {summary.name: summary.value for summary in self.contenders}
        return judge(self.findings, values, terms, run_state(self.record, self._trials))

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
        return [*stated, *mixed_hardware(self._trials)]

    @property
    def code(self) -> str:
        """The lines of code for the recommended contender; empty if none is recommended."""
        recommended = next((summary for summary in self.contenders if summary.name == self.verdict.recommended), None)
        if recommended is None:
            return ""
        scheduler = self.plan.schedules[recommended.name].line_of_code()
        if not scheduler or "\nscheduler" in recommended.line or self.record.workload.is_function:
            return recommended.line
        passes = self.record.workload.passes
        return f"{recommended.line}\n{scheduler}  # {passes} passes; scheduler.step() after each step"

    def to_json(self) -> dict[str, Any]:
        """Return the results as plain JSON. Numbers that are not finite become None."""
        return {
            "task": self.record.workload.name,
            "metric": self.metric,
            "maximize": self.plan.scale.maximize,
            "scale": self.plan.scale.kind,
            "margin": terms_of(self.record, self.findings.race, self.contenders).margin,
            "result": self.record.workload.result,
            "optimum": self.plan.optimum,
            "trainings": len(self._trials),
            "contenders": [_summary_json(summary, self.plan) for summary in self.contenders],
            "verdict": vars(self.verdict),
            "hindsight": self.half_sample_check,
            "cautions": self.cautions,
            "code": self.code,
            "device": {
                "name": self.plan.device,
                "reason": self.plan.device_reason,
                "hardware": hardware_of_trials(self._trials),
            },
        }

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


def _summary_json(summary: Summary, plan: ComparisonPlan) -> dict[str, Any]:
    rank = summary.rank
    return {
        "name": summary.name,
        "settings": summary.settings,
        "searched": summary.searched,
        # If every seed missed the target, there is no time, only a bound.
        "value": None if summary.missed == len(summary.seeds) else _finite(summary.value.mean),
        "low": _finite(summary.value.low),
        "high": _finite(summary.value.high),
        "untuned": None if summary.untuned is None else _finite(summary.untuned.mean),
        "recommended": None if summary.recommended is None else _finite(summary.recommended.mean),
        "yours": None if summary.yours is None else _finite(summary.yours.mean),
        "missed": summary.missed,
        "example_error": _finite(summary.example_error),
        "worse_by": _finite(summary.worse_by),
        "worse_by_text": summary.worse_by_text,
        "metrics": {
            name: {"value": _finite(metric.mean), "low": _finite(metric.low), "high": _finite(metric.high)}
            for name, metric in summary.metrics.items()
        },
        "train_loss": _finite(summary.train_loss),
        "rank": None if rank is None else [_finite(rank.mean), _finite(rank.low), _finite(rank.high)],
        "unlearnt": summary.value.unimproved,
        "bound": bool(summary.value.bound),
        "studies": summary.studies,
        "seeds": summary.seeds,
        "diverged": summary.diverged,
        "failed": summary.failed,
        "seconds": summary.seconds,
        "bytes": summary.state_bytes,
        "update_seconds": plan.step_s.get(summary.name),
        "code": summary.line,
        "way": plan.execution_modes[summary.name].reason,
        "at_edge": [edge.setting for edge in summary.at_edge],
        "range_extended": plan.times_extended[summary.name],
        "good_rates": summary.good_rates,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
