"""ComparisonPlan: the decisions that are taken before the first training, stored so that resuming keeps them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

from thalweg.comparison.contenders.contender import MAX_ORDER, Contender, Settings
from thalweg.comparison.contenders.record import ContenderRecord
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.planning.budget import Budget
from thalweg.comparison.planning.search import draw_settings, order_opened_by
from thalweg.comparison.planning.seeds import derive
from thalweg.comparison.protocol.design import Design, SettingDesign, design_from_json
from thalweg.comparison.protocol.score_scale import ScoreScale
from thalweg.comparison.training.target import Target
from thalweg.comparison.training.timing import ExecutionMode
from thalweg.engine.core import devices
from thalweg.rules import Range
from thalweg.tasks.description import Described


class Cost(NamedTuple):
    """Cost of a contender. Of two that are as good, the one with the smaller tuple is recommended.

    Attributes:
        state_numbers: Numbers of optimizer state for each number of a matrix.
        pace: Seconds of the optimizer's own step, as a whole power of two of the fastest: finer differences are noise.
        settings: Number of settings to tune.
    """

    state_numbers: int
    pace: int
    settings: int


@dataclass(frozen=True, repr=False)
class ComparisonPlan(Described):
    """Plan of a comparison.

    Attributes:
        seed: Seed from which all other seeds are derived.
        design: Number of trainings of each kind: those of studies and a race (``Design``), or the rules of an adaptive
            search for a setting (``SettingDesign``).
        scale: Scale on which losses are compared.
        num_workers: Processes that train; 1 means this process alone.
        schedules: Length and learning rate schedule of a training, by contender.
        execution_modes: How trainings are run, by contender.
        ranges: Search ranges that replace the declared ones, by contender and setting.
        times_extended: Number of times that the learning rate range was extended, by contender.
        draws: Number of settings in a study, by contender: one if there is nothing to search, more than in the design
            if most are pruned.
        step_s: Seconds of the optimizer's own step, by contender, where it could be measured.
        optimum: The least training loss there is; None if it is unknown.
        target: The loss whose time counts; None if the final loss counts.
        selected_on: Split whose measure selects among settings.
        judged_on: Split whose measure evaluates the selected setting.
        device: ``"cpu"``; ``"cuda"`` for all devices of this kind; ``"cuda:1"`` for one of them; ``"auto"`` if the
            user's code decides, and in plans of old stores.
        device_reason: Reason for this device.
        num_devices: Number of devices when the plan was made.
        budget: The budget. None in plans of old stores.
        ranking: Design of the studies that rank the optimizers before an adaptive search; None without such studies.
        is_provisional: True until the first trainings have measured a training function: times, scale, target and
            numbers of trainings are then fixed. No score is read before that.
        prefer: ``"best"``, or ``"cheap"`` to recommend the cheapest contender within the margin even if its values are
            shown to be worse, as old stores do.
        metric_name: Name that the reports of a training function gave their value; empty if they gave none.
    """

    seed: int
    design: Design | SettingDesign
    scale: ScoreScale
    num_workers: int
    schedules: dict[str, TrainingSchedule]
    execution_modes: dict[str, ExecutionMode]
    ranges: dict[str, dict[str, Range]]
    times_extended: dict[str, int]
    draws: dict[str, int]
    step_s: dict[str, float]
    optimum: float | None
    target: Target | None
    selected_on: str
    judged_on: str
    device: str = devices.AUTO
    device_reason: str = ""
    num_devices: int = 1
    budget: Budget | None = None
    ranking: Design | None = None
    is_provisional: bool = False
    prefer: Literal["best", "cheap"] = "best"
    metric_name: str = ""

    @property
    def studies(self) -> Design | None:
        """The design of the studies; None if optimizers are not ranked and settings are searched adaptively."""
        return self.design if isinstance(self.design, Design) else self.ranking

    @property
    def is_ranked(self) -> bool:
        """True if independent studies rank the optimizers."""
        return self.studies is not None and bool(self.studies.ranking)

    def _describe(self) -> str:
        design = self.design
        draws, race = getattr(design, "draws", None), design.race
        facts = [
            "an adaptive search" if draws is None else f"{draws} settings in a study",
            f"a race of up to {race[-1].size} seeds" if race else "no race",
            f"a value from {design.value} fresh seeds",
            f"{self.num_workers} process{'' if self.num_workers == 1 else 'es'} on {self.device}",
            f"seed {self.seed}",
        ]
        return f"ComparisonPlan of {', '.join(self.schedules)}: {', '.join(facts)}"

    @property
    def num_planned_trainings(self) -> int:
        """The largest number of trainings of a contender in the studies, and of all in the stages after a search."""
        studies = self.studies
        planned = 0 if studies is None else studies.most_trainings + studies.value
        return planned + (self.design.reserved if isinstance(self.design, SettingDesign) else 0)

    @property
    def setting_study(self) -> int:
        """The number of the study under which the store holds the trials of an adaptive search."""
        return 0 if self.ranking is None else -1

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON, for the store. The keys are those of the store's first version."""
        return {
            "seed": self.seed,
            "design": self.design.to_json(),
            "scale": self.scale.to_json(),
            "workers": self.num_workers,
            "horizons": {name: schedule.to_json() for name, schedule in self.schedules.items()},
            "ways": {name: asdict(mode) for name, mode in self.execution_modes.items()},
            "ranges": {
                name: {setting: bounds.to_json() for setting, bounds in ranges.items()}
                for name, ranges in self.ranges.items()
            },
            "extended": self.times_extended,
            "draws": self.draws,
            "step_s": self.step_s,
            "optimum": self.optimum,
            "target": None if self.target is None else asdict(self.target),
            "selected_on": self.selected_on,
            "judged_on": self.judged_on,
            "device": self.device,
            "device_reason": self.device_reason,
            "num_devices": self.num_devices,
            "budget": None if self.budget is None else self.budget.to_json(),
            "ranking": None if self.ranking is None else self.ranking.to_json(),
            "provisional": self.is_provisional,
            "prefer": self.prefer,
            "metric_name": self.metric_name,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "ComparisonPlan":
        """Return the plan that ``to_json`` stored."""
        return cls(
            seed=stored["seed"],
            design=design_from_json(stored["design"]),
            scale=ScoreScale.from_json(stored["scale"]),
            num_workers=stored["workers"],
            schedules={name: TrainingSchedule.from_json(values) for name, values in stored["horizons"].items()},
            execution_modes={name: ExecutionMode(**values) for name, values in stored["ways"].items()},
            ranges={
                name: {setting: Range.from_json(bounds) for setting, bounds in ranges.items()}
                for name, ranges in stored["ranges"].items()
            },
            times_extended=stored["extended"],
            draws=stored["draws"],
            step_s=stored["step_s"],
            optimum=stored["optimum"],
            target=None if stored["target"] is None else Target(**stored["target"]),
            selected_on=stored["selected_on"],
            judged_on=stored["judged_on"],
            device=stored.get("device", devices.AUTO),
            device_reason=stored.get("device_reason", ""),
            num_devices=stored.get("num_devices", 1),
            budget=Budget(**stored["budget"]) if stored.get("budget") else None,
            ranking=Design.from_json(stored["ranking"]) if stored.get("ranking") else None,
            is_provisional=stored.get("provisional", False),
            prefer=stored.get("prefer", "cheap"),
            metric_name=stored.get("metric_name", ""),
        )

    @property
    def maximize(self) -> bool:
        """True if higher measured values are better. The scores of a comparison by time to a target are times."""
        return self.scale.maximize if self.target is None else self.target.maximize

    def cost_of(self, value: float) -> float:
        """Return a measured value with the sign by which lower is better."""
        return -value if self.maximize else value

    def margin(self, leader: float) -> float:
        """Return the difference in scores that is too small to matter beside a leader with this mean score."""
        return self.scale.margin(leader, self.judged_on)

    def costs(self, contenders: Sequence[ContenderRecord]) -> dict[str, Cost]:
        """Return the cost of each contender, by name."""
        fastest_s = min(self.step_s.values(), default=1.0)
        return {
            contender.name: Cost(
                contender.state_numbers,
                math.floor(math.log2(self.step_s.get(contender.name, fastest_s) / fastest_s)),
                len(contender.searched),
            )
            for contender in contenders
        }

    def draw_settings(self, contender: Contender, study: int) -> list[Settings]:
        """Return the settings that a contender draws in a study; a single study begins with the contender's defaults.

        Each contender has draws of its own, so that a contender that takes part twice shows the noise floor.
        """
        assert self.studies is not None
        return draw_settings(
            contender,
            len(self.studies.rounds(self.draws[contender.name])[0]),
            seed=derive(self.seed, f"draws/{contender.name}", study),
            with_start=not self.is_ranked,
            with_user_settings=study == 0,
            space=self.space_of(contender),
        )

    def space_of(self, contender: Contender) -> dict[str, Range]:
        """Return the search range of each setting that this plan searches."""
        extended = replace(contender, ranges={**contender.ranges, **self.ranges.get(contender.name, {})})
        return extended.space(MAX_ORDER if self.studies is None else order_opened_by(self.studies.draws))
