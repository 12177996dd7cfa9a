"""Optuna's suggestions of values, in the search ranges of thalweg."""

import optuna

from thalweg.rules import Range


def suggest(trial: optuna.Trial, name: str, bounds: Range) -> float:
    """Return the value that Optuna suggests in a range, on the range's own scale."""
    if bounds.scale == "log-to-one":
        return 1 - trial.suggest_float(f"1 - {name}", 1 - bounds.high, 1 - bounds.low, log=True)
    return trial.suggest_float(name, bounds.low, bounds.high, log=bounds.scale == "log")
