"""Hindsight: what half of the evidence would have said."""

from thalweg.comparison.protocol.procedure import Findings, Race, Ranking
from thalweg.comparison.results.half_sample_check import halved

EARLY = {"one": [0.0, 0.1, 0.0, 0.1, 0.0, 0.1, 0.0, 0.1], "two": [0.5, 0.4, 0.5, 0.4, 0.1, 0.0, 0.1, 0.0]}


def findings(race: Race, ranking: Ranking | None = None) -> Findings:
    return Findings(ranking, {}, race, [], {}, {})


def raced(scores: dict[str, list[float]], kept: list[str]) -> Race:
    return Race(scores, {}, [], kept, kept, "open", None, None)


def test_half_is_judged_by_the_first_half_alone() -> None:
    found = halved(EARLY)
    assert found is not None
    assert found[:2] == (4, ["one"])
    late = {name: scores[4:] + scores[:4] for name, scores in EARLY.items()}
    found = halved(late)
    assert found is not None
    assert set(found[1]) == {"one", "two"}


def test_who_left_before_half_is_not_counted_and_too_little_says_nothing() -> None:
    assert halved({"one": EARLY["one"], "two": [9.0, 9.1]}) == (4, ["one"], ["one"])
    assert halved({"one": [0.0] * 6, "two": [1.0] * 6}) is None
    assert halved({"one": [0.0] * 20}) is None


def test_it_is_told_in_sentences() -> None:
    from thalweg.comparison.results.half_sample_check import half_sample_check

    late = {"one": EARLY["one"], "two": [0.5, 0.4, 0.5, 0.4, 0.0, -0.9, 0.0, -0.9]}
    (told,) = half_sample_check(findings(raced(late, ["one", "two"])))
    assert told == "By a plain test at 5 %, half of the seeds of the race (4) leaves one; all of them leave two, one."
    ranking = Ranking({"one": EARLY["one"], "two": [score + 9 for score in EARLY["two"]]}, [[]], ["one"])
    both = half_sample_check(findings(raced(EARLY, ["one"]), ranking))
    assert both[0] == "By a plain test at 5 %, half of the studies (4) leaves the same as all of them: one."
    assert len(both) == 2
