"""Half-sample check: the contenders that half of the evidence would have left."""

from thalweg.comparison.protocol.procedure import Findings
from thalweg.comparison.protocol.race import Race
from thalweg.comparison.protocol.studies import Ranking
from thalweg.comparison.results.half_sample_check import half_sample_check, halve

EARLY = {"a": [0.0, 0.1, 0.0, 0.1, 0.0, 0.1, 0.0, 0.1], "b": [0.5, 0.4, 0.5, 0.4, 0.1, 0.0, 0.1, 0.0]}


def findings(race: Race, ranking: Ranking | None = None) -> Findings:
    return Findings(ranking, {}, race, [], {}, {})


def raced(scores: dict[str, list[float]], remaining: list[str]) -> Race:
    return Race(scores, {}, [], remaining, remaining, "open", None, None)


def test_half_is_judged_by_the_first_half_alone() -> None:
    sample = halve(EARLY)
    assert sample is not None
    assert (sample.half, sample.all, sample.after_half) == (4, 8, ["a"])
    late = {name: scores[4:] + scores[:4] for name, scores in EARLY.items()}
    sample = halve(late)
    assert sample is not None
    assert set(sample.after_half) == {"a", "b"}


def test_a_contender_that_left_before_half_is_not_counted_and_too_few_scores_say_nothing() -> None:
    assert halve({"a": EARLY["a"], "b": [9.0, 9.1]}) == (4, 8, ["a"], ["a"])
    assert halve({"a": [0.0] * 6, "b": [1.0] * 6}) is None
    assert halve({"a": [0.0] * 20}) is None


def test_it_is_reported_in_sentences() -> None:
    late = {"a": EARLY["a"], "b": [0.5, 0.4, 0.5, 0.4, 0.0, -0.9, 0.0, -0.9]}
    (sentence,) = half_sample_check(findings(raced(late, ["a", "b"])))
    assert sentence == (
        "Half-sample check by a plain test at 5 %: the first 4 seeds of the race leave a; all 8 leave b, a."
    )
    ranking = Ranking({"a": EARLY["a"], "b": [score + 9 for score in EARLY["b"]]}, [[]], ["a"])
    studies, seeds = half_sample_check(findings(raced(EARLY, ["a"]), ranking))
    assert studies == (
        "Half-sample check by a plain test at 5 %: the first 4 studies leave the same contenders as all 8: a."
    )
    assert "seeds of the race" in seeds
