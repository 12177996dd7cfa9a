"""Unused settings: settings that a training function replaces by its own, so that a search for them is in vain.

A training that multiplies the learning rate by a factor, as schedules do, uses the trial's. A training that sets it
(``group["lr"] = get_lr(step)``, ``OneCycleLR(max_lr=0.1)``) does not: trainings with different learning rates then have
used the same ones. That is what is looked for here, in the values that were read at steps and reports.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

from thalweg.comparison.results.records import TrialRecord
from thalweg.errors import TaskError

MIN_VALUES, MANY_VALUES = 3, 6  # different values of a setting that must be tried to be certain
CYCLED = ("momentum", "beta1")
_LR = "lr"

Result = TypeVar("Result")
Values = Mapping[str, Sequence[float]]  # of a setting in each group, by moment


@dataclass(frozen=True)
class UnusedSetting:
    """A setting that trainings did not use.

    Attributes:
        setting: Name of the setting.
        contenders: The contenders that search it in vain.
        count: Number of trainings that used the same values.
        low: The least value that they were to use.
        high: The largest one.
        line: File and line that sets it; empty if unknown.
        made_at: File and line that makes the optimizer; empty if unknown.
    """

    setting: str
    contenders: list[str]
    count: int
    low: float
    high: float
    line: str
    made_at: str = ""

    @property
    def where(self) -> str:
        """The line that sets it, or else that of the optimizer, as the end of a clause; empty if both are unknown."""
        if self.line:
            return f": {self.line} sets it"
        return f", in the optimizer that {self.made_at} makes" if self.made_at else ""

    @property
    def is_lr(self) -> bool:
        """True if it is a learning rate."""
        return _is_lr(self.setting)


def find_unused(trials: Sequence[TrialRecord], *, certain: bool = False) -> list[UnusedSetting]:
    """Return the settings that a training function replaces.

    Args:
        trials: Trials of searches.
        certain: True to leave out settings that it may only limit, as ``min(lr, 0.01)`` does.
    """
    settings: dict[tuple[str, str], UnusedSetting] = {}
    for unused in results_by_setting(trials, partial(_unused, certain=certain)):
        key = unused.setting, unused.line or unused.made_at
        same = settings.get(key)
        settings[key] = unused if same is None else _joined(same, unused)
    return list(settings.values())


def results_by_setting(
    trials: Sequence[TrialRecord], find: Callable[[str, Sequence[TrialRecord]], Result | None]
) -> Iterator[Result]:
    """Yield what trials show of each setting: of all contenders together, else of each alone.

    Args:
        trials: Trials of searches.
        find: Takes a setting and trials that have it, and returns what they show; None for nothing.
    """
    names = list(dict.fromkeys(trial.contender for trial in trials))
    for setting in dict.fromkeys(name for trial in trials for name in trial.settings):
        # All contenders together show it sooner; but one of them may treat a setting in its own way.
        concerned = [trial for trial in trials if setting in trial.settings]
        together = find(setting, concerned)
        if together is not None:
            yield together
            continue
        for name in names:
            alone = find(setting, [trial for trial in concerned if trial.contender == name])
            if alone is not None:
                yield alone


def cure_of_replaced(setting: str) -> str:
    """Return what to do about a setting that a training replaces, in sentences."""
    if _is_lr(setting):
        return 'Multiply the one that it gets: lr = optimizer.defaults["lr"] * factor. Or fix it in --with.'
    # torch's cyclic schedulers change it beside the learning rate
    cycled = " (OneCycleLR and CyclicLR: cycle_momentum=False)" if setting.rpartition(".")[2] in CYCLED else ""
    return f"Leave it to the optimizer{cycled}, or fix it in --with."


def refuse_unused_lr(name: str, trials: Sequence[TrialRecord]) -> None:
    """Raise TaskError if no contender's learning rate is used: the comparison would compare what it did not set.

    Args:
        name: Name of the training function.
        trials: Trials of searches, of all contenders.
    """
    searching = {trial.contender for trial in trials if any(_is_lr(setting) for setting in trial.settings)}
    for unused in find_unused(trials, certain=True):
        if unused.is_lr and set(unused.contenders) == searching:
            raise TaskError(
                f"{name}: the function must use the learning rate of the optimizer that it gets, but {unused.count} "
                f"trainings at learning rates from {unused.low:.2g} to {unused.high:.2g} used the same "
                f"ones{unused.where}. "
                'Multiply the given one: lr = optimizer.defaults["lr"] * factor, or OneCycleLR(optimizer, '
                'max_lr=optimizer.defaults["lr"], ...). Or leave the schedule to thalweg: optimizer, scheduler = '
                "make_optimizer(model, scheduler=True, steps=N). To keep your own learning rate, fix it: adamw:lr=1e-3."
            )


def _is_lr(setting: str) -> bool:
    return setting.rpartition(".")[2] == _LR


def _joined(first: UnusedSetting, second: UnusedSetting) -> UnusedSetting:
    return UnusedSetting(
        first.setting,
        [*first.contenders, *second.contenders],
        first.count + second.count,
        min(first.low, second.low),
        max(first.high, second.high),
        first.line,
        first.made_at,
    )


def _unused(setting: str, trials: Sequence[TrialRecord], certain: bool) -> UnusedSetting | None:
    """Return the setting if these trials, which tried several values of it, all used the same ones."""
    observed = [(trial, _observed(setting, trial)) for trial in trials if trial.result.optimizers]
    replaced = [(trial, used) for trial, used in observed if used is not None]
    tried = {trial.settings[setting] for trial, _ in observed}
    if not replaced or len(tried) < (MIN_VALUES if certain else 2):
        return None
    _, used = max(replaced, key=lambda entry: len(entry[1].values))
    first = used.values
    if not all(_agree(own.values, first) for _, own in replaced):
        return None
    # A trial that used its own value all the time may have been given the one that all others were set to.
    constant = {value for values in first.values() for value in values}
    if any(constant != {trial.settings[setting]} for trial, own in observed if own is None):
        return None
    # A limit, such as min(lr, 0.01), also gives the same values: to all trials that lie on one side of it.
    peak = max(constant)
    if certain and len(tried) < MANY_VALUES and not min(tried) < peak < max(tried):
        return None
    contenders = list(dict.fromkeys(trial.contender for trial, _ in observed))
    return UnusedSetting(setting, contenders, len(observed), min(tried), max(tried), used.line, used.made_at)


class _Used(NamedTuple):
    """The values of a setting that a training used, with the lines that set it and that made the optimizer."""

    values: dict[str, Sequence[float]]
    line: str
    made_at: str


def _observed(setting: str, trial: TrialRecord) -> _Used | None:
    """Return the values of a setting that a training used; None if it used the trial's."""
    name, _, own = setting.rpartition(".")
    values: dict[str, Sequence[float]] = {}
    line = made_at = ""
    for number, use in enumerate(use for use in trial.result.optimizers if use.name == name):
        if own not in use.changed:
            return None
        values |= {f"{moment}, optimizer {number}": read for moment, read in use.changed[own].items()}
        line = line or use.changed_at.get(own, "")
        made_at = made_at or use.line
    return _Used(values, line, made_at) if values else None


def _agree(first: Values, second: Values) -> bool:
    """Return True if two trainings used the same values at all moments that both have, a report among them.

    Zeros alone are no evidence: a factor of zero makes them of any learning rate.
    """
    common = first.keys() & second.keys()
    return (
        any(not moment.startswith("step") for moment in common)
        and any(any(first[moment]) for moment in common)
        and all(list(first[moment]) == list(second[moment]) for moment in common)
    )
