"""Refinement: settings that are proposed from earlier ones, inside one contender's quota.

Half of a round comes from a model: Optuna's Gaussian process, asked and told by us. It sees positions in the
contender's own ranges, so that every setting counts on the scale it is declared on, and the scores of the same study,
the worse half of them as if they were the median: a cliff says nothing about a valley. The other half are steps from
the best setting so far, shorter from round to round: the model finds the valley, they find its floor.
"""

import warnings
from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np

from thalweg.comparison.contenders.contender import Settings
from thalweg.comparison.planning.search import rounded
from thalweg.rules import Range

Place = dict[str, float]  # from 0 to 1 in each range

SPREAD, SHRINK = 0.05, 0.65  # of the steps from the best, as a share of the range: in the first round, and from then on


def propose(
    space: Mapping[str, Range], tried: Sequence[tuple[Settings, float]], count: int, *, seed: int, number: int
) -> list[Settings]:
    """So many settings in these ranges for round `number` (from 0), from those tried, each with its score."""
    places = [{name: space[name].position(space[name].clamp(one[name])) for name in space} for one, _ in tried]
    scores = [score for _, score in tried]
    modelled = (count + 1 - number % 2) // 2  # of a round of one, every other
    best = places[min(range(len(scores)), key=scores.__getitem__)]
    found = _modelled(places, scores, modelled, seed) + _near(best, count - modelled, SPREAD * SHRINK**number, seed)
    return [{name: rounded(space[name], place[name]) for name in space} for place in found]


def _modelled(places: Sequence[Place], scores: Sequence[float], count: int, seed: int) -> list[Place]:
    """Where a model expects the most."""
    if not count:
        return []
    import optuna

    within: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in places[0]
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the sampler is experimental; that a matrix is nearly singular
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # All trainings of a study's search share their seed.
        sampler = optuna.samplers.GPSampler(seed=seed, n_startup_trials=0, deterministic_objective=True)
        study = optuna.create_study(sampler=sampler)
        worst = median(scores)
        for place, score in zip(places, scores, strict=True):
            told = optuna.trial.create_trial(params=place, distributions=within, value=min(score, worst))
            study.add_trial(told)
        return [dict(study.ask(within).params) for _ in range(count)]


def _near(best: Place, count: int, spread: float, seed: int) -> list[Place]:
    """Normal steps from the best place."""
    generator = np.random.default_rng(seed)
    steps = generator.normal(scale=spread, size=(count, len(best)))
    return [
        {name: min(max(at + float(step), 0.0), 1.0) for (name, at), step in zip(best.items(), row, strict=True)}
        for row in steps
    ]
