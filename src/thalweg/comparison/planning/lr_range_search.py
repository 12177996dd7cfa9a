"""Learning rate range search: extend the range of a learning rate whose best value lies at an end.

A best value at an end of the range means that the search is not finished. Before the first study each contender trains
a row of learning rates, with all other settings at their start. If the best lies at an end, the range grows tenfold on
that side, at most twice, by the same rule for all contenders. These trainings are not used afterwards.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.timing import ExecutionMode
from thalweg.comparison.training.workload import Workload
from thalweg.rules import Range

NUM_RATES = 16  # in a row, from one end of the range to the other
MAX_EXTENSIONS = 2
FACTOR = 10.0
_AT_END = 2  # points from an end that count as the end

Train = Callable[[Sequence[Contender], Sequence[Trial]], list[TrainingResult]]


def extend_lr_ranges(
    workload: Workload,
    contenders: Sequence[Contender],
    schedules: Mapping[str, TrainingSchedule],
    members: Mapping[str, int],
    seed: int,
    *,
    maximize: bool = False,
) -> dict[str, tuple[Range, int]]:
    """Train rows of learning rates and extend the ranges whose best value lies at an end.

    Args:
        workload: The workload.
        contenders: All contenders; a range that the user set stays as it is.
        schedules: Schedule of each contender.
        members: Size of a population, by contender.
        seed: Seed of all these trainings.
        maximize: True if higher values are better.

    Returns:
        The extended range and the number of extensions, by contender; only contenders whose range was extended.
    """

    def train(contenders: Sequence[Contender], trials: Sequence[Trial]) -> list[TrainingResult]:
        groups: dict[Hashable, list[int]] = {}
        for k, contender in enumerate(contenders):
            groups.setdefault((contender.population_key, schedules[contender.name]), []).append(k)
        results: dict[int, TrainingResult] = {}
        for indices in groups.values():
            first = contenders[indices[0]].name
            schedule = replace(schedules[first], num_evaluations=1)
            for start in range(0, len(indices), members[first]):
                part = indices[start : start + members[first]]
                part_results = workload.train([contenders[k] for k in part], [trials[k] for k in part], schedule)
                results |= dict(zip(part, part_results, strict=True))
        return [results[k] for k in range(len(contenders))]

    return extended_ranges(contenders, workload.selected_on, seed, train, maximize=maximize)


def seconds_of_range_search(
    contenders: Sequence[Contender],
    schedules: Mapping[str, TrainingSchedule],
    execution_modes: Mapping[str, ExecutionMode],
) -> float:
    """Return the predicted seconds of ``extend_lr_ranges`` if it extends every range as often as it may.

    Args:
        contenders: All contenders.
        schedules: Schedule of each contender.
        execution_modes: Measured times, by contender.
    """
    rates: dict[Hashable, tuple[ExecutionMode, int]] = {}
    for contender in contenders:
        key = (contender.population_key, schedules[contender.name])
        mode, count = rates.get(key, (execution_modes[contender.name], 0))
        rates[key] = mode, count + NUM_RATES
    return MAX_EXTENSIONS * sum(mode.seconds(count) for mode, count in rates.values())


def extended_ranges(
    contenders: Sequence[Contender], split: str, seed: int, train: Train, *, maximize: bool = False
) -> dict[str, tuple[Range, int]]:
    """Extend ranges as ``extend_lr_ranges`` does, with the trainings done by ``train`` and compared on a split."""
    ranges = {
        contender.name: bounds
        for contender in contenders
        if "lr" not in contender.ranges  # a range that the user set stays
        and (bounds := contender.space(1).get("lr")) is not None
        and bounds.scale == "log"
    }
    growing = [contender for contender in contenders if contender.name in ranges]
    extensions = dict.fromkeys(ranges, 0)
    for _ in range(MAX_EXTENSIONS):
        row = [(contender, k / (NUM_RATES - 1)) for contender in growing for k in range(NUM_RATES)]
        trials = [Trial({"lr": ranges[contender.name].value_at(position)}, seed) for contender, position in row]
        results = train([contender for contender, _ in row], trials)
        sign = -1 if maximize else 1
        losses = [sign * getattr(result, split) if result.status == "ok" else math.inf for result in results]
        at_end = []
        for k, contender in enumerate(growing):
            row_losses = losses[k * NUM_RATES : (k + 1) * NUM_RATES]
            best = min(range(NUM_RATES), key=row_losses.__getitem__)
            wider = _wider(contender, ranges[contender.name], best)
            if wider is not None:
                ranges[contender.name] = wider
                extensions[contender.name] += 1
                at_end.append(contender)
        growing = at_end
        if not growing:
            break
    return {name: (ranges[name], count) for name, count in extensions.items() if count}


def _wider(contender: Contender, bounds: Range, best: int) -> Range | None:
    """Return the range extended on the side of the best point; None if the point is not at an end."""
    allowed = contender.rule.hypers()["lr"].bound
    if best < _AT_END:
        wider = replace(bounds, low=bounds.low / FACTOR)
    elif best >= NUM_RATES - _AT_END:
        wider = replace(bounds, high=bounds.high * FACTOR)
    else:
        return None
    return wider if allowed is None or (wider.low in allowed and wider.high in allowed) else None
