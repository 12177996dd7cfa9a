"""The pages on choosing and tuning: numbers are those of the records, questions have answers."""

import json
import re
import sys
from pathlib import Path
from statistics import NormalDist, median, stdev

import pytest

from tests.handbook.questions import PAGE, Question, questions
from thalweg.comparison import parse
from thalweg.comparison.planning.adaptive.candidates import OPENED_AFTER
from thalweg.registry import RULES, WRAPPERS
from thalweg.rules import Range
from thalweg.statistics import seeds_to_settle

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CHOOSING = DOCS / "choosing"
RECORDS = ROOT / "benchmarks" / "records"
sys.path.insert(0, str(ROOT))

from benchmarks.choosing_in_the_wild import truth_tables  # noqa: E402


def words_of(path: Path) -> str:
    """The text of a page with single spaces between words."""
    return " ".join(path.read_text().split())


def test_the_words_of_the_start_are_those_of_the_readme() -> None:
    def table(path: Path) -> list[str]:
        return re.findall(r"^\| (contender|trial|study|race|lost run) \|", path.read_text(), flags=re.MULTILINE)

    assert table(DOCS / "start.md") == ["contender", "trial", "study", "race", "lost run"]


# --- Numbers ---


def test_numbers_in_sentences_are_those_of_the_facts() -> None:
    facts = {record["fact"]: record["seen"] for record in json.loads((RECORDS / "facts.json").read_text())}
    curse = facts["winners_curse"]
    one, three, better = (
        f"{curse[key][0]:.0%}".replace("%", " %")
        for key in (
            "best of the search, too good by",
            "best of 3 retrained, too good by",
            "the latter's setting is better by",
        )
    )
    tuning = words_of(CHOOSING / "tuning.md")
    assert f"the best of 24 trials looked {one} better than it was" in tuning
    assert f"cut that to {three} and found a setting that was {better} better" in tuning
    alarms = f"{facts['naive_tests']['25 trials'][0]:.0%}".replace("%", " %")
    assert f"were called different in {alarms} of the cases" in tuning
    halves = [value[0] for value in facts["decayed_schedule"].values()]
    shares = [f"{share:.0%}".replace("%", " %") for share in halves]
    assert f"at half time in {shares[0]} of the pairs and at the end in {shares[1]}" in words_of(
        CHOOSING / "schedules.md"
    )
    assert 0.3 < halves[0] < 0.36
    assert 0.22 < halves[1] < 0.28
    assert "in a third of the pairs, at the end in a quarter" in tuning


def test_the_short_version_of_comparisons_states_the_replays() -> None:
    records = json.loads((RECORDS / "calibration.json").read_text())
    alarms = sorted(record["identical_called_different"]["share"] for record in records)
    right = sorted(record["recommended_within_margin_of_best"]["share"] for record in records)
    text = words_of(CHOOSING / "comparison.md")
    assert f"called different in {alarms[0]:.0%} to {alarms[-1]:.0%}".replace("%", "") + " %" in text
    assert f"within 3 % of it in {100 * right[0]:.0f} to {100 * right[-1]:.0f} %" in text


def test_the_default_search_opens_settings_when_the_page_says() -> None:
    assert OPENED_AFTER == {1: 0, 2: 2, 3: 8}
    tuning = words_of(CHOOSING / "tuning.md")
    assert "the first momentum from the third training of a contender on, all settings from its ninth" in tuning
    decay = words_of(CHOOSING / "weight_decay.md")
    assert "in the search from the ninth training of a contender on" in decay


def test_seeds_detect_a_difference_as_often_as_the_pages_say() -> None:
    normal = NormalDist()
    detected = {factor: normal.cdf(factor - normal.inv_cdf(0.975)) for factor in (2.0, 2.8)}
    assert detected == pytest.approx({2.0: 0.5, 2.8: 0.8}, abs=0.02)
    tuning = words_of(CHOOSING / "tuning.md")
    assert "(2 s / d)² seeds to be detected half of the time, and about (2.8 s / d)²" in tuning
    spread = [0.0, 1.0, 2.0, 3.0]  # the verdict names the first of the two numbers
    needed = seeds_to_settle(spread, [0.0] * 4, 0.1)
    assert needed == pytest.approx((2 * stdev(spread) / 0.1) ** 2, rel=0.05)
    for page in (DOCS / "start.md", CHOOSING / "comparison.md"):
        assert "detected about half of the time, with twice as many 80 % of the time" in words_of(page)


def test_ratios_of_learning_rates_are_those_of_the_tables() -> None:
    trainings = json.loads((RECORDS / "choosing_in_the_wild.json").read_text())["trainings"].values()
    rates: dict[str, list[float]] = {}
    for training in trainings:
        for result in truth_tables.results_of(training):
            rates.setdefault(result.name, []).append(result.lr)
    text = words_of(CHOOSING / "learning_rates.md")
    sgd, momentum = (median(rates[name]) / median(rates["adam"]) for name in ("sgd", "momentum"))
    assert f"about {round(sgd, -1):.0f} times without momentum and {momentum:.0f} times with it" in text
    ratios = [one / adam for name in ("sgd", "momentum") for one, adam in zip(rates[name], rates["adam"], strict=True)]
    assert f"from about {min(ratios):.0f} to {round(max(ratios), -2):,.0f}" in text
    spans = {name: max(values) / min(values) for name, values in rates.items()}
    least, most = min(spans, key=spans.__getitem__), max(spans, key=spans.__getitem__)
    assert f"by a factor of {spans[least]:.0f} (`{least}`) to {round(spans[most], -2):,.0f} (`{most}`)" in text


def test_rates_of_layers_are_those_of_the_decays_in_the_table() -> None:
    text = words_of(CHOOSING / "learning_rates.md")
    rows = re.findall(r"\| ViT-B after .*?\| AdamW \| (\S+) at the head, × (\S+) for each layer", text)
    (peak, decay), (peak_labels, decay_labels) = [(float(rate), float(decay)) for rate, decay in rows]
    depth = 13  # 12 blocks, and the patch embedding below them
    assert peak == 5e-4 * 1024 / 256  # the authors give the rate for a batch of 256
    assert f"{depth} layers below the head, has {100 * decay**depth:.1f} % of the peak: " in text
    assert f"{peak * decay**depth:.0e} of 2e-3".replace("e-0", "e-") in text
    assert f"by a factor of {peak / peak_labels:.0f} at the head" in text
    patches = peak * decay**depth / (peak_labels * decay_labels**depth)
    assert f"embeddings they differ by a factor of {patches:.0f} only" in text


def test_exceptions_among_starting_points_are_those_of_the_record() -> None:
    record = json.loads((RECORDS / "recommended.json").read_text())["contenders"]
    means = {name: entry["mean_factor"] for name, entry in record.items()}
    assert [name for name, mean in means.items() if mean["left_out"] > mean["default"]] == ["rmsprop"]
    assert len(means) == 11
    deep = {name: entry["factor_by_task"]["digits-deep"] for name, entry in record.items()}
    worse = {name for name, factor in deep.items() if factor["left_out"] > 1.05 * factor["default"]}
    assert worse == {"adam", "adamw", "nadam", "adagrad"}
    for page in ("which_optimizer", "learning_rates"):
        text = words_of(CHOOSING / f"{page}.md")
        assert "The exceptions: RMSprop, whose default is" in text
        assert "of Adam, AdamW, NAdam and AdaGrad" in text


def test_a_range_leaves_the_ratio_of_two_rules_open() -> None:
    text = words_of(CHOOSING / "which_optimizer.md")
    (expression,) = re.findall(r"`(then\(adam,sgd\):[^`]*)` tunes the ratio", text)
    contender = parse(expression)
    assert contender.ranges == {"lr_ratio": Range(3.0, 300.0, "log")}
    assert "lr_ratio" not in contender.pinned
    assert "lr_ratio" in parse("then(adam,sgd):switch_at=500,lr_ratio=30").pinned
    assert "switch_at" in contender.pinned


def test_named_optimizers_exist() -> None:
    text = (CHOOSING / "which_optimizer.md").read_text()
    table = text.partition("## In a hurry")[2].partition("## What our record says")[0]
    names = {name for code in re.findall(r"`([a-z_+(),]+)`", table) for name in re.findall(r"[a-z_0-9]+", code)}
    known = {kind.__module__.rpartition(".")[2] for kind in [*RULES.values(), *WRAPPERS.values()]}
    assert names - known <= {"momentum", "gd", "then", "strong_wolfe"}


# --- Tables of the record ---


def a_training(**contenders: tuple[float, float]) -> dict:
    """A training of a record, with the cost and its standard error of each contender."""
    least = min(cost for cost, _ in contenders.values())
    entries = {
        name: {
            "trainings": 40 + 20 * (name == "adam"),
            "regret": round(cost - least, 6),
            "best": {"settings": {"lr": 0.01}, "test": -cost, "cost": cost, "standard_error": error},
        }
        for name, (cost, error) in contenders.items()
    }
    best = next(name for name, (cost, _) in contenders.items() if cost == least)
    return {"about": "a net", "steps": 9, "metric": "accuracy", "scale": "linear", "unit": 1.0, "best": best} | {
        "contenders": entries
    }


def test_a_difference_is_certain_beyond_two_standard_errors() -> None:
    # The standard error of a difference is the root of the sum of squares: 0.005 here, so 0.01 is the limit.
    training = a_training(adam=(-0.9, 0.003), sgd=(-0.8899, 0.004), lion=(-0.8901, 0.004))
    by_name = {result.name: result for result in truth_tables.results_of(training)}
    assert [*by_name] == ["adam", "lion", "sgd"]
    assert {name: result.certain for name, result in by_name.items()} == {"adam": False, "lion": False, "sgd": True}


def test_a_sentence_about_a_training_names_the_best_its_equals_and_the_rest() -> None:
    training = a_training(adam=(-0.9, 0.003), sgd=(-0.85, 0.004), lion=(-0.895, 0.004))
    line = truth_tables.evidence_line({"trainings": {"graph": training}}, "graph")
    assert line == (
        "Our record, `graph` (a net; 9 steps): the best of 3 tuned optimizers is adam, accuracy 0.900. "
        "Not told apart from it: lion (0.005). Worse: sgd by 0.05."
    )


def test_the_table_marks_the_best_and_its_equals() -> None:
    training = a_training(adam=(-0.9, 0.003), sgd=(-0.85, 0.004), lion=(-0.895, 0.004))
    table = truth_tables.contenders_table({"trainings": {"graph": training}})
    head, _, row, _, legend = table.splitlines()
    assert head == "| training | adam | lion | sgd |"
    assert row == "| `graph` | **0.900** | ≈ | 0.05 |"
    assert "40 to 60 trainings; in 1 of 1 rows" in legend


def test_regrets_are_shares_factors_or_units() -> None:
    log = {"scale": "log", "unit": 1.0}
    assert truth_tables.worse_by(log, 0.0833) == "8.3\N{NO-BREAK SPACE}%"
    assert truth_tables.worse_by(log, 1.5) == "×2.5"
    assert truth_tables.worse_by({"scale": "linear", "unit": 4.0}, 0.02) == "0.08"


def test_the_summary_counts_who_is_near_the_best() -> None:
    record = {
        "trainings": {
            "a": a_training(adam=(-0.9, 0.001), sgd=(-0.86, 0.001)),
            "b": a_training(adam=(-0.7, 0.001), sgd=(-0.8, 0.001)),
        }
    }
    rows = {
        row.split(" | ")[0].strip("| "): row.replace("\N{NO-BREAK SPACE}", " ")
        for row in truth_tables.summary_table(record).splitlines()[2:4]
    }
    assert rows["sgd"] == "| sgd | 1 of 2 | 2 of 2 | 2 of 2 | 2 % | 0.04 |"
    assert rows["adam"] == "| adam | 1 of 2 | 1 of 2 | 2 of 2 | 5 % | 0.1 |"


# --- Questions ---


def test_thirty_questions_have_threads_and_are_numbered() -> None:
    asked = questions()
    assert len(asked) == len(re.findall(r"^\d+\. ", PAGE.read_text(), flags=re.MULTILINE)) >= 30
    assert [question.number for question in asked] == [*range(1, len(asked) + 1)]
    assert len({question.text for question in asked}) == len(asked)
    for question in asked:
        assert question.threads, question.text
        assert all(re.search(r"^https://.*/(issues|pull|t)/", address) for address in question.threads), question.text


@pytest.mark.parametrize("question", questions(), ids=lambda question: question.number)
def test_the_quotation_is_on_the_page_that_answers(question: Question) -> None:
    pages = [DOCS / answer.partition("#")[0] for answer in question.answers]
    assert any(question.phrase in words_of(page) for page in pages), question.phrase
