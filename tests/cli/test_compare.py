"""The command `thalweg compare`: its output, its options, and suites."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from tests.cli.invocation import invoke, thalweg
from thalweg.cli.main import cli, main
from thalweg.comparison import DEFAULT
from thalweg.comparison.contenders.schedule import SCHEDULES
from thalweg.comparison.planning.search import order_opened_by
from thalweg.tasks import SUITE


def test_the_help_of_compare_repeats_what_the_library_declares() -> None:
    """`--help` must not import torch, so it cannot read these facts; this holds the copies to them."""
    text = re.sub(r"\s+", "", invoke("compare", "--help").output)
    assert f"[default:{','.join(DEFAULT)};gdonlyif" in text
    (choices,) = re.findall(r"Learningratescheduleofeachtraining:(.*?)\.", text)
    choices = re.sub(r"\(.*?\)", "", choices).replace(":SHARE:FACTOR", "").replace("constantornone", "constant,none")
    assert sorted(choices.split(",")) == sorted([*SCHEDULES, "step"])
    assert [order_opened_by(trials) for trials in (9, 10, 24, 25)] == [1, 2, 2, 3]
    assert "Astudywithlessthan10trialssearchesthelearningrateonly,withlessthan25alsothemomentum." in text
    assert f"[defaulttasks:{','.join(SUITE)}]" in text


def test_compare_prints_json_to_stdout_and_messages_to_stderr(tmp_path: Path) -> None:
    completed = thalweg("compare", "quadratic", "--with", "gd,adam", "--budget", "4trials", "--json", cwd=tmp_path)
    output = json.loads(completed.stdout)
    assert completed.returncode == 0
    assert output["task"] == "quadratic"
    assert {entry["name"] for entry in output["contenders"]} == {"gd", "adam"}
    assert "searching gd" in completed.stderr
    assert (tmp_path / output["report"]).exists()
    assert (tmp_path / "runs" / "quadratic" / "store.sqlite").exists()


def test_compare_ends_in_a_table_a_verdict_and_a_line_to_paste(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    result = invoke("compare", "quadratic", "--with", "gd,adam", "--budget", "4trials", "--out", out)
    assert "95 % interval" in result.output
    assert "training height" in result.output
    assert "optimizer = thalweg.optim." in result.output
    assert f"Report: {out}/report.html" in result.output
    repeated = invoke("compare", "quadratic", "--with", "gd,adam", "--budget", "4trials", "--out", out)
    assert "nothing was run" in repeated.stderr
    assert "data that the function reads" not in repeated.stderr
    assert repeated.stdout == result.stdout
    again = invoke("report", out)
    assert "Report:" in again.output
    as_json = json.loads(invoke("report", out, "--json", "--to", str(tmp_path / "copy.html")).output)
    assert as_json["report"] == str(tmp_path / "copy.html")


def test_another_request_in_the_same_folder_says_that_nothing_is_reused(tmp_path: Path) -> None:
    source = "import torch\n\ndef train(make_optimizer, report):\n    weight = torch.nn.Parameter(torch.ones(1))\n"
    source += "    optimizer = make_optimizer([weight])\n    weight.square().sum().backward()\n    optimizer.step()\n"
    (tmp_path / "mine.py").write_text(source + "    report(weight.square().sum())\n")
    arguments = ("compare", f"{tmp_path / 'mine.py'}:train", "--with", "sgd", "--workers", "1", "--out", str(tmp_path))
    assert "no earlier training is used" not in invoke(*arguments, "--budget", "2trials").stderr
    second = invoke(*arguments, "--budget", "3trials").stderr
    assert "store.sqlite holds another comparison, which differs in budget, seed, contenders, options or code" in second
    assert "holds 2 other comparisons, which differ" in invoke(*arguments, "--budget", "4trials").stderr
    finished = invoke(*arguments, "--budget", "3trials").stderr
    assert "no earlier training is used" not in finished
    assert "If data that the function reads have changed, pass another --out." in finished


def test_a_narrow_terminal_shows_all_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("compare", "quadratic", "--with", "gd,adam", "--budget", "4trials", "--out", str(tmp_path))
    wide = invoke(*arguments).stdout
    monkeypatch.setattr("thalweg.cli.commands.compare.stdout_console", lambda: Console(width=80))
    narrow = invoke(*arguments).stdout
    assert "…" not in narrow
    assert max(map(len, narrow.partition("Value and worse by")[0].splitlines())) <= 80
    cells = set(wide.partition("Value and worse by")[0].split())
    assert cells == set(narrow.partition("Value and worse by")[0].split())
    assert {"contender", "settings", "untuned", "state"} <= cells
    monkeypatch.setattr("thalweg.cli.commands.report.stdout_console", lambda: Console(width=40))
    verdict = invoke("report", str(tmp_path)).stdout.partition("Report:")[0]
    assert max(map(len, verdict.splitlines())) <= 40
    assert " ".join(verdict.split()) in " ".join(wide.split())


def test_numbers_of_a_task_are_fixed_and_settings_are_started_from(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import thalweg, torch\n\n"
        "def train(make_optimizer, report, size=thalweg.choice(2, 3), clip=thalweg.log_range(0.1, 10.0)):\n"
        "    weight = torch.nn.Parameter(torch.ones(size))\n"
        "    optimizer = make_optimizer([weight])\n"
        "    weight.square().sum().backward()\n"
        "    optimizer.step()\n"
        "    report(weight.square().sum())\n"
    )
    command = ("compare", f"{path}:train", "--with", "sgd", "--budget", "3trials", "--workers", "1", "--json")
    result = invoke(*command, "--out", str(tmp_path / "out"), "--set", "size=3", "--start", "sgd:lr=0.25,clip=2")
    found = json.loads(result.stdout)
    (contender,) = found["contenders"]
    assert contender["settings"]["size"] == 3
    assert contender["yours"] == pytest.approx(3 * 0.5**2, rel=1e-6)
    assert "train(make_optimizer, report, size=3, clip=" in found["code"]
    assert "your setting" in (tmp_path / "out" / "report.html").read_text()
    for wrong, message in (
        (["--set", "size"], "'size' must read like batch_size=64"),
        (["--set", "width=3"], "'width' must be an argument that the task tunes"),
        (["--set", "size=5"], "size must be one of 2, 3, got 5. Take one of them."),
        (["--set", "clip=0"], "clip must be > 0, since its logarithm is searched, got 0"),
        (["--start", "adam:lr=1"], "must begin with the name of a contender"),
        (["--start", "sgd:size=5"], "sgd: size must be one of 2, 3, got 5. Take one of them."),
        (["--start", "sgd:clip=20"], "sgd: clip must lie in its range, 0.1 to 10, to start a search, got 20."),
        (["--suite", "--set", "nowhere:steps=1"], "'nowhere:steps' must begin with the name of a task of the suite"),
    ):
        failed = CliRunner().invoke(cli, [*command, "--out", str(tmp_path / "out"), *wrong])
        assert failed.exit_code != 0
        assert message in f"{failed.output} {failed.exception}"


def two_tasks(folder: Path) -> str:
    """Return two training functions that take no time. A file named broken makes the second one fail."""
    path = folder / "mine.py"
    path.write_text(
        "import pathlib, torch\n\n"
        "def train(make_optimizer, report):\n"
        "    weight = torch.nn.Parameter(torch.ones(2))\n"
        "    optimizer = make_optimizer([weight])\n"
        "    for _ in range(5):\n"
        "        optimizer.zero_grad()\n"
        "        loss = weight.square().sum()\n"
        "        loss.backward()\n"
        "        optimizer.step()\n"
        "    print('trained')\n"
        "    report(loss.item() + torch.rand(()).item())\n\n"
        "def second(make_optimizer, report):\n"
        "    if pathlib.Path(__file__).with_name('broken').exists():\n"
        "        raise ValueError('no data here')\n"
        "    train(make_optimizer, report)\n"
    )
    return f"{path}:train,{path}:second"


def test_a_suite_prints_a_table_means_and_writes_pages(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("compare", "--suite", two_tasks(tmp_path), "--with", "sgd,adam", "--budget", "4trials", "--workers", "1")
    result = invoke(*command, "--out", str(out))
    assert "Worse than the best contender of the task by" in result.stdout
    assert "Interquartile mean over tasks and seeds" in result.stdout
    assert "They do not cover other tasks" in result.stdout
    assert result.stdout.rstrip().endswith(f"Report: {out / 'suite.html'}")
    assert f"{tmp_path}/mine.py:second (2 of 2): searching" in result.stderr
    for task in ("mine-train", "mine-second"):
        assert (out / task / "store.sqlite").exists()
        assert (out / task / "report.html").exists()
    repeated = invoke(*command, "--out", str(out))
    assert "nothing was run" in repeated.stderr
    assert "searching" not in repeated.stderr
    assert repeated.stdout == result.stdout
    output = json.loads(invoke(*command, "--out", str(out), "--json").stdout)
    assert output["report"] == str(out / "suite.html")
    assert len(output["tasks"]) == len(output["matrix"]) == 2


def test_a_task_of_a_suite_that_fails_does_not_lose_the_others_and_ends_with_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = two_tasks(tmp_path)
    (tmp_path / "broken").touch()
    command = ["compare", "--suite", tasks, "--with", "sgd,adam", "--budget", "4trials", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as end:
        main([*command, "--workers", "1", "--json"])
    assert end.value.code == 2
    done = capsys.readouterr()
    found = json.loads(done.out)
    assert len(found["tasks"]) == 1
    (error,) = found["failures"].values()
    assert "no data here" in error
    assert "no data here" in done.err
    assert "Traceback" not in done.err
    (tmp_path / "broken").unlink()
    assert "searching" in invoke(*command).stderr  # the task that failed runs again


def test_contenders_of_several_options_are_one_list(tmp_path: Path) -> None:
    arguments = ["compare", "linear-regression", "--budget", "2trials", "--out", str(tmp_path), "--json"]
    result = CliRunner().invoke(cli, [*arguments, "--with", "adam:beta2=0.9,sgd", "--with", "momentum"])
    assert result.exit_code == 0, result.output
    names = {row["name"] for row in json.loads(result.stdout)["contenders"]}
    assert names == {"adam:beta2=0.9", "sgd", "momentum"}
