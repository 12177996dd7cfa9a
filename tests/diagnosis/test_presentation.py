"""The summary of a diagnosis: the same sentences on a terminal of any width, in Python and in a notebook."""

import json
import math
from dataclasses import replace

import pytest
from rich.cells import cell_len

from cases import diagnoses
from thalweg.diagnosis.presentation import cure_sentences, evidence_of, explanation_of, summary_lines, value_text
from thalweg.errors import is_hidden
from thalweg.parts import as_plain_json


@pytest.mark.parametrize("width", [40, 80, 100])
@pytest.mark.parametrize("name", diagnoses.ALL)
def test_no_line_is_longer_than_the_terminal_but_code(name: str, width: int) -> None:
    lines = summary_lines(diagnoses.ALL[name](), width)
    assert max(cell_len(line.text) for line in lines if line.style != "code") <= width


def test_an_improvement_that_is_no_difference_of_the_means_says_how_it_counts() -> None:
    diagnosis = diagnoses.vanishing()
    assert diagnosis.cure is not None
    (first, _) = cure_sentences(diagnosis, diagnosis.cure)
    assert "counts as an untrained model" not in first
    clipped = replace(diagnosis.cure, before=(-5.0, 0.1, 0.1))
    (first, _) = cure_sentences(diagnosis, clipped)
    assert first.endswith(
        " In this average, a run that ends worse than an untrained model counts as an untrained model."
    )


def test_an_interval_above_zero_that_does_not_verify_a_cure_says_why() -> None:
    cure = diagnoses.vanishing().cure
    assert cure is not None
    unsure = replace(cure, verified=False, low=0.01, high=0.3)
    *_, sure = cure_sentences(diagnoses.vanishing(), unsure)
    assert sure.startswith("Not verified: it is likely to work, but the interval alone is no proof.")
    *_, sure = cure_sentences(diagnoses.vanishing(), replace(unsure, low=-0.01))
    assert sure == "Not verified: these seeds do not show that it works. More seeds may."


def test_the_summary_of_a_sick_training_is_this_text() -> None:
    assert str(replace(diagnoses.vanishing(), caution="Two changes were not tried.")) == (
        "mine.py:training fails: gradients vanish over depth.\n"
        "\n"
        "  where  body.0\n"
        "  since  the beginning\n"
        "  kind   vanishing_gradient\n"
        "\n"
        "The gradient of the first layer is 2.1e-11, and that of the last is 0.34. So the\n"
        "first layers do not learn.\n"
        "\n"
        "Evidence\n"
        "  gradient first  2.1e-11\n"
        "  gradient last   0.34\n"
        "  layers          12\n"
        "  activation      Sigmoid\n"
        "\n"
        "What to do: Use ReLU and an initialization that keeps the scale of the signal.\n"
        "\n"
        "Cure: ReLU and He initialization\n"
        "Metric: 0.103 without this change, 0.96 with it (mean of 3 fresh seeds; higher\n"
        "is better). The change improves it by 0.857 on average (95 % interval 0.82 to\n"
        "0.89).\n"
        "Verified: on fresh seeds the improvement is more than chance.\n"
        "\n"
        "    for layer in model.body:\n"
        "        if isinstance(layer, nn.Linear):\n"
        "            nn.init.kaiming_normal_(layer.weight)\n"
        "\n"
        "Other findings\n"
        "- Classes of very different sizes. The gradient of the first layer is 2.1e-11,\n"
        "  and that of the last is 0.34. So the first layers do not learn. Measured:\n"
        "  share of largest 0.81. Use ReLU and an initialization that keeps the scale of\n"
        "  the signal.\n"
        "\n"
        "Notes\n"
        "- Gradients that are mostly noise, from step 120 on. The gradient of the first\n"
        "  layer is 2.1e-11, and that of the last is 0.34. So the first layers do not\n"
        "  learn. Measured: noise scale 310. Use ReLU and an initialization that keeps\n"
        "  the scale of the signal.\n"
        "\n"
        "Caution: Two changes were not tried.\n"
        "\n"
        "13 runs of up to 250 steps, 23.4 s."
    )


@pytest.mark.parametrize(
    ("name", "sentences"),
    [
        (
            "healthy",
            ["is healthy.", "6 changes were replayed from the same seed; none makes a difference that matters."],
        ),
        ("uncurable", ["No cure: none of the 6 changes that were replayed is shown to work on fresh seeds."]),
        ("unknown", ["no cause was found.", "No change was replayed.", "Caution: Interrupted: this is what"]),
        ("not_a_number", ["since step 37", "value not a number", "largest infinite", "Not verified:"]),
        (
            "not_a_number",
            ["Loss on held-back batches: 2 (2 of 3 diverged) without this change, 0.25 (1 of 3 diverged) with it"],
        ),
    ],
)
def test_each_outcome_is_said(name: str, sentences: list[str]) -> None:
    text = " ".join(str(diagnoses.ALL[name]()).split())
    assert [sentence for sentence in sentences if sentence not in text] == []


def test_a_fault_that_a_training_survives_is_no_failure() -> None:
    diagnosis = diagnoses.vanishing()
    weak = replace(diagnosis, findings=(replace(diagnosis.findings[0], severity="warning"),))
    assert str(weak).startswith("mine.py:training works worse than it could: gradients vanish over depth.")


def test_a_cure_that_was_not_run_on_fresh_seeds_says_so() -> None:
    diagnosis = diagnoses.vanishing()
    assert diagnosis.cure is not None
    cure = replace(diagnosis.cure, seeds=(), before=(), after=(), verified=False)
    assert "It was replayed from one seed, and not verified on fresh ones." in str(replace(diagnosis, cure=cure))


def test_a_notebook_shows_the_same_text_escaped() -> None:
    html = replace(diagnoses.uncurable(), name="<b>&").__class__._repr_html_(
        replace(diagnoses.uncurable(), name="<b>&")
    )
    assert html.startswith("<pre><b>&lt;b&gt;&amp; fails: labels that do not belong to their inputs.</b>\n")


@pytest.mark.parametrize("name", ["\x1b[31m\u202e", "two\nlines", "n" * 3000, "", "{0} %s [bold]"])
def test_texts_of_the_user_do_nothing_but_show_themselves(name: str) -> None:
    diagnosis = diagnoses.hostile(name)
    for text in (str(diagnosis), diagnosis._repr_html_()):
        assert {char for char in text if is_hidden(char)} - {"\n"} == set()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.000123456, "0.000123"),
        (1_234_567, "1,234,567"),
        (True, "True"),
        (math.nan, "not a number"),
        (-math.inf, "minus infinity"),
        ("relu", "relu"),
    ],
)
def test_numbers_of_evidence_are_short(value: float | str, text: str) -> None:
    assert value_text(value) == text


def test_the_evidence_is_not_told_twice() -> None:
    finding = replace(
        diagnoses.vanishing().findings[0],
        evidence={"first_norm": 1e-9, "layers": 4},
        explanation="The first layers do not learn. Measured: first norm 1e-09, layers 4.",
    )
    assert explanation_of(finding) == "The first layers do not learn."
    assert evidence_of(diagnoses.vanishing(), finding) == [("first norm", "1e-09"), ("layers", "4")]


def test_a_score_in_the_evidence_has_the_name_that_people_know() -> None:
    by_loss, by_metric = diagnoses.not_a_number(), diagnoses.vanishing()
    finding = replace(by_loss.findings[0], evidence={"score": -0.868, "score with lr x10": -math.inf, "scores": 2})
    assert evidence_of(by_loss, finding) == [("loss", "0.868"), ("loss with lr x10", "diverged"), ("scores", "2")]
    assert evidence_of(by_metric, finding)[0] == ("metric", "-0.868")
    agreeing = replace(by_metric, score_name="agreement of outputs and targets on held-back batches")
    assert evidence_of(agreeing, finding)[0] == ("agreement", "-0.868")


@pytest.mark.parametrize("name", diagnoses.ALL)
def test_json_is_plain_and_names_the_cause(name: str) -> None:
    diagnosis = diagnoses.ALL[name]()
    result = diagnosis.to_json()
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["healthy"] is (name == "healthy")
    assert (result["cause"] or {}).get("kind") == (diagnosis.cause.kind if diagnosis.cause else None)
    assert len(result["replays"]) == len(diagnosis.replays)
    assert result["sick"][0]["losses"] == as_plain_json(diagnosis.sick[0].losses)
