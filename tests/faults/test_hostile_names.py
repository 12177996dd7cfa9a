"""Names and numbers that nobody expects, from the comparison to the terminal, the JSON and the page."""

import json
import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import thalweg
from cases.training_functions import minimized
from tests.pages import Reader, assert_opens_cleanly, needs_browser, without_scripts
from thalweg.cli.main import cli
from thalweg.cli.output import stdout_console
from thalweg.comparison import Store
from thalweg.errors import is_hidden, printable
from thalweg.rules import SGD
from thalweg.tasks import TrainingFunction

NAMES = {
    "mathtext": "$\\frac{1}$ and $x",
    "script": "<script>alert(1)</script>",
    "quotes": "\"'`",
    "lines": "two\nlines\r\n",
    "escapes": "\x1b[31mred\x1b]0;title\x07\x9b2J",
    "surrogate": "file\udcff.py:make",
    "right to left": "\u202egnp.exe\u2066",
    "markup": "[bold]x[/] :smile: {{ 7*7 }} %s {0}",
    "long": "n" * 10_000,
    "empty": "",
}


def hidden(text: str) -> set[str]:
    return {char for char in text if unicodedata.category(char) in ("Cc", "Cf", "Cs") and char != "\n"}


def training(value: Callable[[float], float], name: str = "train") -> TrainingFunction:
    """A training function that reports a function of a loss between 0 and 1."""

    def train(make_optimizer, report):
        report(value(min(minimized(make_optimizer, steps=3), 1.0) + 0.01 * torch.rand(()).item()))

    return TrainingFunction(train=train, name=name, source=name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store of a comparison between contenders of all these names, on a task of such a name."""
    folder = tmp_path_factory.mktemp("names")
    contenders = [thalweg.Contender(name, SGD(lr=0.1), about=name) for name in NAMES.values()]
    task = training(lambda loss: 0.5 + loss, name="".join(NAMES.values()))
    thalweg.compare(task, contenders, budget="2trials", store=folder / "store.sqlite", workers=1)
    return folder


@pytest.fixture(scope="module")
def comparison(folder: Path) -> thalweg.Comparison:
    store = Store(folder, write=False)
    return thalweg.Comparison(store, store.find())


def test_names_are_read_back_as_they_were_written(comparison: thalweg.Comparison) -> None:
    assert {summary.name for summary in comparison.contenders} == set(NAMES.values())
    assert comparison.record.workload.name == "".join(NAMES.values())
    assert {contender["name"] for contender in comparison.to_json()["contenders"]} == set(NAMES.values())
    assert comparison.parts.missing == []


def test_the_page_shows_each_name_as_text(comparison: thalweg.Comparison, tmp_path: Path) -> None:
    page = comparison.report(tmp_path / "report.html").read_bytes().decode()
    assert comparison.parts.missing == []
    assert hidden(without_scripts(page)) == set()  # the data of the script stay
    text = Reader(page).text
    for name in NAMES.values():
        assert printable(name[:40], keep="\n") in text
    assert (page.count("<script"), page.count("<script>")) == (4, 3)  # two libraries, ours, and the data
    # Values, learning rates and the budget; with mathematics in a name there would be a note instead.
    assert sum(tag == "svg" for tag, _ in Reader(page).tags) >= 2
    assert "$x" in re.sub(r"<[^>]*>", "", page)


@needs_browser
def test_the_page_of_these_names_opens_on_a_phone_and_runs_nothing_of_theirs(
    comparison: thalweg.Comparison, tmp_path: Path
) -> None:
    page = comparison.report(tmp_path / "report.html")
    num_charts = sum(tag == "figure" for tag, _ in Reader(page.read_text()).tags)
    assert_opens_cleanly(page, 360, "dark", charts=num_charts)


def test_the_terminal_obeys_no_name(comparison: thalweg.Comparison, folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["report", str(folder), "--to", str(tmp_path / "report.html")])
    as_json = CliRunner().invoke(cli, ["report", str(folder), "--to", str(tmp_path / "report.html"), "--json"])
    assert (done.exit_code, as_json.exit_code) == (0, 0)
    assert hidden(done.output) == hidden(as_json.output) == set()
    assert {contender["name"] for contender in json.loads(as_json.output)["contenders"]} == set(NAMES.values())


@pytest.mark.parametrize("name", NAMES)
def test_messages_and_tables_escape_control_characters(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    from thalweg.cli.main import main
    from thalweg.comparison import Progress
    from thalweg.comparison.presentation.progress_display import progress_display

    table = Table(NAMES[name])
    table.add_row(Text(NAMES[name]))
    stdout_console().print(table)
    stdout_console().print(NAMES[name])
    with progress_display() as show:
        show(Progress("search", NAMES[name], leader=NAMES[name], best=0.5))
        show(Progress("", "", message=f"told: {NAMES[name]}"))
    with pytest.raises(SystemExit) as end:
        main(["compare", "quadratic", "--with", f"sgd,{NAMES[name]}:x=1", "--budget", NAMES[name]])
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert hidden(printed.out) == hidden(printed.err) == set()
    assert "Traceback" not in printed.err


def test_what_is_printed_of_a_comparison_obeys_no_name(
    comparison: thalweg.Comparison, capsys: pytest.CaptureFixture[str]
) -> None:
    from thalweg.cli.commands.compare import print_comparison
    from thalweg.comparison.presentation.overview import table_of

    table = table_of(comparison)
    for text in (repr(comparison), comparison._repr_html_(), table.text(80), table.html()):
        assert hidden(text) == set()
    print_comparison(comparison)
    printed = capsys.readouterr().out
    assert comparison.parts.missing == []
    assert hidden(printed) == set()
    assert comparison.verdict.headline


def test_only_characters_that_do_more_than_show_themselves_are_hidden() -> None:
    assert [printable(text) for text in ("naïve λ ש 中 👍🏽 \u200c", "a\tb\x7f\u2028")] == [
        "naïve λ ש 中 👍🏽 \u200c",
        "a\\tb\\x7f\\u2028",
    ]
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"
    assert is_hidden("\ud800")
    assert not is_hidden("é")


VALUES: dict[str, Callable[[float], float]] = {
    "zero": lambda loss: 0.0,
    "zero for some": lambda loss: 0.0 if loss < 0.9 else loss,
    "negative": lambda loss: loss - 5.0,
    "negative zero": lambda loss: -0.0,
    "infinite": lambda loss: math.inf,
    "minus infinite": lambda loss: -math.inf,
    "not a number": lambda loss: math.nan,
    "infinite for some": lambda loss: math.inf if loss < 0.9 else loss,
    "huge": lambda loss: 1e300 * (1 + loss),
    "largest": lambda loss: 1.7e308,
    "minus huge": lambda loss: -1e300 * (2 - loss),
    "tiny": lambda loss: 1e-300 * (1 + loss),
    "denormal": lambda loss: 5e-324,
    "of both signs": lambda loss: 1e300 if loss < 0.9 else -1e300,
}


@pytest.mark.parametrize("kind", VALUES)
def test_every_number_ends_in_a_verdict_a_page_and_json(kind: str, tmp_path: Path) -> None:
    comparison = thalweg.compare(training(VALUES[kind]), ["sgd", "adam"], budget="2trials", workers=1)
    result = comparison.to_json()
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    page = comparison.report(tmp_path / "report.html").read_text()
    missing = [part.text for part in comparison.parts.missing]
    assert len(result["missing_parts"]) == len(missing)
    if kind in ("infinite", "minus infinite", "not a number"):  # each training is lost: the only missing part
        assert len(missing) == 1
        assert missing[0].startswith("A result could not be made: a contender must have a value, and none has")
    else:
        assert missing == []
        assert "could not be made" not in page
    assert {contender["name"] for contender in result["contenders"]} == {"sgd", "adam"}
    assert result["verdict"]["text"]


def test_an_infinite_default_of_a_foreign_optimizer_is_null_in_json() -> None:
    def make(params, lr=0.1, bound=math.inf):
        return torch.optim.SGD(params, lr=lr)

    comparison = thalweg.compare(training(lambda loss: loss), [make], budget="1trial", workers=1)
    result = comparison.to_json()
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["contenders"][0]["settings"]["bound"] is None


def test_a_part_that_raises_is_a_note_and_the_others_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit code of a command tells it: 1, since it is a bug."""
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\n\ndef train(make_optimizer, report):\n    make_optimizer([torch.nn.Parameter(torch.ones(1))])\n"
        "    report(1.0)\n"
    )
    command = ["compare", f"{path}:train", "--with", "sgd", "--budget", "1trial", "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(cli, [*command, "--workers", "1"]).exit_code == 0

    def cautions(*_: object) -> list[str]:
        return [str(1 / 0)]

    monkeypatch.setattr("thalweg.comparison.finished.cautions", cautions)
    told = "The cautions could not be made: ZeroDivisionError: division by zero (test_hostile_names.py:"
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 1
    assert told in done.stderr
    assert "sgd reaches" in done.stdout or "sgd was not shown" in done.stdout
    as_json = CliRunner().invoke(cli, [*command, "--json"])
    assert as_json.exit_code == 1
    result = json.loads(as_json.stdout)
    assert result["cautions"] == []
    assert result["contenders"][0]["name"] == "sgd"
    assert [part["name"] for part in result["missing_parts"]] == ["the cautions"]
    page = re.sub(r"\s+", " ", Reader((tmp_path / "out" / "report.html").read_text()).text)
    assert told in page
    assert "How this was measured" in page


def test_a_row_of_the_table_that_raises_leaves_the_other_rows(
    comparison: thalweg.Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = thalweg.Comparison(comparison.store, comparison.record)
    first, *others = again.contenders
    again.contenders[0] = replace(first, seconds="none")  # type: ignore[arg-type]
    from thalweg.report import render

    page = render(again)
    assert [part.is_bug for part in again.parts.missing] == [True]
    assert all(printable(other.name[:40], keep="\n") in Reader(page).text for other in others)
