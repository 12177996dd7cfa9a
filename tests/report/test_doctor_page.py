"""The page of a diagnosis: one self-contained file with cause, pictures and cure, readable on any screen."""

import functools
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from cases import diagnoses
from tests.pages import Reader, assert_opens_cleanly, needs_browser, open_browser, open_tab, without_scripts
from thalweg.diagnosis.kinds import KINDS
from thalweg.diagnosis.run_record import RunRecord
from thalweg.errors import StoreError, is_hidden
from thalweg.parts import Parts
from thalweg.report import render_diagnosis, write_diagnosis
from thalweg.report.charts.diagnosis import cure_chart, loss_chart, profile_chart, score_axis
from thalweg.report.charts.static import static_chart
from thalweg.report.raw_numbers import MAX_BYTES, numbers_of_runs, size_of

COMMAND = "thalweg doctor mine.py:training --seeds 3 --budget 60s"
# Charts of each diagnosis: the loss, a profile for each quantity, and one for each fresh seed.
CHARTS = {"vanishing": 6, "not_a_number": 6, "healthy": 3, "uncurable": 1, "unknown": 1}


@functools.cache
def page_of(name: str) -> str:
    return render_diagnosis(diagnoses.ALL[name](), command=COMMAND)


def without_links(page: str) -> str:
    """The page without the addresses of its links, which load nothing until a reader follows them."""
    return re.sub(r'<a href="https://[^"]*"', "<a", page)


def text_of(page: str) -> str:
    """The text of a page, with a space between any two elements."""
    return re.sub(r"\s+", " ", Reader(page.replace("<", " <")).text)


def labels(page: str) -> list[str]:
    return [attributes["aria-label"] for tag, attributes in Reader(page).tags if tag == "svg"]


@pytest.mark.parametrize("name", CHARTS)
def test_every_diagnosis_has_a_whole_page_of_its_own(name: str) -> None:
    page = page_of(name)
    assert "could not be made" not in page
    assert len(labels(page)) == CHARTS[name]
    assert all(labels(page))
    assert not re.findall(r"https?:|//[a-z]", without_links(without_scripts(page)))
    assert f"Diagnose it again Copy {COMMAND}" in text_of(page)


def test_the_same_diagnosis_gives_the_same_page() -> None:
    assert page_of("unknown") == render_diagnosis(diagnoses.unknown(), command=COMMAND)


def test_the_page_shows_cause_evidence_cure_replays_and_other_findings_in_this_order() -> None:
    text = text_of(page_of("vanishing"))
    order = [
        "mine.py:training fails: gradients vanish over depth.",
        "What to do: Use ReLU",
        "Cure: ReLU and He initialization.",
        "Metric: 0.103 without this change, 0.96 with it (mean of 3 fresh seeds; higher is better).",
        "nn.init.kaiming_normal_(layer.weight)",
        "Evidence kind",
        "where body.0",
        "gradient first 2.1e-11",
        "The cure on fresh seeds",
        "12 0.12 0.96 13",
        "Changes that were tried",
        "none: as it is",
        "raised an error: RuntimeError: shapes (4, 64) and (4, 10)",
        "ReLU and He initialization the cure",
        "Other findings",
        "warning: Classes of very different sizes.",
        "Notes",
        "Raw numbers Losses and scores of all runs",
        f"Diagnose it again Copy {COMMAND}",
    ]
    places = [text.find(part) for part in order]
    assert -1 not in places, order[places.index(-1)]
    assert places == sorted(places)


def test_names_in_sentences_are_code_and_papers_are_links() -> None:
    diagnosis = diagnoses.vanishing()
    finding = replace(
        diagnosis.findings[0],
        kind="no_warmup",
        url=KINDS["no_warmup"].url,
        explanation="Call `<b>.backward()` once. A lone ` stays.",
        remedy="Use `warmup`.",
    )
    page = render_diagnosis(replace(diagnosis, findings=(finding, replace(finding, severity="note"))))
    assert "<p>Call <code>&lt;b&gt;.backward()</code> once. A lone ` stays.</p>" in page
    assert "<b>What to do:</b> Use <code>warmup</code>.</p>" in page
    (note,) = re.findall(r'<p class="note">(No warm-up.*?)</p>', page)
    assert note.endswith("Use <code>warmup</code>.")
    assert re.findall(r'href="(https?:[^"]*)"', page) == [
        "https://arxiv.org/abs/1706.02677",
        "https://arxiv.org/abs/1908.03265",
    ]
    assert "described in Goyal et al. (2017), arXiv:1706.02677 , section 2.2;" in text_of(page)
    assert "<dt>in the handbook</dt><dd><code>docs/diagnosis/causes/no_warmup.md</code></dd>" in page


def test_without_a_command_the_call_in_python_is_shown() -> None:
    assert "Diagnose it again Copy thalweg.diagnose(..., seeds=3, steps=250)" in text_of(
        render_diagnosis(diagnoses.unknown())
    )


def test_only_the_change_that_is_the_cure_is_marked() -> None:
    page = page_of("vanishing")
    rows = re.findall(r'<tr role="row" class="recommended"><th scope="row" role="rowheader">(.*?)<', page)
    assert rows == ["ReLU and He initialization"]


def test_a_run_that_serves_several_causes_is_one_row() -> None:
    diagnosis = diagnoses.vanishing()
    clipped = replace(diagnosis.replays[2], change="clipping", kind="exploding_gradient", where="body.4")
    same = [replace(clipped, kind="loss_spike", where=None), replace(clipped, where="body.6")]
    text = text_of(render_diagnosis(replace(diagnosis, replays=(clipped, diagnosis.replays[0], *same), cure=None)))
    assert text.count("clipping") == 1
    row = "clipping gradients explode over depth or time; spikes of the loss body.4, body.6 0.575 40 % helps in part"
    assert row in text


def test_cells_without_a_value_are_marked_so_that_a_phone_leaves_them_out() -> None:
    page = page_of("vanishing")
    cells = re.findall(r'<td role="cell"(?: class="([^"]*)")? data-label="(?:where|gain|would cure)">(.*?)</td>', page)
    assert {"–", "body.0"} <= {text for _, text in cells}
    assert [text for kind, text in cells if ("empty" in kind) != (text == "–")] == []


def test_a_run_that_diverged_before_its_first_score_is_marked() -> None:
    kept = diagnoses.run("as it is", 4, 0.02)
    lost = replace(kept, scores=kept.scores[:1], losses=kept.losses[:9], ending="diverged")
    axis = score_axis([lost, kept], "metric", 1.0)
    chart = cure_chart(lost, kept, axis, 1.0)
    before, after = chart.views[0].series
    assert "seed 4: diverged as it is" in chart.views[0].alt
    assert [(point.x, point.mark) for point in before.points] == [(0, ""), (9, "lost")]
    assert [(point.x, point.y) for point in after.points] == list(kept.scores)
    assert chart.maximize  # so the cross stands at the bottom
    assert static_chart(chart).count("<use") == static_chart(cure_chart(kept, kept, axis, 1.0)).count("<use") + 2


def test_charts_of_all_seeds_share_the_axis_of_the_scores() -> None:
    (_, *others), cured = diagnoses.not_a_number().sick, diagnoses.not_a_number().cured
    axis = score_axis([*others, *cured], "loss", -1.0)
    shown = [-score for run in (*others, *cured) for _, score in run.scores if math.isfinite(score)]
    low, high = min(shown), max(shown)
    assert axis.is_fixed
    assert axis.linear == pytest.approx((low - 0.05 * (high - low), high + 0.05 * (high - low)))
    assert cure_chart(others[0], cured[0], axis, -1.0).views[0].y is axis
    # A loss over orders of magnitude has a logarithmic axis, a metric never.
    runs = [RunRecord("as it is", 0, (), ((0, -100.0), (1, -0.1)))]
    assert score_axis(runs, "loss", -1.0).scale == "log"
    assert score_axis(runs, "loss", -1.0).log == pytest.approx((0.1 / 1000**0.05, 100 * 1000**0.05))
    assert score_axis(runs, "metric", 1.0).log is None


def test_the_event_is_marked_on_the_curve() -> None:
    (view,) = loss_chart(diagnoses.not_a_number().sick[0], 37).views
    assert view.vertical == (37.0, "step 37")
    assert [(point.x, point.mark) for point in view.series[0].points][-2:] == [(37, ""), (38, "lost")]
    (view,) = loss_chart(RunRecord("as it is", 0, (3.0, 2.0), ()), 9).views
    assert view.x.span == (0, 9)
    assert ">step 9<" in static_chart(loss_chart(RunRecord("as it is", 0, (3.0, 2.0), ()), 9))
    (view,) = loss_chart(RunRecord("as it is", 0, (3.0, 2.0), ()), 0).views
    assert view.vertical is None


def test_all_numbers_of_the_runs_are_in_the_page() -> None:
    diagnosis = diagnoses.not_a_number()
    raw = numbers_of_runs(diagnosis)
    assert raw["columns"] == ["change", "seed", "step", "training loss", "loss on held-back batches"]
    first = diagnosis.sick[0]
    rows = [row for row in raw["rows"] if row[:2] == ["as it is", 10]]
    losses = {step: loss for _, _, step, loss, _ in rows if loss is not None}
    assert losses == {step: pytest.approx(loss, rel=1e-6) for step, loss in enumerate(first.losses, 1) if loss == loss}
    scores = {step: score for _, _, step, _, score in rows if score is not None}
    # A loss is written as a loss: lower is better.
    assert scores == {step: pytest.approx(-score, rel=1e-6) for step, score in first.scores if math.isfinite(score)}
    assert {(row[0], row[1]) for row in raw["rows"]} == {
        (run.name, run.seed)
        for run in (*diagnosis.sick, *diagnosis.cured, *(replay.run for replay in diagnosis.replays))
        if run.losses or run.scores
    }
    assert raw["results"]["cure"]["code"] == "torch.sqrt(x + 1e-12)"
    assert "losses" not in raw["results"]["sick"][0]
    assert raw["left_out"] == ""


def test_long_runs_are_thinned_so_that_the_page_stays_small() -> None:
    run = RunRecord("as it is", 0, tuple(1 / step for step in range(1, 100_001)), ((0, -1.0), (100_000, -0.5)))
    raw = numbers_of_runs(replace(diagnoses.unknown(), sick=(run,)))
    assert len(raw["rows"]) == 501  # and the score before any step
    assert raw["rows"][-1] == ["as it is", 0, 100_000, 1e-5, -0.5]
    assert raw["left_out"].startswith("This page holds 500 losses of each run.")
    assert size_of(raw) < MAX_BYTES


def test_the_tables_are_sorted_by_numbers() -> None:
    cells = re.findall(r'data-label="gain" data-value="([^"]*)">([^<]*)<', page_of("vanishing"))
    assert ("-0.2", "-20 %") in cells
    assert ("1.0", "100 %") in cells
    cells = re.findall(
        r'data-label="with the cure" data-contender="with the cure" data-value="([^"]*)">([^<]*)<',
        page_of("not_a_number"),
    )
    assert cells == [("0.2", "0.2"), ("0.3", "0.3"), ("", "diverged")]


def test_losses_are_shown_as_losses_and_lost_runs_as_such() -> None:
    text = text_of(page_of("not_a_number"))
    assert "2 (2 of 3 diverged) without this change, 0.25 (1 of 3 diverged) with it" in text
    assert "11 diverged 0.2 " in text
    assert "13 2 diverged " in text
    assert "Not verified" in text
    assert "lower is better" in text
    assert "The budget of 10 s ended before all changes were tried." in text


def test_what_a_chart_shows_is_also_in_words() -> None:
    loss, profile, _, *seeds = labels(page_of("not_a_number"))
    assert "not finite from step 38" in loss
    assert "the cause shows from step 37" in loss
    assert profile == "gradient norm over depth: 1e-11 in body.0 to 1 in body.22"
    assert seeds[0].endswith("seed 11: diverged as it is and -0.994 with the cure")


def test_a_healthy_training_says_what_was_looked_at() -> None:
    text = text_of(page_of("healthy"))
    assert "mine.py:training is healthy." in text
    assert "6 changes were replayed from the same seed; none makes a difference that matters." in text
    assert "What to do" not in text
    assert "Evidence" not in text


def test_a_part_that_cannot_be_made_is_a_note_and_the_others_stand() -> None:
    diagnosis, parts = diagnoses.vanishing(), Parts()
    broken = replace(diagnosis, profile={"gradient norm": {"body.0": "none"}})  # type: ignore[dict-item]
    text = text_of(render_diagnosis(broken, parts=parts))
    assert [part.name for part in parts.missing] == ["the profile of gradient norm"]
    assert "The profile of gradient norm could not be made" in text
    assert "Changes that were tried" in text


NAMES = ["<script>alert(1)</script>", "\x1b[31m\u202e", "{{ 7*7 }}$x$", "n" * 3000, ""]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_texts_of_the_user_are_shown_as_text(name: str) -> None:
    parts = Parts()
    page = render_diagnosis(diagnoses.hostile(name), parts=parts)
    assert parts.missing == []
    assert page.count("<script>") == 3  # two libraries and ours
    assert "49" not in text_of(page) or "7*7" in page
    assert not {char for char in without_scripts(page) if is_hidden(char)} - {"\n"}


@pytest.mark.parametrize(
    "losses", [(), (math.nan,), (1.0, math.inf), (0.0,) * 5, (-3.0, 1e308, 1e-308), tuple(range(5000))], ids=str
)
def test_a_loss_of_any_numbers_is_drawn(losses: tuple[float, ...]) -> None:
    run = RunRecord("as it is", 0, losses, tuple(enumerate(losses[:3])))
    assert static_chart(loss_chart(run, 3)).startswith("<svg")
    assert static_chart(cure_chart(run, run, score_axis([run], "loss", -1.0), -1.0)).startswith("<svg")


def test_a_profile_of_many_modules_names_the_one_to_blame() -> None:
    values = {f"layers.{depth}": 10.0**-depth for depth in range(150)}
    chart = profile_chart("profile-1", "gradient norm", {**values, "head": 0.0, "last": math.nan}, "layers.77")
    (series,) = chart.views[0].series
    assert [chart.views[0].rows[int(point.x)] for point in series.points if point.mark == "chosen"] == ["layers.77"]
    assert chart.views[0].x.log == (1e-149, 1.0)
    drawing = static_chart(chart)
    assert len(re.findall(r">layers\.\d+<", drawing)) <= 30
    assert ">layers.77<" in drawing


def test_the_page_replaces_its_like_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "doctor.html"
    diagnosis = replace(diagnoses.unknown(), sick=())  # quickly drawn
    assert write_diagnosis(diagnoses.uncurable(), path) == path
    write_diagnosis(diagnosis, path)
    assert "no cause was found" in path.read_text()
    other = tmp_path / "mine.html"
    other.write_text("mine")
    with pytest.raises(StoreError, match="must not replace a file of someone else"):
        write_diagnosis(diagnosis, other)
    write_diagnosis(diagnosis, other, overwrite=True)
    (tmp_path / "link.html").symlink_to(other)
    with pytest.raises(StoreError, match="got a link"):
        write_diagnosis(diagnosis, tmp_path / "link.html")


@needs_browser
def test_the_page_of_a_long_name_opens_on_a_phone_without_messages_or_requests(tmp_path: Path) -> None:
    path = tmp_path / "doctor.html"
    path.write_text(render_diagnosis(diagnoses.hostile("n" * 300)))
    assert_opens_cleanly(path, 360, "dark", charts=6)


@needs_browser
def test_the_code_can_be_copied_and_without_scripts_there_is_no_button(tmp_path: Path) -> None:
    path = tmp_path / "doctor.html"
    path.write_text(page_of("vanishing"))
    with open_browser() as browser:
        tab = open_tab(browser)
        tab.goto(path.as_uri())
        tab.get_by_role("button", name="Copy").first.click()
        tab.get_by_role("button", name="Copied").wait_for()
        cure = diagnoses.vanishing().cure
        assert cure is not None
        assert tab.evaluate("getSelection().toString()").strip() == cure.code
        tab = open_tab(browser, java_script_enabled=False)
        tab.goto(path.as_uri())
        assert not any(button.is_visible() for button in tab.locator("button, select").all())
        assert tab.locator("pre").first.is_visible()
        # On a phone no cell of a table is wider than the page.
        tab = open_tab(browser, viewport={"width": 360, "height": 800})
        tab.goto(path.as_uri())
        wide = "[...document.querySelectorAll('td, th')].filter(e => e.getBoundingClientRect().right > 360).length"
        assert tab.evaluate(wide) == 0
        tab.set_viewport_size({"width": 1920, "height": 1000})
        assert tab.evaluate("document.documentElement.scrollWidth") == 1920
