"""Values and verdicts of whole comparisons: what was measured is shown, and no more is claimed than that."""

import math
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import thalweg
from thalweg.cli.main import cli
from thalweg.comparison.protocol import statistics
from thalweg.errors import BudgetError


def ending(end: Callable[[float], float]) -> Callable[..., None]:
    """A training function that begins at 1 and ends at what becomes of a random number, whatever trains it.

    Ten times its first report, 10, counts as untrained.
    """

    def train(make_optimizer, report):
        make_optimizer([nn.Parameter(torch.ones(1))])
        report(1.0)
        report(end(torch.rand(()).item()))

    return train


def bowl(make_optimizer, report, *, steps: int = 5) -> None:
    """A training function without luck."""
    weight = nn.Parameter(torch.ones(2))
    optimizer = make_optimizer([weight])
    for _ in range(steps):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
        report(weight.square().sum())


def overfitted() -> thalweg.Task:
    """A task on which what is learnt is wrong on the test data: twice as far off as before the first step."""
    x = torch.linspace(-1, 1, 40).unsqueeze(1)

    def model() -> nn.Module:
        made = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(made.weight)
        return made

    splits = thalweg.Splits((x, x), (x, x), (x, -x))
    return thalweg.Task(
        model=model, loss=thalweg.supervised(nn.functional.mse_loss), data=splits, passes=5, name="reversed"
    )


def test_a_value_is_of_the_losses_as_measured_though_they_are_worse_than_untrained() -> None:
    found = thalweg.compare(ending(lambda luck: 20.0 + luck if luck < 0.4 else 1.0), ["sgd"], budget="4trials")
    (one,) = found.contenders
    logs = statistics.interval([math.log(value) for value in one.values])
    assert any(value > 20 for value in one.values)  # above the 10 that count
    assert [one.value.mean, one.value.low, one.value.high] == pytest.approx(
        [math.exp(end) for end in (logs.mean, logs.low, logs.high)]
    )
    assert (one.value.lost, one.value.unlearnt) == (0, sum(value > 10 for value in one.values))
    said = f"sgd ended no better than ten times the first report on {one.value.unlearnt} of 5 seeds."
    assert said in found.cautions
    # What chooses and tests goes on with the bound: one bad seed cannot hide everything else.
    assert max(found.findings.race.scores["sgd"]) == pytest.approx(math.log(10.0))


def test_a_value_with_lost_seeds_is_marked_as_a_bound(tmp_path: Path) -> None:
    found = thalweg.compare(ending(lambda luck: math.nan if luck < 0.4 else 0.5 + luck), ["sgd"], budget="4trials")
    (one,) = found.contenders
    assert 0 < one.value.lost < 5
    counted = [value if math.isfinite(value) else 10.0 for value in one.values]
    assert one.value.mean == pytest.approx(math.exp(fmean(map(math.log, counted))))
    assert (one.value.bound, one.value.high) == ("≥ ", math.inf)
    assert any(f"{one.value.lost} of them lost, so that its value is a bound." in text for text in found.cautions)
    assert f"≥ {one.value.mean:.3g}" in found.report(tmp_path / "report.html").read_text()
    assert found.to_json()["contenders"][0]["bound"] is True


def test_where_nobody_does_better_than_untrained_nothing_is_recommended(tmp_path: Path) -> None:
    found = thalweg.compare(overfitted(), ["sgd", "adam"], budget="8trials")
    untrained = found.plan.scale.untrained["test"]
    assert all(one.value.mean > 1.5 * untrained for one in found.contenders)
    verdict = found.verdict
    assert (verdict.settled, verdict.recommended, found.code) == ("none", None, "")
    assert verdict.text.startswith(
        f"No contender was shown to do better than the untrained model (test loss {untrained:.4g}): "
        "nothing was learnt that shows on new data."
    )
    assert "within 3 %" not in verdict.text
    assert verdict.headline in found.report(tmp_path / "report.html").read_text()


def test_an_untuned_point_that_beats_the_winner_is_cautioned_about() -> None:
    x = torch.linspace(-1, 1, 40).unsqueeze(1)
    task = thalweg.Task(
        model=lambda: nn.Linear(1, 1), loss=thalweg.supervised(nn.functional.mse_loss), data=(x, x), passes=2
    )
    narrow = "adam:lr=1e-7..1e-6"  # whose starting point lies far outside
    found = thalweg.compare(task, [narrow], budget="4trials")
    (one,) = found.contenders
    assert one.recommended is not None
    assert one.recommended.mean < one.value.mean
    (said,) = [text for text in found.cautions if "at its starting point" in text]
    assert said.startswith(
        f"Untuned, {narrow} was measured better at its starting point ({one.recommended.mean:.4g}) than "
        f"the best of the 4 settings searched ({one.value.mean:.4g})"
    )


def test_an_optimizer_without_influence_is_cautioned_about() -> None:
    idle = thalweg.compare(ending(lambda luck: 0.5 + luck), ["sgd", "adam"], budget="4trials").cautions
    assert sum("All 8 settings gave the same reported value" in text for text in idle) == 1
    assert not any("gave the same" in text for text in thalweg.compare(bowl, ["sgd"], budget="4trials").cautions)


def test_a_function_that_reports_no_test_is_cautioned_about() -> None:
    def tested(make_optimizer, report):
        bowl(make_optimizer, lambda value: report(value, test=2 * value))

    said = "The reported value both chose the settings and judges them"
    without, with_test = (thalweg.compare(one, ["sgd"], budget="4trials").cautions for one in (bowl, tested))
    assert sum(text.startswith(said) for text in without) == 1
    assert not any(text.startswith(said) for text in with_test)


def test_the_least_loss_is_told_where_no_contender_meets_the_target() -> None:
    found = thalweg.compare("quadratic", ["gd:lr=1e-4", "sgd:lr=1e-4"], budget="4trials", target=1e-3)
    searched = [entry.result for one in found.contenders for entry in one.entries["search"]]
    least = min(look.train for result in searched for look in result.evaluations)
    assert found.verdict.text == (
        f"No training of the search met the target, a training height of 0.001: the least that was seen is {least:.4g}."
    )
    assert not any("missed the target" in text for text in found.cautions)


def test_a_budget_that_is_no_budget_is_told_what_studies_are() -> None:
    with pytest.raises(BudgetError, match="8x24trials is 8 independent studies of 24 settings each"):
        thalweg.compare("quadratic", ["gd"], budget="5")


def test_the_terminal_says_which_seeds_its_numbers_are_from(tmp_path: Path) -> None:
    asked = ["compare", "quadratic", "--with", "gd,adam", "--budget", "4trials", "--out", str(tmp_path)]
    shown = CliRunner().invoke(cli, asked, catch_exceptions=False).stdout
    assert "Worse by: measured on the seeds of the race. Value of " in shown
    assert ": measured on 5 further seeds." in shown
    assert "starting point" in shown
