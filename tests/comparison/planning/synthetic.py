"""Searches on truths that are given by a function of the settings."""

from collections.abc import Callable, Mapping

from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.planning.adaptive.candidates import Tried
from thalweg.comparison.planning.adaptive.proposals import propose_trials
from thalweg.comparison.planning.adaptive.search_space import SearchSpace, search_space_of

Truth = Callable[[SearchSpace, Mapping[str, float]], float]


def spaces_of(*names: str) -> list[SearchSpace]:
    return [search_space_of(parse(name)) for name in names]


def bowl(height: Mapping[str, float], decades: float = 0.5) -> Truth:
    """Return a truth whose best learning rate is so many decades above every starting point."""

    def truth(space: SearchSpace, settings: Mapping[str, float]) -> float:
        places = space.coordinates(settings)
        others = sum(place**2 for name, place in places.items() if name != "lr")
        return height.get(space.contender, 0.0) + 0.3 * (places["lr"] - decades) ** 2 + 0.1 * others

    return truth


def search(spaces: list[SearchSpace], truth: Truth, trainings: int, batch: int = 1, seed: int = 0) -> list[Tried]:
    by_name = {space.contender: space for space in spaces}
    tried: list[Tried] = []
    while len(tried) < trainings:
        proposals = propose_trials(spaces, tried, min(batch, trainings - len(tried)), seed=seed)
        tried += [Tried(*each, truth(by_name[each.contender], each.settings)) for each in proposals]
    return tried
