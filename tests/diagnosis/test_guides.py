"""The guides to failing trainings: their examples give the numbers that they show, their table is the record's."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "diagnosis"


def examples(page: str) -> list[tuple[str, str]]:
    """Return each example of a page with the output that is shown below it."""
    text = (FOLDER / f"{page}.md").read_text()
    return re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", text, flags=re.DOTALL)


def last_numbers(text: str, pattern: str) -> dict[str, float]:
    """Return the number that ends each line, by the text before it."""
    return {name.strip(): float(number.rstrip("%")) for name, number in re.findall(pattern, text, flags=re.MULTILINE)}


def test_the_ratio_of_gradients_is_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    (code, shown), _ = examples("gradients")
    exec(code, {})
    pattern = r"^(.*?) first .* ratio (\S+)$"
    measured, expected = (last_numbers(text, pattern) for text in (capsys.readouterr().out, shown))
    assert expected.keys() == measured.keys()
    for kind, ratio in expected.items():  # one digit is shown
        assert ratio / 2 < measured[kind] < 2 * ratio
    assert expected["sigmoid"] < 1e-10 < expected["ReLU"] < 1e-4
    assert all(0.1 < expected[kind] < 10 for kind in ("ReLU, He", "ReLU, LayerNorm", "ReLU, residual"))


def test_one_repair_of_a_vanishing_gradient_is_not_enough(capsys: pytest.CaptureFixture[str]) -> None:
    _, (code, shown) = examples("gradients")
    exec(code, {})
    pattern = r"^(.*?)\s+(\d+%)$"
    for text in (capsys.readouterr().out, shown):
        accuracy = last_numbers(text, pattern)
        assert accuracy.pop("ReLU, LayerNorm, SGD") > 85
        assert len(accuracy) == 5
        assert max(accuracy.values()) < 45


def test_epsilon_matters_where_gradients_are_as_small(capsys: pytest.CaptureFixture[str]) -> None:
    ((code, shown),) = examples("epsilon")
    exec(code, {})
    pattern = r"^(loss times .*) loss at the end (\S+)$"
    measured, expected = (last_numbers(text, pattern) for text in (capsys.readouterr().out, shown))
    assert measured == pytest.approx(expected, rel=0.1)
    assert len(expected) == 6
    assert sorted(expected.values())[-1] > 50 * sorted(expected.values())[-2]


def test_the_table_of_escapes_is_the_record() -> None:
    record = json.loads((ROOT / "benchmarks" / "records" / "escape.json").read_text())["problems"]
    table = (FOLDER / "minima.md").read_text().partition("<!-- escapes -->")[2].partition("\n\n")[0]
    head, _, *rows = table.strip().splitlines()
    assert re.findall(r"of (\d+)", head) == [
        str(record[name]["starts"]) for name in ("ackley", "rastrigin", "modular-addition")
    ]
    shown = {}
    for row in rows:
        name, *counts = (cell.strip() for cell in row.strip("|").split("|"))
        shown[name.removeprefix("Adam ") if name == "Adam as it is" else name] = [int(count) for count in counts]
    assert shown == {
        name: [record[problem]["rows"][name]["reached"] for problem in ("ackley", "rastrigin", "modular-addition")]
        for name in record["ackley"]["rows"]
    }


def test_the_lines_of_a_warm_restart_run() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (FOLDER / "minima.md").read_text(), flags=re.DOTALL)
    scope: dict = {}
    exec(code, scope)
    assert "WarmRestarts" in repr(scope["optimizer"].rule)
