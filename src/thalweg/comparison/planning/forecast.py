"""Forecast: the predicted cost of a design, in the unit of the budget."""

import math
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.planning import budget
from thalweg.comparison.planning.budget import Budget
from thalweg.comparison.protocol.design import Design, InterimAnalysis
from thalweg.comparison.training.timing import ExecutionMode
from thalweg.comparison.training.workload import Workload

PROPOSAL_S = 0.4  # a model takes this long for a setting it proposes


@dataclass(frozen=True)
class Forecast:
    """Predicts the cost of a design in which no contender is dropped.

    Attributes:
        workload: The task or training function.
        contenders: All contenders.
        allowed: The budget.
        schedules: Length of a training, by contender.
        execution_modes: Measured times, by contender; contenders that are not measured yet cost nothing.
        pruned: True if settings that do badly early are given up.
        refined: True if a model proposes settings.
        start_s: Clock when planning began: a budget in seconds pays for the pilot too.
    """

    workload: Workload
    contenders: Sequence[Contender]
    allowed: Budget
    schedules: Mapping[str, TrainingSchedule]
    execution_modes: Mapping[str, ExecutionMode] = field(default_factory=dict)
    pruned: bool = False
    refined: bool = False
    start_s: float = field(default_factory=time.perf_counter)

    @property
    def elapsed_s(self) -> float:
        """Seconds since planning began."""
        return time.perf_counter() - self.start_s

    def affordable_design(self) -> Design:
        """Return the largest design that the budget pays for.

        Raises:
            BudgetError: If it pays for none.
        """
        return budget.design(self.allowed, len(self.contenders), predict=self.cost, unit=self.allowed.unit)

    def check(self, execution_modes: Mapping[str, ExecutionMode]) -> None:
        """Raise BudgetError if the pilot alone has used up a budget in seconds, which then pays for no design."""
        if self.allowed.seconds is not None and self.elapsed_s > self.allowed.seconds:
            replace(self, execution_modes=execution_modes).affordable_design()

    def cost(self, design: Design) -> float:
        """Return the cost of a design in the unit of the budget."""
        trainings = design.most_trainings + design.value
        if self.allowed.steps is not None:
            return trainings * max(schedule.steps for schedule in self.schedules.values())
        if self.allowed.passes is not None:
            return trainings * self.workload.passes
        value_s = max((mode.seconds(design.value) for mode in self.execution_modes.values()), default=0.0)
        return self.elapsed_s + self.seconds(replace(design, pruned=self.pruned, refined=self.refined)) + value_s

    def seconds(self, design: Design) -> float:
        """Return the seconds of all trainings of a design but the last, which measure the value."""
        populations: dict[Hashable, list[str]] = {}
        for contender in self.contenders:
            populations.setdefault(contender.population_key, []).append(contender.name)
        total_s = 0.0
        for names in populations.values():
            mode = next((self.execution_modes[name] for name in names if name in self.execution_modes), None)
            total_s += 0.0 if mode is None else seconds_of_design(mode, design, len(names))
        return total_s


def seconds_of_design(mode: ExecutionMode, design: Design, num_contenders: int) -> float:
    """Return the predicted seconds of contenders that share populations and are never dropped.

    In the race, each interim analysis after the first counts for half of the contenders: few run a long race.

    Args:
        mode: Measured times of one population.
        design: The design.
        num_contenders: Contenders that share the populations.
    """
    analyses = design.ranking or (InterimAnalysis(1, 0.0),)
    total_s, stages = 0.0, [design.finalists * design.refinals, design.race[0].size]
    done = 0
    for analysis in analyses:
        studies, done = analysis.size - done, analysis.size
        total_s += _seconds_of_search(mode, design, num_contenders * studies)
        stages += [studies * design.retrained * design.reseeds, studies * design.judged]
    run = 0
    for analysis in design.race:
        seeds, run = analysis.size - run, analysis.size
        stages.append(seeds if seeds == run else math.ceil(seeds / 2))
    return total_s + sum(mode.seconds(num_contenders * trainings) for trainings in stages)


def _seconds_of_search(mode: ExecutionMode, design: Design, studies: int) -> float:
    """Return the predicted seconds of the search of a number of studies."""
    rounds = [len(trials) for trials in design.rounds(design.draws) if trials]
    if design.pruned:
        # As many steps of members as without, but each study is a population by itself, which ends as a small one.
        training_s = studies * (len(rounds) * mode.fixed_s + design.draws * mode.member_s)
    else:
        training_s = sum(mode.seconds(count * studies) for count in rounds)
    return training_s + sum(rounds[1:]) * studies * PROPOSAL_S
