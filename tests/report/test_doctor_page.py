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
from thalweg.report.charts.diagnosis import cure_chart, loss_chart, profile_chart

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
    assert f"again {COMMAND}" in text_of(page)


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
        "Evidence",
        "where body.0",
        "gradient first 2.1e-11",
        "The cure on fresh seeds",
        "12 0.12 0.96",
        "Changes that were tried",
        "none: as it is",
        "raised an error: RuntimeError: shapes (4, 64) and (4, 10)",
        "ReLU and He initialization the cure",
        "Other findings",
        "warning: Classes of very different sizes.",
        "Notes",
        f"again {COMMAND}",
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
    assert "again thalweg.diagnose(..., seeds=3, steps=250)" in text_of(render_diagnosis(diagnoses.unknown()))


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
    marked, unmarked = (cure_chart(run, kept, "metric", 1.0, (0.0, 1.0)) for run in (lost, kept))
    assert "seed 4: diverged as it is" in marked
    assert marked.count("<use") == unmarked.count("<use") - len(kept.scores) + 2  # the first score, and the cross


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
    assert page.count("<script>") == 1  # ours
    assert "49" not in text_of(page) or "7*7" in page
    assert not {char for char in page if is_hidden(char)} - {"\n"}


@pytest.mark.parametrize(
    "losses", [(), (math.nan,), (1.0, math.inf), (0.0,) * 5, (-3.0, 1e308, 1e-308), tuple(range(5000))], ids=str
)
def test_a_loss_of_any_numbers_is_drawn(losses: tuple[float, ...]) -> None:
    run = RunRecord("as it is", 0, losses, tuple(enumerate(losses[:3])))
    assert loss_chart(run, 3).startswith("<svg")
    assert cure_chart(run, run, "loss", -1.0, None).startswith("<svg")


def test_a_profile_of_many_modules_names_the_one_to_blame() -> None:
    values = {f"layers.{depth}": 10.0**-depth for depth in range(150)}
    chart = profile_chart("gradient norm", {**values, "head": 0.0, "last": math.nan}, "layers.77")
    assert len(re.findall(r">layers\.\d+<", chart)) <= 30
    assert ">layers.77<" in chart


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
        tab.get_by_role("button", name="Copy").click()
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
