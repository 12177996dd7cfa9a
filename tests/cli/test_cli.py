"""The command line, as a user types it."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from thalweg.cli.main import cli, main
from thalweg.comparison import CONTENDERS, DEFAULT, Store
from thalweg.comparison.contenders.schedule import SCHEDULES
from thalweg.comparison.planning.search import order_opened_by
from thalweg.comparison.protocol.trial import RECOMMENDED
from thalweg.errors import UnknownNameError
from thalweg.registry import WRAPPERS
from thalweg.tasks import BUILT_IN, SUITE

COMMANDS = sorted(cli.commands)
# The body of a minimal training function.
MINIMAL_TRAINING = "    import torch\n    make_optimizer([torch.nn.Parameter(torch.ones(1))])\n    report(1.0)\n"


def thalweg(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "thalweg", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def invoke(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result


def test_the_commands_are_these() -> None:
    assert COMMANDS == ["bench", "compare", "doctor", "explain", "list", "report", "show", "tasks"]


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=str)
def test_help_answers_without_importing_torch(command: list[str]) -> None:
    script = (
        "import sys\nfrom thalweg.cli import main\n"
        f"sys.argv[1:] = {[*command, '--help']!r}\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'numpy', 'scipy', 'sklearn', 'matplotlib', 'sqlalchemy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    completed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    assert "Usage:" in completed.stdout


def test_the_examples_in_the_help_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in COMMANDS:  # compare comes first, and report reads what it stored
        help_text = invoke(name, "--help").output
        example = help_text.partition("Example:")[2].strip()
        assert example.startswith(f"thalweg {name}")
        assert help_text.rstrip().endswith(example)
        invoke(*shlex.split(example)[1:])


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


def test_exit_codes_are_documented() -> None:
    text = invoke("--help").output
    for code in ("0    done", "1    a bug", "2    bad input", "3    thalweg doctor", "130  interrupted"):
        assert code in text


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
    assert repeated.stdout == result.stdout
    again = invoke("report", out)
    assert "Report:" in again.output
    as_json = json.loads(invoke("report", out, "--json", "--to", str(tmp_path / "copy.html")).output)
    assert as_json["report"] == str(tmp_path / "copy.html")


def test_a_narrow_terminal_shows_all_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("compare", "quadratic", "--with", "gd,adam", "--budget", "4trials", "--out", str(tmp_path))
    wide = invoke(*arguments).stdout
    monkeypatch.setattr("thalweg.cli.compare.stdout_console", lambda: Console(width=80))
    narrow = invoke(*arguments).stdout
    assert "…" not in narrow
    assert max(map(len, narrow.partition("Value and worse by")[0].splitlines())) <= 80
    cells = set(wide.partition("Value and worse by")[0].split())
    assert cells == set(narrow.partition("Value and worse by")[0].split())
    assert {"contender", "settings", "untuned", "state"} <= cells
    monkeypatch.setattr("thalweg.cli.report.stdout_console", lambda: Console(width=40))
    verdict = invoke("report", str(tmp_path)).stdout.partition("Report:")[0]
    assert max(map(len, verdict.splitlines())) <= 40
    assert " ".join(verdict.split()) in " ".join(wide.split())


@pytest.mark.parametrize("name", ["adamw", "lbfgs", "galore"])
def test_an_explanation_fits_into_a_narrow_terminal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thalweg.cli.explain.stdout_console", lambda: Console(width=80))
    assert "…" not in invoke("explain", name).output


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
        (["--start", "adam:lr=1"], "must begin with the name of a contender"),
        (["--suite", "--start", "sgd:lr=1"], "--start and --set are for one task"),
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


def test_tasks_and_list_name_everything() -> None:
    for command, names in (("tasks", BUILT_IN), ("list", [*CONTENDERS, *sorted(WRAPPERS)])):
        assert [entry["name"] for entry in json.loads(invoke(command, "--json").output)] == list(names)
        text = invoke(command).output
        assert all(name in text for name in names)


@pytest.mark.parametrize("name", CONTENDERS)
def test_explain_prints_the_declarations_of_the_rule(name: str) -> None:
    output = json.loads(invoke("explain", name, "--json").output)
    rule = CONTENDERS[name].rule
    assert output["formula"]
    assert output["source"]
    assert output["departs"]
    assert {entry["name"]: entry["value"] for entry in output["hypers"]} == rule.settings()
    text = invoke("explain", name).output
    for entry in output["hypers"]:
        assert entry["name"] in text
        assert entry["symbol"] in text
    for line in output["formula"].splitlines():
        assert line in text
    assert f"{output['state_bytes']:g} bytes" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "digts"], "got 'digts'. Did you mean digits"),
        (["compare", "digits", "--with", "adm"], "no optimizer is called 'adm'. Did you mean adam"),
        (["compare", "digits", "--with", "adam:beta9=1"], "got 'beta9'. Did you mean beta"),
        (["compare", "digits", "--with", "adam:lr=-1"], "Adam: lr must be >= 0, got -1.0."),
        (["compare", "digits", "--budget", "0s"], "must read like 90s"),
        (["compare", "digits", "--budgt", "1s"], "No such option"),
        (["compare", "notes.txt:task"], "a task must be built in or path/to/file.py:name"),
        (["compare", "quadratic:dimensions=nan"], "dimensions must be a whole number, 1 or more, got nan"),
        (["compare", "nowhere.py:task"], "the file must exist, got no such file"),
        (["compare"], "Missing argument 'TASK'"),
        (["compare", "--suite", "digits,digts"], "got 'digts'. Did you mean digits"),
        (["compare", "--suite", "digits,digits"], "a name of its own, got 'digits' twice"),
        (["compare", "--suite", "digits", "--budget", "soon"], "must read like 90s"),
        (["report", "nowhere"], "the store must exist, got no such file"),
        (["explain", "adamm"], "Did you mean adam"),
    ],
)
def test_bad_input_ends_with_code_2_and_one_message(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(arguments)
    printed = capsys.readouterr()
    assert end.value.code == 2
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""


def test_a_comparison_that_knows_nothing_ends_with_code_2(tmp_path: Path) -> None:
    """The training never ends, however fast the machine is."""
    source = "def train(make_optimizer, report):\n" + MINIMAL_TRAINING.replace("report(1.0)", "while True: pass")
    (tmp_path / "task.py").write_text(source)
    result = CliRunner().invoke(
        cli, ["compare", f"{tmp_path}/task.py:train", "--with", "sgd,adam", "--budget", "1s", "--out", str(tmp_path)]
    )
    assert result.exit_code == 2
    assert "so nothing is known" in result.stdout
    assert "Value and worse by" not in result.stdout


def test_ctrl_c_ends_with_code_130_and_says_how_to_resume(tmp_path: Path) -> None:
    # Its fourth training does not end, however long one waits. A training function has no pilot, so three are stored.
    file, fourth = tmp_path / "mine.py", tmp_path / "fourth"
    file.write_text(
        "import pathlib, time\n\ncalls = []\n\n\n"
        f"def train(make_optimizer, report):\n{MINIMAL_TRAINING}"
        f"    calls.append(0)\n    if len(calls) == 4:\n        pathlib.Path({str(fourth)!r}).touch()\n"
        "        while True:\n            time.sleep(0.01)\n"
    )
    out = tmp_path / "out"
    # What is started in the background inherits that Ctrl-C is ignored, and so would this process.
    script = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    script += "from thalweg.cli.main import main; main()"
    command = [sys.executable, "-c", script, "compare", f"{file}:train", "--with", "sgd", "--budget", "8trials"]
    command += ["--workers", "1", "--out", str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 900
            while not fourth.exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=900)
        finally:
            process.kill()  # if it has not ended
    assert process.returncode == 130, told
    assert "Rerun the same command to resume" in told
    assert "Traceback" not in told
    store = Store(out)
    record = store.find()
    assert record is not None
    # The starting point comes first, then the proposals of the search.
    assert [stored.trial for stored in store.trials(record.id)] == [RECOMMENDED.trial, 0, 1]
    store.close()


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{shlex.quote(sys.executable)} -m thalweg list | true; exit ${{PIPESTATUS[0]}}"
    completed = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (completed.returncode, completed.stderr) == (0, "")


def test_a_terminal_without_greek_is_no_error() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "thalweg", "explain", "adam"]
    completed = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert completed.returncode == 0, completed.stderr
    assert "Kingma" in completed.stdout


def test_output_of_a_task_goes_to_stderr(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"def train(make_optimizer, report):\n    print('building')\n{MINIMAL_TRAINING}")
    done = thalweg("compare", f"{path}:train", "--with", "sgd", "--budget", "1trial", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["verdict"]["best"] == "sgd"
    assert "building" in done.stderr


def test_names_from_the_user_are_printed_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"def train(make_optimizer, report):\n{MINIMAL_TRAINING}")
    out = str(tmp_path / "out")
    result = invoke("compare", f"{path}:train", "--with", "sgd", "--budget", "1trial", "--out", out, "--seed", "-1")
    assert "mine:train: reported value" in result.output  # rich would print :train: as an emoji


def test_the_folder_of_a_task_is_named_after_it() -> None:
    from thalweg.comparison import folder_name

    assert folder_name("digits") == "digits"
    assert folder_name("quadratic:condition=10") == "quadratic-condition-10"
    assert folder_name("some/where/mine.py:task") == "mine-task"


def test_the_list_is_filtered_by_words_of_explain() -> None:
    def names(*words: str) -> set[str]:
        return {entry["name"] for entry in json.loads(invoke("list", *words, "--json").output)}

    assert {"muon", "soap", "shampoo"} <= names("matrix")
    assert {"sam", "asam", "lbfgs"} <= names("closure")
    assert "adamw" in names("decoupled", "elementwise")
    assert "adam" not in names("decoupled", "elementwise")
    with pytest.raises(UnknownNameError, match=r"^No optimizer matches: zzz, adam\. Remove a filter\.$"):
        invoke("list", "zzz", "adam")


def test_a_warning_about_a_setting_is_shown_as_errors_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", "quadratic", "--with", "adamw:lr=1e3,weight_decay=0", "--budget", "1trial"]
    with warnings.catch_warnings(), pytest.raises(SystemExit) as end:
        warnings.simplefilter("default")
        main([*command, "--out", str(tmp_path)])
    printed = capsys.readouterr()
    assert end.value.code == 0
    assert "warning: AdamW: lr must be at most 100, since" in printed.err
    assert "SettingWarning" not in printed.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_gives_a_message() -> None:
    with Path("/dev/full").open("w") as full:
        completed = subprocess.run(
            [sys.executable, "-m", "thalweg", "list"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (completed.returncode, completed.stderr) == (2, "error: the output could not be written: no space is left\n")
