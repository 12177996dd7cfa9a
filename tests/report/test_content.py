"""The sentences of the page: how sure a verdict is, what half of the search shows, and the findings of a contender."""

import math
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from thalweg.comparison import Comparison
from thalweg.comparison.presentation.overview import compared_value
from thalweg.comparison.results import environment
from thalweg.comparison.results.checks.softening import Softening
from thalweg.comparison.results.storage.rows import DamagedRowError
from thalweg.comparison.results.storage.trials import trial_of_values, values_of_trial
from thalweg.comparison.results.summary import RangeEdge
from thalweg.report.certainty import how_sure
from thalweg.report.charts.comparison import curve_charts, learning_rate_chart, split_sentences, value_chart
from thalweg.report.charts.search import budget_chart, budget_curves, half_search_sentences, pruned_rows
from thalweg.report.contender_findings import findings_of
from thalweg.report.raw_numbers import raw_numbers, size_of


def with_verdict(
    measured: Comparison, finished: str | None = "now", race: str = "best", **changes: object
) -> SimpleNamespace:
    scores = {name: [1.0] for name in "abcd"}
    return SimpleNamespace(
        verdict=replace(measured.verdict, **changes),
        contenders=measured.contenders,
        findings=replace(measured.findings, race=replace(measured.findings.race, settled=race, scores=scores)),
        equal_seeds=measured.equal_seeds,
        record=replace(measured.record, finished=finished),
        margin="3 %",
        softening=None,
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"settled": "best", "tied": ["a"]}, "Sure: all 3 rivals that raced are shown to be worse"),
        ({"settled": "best", "tied": ["a", "b"]}, "Sure: 2 of 3 rivals that raced are shown to be worse"),
        ({"settled": "within", "tied": ["a", "b"]}, "Sure to within 3 %: 2 contenders are shown to be this close"),
        ({"settled": "open", "tied": ["a", "b", "c"]}, "Not settled: 3 contenders are not told apart"),
        ({"settled": "unraced", "race": "unraced"}, "Not settled: the leader of the search was not raced"),
        ({"settled": "unraced"}, "Not settled: too few settings of the rivals were searched."),
        ({"settled": "unended"}, "Nothing is settled: no training has ended."),
        ({"settled": "none"}, "Nothing is settled: no contender ends reliably"),
        ({"settled": "open", "tied": ["a", "b"], "finished": None}, "So far: Not settled: 2 contenders"),
    ],
)
def test_the_heading_says_how_sure_the_verdict_is(measured: Comparison, changes: dict, text: str) -> None:
    assert how_sure(with_verdict(measured, **{"recommended": None} | changes)).startswith(text)


@pytest.mark.parametrize(
    ("raced", "unraced", "text"),
    [
        (["a", "b", "c"], [], "Sure: all 2 rivals that raced are shown to be worse, over 5 seeds."),
        (["a", "b", "c"], ["d"], "Sure: all 2 rivals that raced are shown to be worse, over 5 seeds."),
        (["a", "b"], ["c", "d"], "Sure: the one rival that raced is shown to be worse, over 5 seeds."),
        (["a", "b"], [], "Sure: its rival is shown to be worse, over 5 seeds."),
    ],
)
def test_the_heading_counts_the_rivals_that_raced(
    measured: Comparison, raced: list[str], unraced: list[str], text: str
) -> None:
    shown = with_verdict(measured, settled="best", recommended=None, tied=raced[:1])
    scores = dict.fromkeys(raced, [0.0] * 5) | {name: [] for name in unraced}
    shown.findings = SimpleNamespace(race=replace(measured.findings.race, scores=scores, unraced=unraced))
    assert how_sure(shown) == text


def test_the_heading_is_not_sure_of_a_race_that_other_facts_soften(measured: Comparison) -> None:
    shown = with_verdict(measured, settled="best", tied=["a"])
    shown.softening = Softening("", "d did not race and was much better on the one seed that both have")
    assert how_sure(shown) == "Not settled: d did not race and was much better on the one seed that both have."


def test_the_chart_of_values_shows_those_of_the_table(measured: Comparison) -> None:
    """The leader's value over further seeds is another number, with an interval that would not overlap the same."""
    names = [summary.name for summary in measured.contenders]
    chart = value_chart(measured, {name: k for k, name in enumerate(names)})
    assert chart is not None
    shown = {series.name: series.points[0] for series in chart.views[0].series}
    values = {summary.name: compared_value(summary, measured.plan) for summary in measured.contenders}
    assert [*shown] == names
    for name, value in values.items():
        assert shown[name].y == pytest.approx(value.mean)
        assert value.count == 1 or shown[name].low == pytest.approx(value.low)
    leader = measured.contenders[0]
    assert leader.value.mean != pytest.approx(shown[leader.name].y, rel=1e-6)


def test_the_budget_follows_the_order_of_an_adaptive_search(measured: Comparison) -> None:
    curves, total = budget_curves(measured)
    searched = [trial for trial in measured.trainings if trial.stage == "search"]
    assert total == len(searched)
    assert sum(len(curve.values) for curve in curves.values()) == total
    ended = [trial for trial in searched if trial.result.status == "ok"]
    best = min(ended, key=lambda trial: trial.result.validation)
    assert min(curves, key=lambda name: curves[name].costs[-1]) == best.contender
    assert curves[best.contender].costs[-1] == best.result.validation
    for curve in curves.values():
        assert curve.costs == sorted(curve.costs, reverse=True)
        assert curve.at(curve.counts[0] - 1) == math.inf
        assert curve.at(total) == curve.costs[-1]
    chart = budget_chart(measured, dict.fromkeys(curves, 0))
    assert chart is not None
    assert chart.views[0].vertical == (total / 2, "half")
    sentence = half_search_sentences(measured)
    half = min(curves, key=lambda name: curves[name].at(total / 2))
    assert sentence.startswith(f"After half of its settings {half} leads the search, with a reported value of ")
    assert ("the same contender" in sentence) == (half == best.contender)


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("race", "nevertheless: the race from fresh seeds decides it"),
        ("finals", "nevertheless: trainings from fresh seeds decide it"),
        ("search", "nevertheless: it needs the second half of the search"),
    ],
)
def test_half_of_the_search_never_contradicts_the_verdict(measured: Comparison, stage: str, words: str) -> None:
    curves, total = budget_curves(measured)
    half = min(curves, key=lambda name: curves[name].at(total / 2))
    rival = next(name for name in curves if name != half)
    race, evidence = measured.findings.race, measured.findings.evidence
    findings = replace(
        measured.findings,
        race=replace(race, scores={half: [1.0] if stage == "race" else [], rival: []}),
        evidence=replace(evidence, final_seeds=int(stage == "finals")),
    )

    def sentences(recommended: str | None) -> str:
        verdict = replace(measured.verdict, recommended=recommended)
        names = ("plan", "contenders", "trainings", "metric", "record")
        results = SimpleNamespace(**{name: getattr(measured, name) for name in names})
        results.verdict, results.findings = verdict, findings
        return half_search_sentences(results)

    assert f"The verdict is {rival} {words}" in sentences(rival)
    assert sentences(half).endswith(f"The verdict, {half}, is the leader of half of the search.")
    assert "The verdict recommends neither" in sentences(None)


def test_curves_have_steps_and_seconds(measured: Comparison) -> None:
    colours = {summary.name: 0 for summary in measured.contenders}
    for chart in curve_charts(measured, colours):
        steps, seconds = chart.views
        assert [point.x for point in steps.series[0].points] == list(range(1, 9))
        places = [point.x for point in seconds.series[0].points]
        assert places == sorted(places)
        assert places[-1] > places[0] >= 0
        assert [point.y for point in seconds.series[0].points] == [point.y for point in steps.series[0].points]
        assert all(point.low <= point.y <= point.high for point in steps.series[0].points)


def test_seconds_of_a_curve_are_stored_and_must_fit_it(measured: Comparison) -> None:
    trial = next(trial for trial in measured.trainings if len(trial.result.evaluations) == 8)
    row = values_of_trial(trial)
    seconds = [each.seconds for each in trial_of_values(row).result.evaluations]
    assert seconds == pytest.approx([each.seconds for each in trial.result.evaluations], rel=1e-3)
    assert all(map(math.isfinite, seconds))
    old = trial_of_values(row | {"reported": None})
    assert all(math.isnan(each.seconds) for each in old.result.evaluations)
    with pytest.raises(DamagedRowError, match="a time for each evaluation"):
        trial_of_values(row | {"reported": {"curve_s": [1.0]}})


def test_every_searched_setting_has_a_dot_and_the_chosen_one_a_ring(measured: Comparison) -> None:
    chart = learning_rate_chart(measured, {summary.name: 0 for summary in measured.contenders})
    assert chart is not None
    for summary, series in zip(measured.contenders, chart.views[0].series, strict=True):
        tried = [trial for trial in summary.trials["search"] if trial.result.status not in ("pruned", "stopped")]
        assert len(series.points) == len(tried)
        chosen = [point for point in series.points if point.mark == "chosen"]
        assert {point.x for point in chosen} <= {summary.settings["lr"]}
        for point in series.points:
            assert measured.trainings[point.trial].settings["lr"] == point.x


def test_what_was_stopped_adds_up(measured: Comparison) -> None:
    assert pruned_rows(measured)
    for row in pruned_rows(measured):
        assert row["tried"] == row["ended"] + row["stopped"] + row["diverged"] + row["failed"]
        assert row["stopped"] == 0  # it was not asked to prune


def test_contenders_on_different_sides_of_the_leader_are_named(measured: Comparison) -> None:
    leader, rival, *_ = measured.contenders
    (own, of_leader), *_ = rival.beside_leader

    def pair(validation: float, test: float) -> list:
        result = replace(own.result, status="ok", validation=validation, test=test)
        leading = replace(of_leader.result, status="ok", validation=1.0, test=1.0)
        return [(replace(own, result=result), replace(of_leader, result=leading))]

    def sentences(validation: float, test: float) -> list[str]:
        changed = replace(rival, beside_leader=pair(validation, test))
        return split_sentences(SimpleNamespace(plan=measured.plan, contenders=[leader, changed]))

    same = ["Validation and test put no contender on different sides of the leader."]
    assert sentences(1.1, 1.2) == same
    assert sentences(0.9, 0.8) == same
    (sentence,) = sentences(0.8, 1.25)
    assert sentence.startswith(f"{rival.name}: better than {leader.name} by ")
    assert "worse by 25.0 % on test" in sentence


def test_findings_of_a_contender(measured: Comparison) -> None:
    summary = measured.contenders[0]
    searched = summary.trials["search"][:3]
    statuses = zip(searched, [0.01, 0.1, 1.0], ["ok", "diverged", "diverged"], strict=True)
    trials = [
        replace(trial, settings={"lr": rate}, result=replace(trial.result, status=status, message=""))
        for trial, rate, status in statuses
    ]
    none = replace(summary.value, lost=0, unimproved=0)
    clean = replace(summary, trials={"search": trials[:1]}, at_edge=[], diverged=0, failed=0, missed=0, value=none)
    assert findings_of(clean) == []
    sick = replace(
        clean,
        trials={"search": trials},
        diverged=1,
        at_edge=[RangeEdge("lr", 0.5, "upper", 0.6)],
        value=replace(none, unimproved=2),
    )
    assert findings_of(sick) == [
        f"1 of {len(summary.seeds)} seeds diverged at the chosen setting.",
        f"2 of {none.count} seeds ended no better than the untrained model.",
        "2 of 3 searched settings diverged, all of those with a learning rate of 0.1 or more.",
        "The best lr, 0.5, lies at the upper end of its search range (0.6). A better value may lie beyond.",
    ]


def test_raw_numbers_fit_into_the_page_or_say_what_is_left_out(
    measured: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = raw_numbers(measured.trainings, {})
    assert whole["left_out"] == ""
    assert len(whole["rows"]) == len(whole["curves"]) == len(measured.trainings)
    for share in (0.9, 0.3):
        limit = int(share * size_of(whole))
        monkeypatch.setattr("thalweg.report.raw_numbers.MAX_BYTES", limit)
        part = raw_numbers(measured.trainings, {})
        assert size_of(part) <= limit + 200
        assert "The store has all of them." in part["left_out"]


def test_the_command_is_kept_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.command_line() == {}  # this is a test
    monkeypatch.setattr(sys, "argv", ["/usr/bin/thalweg", "compare", "my file.py:task", "--live"])
    assert environment.command_line() == {"command": "thalweg compare 'my file.py:task' --live"}
    monkeypatch.setattr(sys, "argv", ["/lib/thalweg/__main__.py", "compare", "digits"])
    assert environment.command_line() == {"command": "thalweg compare digits"}


def test_a_command_line_tells_no_folder_of_its_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = {
        f"{tmp_path}/a/task.py:train": "a/task.py:train",
        "/home/me/task.py:train": "task.py:train",
        f"--out={tmp_path}/runs": "--out=runs",
        "data=/home/me/data.csv": "data=data.csv",
        "adam:lr=0.1,/home/me/own.py:make,cautious(/home/me/own.py:make)": (
            "adam:lr=0.1,own.py:make,cautious(own.py:make)"
        ),
        "a/b.py:train": "a/b.py:train",
        str(tmp_path): ".",
        "/": "/",
    }
    for word, text in words.items():
        assert shlex.split(environment.joined_command([word])) == [text]
    monkeypatch.setattr(sys, "argv", ["/projects/train.py", "compare"])
    assert environment.command_line() == {}
