"""Emulator: a training of the bank as a random function of contender, settings and seed, whose truth is known.

The bank holds few settings, and a search goes where the bank was never. So each contender's scores are continued by a
Gaussian process that is conditioned on the bank: one draw of it is a *world*. Noise between seeds, the part of it that
all settings share, and the difference of validation and test are estimated from the settings with many seeds.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, median
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.stats import qmc

from benchmarks.choosing_in_the_wild.bank import SEARCH_SEED, TRUTH_SEEDS, Bank
from benchmarks.choosing_in_the_wild.training import Training
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.planning.adaptive.search_space import SearchSpace, search_space_of
from thalweg.comparison.protocol.trial import START

FEATURES = 256  # of the random function
LENGTHS = (0.4, 0.7, 1.1)  # decades of the learning rate, from which likelihood chooses
OTHER_LENGTHS = {1: 1.0, 2: 0.5, 3: 1.5}
FLOOR = 0.1  # of the distance from the best to the median: how far below the best of the bank a world can go
MIN_SETTINGS = 12  # that the bank must hold of a contender
EXHAUSTIVE, NEAR = 256, 96  # random points by which the best of a world is found: in two spaces, and near the best


@dataclass(frozen=True)
class Noise:
    """Standard deviations of a cost between seeds.

    Attributes:
        shared: The part that all settings share.
        own: The part of each setting.
        split: The difference of a setting's mean costs on validation and test data, which seeds do not average out.
    """

    shared: float
    own: float
    split: float


def noise_of(bank: Bank, training: Training, names: Sequence[str]) -> Noise:
    """Estimate the noise from the settings that the bank holds from all seeds of the truth."""
    columns, splits = [], []
    for name in names:
        for settings in bank.evaluated(training, name):
            validation = bank.costs(training, name, settings, TRUTH_SEEDS, "validation")
            test = bank.costs(training, name, settings, TRUTH_SEEDS, "test")
            columns.append(validation)
            splits.append(fmean(test) - fmean(validation))
    if len(columns) < 2:
        return Noise(0.02, 0.04, 0.01)
    values = np.array(columns)
    best = values[np.argsort(values.mean(1))[: max(2, len(values) // 2)]]  # what a search ends among
    covariance = np.cov(best)
    shared = max(0.0, float(covariance[np.triu_indices(len(best), 1)].mean()))
    total = float(np.median(np.diag(covariance)))
    split = 1.48 * median(abs(value - median(splits)) for value in splits)
    return Noise(math.sqrt(min(shared, total)), math.sqrt(max(total - shared, 0.0)), split)


class _Surface:
    """A random function of a contender's settings that passes near what the bank holds of it."""

    def __init__(self, space: SearchSpace, rows: Sequence[tuple[Mapping[str, float], float]], noise: float, rng: Any):
        self.space = space
        self._names = list(space.ranges)
        costs = np.array([cost for _, cost in rows])
        places = np.array([self._place(settings) for settings, _ in rows])
        # Valleys are flat and cliffs are high: the logarithm of the distance from a floor below the best is smooth.
        self._unit = max(noise, FLOOR * float(np.median(costs) - costs.min()), 1e-6)
        self._floor = float(costs.min()) - self._unit
        logs = np.log((costs - self._floor) / self._unit)
        self._center, self._scale = float(logs.mean()), max(float(logs.std()), 1e-6)
        values = (logs - self._center) / self._scale
        ripple = (0.3 / self._scale) ** 2
        fits = []
        for length in LENGTHS:
            lengths = np.array([length if name == "lr" else OTHER_LENGTHS[space.orders[name]] for name in self._names])
            covariance = _matern(places / lengths, places / lengths) + ripple * np.eye(len(values))
            factor = cho_factor(covariance, lower=True)
            weights = cho_solve(factor, values)
            evidence = -float(values @ weights) / 2 - float(np.log(np.diag(factor[0])).sum())
            fits.append((evidence, length, lengths, factor))
        _, self.length, self._lengths, factor = max(fits, key=lambda fit: fit[:2])
        dimensions = len(self._names)
        # Frequencies of a Matern 5/2 covariance are those of a t distribution with 5 degrees of freedom.
        normal = rng.standard_normal((FEATURES, dimensions))
        self._frequencies = normal * np.sqrt(5 / rng.chisquare(5, size=(FEATURES, 1)))
        self._phases = rng.uniform(0, 2 * np.pi, FEATURES)
        self._amplitudes = rng.standard_normal(FEATURES) * math.sqrt(2 / FEATURES)
        self._places = places / self._lengths
        residual = values - self._prior(self._places) - math.sqrt(ripple) * rng.standard_normal(len(values))
        self._weights = cho_solve(factor, residual)

    def _place(self, settings: Mapping[str, float]) -> list[float]:
        coordinates = self.space.coordinates(self.space.complete(settings))
        return [coordinates[name] for name in self._names]

    def _prior(self, places: np.ndarray) -> np.ndarray:
        return np.cos(places @ self._frequencies.T + self._phases) @ self._amplitudes

    def costs(self, settings: Sequence[Mapping[str, float]]) -> np.ndarray:
        """Return the mean validation costs of settings."""
        places = np.array([self._place(values) for values in settings]) / self._lengths
        values = self._prior(places) + _matern(places, self._places) @ self._weights
        return np.asarray(self._floor + self._unit * np.exp(self._center + self._scale * values))


def _matern(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T
    distances = np.sqrt(np.maximum(5 * squares, 0))
    return np.asarray((1 + distances + distances**2 / 3) * np.exp(-distances))


class World:
    """One random continuation of what the bank holds of a training.

    Args:
        bank: The bank.
        training: The training.
        number: The number of the world; it decides everything random.
        noisy: False for a world in which a setting costs the same from every seed and on all data.
    """

    def __init__(self, bank: Bank, training: Training, number: int, *, noisy: bool = True) -> None:
        self.training, self.number = training, number
        rng = np.random.default_rng([number, *training.name.encode()])
        self.spaces: dict[str, SearchSpace] = {}
        self._surfaces: dict[str, _Surface] = {}
        self._curves: dict[str, tuple[np.ndarray, list[tuple[float, ...]]]] = {}
        held = {name: rows_of(bank, training, name) for name in training.contenders}
        names = [name for name in training.contenders if len(held[name]) >= MIN_SETTINGS]
        noise = noise_of(bank, training, names)
        total = math.hypot(noise.shared, noise.own)
        self.noise = noise if noisy else Noise(0.0, 0.0, 0.0)
        self._worst = training.cost(math.nan)
        for name in names:
            space = search_space_of(parse(name))
            self.spaces[name] = space
            rows = [(settings, cost) for settings, cost, _ in held[name]]
            self._surfaces[name] = _Surface(space, rows, total, rng)
            self._curves[name] = (np.array([cost for _, cost in rows]), [reports for _, _, reports in held[name]])

    def mean(self, contender: str, settings: Mapping[str, float]) -> float:
        """Return the mean validation cost over all seeds."""
        return min(float(self._surfaces[contender].costs([settings])[0]), self._worst)

    def truth(self, contender: str, settings: Mapping[str, float]) -> float:
        """Return the mean test cost over all seeds, relative to that of the validation data."""
        return min(self.mean(contender, settings) + self._split(contender, settings), self._worst)

    def _split(self, contender: str, settings: Mapping[str, float]) -> float:
        return self.noise.split * self._normal("split", contender, settings, 0)

    def cost(self, contender: str, settings: Mapping[str, float], seed: int, split: str) -> float:
        """Return the cost of one training from a seed."""
        shared = np.random.default_rng([self.number, seed, len(split)]).standard_normal()
        own = self._normal(split, contender, settings, seed)
        mean = self.mean(contender, settings) if split == "validation" else self.truth(contender, settings)
        return min(mean + self.noise.shared * float(shared) + self.noise.own * own, self._worst)

    def reports(self, contender: str, settings: Mapping[str, float], seed: int) -> list[float]:
        """Return the validation costs of the reports of a training: the curve of the bank that ends nearest to it."""
        end = self.cost(contender, settings, seed, "validation")
        ends, curves = self._curves[contender]
        curve = curves[int(np.abs(ends - end).argmin())]
        return [min(report + end - curve[-1], self._worst) for report in curve[:-1]] + [end]

    def _normal(self, purpose: str, contender: str, settings: Mapping[str, float], seed: int) -> float:
        text = f"{self.number}/{purpose}/{contender}/{seed}/{sorted(settings.items())}"
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        return float(np.random.default_rng(int.from_bytes(digest, "little")).standard_normal())

    @cached_property
    def best(self) -> float:
        """The least true cost that an exhaustive search finds."""
        return min(self._best_of(name) for name in self.spaces)

    def _best_of(self, name: str) -> float:
        space, surface = self.spaces[name], self._surfaces[name]
        rng = np.random.default_rng(0)
        candidates = [dict(start) for start in space.starts.values()] + [dict(space.anchor)]
        for order in (2, 3):
            names = [setting for setting in space.ranges if space.orders[setting] <= order]
            points = qmc.Sobol(len(names), rng=rng).random_base2(EXHAUSTIVE.bit_length() - 1)
            candidates += [
                {**space.starts[START.trial], **space.values_at(dict(zip(names, map(float, point), strict=True)))}
                for point in points
            ]
        means = surface.costs(candidates)
        for center in np.argsort(means)[:4]:
            position = space.position(candidates[int(center)])
            for _ in range(NEAR // 4):
                moved = {key: min(max(place + rng.normal(scale=0.08), 0), 1) for key, place in position.items()}
                candidates.append(space.values_at(moved))
        means = surface.costs(candidates)
        return self.truth(name, candidates[int(means.argmin())])  # validation chooses, as in the record


def rows_of(bank: Bank, training: Training, name: str) -> list[tuple[dict[str, float], float, tuple[float, ...]]]:
    """The settings, validation costs and reported costs of the trainings from the seed of the search."""
    rows = []
    for row in bank.rows(training, name):
        if row["seed"] != SEARCH_SEED:
            continue
        cost = training.cost(math.nan if row["validation"] is None else row["validation"])
        reports = tuple(training.cost(math.nan if value is None else value) for value in row["reports"])
        rows.append((row["settings"], cost, (*reports[:-1], cost) if reports else (cost,)))
    return rows
