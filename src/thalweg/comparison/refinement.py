"""Refinement: settings that a model of earlier ones proposes, inside one contender's quota.

The model is Optuna's Gaussian process, asked and told by us: it sees positions in the contender's own ranges, so that
every setting counts on the scale it is declared on, and the scores of the same study.
"""

import warnings
from collections.abc import Mapping, Sequence

from thalweg.comparison.search import Settings, rounded
from thalweg.rules import Range


def proposed(
    space: Mapping[str, Range], tried: Sequence[tuple[Settings, float]], count: int, *, seed: int
) -> list[Settings]:
    """So many settings in these ranges, where a model of those tried, with their scores, expects the most."""
    import optuna

    def position(name: str, settings: Settings) -> float:
        return space[name].position(space[name].nearest(settings[name]))

    within: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in space
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the sampler is experimental; that a matrix is nearly singular
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.GPSampler(seed=seed, n_startup_trials=0)
        study = optuna.create_study(sampler=sampler)
        for settings, score in tried:
            params = {name: position(name, settings) for name in space}
            study.add_trial(optuna.trial.create_trial(params=params, distributions=within, value=score))
        asked = [study.ask(within) for _ in range(count)]
    return [{name: rounded(space[name], one.params[name]) for name in space} for one in asked]
