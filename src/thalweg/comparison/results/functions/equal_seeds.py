"""Equal seeds: settings that give the same values from each seed, as those of a training that seeds itself do.

Then many seeds are one seed. Intervals over them have no width, tests find every difference, and neither says anything
about another seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from thalweg.comparison.results.records import TrialRecord

MIN_REPEATS = 2  # trainings that repeat the values of another seed
BOUNDS = {0.0, 1.0, 100.0}  # of shares and percentages: values there may be equal for any seed


@dataclass(frozen=True)
class EqualSeeds:
    """Settings that gave the same values from each of their seeds.

    Attributes:
        settings: The number of these settings.
        seeds: The largest number of seeds of one of them.
        line: File and line at which the training function makes its optimizer; empty for a task, or if unknown.
    """

    settings: int
    seeds: int
    line: str


def find_equal_seeds(trials: Sequence[TrialRecord]) -> EqualSeeds | None:
    """Return the settings that gave the same values from each seed; None if any setting gave different ones.

    A value that two settings share, or that lies at a bound of a share, is no evidence: an accuracy of 1 is often
    reached from every seed.

    Args:
        trials: All trials of a comparison.
    """
    groups: dict[tuple[str, str], dict[int, TrialRecord]] = {}
    for trial in trials:
        if trial.result.status == "ok":
            setting = repr(sorted(trial.settings.items()))
            groups.setdefault((trial.contender, setting), {}).setdefault(trial.seed, trial)
    owners: dict[str, set[tuple[str, str]]] = {}
    for group, by_seed in groups.items():
        for trial in by_seed.values():
            owners.setdefault(_ending(trial), set()).add(group)
    repeated = [list(by_seed.values()) for by_seed in groups.values() if len(by_seed) > 1]
    if not all(map(_are_equal, repeated)):
        return None
    telling = [group for group in repeated if len(owners[_ending(group[0])]) == 1 and not _is_at_bound(group[0])]
    if sum(len(group) - 1 for group in telling) < MIN_REPEATS:
        return None
    uses = [use for group in telling for use in group[0].result.optimizers]
    return EqualSeeds(len(repeated), max(map(len, repeated)), next((use.line for use in uses if use.line), ""))


def _ending(trial: TrialRecord) -> str:
    """Return the values at the end as text, in which a number that is not finite equals itself."""
    return repr((trial.result.train, trial.result.validation, trial.result.test))


def _curve(trial: TrialRecord) -> str:
    """Return the values on the way as text; empty if they were not kept."""
    steps = trial.result.evaluations
    return repr([(step.step, step.train, step.validation, step.test) for step in steps]) if steps else ""


def _are_equal(group: Sequence[TrialRecord]) -> bool:
    """Return True if all trainings have the same values at the end, and the same curve where one was kept."""
    return len(set(map(_ending, group))) == 1 and len(set(map(_curve, group)) - {""}) <= 1


def _is_at_bound(trial: TrialRecord) -> bool:
    """Return True if the training reached nothing but bounds."""
    steps = trial.result.evaluations
    return {trial.result.validation, trial.result.test, *(step.validation for step in steps)} <= BOUNDS
