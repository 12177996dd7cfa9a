"""Late settings: settings that a training uses at its beginning, and replaces by values of its own later.

A factor of a schedule keeps trials apart to the end, and a decay that ends in a floor joins them there. A training that
sets a value joins them long before, whatever was tried.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from thalweg.comparison.results.functions.unused_settings import MIN_VALUES, results_by_setting
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.training.functions.optimizer_use import OptimizerUse

LATEST = 0.8  # of a training: what is replaced only after it is the end of a schedule


@dataclass(frozen=True)
class LateSetting:
    """A setting that trainings used only at their beginning.

    Attributes:
        setting: Name of the setting.
        contenders: The contenders that search it.
        low: The least value that was tried.
        high: The largest one.
        step: The first step, or report, at which all trainings were seen to use the same value.
        steps: The number of steps, or reports, of the shortest of them.
        unit: ``step`` or ``report``.
        line: File and line that sets it; empty if unknown.
    """

    setting: str
    contenders: list[str]
    low: float
    high: float
    step: int
    steps: int
    unit: str
    line: str


def find_late(trials: Sequence[TrialRecord]) -> list[LateSetting]:
    """Return the settings that a training function replaces after a while; not those that it never uses.

    Args:
        trials: Trials of searches.
    """
    return list(results_by_setting([trial for trial in trials if trial.result.status == "ok"], _late))


def _late(setting: str, trials: Sequence[TrialRecord]) -> LateSetting | None:
    """Return the setting if these trials, which tried several values of it, all used the same ones from a moment on."""
    optimizer, _, own = setting.rpartition(".")
    uses = [next((use for use in trial.result.optimizers if use.name == optimizer), None) for trial in trials]
    known = [(trial, use) for trial, use in zip(trials, uses, strict=True) if use is not None]
    pairs = [(trial, use) for trial, use in known if use.changed.get(own)]
    tried = {trial.settings[setting] for trial, _ in known}
    if len(tried) < MIN_VALUES or not pairs:
        return None
    # A training that changed nothing has used its own value to the end; it may be the one that all others are set to.
    unchanged = {trial.settings[setting] for trial, use in known if not use.changed.get(own)}
    read = [use.changed[own] for _, use in pairs]
    common = [moment for moment in read[0] if all(moment in values for values in read)]
    joined: list[str] = []
    for moment in reversed(common):
        if any(values[moment] != read[0][moment] for values in read) or not unchanged <= set(read[0][moment]):
            break
        joined.append(moment)
    if len(joined) == len(common):  # never used
        return None
    trial, use = min(pairs, key=lambda pair: _length(*pair)[0])
    steps, unit = _length(trial, use)
    # Zeros are no evidence: a factor of zero makes them of any value.
    numbers = [int(moment.split()[1]) for moment in joined if moment.startswith(unit) and any(read[0][moment])]
    if not numbers or min(numbers) > LATEST * steps:
        return None
    names = list(dict.fromkeys(trial.contender for trial, _ in known))
    line = use.last_changed_at.get(own, "")
    return LateSetting(setting, names, min(tried), max(tried), min(numbers), steps, unit, line)


def _length(trial: TrialRecord, use: OptimizerUse) -> tuple[int, str]:
    """Return the length of a training with its unit: its reports if the steps of the optimizer were not counted."""
    return (use.steps, "step") if use.steps else (len(trial.result.evaluations), "report")
