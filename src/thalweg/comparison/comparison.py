"""Comparison: the way from a task and contenders to a verdict, and what stands at its end."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.named import DEFAULT
from thalweg.comparison.contenders.parsing import resolve
from thalweg.comparison.contenders.record import ContenderRecord
from thalweg.comparison.contenders.schedule import check_schedule
from thalweg.comparison.executor import Progress, read, run
from thalweg.comparison.planning import budget as budgets
from thalweg.comparison.planning.fingerprint import key_of
from thalweg.comparison.planning.plan import ComparisonPlan, make_plan
from thalweg.comparison.protocol.procedure import Findings
from thalweg.comparison.results import environment
from thalweg.comparison.results.cautions import cautions
from thalweg.comparison.results.half_sample_check import half_sample_check
from thalweg.comparison.results.records import ComparisonRecord, TrialRecord
from thalweg.comparison.results.store import Store
from thalweg.comparison.results.summary import Summary, summarize
from thalweg.comparison.results.verdict import Terms, Verdict, judge
from thalweg.comparison.training.workload import Workload, as_workload
from thalweg.errors import SettingError, StoreError
from thalweg.rules import Rule
from thalweg.tasks import Task, TrainingFunction, as_task, load


def compare(
    task: str | Task | TrainingFunction | Callable[..., Any],
    contenders: Iterable[str | Rule | Contender | Callable[..., Any]] | None = None,
    *,
    budget: str | None = None,
    seed: int = 0,
    schedule: str = "linear",
    workers: int | None = None,
    prune: bool = False,
    refine: bool = False,
    target: float | None = None,
    control: bool = False,
    store: str | Path | Store | None = None,
    watch: Callable[[Progress], None] = lambda progress: None,
) -> "Comparison":
    """Find the best optimizer for a task among contenders, each tuned with the same budget in its own search space.

    task        a Task, a function train(make_optimizer, report), or a name: `digits`, `path/to/file.py:name`
    contenders  names (`adamw`, `adam:beta2=0.95,lr=1e-4..1e-2`, `torch.optim:NAdam`), rules, optimizer classes,
                functions (params, lr=...) or Contenders; one alone is tuned. None means seven classics, without
                full-batch gradient descent where no full batch is at hand
    budget      a time for everything (`90s`, `2m`, `1h`); or, for each contender, search trials (`16trials`), those of
                several studies (`8x24trials`), optimizer steps (`100000steps`) or passes over the data (`500passes`).
                The larger, the more is asked: which setting to use, then which optimizer ranks where. None means `2m`,
                or as long as the smallest comparison takes
    seed        of every random thing. With a budget in trials the same seed gives the same verdict on a machine where
                the pilot chooses the same ways; what a pilot measured and chose is stored, so resuming never changes it
    schedule    of the learning rate over each training: linear, cosine, each with `warm-up-` before it, constant or
                none
    prune       settings that do badly early are given up, each contender's among themselves, and what that saves is
                spent on more settings of the same contender
    refine      the second half of each study's settings is proposed by a model of the first (needs optuna)
    target      a validation loss (the training loss where the optimum is known): what counts is how soon it is met
    control     the first contender takes part twice: how far the two come apart is the noise floor
    workers     processes that train; None measures whether more than this one pay
    store       file that keeps every result; the same call with the same store goes on where the last one ended.
                None keeps the results in memory
    watch       is told the progress

    Raises a ThalwegError that says what to do: TaskError, UnknownNameError, KeywordError, SettingError, BudgetError,
    StoreError. A training that diverges or raises is a result, not an error.
    """
    workload = as_workload(load(task) if isinstance(task, str) else as_task(task))
    entrants = resolve(DEFAULT) if contenders is None else resolve(contenders)
    if contenders is None and not workload.has_full_batch:
        entrants = [contender for contender in entrants if not contender.full_batch]
    for contender in entrants:
        contender.warn_of_settings()
    if control:
        entrants.append(replace(entrants[0], name=f"{entrants[0].name} (control)"))
    if workload.optimum is not None:
        entrants = [contender.keeping_the_optimum() for contender in entrants]
    allowed = checked(budget, seed, schedule)
    _check_target(workload, target)
    own = next((one for one in entrants if one.schedule is not None), None)
    if own is not None and workload.has_own_schedule:
        raise SettingError(f"{own.name}: a training function has its own schedule, got {own.schedule!r}. Leave it out.")
    store = store if isinstance(store, Store) else Store(store)
    key = key_of(workload, entrants, allowed, seed, schedule, {"prune": prune, "refine": refine, "target": target})
    header = store.find(key)
    if header is None:
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
            report=lambda name: watch(Progress("pilot", name)),
        )
        # A training function's model is out of sight.
        described = [
            replace(
                contender.describe(workload.roles),
                state_bytes=workload.state_bytes(contender),
                searched=list(plan.draw_settings(contender, 0)[0]),
            ).to_json()
            for contender in entrants
        ]
        header = store.create(
            key,
            task=workload.record.to_json(),
            contenders=described,
            plan=plan.to_json(),
            environment=environment.describe(),
        )
    if header.finished is None:
        run(workload, entrants, store, header, watch)
    finished = store.find(key)
    assert finished is not None
    return Comparison(store, finished)


def _check_target(task: Workload, target: float | None) -> None:
    """Refuse a target that no training can meet."""
    if target is None:
        return
    if isinstance(target, bool) or not isinstance(target, int | float) or not math.isfinite(target):
        raise SettingError(f"thalweg: target must be a finite number, got {target!r}.")
    if task.optimum is not None and target < task.optimum:
        raise SettingError(f"{task.name}: the target must be at least the optimum, {task.optimum:.7g}, got {target:g}.")


def checked(budget: str | None, seed: int, schedule: str) -> budgets.Budget:
    """The budget that is meant; raises BudgetError or SettingError for what no task could be compared with."""
    allowed = budgets.parse(budget)
    check_schedule(schedule)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise SettingError(f"thalweg: seed must be a whole number, got {seed!r}.")
    return allowed


class Comparison:
    """A finished comparison, read from its store."""

    def __init__(self, store: Store, header: ComparisonRecord) -> None:
        if header.finished is None:
            raise StoreError(
                f"{store.path}: the comparison on {header.task['name']} must be finished, and is not. "
                "Run the same compare command again: it goes on where it ended."
            )
        self.store = store
        self.header = header
        self.plan = ComparisonPlan.from_json(header.plan)

    @cached_property
    def _entries(self) -> list[TrialRecord]:
        return self.store.entries(self.header.id)

    @cached_property
    def findings(self) -> Findings:
        """What the stored results decide: the same function that asked for them, reading."""
        return read(self.plan, self.header, self._entries)

    @cached_property
    def contenders(self) -> list[Summary]:
        """What is known of each contender: those that the race kept, the best first, then those it dropped."""
        race = self.findings.race
        order = race.kept + [name for names in reversed(race.dropped) for name in reversed(names)]
        described = {one["name"]: one for one in self.header.contenders}
        return [summarize(described[name], self._entries, self.plan, self.findings) for name in order]

    @cached_property
    def verdict(self) -> Verdict:
        """What the evidence allows to say."""
        costs = self.plan.costs([ContenderRecord.from_json(stored) for stored in self.header.contenders])
        race, cheaper = self.findings.race, "is the best of them"
        if race.recommended is not None and race.recommended != race.kept[0]:
            one, other = costs[race.recommended], costs[race.kept[0]]
            if one > other:
                cheaper = "was lost on fewer seeds"
            elif one.state_numbers < other.state_numbers:
                cheaper = "keeps less optimizer state"
            else:
                cheaper = "steps faster" if one.pace < other.pace else "has less to tune"
        elif race.settled == "within" and len(race.kept) > 1:
            cheaper = "costs the least of them"
        return judge(self.findings, {one.name: one.value for one in self.contenders}, self._terms(cheaper))

    def _terms(self, cheaper: str) -> Terms:
        """How the verdict names things on this task."""
        counts = {len(one.entries["search"]) for one in self.contenders if one.searched}
        most = max(counts, default=1)
        settings = f"{'the' if len(counts) <= 1 else 'at most'} {most:,} settings searched"
        if self.plan.target is not None:
            searched = (entry.result for entry in self._entries if entry.stage == "search")
            missed = self.plan.target.missed_by_all(searched, self.header.task["measured"][self.plan.target.split])
            return Terms(f"needs, in {self.metric},", settings, cheaper, missed=missed)
        untrained = self.plan.scale.untrained[self.plan.judged_on]
        on_new_data = self.plan.judged_on == "test" and not self._is_function
        return Terms(
            f"reaches a {self.metric} of",
            settings,
            cheaper,
            untrained,
            f"{self._reference} ({self.metric} {untrained:.4g})",
            "nothing was learnt that shows on new data" if on_new_data else "nothing was learnt",
        )

    @property
    def _is_function(self) -> bool:
        """Whether the task is a training function, whose passes nobody knows."""
        return self.header.task["passes"] is None

    @property
    def _reference(self) -> str:
        """What a training counts as that learnt nothing."""
        return "ten times the first report" if self._is_function else "the untrained model"

    @property
    def metric(self) -> str:
        """What the values are, in words: `test cross-entropy`."""
        measured: str = self.header.task["measured"][self.plan.judged_on]
        aim = self.plan.target
        return measured if aim is None else f"{aim.unit} to a {measured} of {aim.loss:g}"

    @property
    def half_sample_check(self) -> list[str]:
        """What half of the studies, and half of the seeds, would have said, in sentences."""
        return half_sample_check(self.findings)

    @property
    def cautions(self) -> list[str]:
        """What a reader should know before trusting the verdict, in sentences."""
        return cautions(self.header, self.plan, self.contenders, self.verdict, self._reference)

    @property
    def code(self) -> str:
        """The lines to paste for the recommended contender; empty where none is recommended."""
        chosen = [summary for summary in self.contenders if summary.name == self.verdict.recommended]
        if not chosen:
            return ""
        schedule = self.plan.schedules[chosen[0].name].line_of_code()
        passes = self.header.task["passes"]
        lines = [chosen[0].line]
        if schedule:
            lines.append(f"{schedule}  # {passes} passes; scheduler.step() after each batch")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """One plain object; numbers that are not finite become None."""
        return {
            "task": self.header.task["name"],
            "metric": self.metric,
            "optimum": self.plan.optimum,
            "trainings": len(self._entries),
            "contenders": [
                {
                    "name": summary.name,
                    "settings": summary.settings,
                    "searched": summary.searched,
                    # Who never met the target has no time, only a bound.
                    "value": None if summary.missed == len(summary.seeds) else _finite(summary.value.mean),
                    "low": _finite(summary.value.low),
                    "high": _finite(summary.value.high),
                    "untuned": _finite(summary.untuned.mean),
                    "recommended": None if summary.recommended is None else _finite(summary.recommended.mean),
                    "missed": summary.missed,
                    "example_error": _finite(summary.example_error),
                    "worse_by": _finite(summary.worse_by),
                    "train_loss": _finite(summary.train_loss),
                    "rank": summary.rank and [_finite(getattr(summary.rank, end)) for end in ("mean", "low", "high")],
                    "unlearnt": summary.value.unlearnt,
                    "bound": bool(summary.value.bound),
                    "studies": summary.studies,
                    "seeds": summary.seeds,
                    "diverged": summary.diverged,
                    "failed": summary.failed,
                    "seconds": summary.seconds,
                    "bytes": summary.state_bytes,
                    "update_seconds": self.plan.step_s.get(summary.name),
                    "code": summary.line,
                    "way": self.plan.execution_modes[summary.name].reason,
                    "at_edge": summary.at_edge,
                    "range_extended": self.plan.times_extended[summary.name],
                    "good_rates": summary.good_rates,
                }
                for summary in self.contenders
            ],
            "verdict": vars(self.verdict),
            "hindsight": self.half_sample_check,
            "cautions": self.cautions,
            "code": self.code,
        }

    def report(self, path: str | Path) -> Path:
        """Write the report, one self-contained HTML file, and return its path."""
        from thalweg import report  # upwards: sugar for thalweg.report.write

        return report.write(self, path)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
