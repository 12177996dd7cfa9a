"""Progress: its lines at several widths, few lines in a log, a notebook's cell, and the default of ``compare``."""

import io
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

import thalweg
from thalweg.comparison import Progress, TaskProgress
from thalweg.comparison.presentation.progress_display import (
    LinePrinter,
    LiveDisplay,
    NotebookDisplay,
    progress_display,
    progress_lines,
    watching,
)

LONG = "cautious(clip(adamw)):max_norm=0.5"
SEARCH = Progress("search", LONG, 12.4, 57, 0.09312, leader=LONG, elapsed_s=30.0, share=0.25)
TIMED = Progress("race", "adam", 1234.0, 0, 0.5, leader="adam", elapsed_s=100.0, left_s=3661.0, share=0.5)


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (
            120,
            [
                f"searching {LONG}  12 of 57 trainings done  1:30 left",
                f"best so far: {LONG} 0.09312  {'━' * 10}{'╌' * 30}",
            ],
        ),
        (
            80,
            [
                f"searching {LONG}  12 of 57 trainings done  1:30 left",
                f"best so far: {LONG} 0.09312",
            ],
        ),
        (
            60,
            [f"searching {LONG}", "12 of 57 trainings done  1:30 left", f"best so far: {LONG} 0.09312"],
        ),
        (
            40,
            [
                f"searching {LONG}",
                "12 of 57 trainings done  1:30 left",
                f"best so far: {LONG} 0.09312",
            ],
        ),
    ],
)
def test_the_lines_fit_and_nothing_is_cut(width: int, lines: list[str]) -> None:
    shown = progress_lines(SEARCH, width)
    assert [line.rstrip("━╌ ") for line in shown] == [line.rstrip("━╌ ") for line in lines]
    assert all(cell_len(line) <= max(width, cell_len(f"best so far: {LONG} 0.09312")) for line in shown)


def test_the_bar_shows_the_share_of_the_budget_that_is_used() -> None:
    bar = progress_lines(SEARCH, 120)[-1].split()[-1]
    assert (bar.count("━"), bar.count("╌")) == (10, 30)
    assert not set("━╌") & set("".join(progress_lines(Progress("pilot", "adam"), 120)))


def test_a_time_budget_shows_its_own_time_left() -> None:
    assert progress_lines(TIMED, 200)[0].startswith(
        "racing adam  1,234 trainings done  1:01:01 left  best so far: adam 0.5"
    )
    assert "1:00:59 left" in progress_lines(TIMED, 200, since_s=2.4)[0]
    assert progress_lines(TIMED, 200, "digits (1 of 2)")[0].startswith("digits (1 of 2)  racing adam")
    assert "0:07 so far" in progress_lines(Progress("pilot", "adam", elapsed_s=5.0), 200, since_s=2.0)[0]


def test_a_log_gets_a_line_for_each_stage_and_then_one_a_minute() -> None:
    lines: list[str] = []
    now = 0.0
    printer = LinePrinter(lines.append, clock=lambda: now)
    for study in range(50):
        for stage in ("search", "retrain", "judge"):
            for name in ("adam", "sgd"):
                printer(Progress(stage, name, study, 100, 0.25, leader="sgd", elapsed_s=now))
    assert [line.partition(" (")[0] for line in lines] == ["searching adam", "choosing adam", "evaluating adam"]
    now = 61.0
    printer(Progress("search", "sgd", 50.0, 100, 0.25, leader="sgd", elapsed_s=61.0, left_s=59.0))
    printer(Progress("search", "sgd", 51.0, 100))
    assert lines[3:] == ["searching sgd (50 of 100 trainings done; 0:59 left; best so far: sgd 0.25)"]
    printer(Progress("", "", message="a worker process has died"), "digits (1 of 2)")
    assert lines[-1] == "digits (1 of 2): a worker process has died"


def test_a_terminal_shows_the_latest_progress_and_keeps_messages() -> None:
    output, now = io.StringIO(), 0.0
    display = LiveDisplay(Console(file=output, width=80, markup=False), clock=lambda: now)
    display(SEARCH)
    now = 10.0
    assert "1:20 left" in display.render().plain
    display(Progress("", "", message="[bold]no markup"), "digits (1 of 2)")
    assert output.getvalue() == "digits (1 of 2): [bold]no markup\n"
    assert f"searching {LONG}" in display.render().plain


def test_a_notebook_replaces_its_output_twice_a_second_at_most() -> None:
    shown: list[str] = []
    now = 0.0

    def display(output: Any, *, display_id: bool) -> Any:
        assert display_id
        shown.append(output._repr_html_())
        return SimpleNamespace(update=lambda output: shown.append(output._repr_html_()))

    notebook = NotebookDisplay(display, clock=lambda: now)
    for step in range(100):
        now = step / 100
        notebook(Progress("search", "<b>", step, 200))
    assert len(shown) == 2
    assert shown[0].startswith("searching &lt;b&gt;")
    assert "50 of 200 trainings done" in shown[1]
    notebook(Progress("", "", message="a < b"))
    assert shown[2] == "a &lt; b"


def test_a_notebook_is_known_by_its_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell, __path__=[]))
    handle = SimpleNamespace(update=shown.append)
    display = SimpleNamespace(display=lambda output, display_id: shown.append(output) or handle)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    with progress_display() as show:
        show(SEARCH)
    assert f"searching {LONG}" in shown[0]._repr_html_()
    shell.kernel = None  # IPython on a terminal
    with progress_display() as show:
        show(SEARCH)
    assert len(shown) == 1


def parabola(make_optimizer: Any, report: Any) -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = make_optimizer([weight])
    weight.square().sum().backward()
    optimizer.step()
    report(weight.item() ** 2 + 1.0)


def test_compare_shows_few_lines_on_stderr_by_default_and_nothing_if_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    def run(**options: Any) -> tuple[str, str]:
        thalweg.compare(parabola, ["sgd"], budget="2trials", **options)
        printed = capsys.readouterr()
        return printed.out, printed.err

    out, err = run()
    assert out == ""
    assert re.match(r"searching sgd", err)
    assert len(err.splitlines()) < 10
    assert run(quiet=True) == ("", "")
    events: list[Progress] = []
    assert run(watch=events.append) == ("", "")
    assert events


def test_a_suite_names_the_task(capsys: pytest.CaptureFixture[str]) -> None:
    with watching() as show:
        show(TaskProgress("digits", 1, 2, Progress("search", "adam", 1, 10)))
        show(Progress("race", "\x1b[31mred", 1, 10))
    first = "digits (1 of 2): searching adam (1 of 10 trainings done)\n"
    assert capsys.readouterr().err == first + "racing \\x1b[31mred (1 of 10 trainings done)\n"
