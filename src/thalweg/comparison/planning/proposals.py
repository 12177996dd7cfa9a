"""Proposals: settings that follow from the scores of earlier settings, within one contender's quota.

Half of a round comes from a model, Optuna's Gaussian process. It sees positions in the contender's own ranges, so that
every setting counts on the scale it is declared on (values without an order as categories), and the scores of the same
study. The worse half of the scores is
replaced by their median: a cliff says nothing about a valley. The other half of a round are steps from the best setting
so far, shorter from round to round. The model finds the valley; the steps find its floor.
"""

import warnings
from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np

from thalweg.comparison.contenders.contender import Settings
from thalweg.comparison.planning.search import rounded
from thalweg.rules import Range

Position = dict[str, float]  # from 0 to 1 in each range

SPREAD, SHRINK = (
    0.05,
    0.65,
)  # of the steps: standard deviation in the first round, as a share of the range; then by round


def propose(
    space: Mapping[str, Range], tried: Sequence[tuple[Settings, float]], count: int, *, seed: int, number: int
) -> list[Settings]:
    """Propose settings.

    Args:
        space: Search range of each setting.
        tried: Settings and scores of the study so far, at least one; lower is better.
        count: Number of settings to propose.
        seed: Seed of the model and of the steps.
        number: Number of the round, from 0.

    Returns:
        ``count`` settings in these ranges.
    """
    positions = [
        {name: bounds.position(bounds.clamp(settings[name])) for name, bounds in space.items()} for settings, _ in tried
    ]
    scores = [score for _, score in tried]
    num_modelled = (count + 1 - number % 2) // 2  # in rounds of one setting, the model proposes every other
    best = positions[min(range(len(scores)), key=scores.__getitem__)]
    categories = {name: len(bounds.values) for name, bounds in space.items() if not bounds.is_ordered}
    proposals = _modelled(positions, scores, num_modelled, seed, categories)
    near = _near(best, count - num_modelled, SPREAD * SHRINK**number, seed)
    proposals += [proposal | {name: best[name] for name in categories} for proposal in near]
    return [{name: rounded(bounds, proposal[name]) for name, bounds in space.items()} for proposal in proposals]


def _modelled(
    positions: Sequence[Position], scores: Sequence[float], count: int, seed: int, categories: Mapping[str, int]
) -> list[Position]:
    """Return the positions at which a model expects the most; `categories` are numbers of values without an order."""
    if not count:
        return []
    import optuna

    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.CategoricalDistribution(
            [(k + 0.5) / categories[name] for k in range(categories[name])]
        )
        if name in categories
        else optuna.distributions.FloatDistribution(0.0, 1.0)
        for name in positions[0]
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the sampler is experimental; a matrix is nearly singular
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # Deterministic, since all trainings of a study's search share their seed.
        sampler = optuna.samplers.GPSampler(seed=seed, n_startup_trials=0, deterministic_objective=True)
        study = optuna.create_study(sampler=sampler)
        worst = median(scores)
        for position, score in zip(positions, scores, strict=True):
            study.add_trial(
                optuna.trial.create_trial(params=position, distributions=distributions, value=min(score, worst))
            )
        return [dict(study.ask(distributions).params) for _ in range(count)]


def _near(best: Position, count: int, spread: float, seed: int) -> list[Position]:
    """Return normal steps from the best position."""
    generator = np.random.default_rng(seed)
    steps = generator.normal(scale=spread, size=(count, len(best)))
    return [
        {name: min(max(start + float(step), 0.0), 1.0) for (name, start), step in zip(best.items(), row, strict=True)}
        for row in steps
    ]
