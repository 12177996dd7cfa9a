"""Values, verdicts and cautions of whole comparisons: they show the measured values and claim no more."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import thalweg
from thalweg import statistics
from thalweg.cli.main import cli
from thalweg.comparison.presentation.overview import text_of
from thalweg.comparison.protocol.procedure import Findings
from thalweg.comparison.protocol.race import Race
from thalweg.comparison.results.estimate import Estimate
from thalweg.comparison.results.terms import MIN_SETTINGS, Terms, few_searched
from thalweg.comparison.results.verdict import RunState, Verdict, _separation, judge
from thalweg.errors import BudgetError


def ending(end: Callable[[float], float]) -> Callable[..., None]:
    """Return a training function that reports 1 and then a function of a random number, nearly whatever trains it.

    Ten times its first report, 10, counts as untrained.
    """

    def train(make_optimizer, report):
        optimizer = make_optimizer([nn.Parameter(torch.ones(1))])
        report(1.0)
        report(end(torch.rand(()).item()) * (1 + 1e-9 * optimizer.defaults["lr"]))

    return train


def bowl(make_optimizer, report, *, steps: int = 5) -> None:
    """A training function without randomness."""
    weight = nn.Parameter(torch.ones(2))
    optimizer = make_optimizer([weight])
    for _ in range(steps):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
        report(weight.square().sum())


def overfitted() -> thalweg.Task:
    """Return a task whose test data contradict its training data: training makes the test loss worse."""
    x = torch.linspace(-1, 1, 40).unsqueeze(1)

    def model() -> nn.Module:
        layer = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(layer.weight)
        return layer

    splits = thalweg.Splits((x, x), (x, x), (x, -x))
    return thalweg.Task(
        model=model, loss=thalweg.supervised(nn.functional.mse_loss), data=splits, passes=5, name="reversed"
    )


def test_a_value_is_of_the_measured_losses_also_if_they_are_worse_than_untrained() -> None:
    function = ending(lambda luck: 20.0 + luck if luck < 0.4 else 1.0)
    comparison = thalweg.compare(function, ["sgd", "adam"], budget="60trials")
    best = comparison.contenders[0]
    logs = statistics.interval([math.log(value) for value in best.values])
    assert any(value > 20 for value in best.values)  # above the 10 that count
    assert [best.value.mean, best.value.low, best.value.high] == pytest.approx(
        [math.exp(end) for end in (logs.mean, logs.low, logs.high)]
    )
    assert (best.value.lost, best.value.unimproved) == (0, sum(value > 10 for value in best.values))
    assert best.value.count == len(best.values) >= 8
    seeds = f"{best.value.unimproved} of {best.value.count} seeds"
    caution = f"{best.name} ended no better than ten times the first report, 10, on {seeds}."
    assert caution in comparison.cautions
    # Choices and tests use the bound: one bad seed cannot hide all others.
    assert max(comparison.findings.race.scores[best.name]) == pytest.approx(math.log(10.0))


def test_only_a_bound_of_ten_times_the_first_report_is_called_so() -> None:
    """Values of 0 are rates, and a rate of 1 is the worst."""

    def train(make_optimizer, report):
        make_optimizer([nn.Parameter(torch.ones(1))])
        report(0.0)
        report(1.0)

    comparison = thalweg.compare(train, ["sgd"], budget="4trials", workers=1)
    (sgd,) = comparison.contenders
    assert set(sgd.values) == {1.0}
    count = len(sgd.values)
    caution = f"sgd ended no better than the value of a lost training, 1, on {count} of {count} seeds."
    assert caution in comparison.cautions


def test_the_numbers_of_searched_settings_are_stated_if_they_differ() -> None:
    terms = Terms("reaches", searched={"adam": 234, "sgd": 8, "lion": 8, "gd": 9})
    assert terms.settings_of(["adam", "sgd", "gd"]) == "8 to 234 settings searched"
    assert terms.settings_of(["sgd", "lion"]) == "the 8 settings searched"
    assert terms.settings_of(["fixed"]) == "the 1 settings searched"


def reporting_once(end: Callable[[float], float]) -> Callable[..., None]:
    """Return a training function that reports once, at its end, and whose value depends on the learning rate."""

    def train(make_optimizer, report):
        optimizer = make_optimizer([nn.Parameter(torch.ones(1))])
        report(end(torch.rand(()).item()) * (1 + optimizer.defaults["lr"]))

    return train


def test_a_training_that_reports_once_is_not_called_no_better_than_untrained() -> None:
    """Its first value is that of a whole training, which others may miss tenfold."""
    comparison = thalweg.compare(reporting_once(lambda luck: math.exp(30 * luck)), ["sgd", "adam"], budget="10trials")
    values = [value for summary in comparison.contenders for value in summary.values]
    assert max(values) > 10 * comparison.plan.scale.baseline["test"]
    assert comparison.verdict.recommended is not None
    assert not any("no better than" in text for text in (comparison.verdict.text, *comparison.cautions))
    assert not any(summary.value.unimproved for summary in comparison.contenders)


def test_lost_trainings_of_a_function_that_reports_once_are_cautioned() -> None:
    train = reporting_once(lambda luck: math.nan if luck < 0.4 else 1.0)
    comparison = thalweg.compare(train, ["sgd"], budget="40trials")
    (sgd,) = comparison.contenders
    assert 0 < sgd.value.lost < sgd.value.count
    untrained = comparison.plan.scale.untrained["test"]
    seeds = f"sgd was lost on {sgd.value.lost} of {sgd.value.count} seeds"
    assert f"{seeds}: each counts as ten times the first value, {untrained:.4g}." in comparison.cautions


def test_all_lost_is_said_without_a_leader() -> None:
    def train(make_optimizer, report):
        make_optimizer([nn.Parameter(torch.ones(1))])
        report(math.inf)

    comparison = thalweg.compare(train, ["sgd", "adam"], budget="4trials")
    assert comparison.verdict.text == (
        "All contenders were lost (diverged or failed) on all seeds. No contender is recommended. "
        "If every optimizer fails, the cause is another one: ask thalweg doctor."
    )
    assert not any("first report" in caution for caution in comparison.cautions)


@pytest.mark.parametrize(("count", "settled"), [(3, "none"), (2, "unraced")])
def test_where_all_settings_give_the_same_value_there_is_nothing_to_choose(count: int, settled: str) -> None:
    def train(make_optimizer, report):
        make_optimizer([nn.Parameter(torch.ones(1))])
        report(0.625)

    comparison = thalweg.compare(train, ["sgd", "adam", "lion"][:count], budget="1trials")
    verdict = comparison.verdict
    assert verdict.settled == settled
    if settled == "none":
        assert (verdict.recommended, comparison.code) == (None, "")
        same = "All settings of all contenders gave the same value, 0.625, so there is nothing to choose."
        assert verdict.text == same


def test_a_worst_rate_of_zero_is_no_multiple_of_a_first_zero_and_has_no_sign() -> None:
    """The bound of an accuracy is 0; ten times the first accuracy, 0, is 0 too."""

    def train(make_optimizer, report):
        optimizer = make_optimizer([nn.Parameter(torch.ones(1))])
        report(0.0, maximize=True)
        report(float(optimizer.defaults["lr"] == 0.59), maximize=True)

    comparison = thalweg.compare(train, ["sgd", "adam"], budget="6trials")
    (adam,) = [summary for summary in comparison.contenders if summary.name == "adam"]
    assert math.copysign(1.0, adam.value.mean) == 1.0
    caution = f"adam ended no better than the value of a lost training, 0, on 1 of {adam.value.count} seeds."
    assert caution in comparison.cautions


# --- contenders that were hardly tried --------------------------------------------------------------------------


def race_of(dropped: list[list[str]], settled: str = "best") -> Race:
    raced = ["adam", *(name for names in dropped for name in names)]
    return Race(
        scores={name: [0.1 * k, 0.1 * k + 0.01] for k, name in enumerate(raced)},
        completed={name: [True, True] for name in raced},
        dropped=dropped,
        remaining=["adam"],
        within=["adam"],
        settled=settled,  # type: ignore[arg-type]
        recommended="adam",
        seeds_needed=None,
    )


def judged(race: Race, **searched: int) -> Verdict:
    values = {name: Estimate(1.0, 0.9, 1.1, 2) for name in race.scores}
    few = [name for name, count in searched.items() if count < MIN_SETTINGS]
    findings = Findings(None, {}, race, [], {}, {})
    return judge(findings, values, Terms("reaches a loss of", searched=searched, few=few))


def test_a_contender_that_was_hardly_tried_is_not_called_worse() -> None:
    verdict = judged(race_of([["momentum"]]), adam=40, momentum=1)
    assert (verdict.settled, verdict.headline, verdict.tied) == ("unraced", "Best so far: adam.", ["adam", "momentum"])
    few = "adam did better in the race than momentum (1 searched): too few settings to call it worse."
    assert verdict.text.endswith(few)
    assert "shown to be worse" not in verdict.text


def test_of_several_only_those_that_were_searched_are_called_worse() -> None:
    verdict = judged(race_of([["momentum", "sgd"], ["lion"]]), adam=40, momentum=3, sgd=2, lion=9)
    assert (verdict.settled, verdict.headline, verdict.tied) == ("best", "Use adam.", ["adam", "sgd"])
    assert "momentum and lion, each at the best of 3 to 9 settings searched, are shown to be worse." in verdict.text
    assert verdict.text.endswith(
        "adam did better in the race than sgd (2 searched): too few settings to call it worse."
    )


def test_a_rival_that_was_searched_is_called_worse_in_the_singular() -> None:
    verdict = judged(race_of([["momentum"]]), adam=40, momentum=3)
    assert (verdict.settled, verdict.tied) == ("best", ["adam"])
    assert verdict.text.endswith("momentum, at the best of the 3 settings searched, is shown to be worse.")


def test_a_contender_has_few_settings_only_if_there_are_more() -> None:
    def train(make_optimizer, report, size=thalweg.choice(1, 2)):
        make_optimizer([nn.Parameter(torch.ones(1))])
        report(1.0 + size)

    comparison = thalweg.compare(train, ["adam", "sgd:lr=0.1,weight_decay=0"], budget="4trials")
    counts = {"adam": MIN_SETTINGS - 1, "sgd:lr=0.1,weight_decay=0": 1}
    assert few_searched(comparison.record, counts) == list(counts)
    counts = {"adam": MIN_SETTINGS, "sgd:lr=0.1,weight_decay=0": 2}
    assert few_searched(comparison.record, counts) == []


def test_a_value_with_lost_seeds_is_marked_as_a_bound(tmp_path: Path) -> None:
    function = ending(lambda luck: math.nan if luck < 0.4 else 0.5 + luck)
    comparison = thalweg.compare(function, ["sgd"], budget="40trials")
    (sgd,) = comparison.contenders
    assert 0 < sgd.value.lost < sgd.value.count == len(sgd.values)
    counted = [value if math.isfinite(value) else 10.0 for value in sgd.values]
    assert sgd.value.mean == pytest.approx(math.exp(fmean(map(math.log, counted))))
    assert (sgd.value.bound, sgd.value.high) == ("≥ ", math.inf)
    end = f"; {sgd.value.lost} of them lost, so its value is a bound."
    assert any(caution.endswith(end) for caution in comparison.cautions)
    assert f"≥ {sgd.value.mean:.3g}" in comparison.report(tmp_path / "report.html").read_text()
    assert comparison.to_json()["contenders"][0]["bound"] is True


def test_a_comparison_in_which_every_training_is_lost_says_so_once() -> None:
    comparison = thalweg.compare(ending(lambda _: math.nan), ["sgd", "adam"], budget="4trials")
    assert comparison.verdict.text == (
        "All contenders were lost (diverged or failed) on all seeds. No contender is recommended. "
        "If every optimizer fails, the cause is another one: ask thalweg doctor."
    )
    assert not any("ended no better" in caution or "larger budget" in caution for caution in comparison.cautions)
    assert "reaches –" not in text_of(comparison)
    one_works = ending(lambda luck: math.nan if luck < 0.4 else 0.5)
    assert "ask thalweg doctor" not in thalweg.compare(one_works, ["sgd"], budget="40trials").verdict.text
    some_work = thalweg.compare(one_works, ["sgd", "adam"], budget="4trials")
    assert any("A larger budget may find a better one" in caution for caution in some_work.cautions)


def test_a_single_contender_that_is_shown_to_be_worse_is_named() -> None:
    scores = {"best": [0.0], "second": [1.0], "third": [1.0], "last": []}
    completed = {name: [True] for name in scores}
    race = Race(scores, completed, [["second"], ["third"]], ["best"], ["best"], "best", "best", None, ["last"])
    terms = Terms("reaches", searched={"second": 9, "third": 9})
    text = " ".join(_separation(race, "best", terms, RunState()))
    assert text.startswith("second and third, each at the best of the 9 settings searched, are shown to be worse.")
    alone = replace(race, dropped=[[], ["second"]])
    text = " ".join(_separation(alone, "best", terms, RunState()))
    assert text.startswith("second, at the best of the 9 settings searched, is shown to be worse. last did worse")


def test_nothing_is_recommended_if_no_contender_does_better_than_untrained(tmp_path: Path) -> None:
    comparison = thalweg.compare(overfitted(), ["sgd", "adam"], budget="60trials")
    untrained = comparison.plan.scale.untrained["test"]
    assert all(summary.value.mean > 3.5 * untrained for summary in comparison.contenders)
    verdict = comparison.verdict
    assert (verdict.settled, verdict.recommended, comparison.code) == ("none", None, "")
    assert verdict.text.startswith(
        f"No contender was shown to do better than the untrained model (test loss {untrained:.4g}): "
        "training did not help on new data."
    )
    assert "within 3 %" not in verdict.text
    assert verdict.text.endswith("If every optimizer fails, the cause is another one: ask thalweg doctor.")
    assert verdict.headline in comparison.report(tmp_path / "report.html").read_text()


def test_an_untuned_point_that_beats_the_winner_is_cautioned_about() -> None:
    x = torch.linspace(-1, 1, 40).unsqueeze(1)
    task = thalweg.Task(
        model=lambda: nn.Linear(1, 1), loss=thalweg.supervised(nn.functional.mse_loss), data=(x, x), passes=2
    )
    narrow = ["sgd:lr=1e-7..1e-6", "adam:lr=1e-7..1e-6"]  # whose starting points lie far outside
    comparison = thalweg.compare(task, narrow, budget="2x4trials")  # studies search the ranges alone
    best = comparison.contenders[0]
    assert best.recommended is not None
    assert best.recommended.mean < best.value.mean
    start = f"Untuned, {best.name} was measured better at its starting point ({best.recommended.mean:.4g}) than "
    (caution,) = [text for text in comparison.cautions if text.startswith(start)]
    assert caution == (
        f"{start}the best of the 8 settings searched ({best.value.mean:.4g}). "
        "The search did not find the best settings."
    )


def test_an_optimizer_without_influence_is_cautioned_about() -> None:
    def train(make_optimizer, report):
        make_optimizer([nn.Parameter(torch.ones(1))])
        report(torch.rand(()))

    idle = thalweg.compare(train, ["sgd", "adam"], budget="4trials").cautions
    assert sum("All 6 settings gave the same reported value" in text for text in idle) == 1
    assert not any("gave the same" in text for text in thalweg.compare(bowl, ["sgd"], budget="4trials").cautions)


def test_a_function_that_reports_no_test_is_cautioned_about() -> None:
    def tested(make_optimizer, report):
        bowl(make_optimizer, lambda value: report(value, test=2 * value))

    start = "The reported value both chose the settings and evaluates them"
    without, with_test = (thalweg.compare(train, ["sgd"], budget="4trials").cautions for train in (bowl, tested))
    assert sum(text.startswith(start) for text in without) == 1
    assert not any(text.startswith(start) for text in with_test)


def test_the_verdict_names_the_least_loss_if_no_contender_meets_the_target() -> None:
    comparison = thalweg.compare("quadratic", ["gd:lr=1e-4", "sgd:lr=1e-4"], budget="4trials", target=1e-3)
    searched = [trial.result for summary in comparison.contenders for trial in summary.trials["search"]]
    least = min(evaluation.train for result in searched for evaluation in result.evaluations)
    assert comparison.verdict.text == (
        f"No training of the search met the target, a training height of 0.001: the least that was seen is {least:.4g}."
    )
    assert not any("missed the target" in text for text in comparison.cautions)


def test_the_error_of_a_bad_budget_says_what_studies_are() -> None:
    with pytest.raises(
        BudgetError, match="8x24trials ranks the optimizers by 8 independent studies of 24 settings each"
    ):
        thalweg.compare("quadratic", ["gd"], budget="5")


def test_the_terminal_says_which_seeds_its_numbers_are_from(tmp_path: Path) -> None:
    arguments = ["compare", "quadratic", "--with", "gd,adam", "--budget", "60trials", "--out", str(tmp_path)]
    output = " ".join(CliRunner().invoke(cli, arguments, catch_exceptions=False).stdout.split())
    assert "Value and worse by are over the same seeds: the seeds of the race." in output
    assert "The verdict states the value of adam over 16 further seeds." in output
    assert "starting point" in output


def test_a_time_to_a_target_is_a_sentence() -> None:
    comparison = thalweg.compare("quadratic", ["gd"], budget="40trials", target=1.0)
    (gd,) = comparison.contenders
    assert gd.value.lost == 0
    assert gd.value.count >= 5
    assert comparison.verdict.text == (
        f"gd takes {gd.value.mean:.4g} steps to a training height of 1 "
        f"(95 % interval {gd.value.low:.4g} to {gd.value.high:.4g}, {gd.value.count} fresh seeds)."
    )
