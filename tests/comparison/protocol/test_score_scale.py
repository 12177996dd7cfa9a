"""Score scale: direction, domain and margin of values, and the one change to differences."""

import json
import math
from itertools import permutations

import pytest

from thalweg.comparison.protocol.score_scale import Margin, ScoreScale, scale_for, untrained_value
from thalweg.errors import SettingError

LOSS = scale_for({"validation": 2.0, "test": 2.5}, ("validation", "test"))
ACCURACY = scale_for({"validation": 0.1, "test": 0.1}, ("validation", "test"), maximize=True, prefers="linear")
REWARD = scale_for({"test": -200.0}, ("test",), maximize=True, prefers="linear")


def test_losses_are_compared_by_ratios() -> None:
    assert (LOSS.kind, LOSS.domain) == ("log", "positive")
    assert LOSS.loss(LOSS.score(0.5, "test")) == pytest.approx(0.5)
    assert LOSS.margin(LOSS.score(0.5, "test")) == pytest.approx(math.log(1.03))
    assert LOSS.worse_by(LOSS.score(0.55, "test"), LOSS.score(0.5, "test")) == pytest.approx(0.1)
    assert LOSS.score(math.nan, "test") == LOSS.score(1e9, "test") == LOSS.score(2.5, "test") == math.log(2.5)
    assert (LOSS.margin_in_words(0.0), LOSS.worse_by_in_words(0.031)) == ("3 %", "3.1 %")


def test_a_small_loss_has_no_floor() -> None:
    tiny, half = LOSS.score(1e-200, "test"), LOSS.score(0.5e-200, "test")
    assert tiny - half == pytest.approx(math.log(2))
    assert LOSS.loss(tiny) == pytest.approx(1e-200)


def test_higher_accuracies_have_lower_scores_and_stay_as_they_are() -> None:
    assert (ACCURACY.kind, ACCURACY.domain) == ("linear", "rate")
    better, worse = ACCURACY.score(0.98, "test"), ACCURACY.score(0.97, "test")
    assert better < worse
    assert ACCURACY.loss(better) == 0.98
    assert ACCURACY.worse_by(worse, better) == pytest.approx(0.01)
    assert ACCURACY.worse_by_in_words(0.01) == "0.01"
    assert ACCURACY.margin(better) == pytest.approx(0.003)
    assert ACCURACY.margin_in_words(better) == "0.003"
    # A training that lost, and one that is worse than the untrained model, count as the untrained model.
    assert ACCURACY.score(math.nan, "test") == ACCURACY.score(0.02, "test") == ACCURACY.score(0.1, "test") == -0.1
    assert not ACCURACY.is_improvement(0.1, "test")
    assert ACCURACY.is_improvement(0.11, "test")


def test_values_with_an_arbitrary_zero_are_compared_by_what_training_gained() -> None:
    leader = REWARD.score(-20.0, "test")
    assert (REWARD.kind, REWARD.domain) == ("linear", "real")
    assert REWARD.margin(leader) == pytest.approx(0.03 * 180)
    assert REWARD.margin_in_words(leader) == "5.4 (3 % of what training gained)"
    assert REWARD.worse_by(REWARD.score(-23.0, "test"), leader) == pytest.approx(3.0)
    assert REWARD.excess(18.0, leader) == pytest.approx(math.log(1.1))
    assert REWARD.excess(-18.0, leader) == pytest.approx(-math.log(1.1))
    # Zero is a value like any other.
    assert REWARD.margin(REWARD.score(0.0, "test")) == pytest.approx(6.0)


@pytest.mark.parametrize("shift", [-1000.0, -20.0, 0.0])
def test_a_shift_of_all_values_changes_no_margin(shift: float) -> None:
    scale = scale_for({"test": 20.0 + shift}, ("test",)).covering([shift, -1e6])
    assert scale.domain == "real"
    assert scale.margin(scale.score(10.0 + shift, "test")) == pytest.approx(0.3)


def test_a_ratio_of_maximized_values_is_a_share_of_the_leader() -> None:
    scale = scale_for({"test": 10.0}, ("test",), maximize=True, prefers="linear", required="log")
    leader, other = scale.score(100.0, "test"), scale.score(97.0, "test")
    assert scale.worse_by(other, leader) == pytest.approx(0.03)
    assert other - leader == pytest.approx(scale.margin(leader))
    assert scale.loss(other) == pytest.approx(97.0)


@pytest.mark.parametrize("values", list(permutations([1.0, 0.0, -3.0, math.nan, 0.2])))
def test_a_value_without_a_logarithm_changes_the_scale_whatever_the_order(values: tuple[float, ...]) -> None:
    scale = LOSS
    for value in values:
        scale = scale.covering([value])
    assert scale == LOSS.covering(values)
    assert (scale.kind, scale.domain, scale.is_forced_linear) == ("linear", "real", True)
    assert scale.score(-3.0, "test") == -3.0
    assert not scale.decides_like(LOSS)


def test_a_loss_of_zero_changes_the_scale_and_one_above_does_not() -> None:
    assert LOSS.covering([5e-324]).kind == "log"
    assert LOSS.covering([5e-324]).decides_like(LOSS)
    assert LOSS.covering([0.0]).kind == "linear"
    assert LOSS.covering([0.0]).domain == "real"  # the first loss, 2, is no rate
    assert LOSS.covering([math.nan, math.inf]) is LOSS


def test_values_are_rates_until_one_leaves_the_range() -> None:
    assert ACCURACY.covering([0.0, 1.0]).domain == "rate"
    assert ACCURACY.covering([1.001]).domain == "positive"
    assert ACCURACY.covering([-0.001]).domain == "real"
    assert scale_for({"test": 0.9}, ("test",)).domain == "positive"  # losses below 1 are compared by ratios
    assert scale_for({"test": 0.9}, ("test",), required="linear").domain == "rate"


def test_only_the_splits_that_count_decide_the_scale() -> None:
    values = {"train": -5.0, "validation": 1.0, "test": 1.0}
    assert scale_for(values, ("validation", "test")).kind == "log"
    assert scale_for(values, ("train",)).kind == "linear"


def test_a_logarithmic_scale_that_cannot_be_is_refused() -> None:
    with pytest.raises(SettingError, match=r"mine: scale='log' needs values above 0, got -1 before the first step\."):
        scale_for({"test": -1.0}, ("test",), required="log", name="mine")


def test_an_absolute_margin_holds_on_both_scales() -> None:
    margin = Margin(0.02, is_share=False)
    for scale in (
        scale_for({"test": 9.0}, ("test",), tolerance=margin),
        scale_for({"test": 9.0}, ("test",), tolerance=margin, required="linear"),
    ):
        leader = scale.score(0.5, "test")
        assert scale.score(0.52, "test") - leader == pytest.approx(scale.margin(leader))
        assert scale.margin_in_words(leader) == "0.02"
    falling = scale_for({"test": 1.0}, ("test",), tolerance=margin, required="log", maximize=True)
    leader = falling.score(5.0, "test")
    assert falling.score(4.98, "test") - leader == pytest.approx(falling.margin(leader))


@pytest.mark.parametrize(
    ("text", "margin"),
    [
        ("3%", Margin(0.03, is_share=True)),
        (" 0.5 % ", Margin(0.005, is_share=True)),
        ("0.002", Margin(0.002, is_share=False)),
        (0.002, Margin(0.002, is_share=False)),
        (2, Margin(2.0, is_share=False)),
    ],
)
def test_a_margin_is_a_share_or_a_difference(text: str | float, margin: Margin) -> None:
    assert Margin.parse(text) == margin
    assert Margin.parse(margin) == margin


@pytest.mark.parametrize("text", ["0", "-1%", "100%", "nan", "inf", "3 % of it", "much", True, -0.1, None])
def test_a_margin_that_is_none_is_refused(text: str | float) -> None:
    with pytest.raises(SettingError, match="margin must be a share between 0 % and 100 %, or a difference above 0"):
        Margin.parse(text)


def test_a_rate_is_close_at_the_share_of_its_own_margin() -> None:
    assert ACCURACY.is_close(0.971, 0.98, 0.1, "test")
    assert not ACCURACY.is_close(0.969, 0.98, 0.1, "test")
    assert LOSS.is_close(0.549, 0.5, 0.1, "test")
    assert not LOSS.is_close(0.551, 0.5, 0.1, "test")
    assert (ACCURACY.share_in_words(0.1), LOSS.share_in_words(0.1)) == ("0.01", "10 %")


@pytest.mark.parametrize(
    ("reports", "maximize", "prefers", "expected"),
    [
        ([2.0, 1.0], False, "log", (20.0, 2.0)),
        ([math.nan, 2.0], False, "log", (20.0, 2.0)),
        ([0.1, 0.9], True, "linear", (0.0, 0.1)),  # an accuracy
        ([0.9, 0.1], False, "linear", (1.0, 0.9)),  # an error rate
        ([-50.0, 150.0], True, "linear", (-50.0 - 9 * 200.0, -50.0)),  # a reward
        ([-5.0], False, "log", (40.0, -5.0)),
        ([0.0], False, "log", (1.0, 0.0)),
        ([20.0, 30.0], True, "log", (2.0, 20.0)),
        ([math.inf], False, "log", (10.0, 1.0)),
    ],
)
def test_a_training_function_has_a_bound_for_lost_trainings(
    reports: list[float], maximize: bool, prefers: str, expected: tuple[float, float]
) -> None:
    assert untrained_value([reports], maximize=maximize, prefers=prefers) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("firsts", "maximize", "baseline"),
    [
        ([1.0, 3.0, 50.0], False, 3.0),
        ([3.0, 1.0], False, 1.0),  # of two, the better one
        ([3.0, 1.0], True, 3.0),
        ([math.nan, 4.0], False, 4.0),
    ],
)
def test_of_several_trainings_the_median_of_the_first_reports_counts(
    firsts: list[float], maximize: bool, baseline: float
) -> None:
    trainings = [[first, 2.0] if math.isfinite(first) else [first] for first in firsts]
    bound, first = untrained_value(trainings, maximize=maximize, prefers="log")
    assert (bound, first) == (baseline / 10 if maximize else 10 * baseline, baseline)


def test_the_spread_of_all_trainings_bounds_lost_ones() -> None:
    assert untrained_value([[-1.0, -2.0], [-1.0, 9.0]], maximize=False, prefers="log") == (-1.0 + 9 * 11.0, -1.0)


def test_scales_are_stored_and_those_of_old_stores_keep_their_floor() -> None:
    for scale in (LOSS, ACCURACY, REWARD, scale_for({"test": 9.0}, ("test",), tolerance=Margin(0.02, is_share=False))):
        assert ScoreScale.from_json(json.loads(json.dumps(scale.to_json()))) == scale
    old = ScoreScale.from_json({"kind": "log", "untrained": {"test": 2.0}, "resolution": 1e-12})
    assert old.score(-1.0, "test") == old.score(0.0, "test") == pytest.approx(math.log(2e-12))
    assert old.covering([-1.0]) is old
    assert (old.margin(0.0), old.margin_in_words(0.0)) == (pytest.approx(math.log(1.03)), "3 %")
    linear = ScoreScale.from_json({"kind": "linear", "untrained": {"test": 2.0}, "resolution": 1e-12})
    assert linear.margin(-2.0) == pytest.approx(0.06)
