"""Compare: from a task and contenders to a finished comparison."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.named import DEFAULT
from thalweg.comparison.contenders.parsing import ContenderLike, resolve, with_user_settings
from thalweg.comparison.contenders.schedule import DEFAULT_SCHEDULE, check_schedule
from thalweg.comparison.failures import reopen_if_incomplete
from thalweg.comparison.finished import Comparison
from thalweg.comparison.planning import budget as budgets
from thalweg.comparison.planning.clock import Clock
from thalweg.comparison.planning.device_choice import choose_device, usable_devices
from thalweg.comparison.planning.fingerprint import key_of
from thalweg.comparison.planning.num_workers import check_num_workers, check_timeout
from thalweg.comparison.planning.plan import ComparisonPlan
from thalweg.comparison.planning.planner import Request, make_plan, pilot_limited, pilot_time, schedules_of
from thalweg.comparison.planning.seeds import derive
from thalweg.comparison.presentation.callbacks import Callback, CallbackRunner
from thalweg.comparison.presentation.progress_display import shows_progress
from thalweg.comparison.progress import Progress
from thalweg.comparison.protocol.score_scale import Margin
from thalweg.comparison.results import environment
from thalweg.comparison.results.records import ComparisonRecord
from thalweg.comparison.results.store import Store
from thalweg.comparison.session import run
from thalweg.comparison.training.workload import Workload, as_workload
from thalweg.engine.core import devices
from thalweg.errors import ComparisonInterrupted, SettingError
from thalweg.optim.lazy_imports import import_lazy_parts
from thalweg.tasks import Task, TrainingFunction, as_task, load
from thalweg.tasks.measurement import RESULTS, SCALES
from thalweg.tasks.tuning.tunable import TunableValue, fix


@shows_progress
def compare(
    task: str | Task | TrainingFunction | Callable[..., Any],
    contenders: Iterable[ContenderLike] | None = None,
    *,
    budget: str | None = None,
    seed: int = 0,
    schedule: str | None = None,
    workers: int | None = None,
    timeout: float | None = None,
    prune: bool = False,
    refine: bool = False,
    target: float | None = None,
    scale: Literal["log", "linear"] | None = None,
    margin: str | float | None = None,
    prefer: Literal["best", "cheap"] = "best",
    result: Literal["last", "best"] | None = None,
    control: bool = False,
    device: str | None = None,
    fixed: Mapping[str, TunableValue] | None = None,
    start: Sequence[str] = (),
    store: str | Path | Store | None = None,
    watch: Callable[[Progress], None] | None = None,
    quiet: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Comparison:
    """Find the best optimizer and its setting for a task. Each contender is tuned in its own search space.

    The search for the setting to use is one for all contenders: those that do better get more trainings. A ranking of
    the optimizers comes from studies, which give each contender the same number of settings and steps; see ``budget``.

    Args:
        task: A ``Task``, a function ``train(make_optimizer, report)``, or a name: ``"digits"``,
            ``"path/to/file.py:name"``.
        contenders: Names such as ``"adamw"``, ``"adam:beta2=0.95,lr=1e-4..1e-2"`` or ``"torch.optim:NAdam"``, rules,
            optimizer classes, functions ``(params, lr=...)``, or ``Contender`` objects; or a dictionary of these for
            the named optimizers of one training: ``{"d": "sgd", "g": "adam"}``. A single one is tuned. Defaults to
            seven classics, without full-batch gradient descent if the task has no full batch.
        budget: A time for the whole comparison (``"90s"``, ``"2m"``, ``"1h"``), which is used and kept; or, for each
            contender, trainings (``"16trials"``), search trials of studies that rank the optimizers
            (``"8x24trials"``), optimizer steps (``"100000steps"``) or passes over the data (``"500passes"``). Any
            budget answers which setting to use, and says how sure that is; a larger one also which optimizer ranks
            where. Defaults to ``"2m"``.
        seed: The seed of all random numbers. With a budget in trials, the same seed gives the same verdict on a machine
            where the pilot chooses the same execution modes. The choice of the pilot is stored, so resuming never
            changes it.
        schedule: The learning rate schedule of each training: ``"linear"`` (the default) or ``"cosine"``, each also
            with ``"warm-up-"`` before it, ``"onecycle"``, ``"step:0.3:0.1"``, ``"constant"`` or ``"none"``. A training
            function has its own, unless it takes this one:
            ``optimizer, scheduler = make_optimizer(model, scheduler=True, steps=N)``.
        workers: The number of processes that train. Defaults to one, or to more if a measurement shows that they are
            faster.
        timeout: Seconds after which a training has failed because it hangs. Defaults to a minute and 20 times its usual
            duration.
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
        fixed: Values of arguments of the task that are declared by ``thalweg.choice``, say, and not to be tuned now.
        start: Settings of yours that the search tries first: ``["adamw:lr=3e-4"]``.
        store: The file that keeps every result. If the run is interrupted, the same call resumes it. Defaults to the
            memory.
        watch: Called with the progress. Defaults to a display on stderr: on a terminal and in a notebook a live one,
            elsewhere a line for each stage and at most one a minute.
        quiet: Show no progress.
        callbacks: Functions that are called with the ``TrialRecord`` of each training that has been stored, such as
            ``CsvLog("log.csv")``. A method ``finish(comparison)`` of a callback is called at the end.

    Returns:
        The finished comparison. A training that diverges or raises an error is a result in it, not an exception.

    Raises:
        TaskError: If the task cannot be loaded or trained.
        UnknownNameError: If no task, optimizer or schedule has a given name.
        KeywordError: If a contender has no setting of a given name.
        SettingError: If an option or a setting is out of its bounds.
        BudgetError: If the budget cannot be parsed.
        DeviceError: If the device does not exist on this machine.
        StoreError: If the store cannot be opened, read or written.
        ComparisonInterrupted: On Ctrl-C. Its ``result`` is the comparison so far; the same call resumes it.

    Example:
        >>> comparison = compare("quadratic", ["gd", "adam"], budget="4trials", workers=1)
        >>> len(comparison.contenders)
        2
        >>> comparison.verdict.recommended in ("gd", "adam")
        True
    """
    assert watch is not None, "shows_progress passes a function"
    schedule, chosen_schedule = schedule or DEFAULT_SCHEDULE, schedule
    allowed = check_request(budget, seed, schedule, workers)
    import_lazy_parts()
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
    runner = CallbackRunner(callbacks, watch)
    store.listeners = (runner,)
    options: dict[str, Any] = {"prune": prune, "refine": refine, "target": target}
    options |= {name: value for name, value in (("margin", margin), ("prefer", prefer)) if value not in (None, "best")}
    if requested != devices.AUTO:
        options["device"] = requested
    request = Request(
        allowed,
        seed,
        schedule,
        workers,
        prune,
        refine,
        target,
        margin=tolerance,
        prefer=prefer,
        timeout_s=check_timeout(timeout),
    )
    with pilot_limited(workload.name, request):
        key = key_of(workload, entrants, allowed, seed, schedule, options)
    try:
        record = store.find(key)
        workload = workload.at({name: entrants[0].task_settings[name].default for name in fixed or {}})
        names = record.contenders[0].optimizer_names if record else None
        entrants = with_optimizer_names(workload, entrants, names, derive(seed, "pilot"), chosen_schedule)
        if record is None:
            with pilot_limited(workload.name, request):
                _tell_of_stored_comparisons(store, watch)
                plan = _plan(workload, entrants, request, requested, clock, watch)
                record = _create_record(store, key, workload, entrants, plan)
        if reopen_if_incomplete(store, record):
            clock.earlier_s = store.elapsed_s(record.id)
            run(workload, entrants, store, record, request, clock, watch)
        finished = store.find(key)
        assert finished is not None
        return runner.finish(Comparison(store, finished))
    except KeyboardInterrupt as interrupt:
        so_far = _comparison_so_far(store, key)
        raise ComparisonInterrupted(so_far, is_stored=store.path is not None) from interrupt


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


def _tell_of_stored_comparisons(store: Store, watch: Callable[[Progress], None]) -> None:
    """Say that a store holds comparisons of which nothing is used: only the same request resumes one."""
    count = store.count()
    if count:
        stored = "another comparison, which differs" if count == 1 else f"{count} other comparisons, which differ"
        message = (
            f"{store.label} holds {stored} in budget, seed, contenders, options or code. This comparison begins anew: "
            "no earlier training is used."
        )
        watch(Progress("", "", message=message))


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


def _comparison_so_far(store: Store, key: str) -> Comparison | None:
    """Return the comparison that was interrupted, with the best answer so far; None if no training has ended."""
    record = store.find(key)
    if record is None or not store.read_trials(record.id).trials:
        return None
    return Comparison(store, record)


def _requested_device(task: Task | TrainingFunction, device: str | None) -> str:
    """Return the device that the user requests, in the words of ``DeviceChoice``."""
    requested = task.device if device is None else device
    return devices.AUTO if requested == devices.AUTO else str(devices.parse(requested))


def entrants_of(
    workload: Workload,
    contenders: Iterable[ContenderLike] | None,
    *,
    control: bool = False,
    fixed: Mapping[str, TunableValue] | None = None,
    start: Sequence[str] = (),
) -> list[Contender]:
    """Return the contenders that take part, as they are trained on this workload.

    Args:
        workload: The task or training function.
        contenders: The contenders as the user names them; None for the default ones.
        control: True to enter the first contender twice.
        fixed: Values of numbers of the task that are not tuned.
        start: Settings that enter the search first, such as ``"adamw:lr=3e-4"``.

    Raises:
        UnknownNameError: If no optimizer has a name, or none takes part under a name of ``start``.
        KeywordError: If a contender has no setting of a name.
        SettingError: If a setting is out of its bounds, or two settings have the same name.
    """
    entrants = resolve(DEFAULT) if contenders is None else resolve(contenders)
    if contenders is None and not workload.has_full_batch:
        entrants = [contender for contender in entrants if not contender.full_batch]
    for contender in entrants:
        contender.warn_of_settings()
    if control:
        entrants.append(replace(entrants[0], name=f"{entrants[0].name} (control)"))
    if workload.optimum is not None:
        entrants = [contender.keeping_the_optimum() for contender in entrants]
    tunables, code = fix(workload.tunables, fixed or {}, workload.name), tuple(workload.code_of_tunables)
    for contender in entrants:
        for name in tunables.keys() & {name.rpartition(".")[2] for name in contender.start_settings()}:
            raise SettingError(
                f"{workload.name}: a tuned number must not have the name of a setting of an optimizer, but {name} is "
                f"one of {contender.name}. Rename the argument, or leave it out: each contender tunes its own {name}."
            )
    entrants = [replace(contender, task_settings=tunables, task_code=code) for contender in entrants]
    return with_user_settings(entrants, start)


def with_optimizer_names(
    workload: Workload, contenders: Sequence[Contender], names: Sequence[str] | None, seed: int, schedule: str | None
) -> list[Contender]:
    """Return contenders that have settings for each optimizer of a training.

    Args:
        workload: The task or training function.
        contenders: The contenders, at least one.
        names: The names of the optimizers, from a stored comparison; None to ask the workload.
        seed: Seed of a training up to its first step.
        schedule: Name of the learning rate schedule if the user chose one, else None. ``"none"`` is no schedule that a
            training function must follow: it also stands in the declaration of optimizers that need none.

    Raises:
        TaskError: If a training function fails before its first step, or has its own schedule and must not.
    """
    if names is None:
        own = [member.schedule for each in contenders for member in (each, *each.members.values())]
        chosen = [name for name in (schedule, *own) if name not in (None, "none")]
        names = workload.optimizer_names(contenders[0], seed, next(iter(chosen), None))
    return [contender.for_optimizers(tuple(names)) for contender in contenders]


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
        environment=environment.describe(usable_devices(plan.device))
        | environment.command_line()
        | environment.place_in_suite(),
    )
