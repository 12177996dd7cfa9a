"""The command line, as a user types it."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from tests.cli.invocation import invoke, thalweg
from thalweg.cli.main import cli, main
from thalweg.comparison import CONTENDERS, Store
from thalweg.comparison.protocol.trial import RECOMMENDED
from thalweg.errors import UnknownNameError
from thalweg.registry import WRAPPERS
from thalweg.tasks import BUILT_IN

COMMANDS = sorted(cli.commands)


# The body of a minimal training function.
MINIMAL_TRAINING = "    import torch\n    make_optimizer([torch.nn.Parameter(torch.ones(1))])\n    report(1.0)\n"


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


def test_exit_codes_are_documented() -> None:
    text = invoke("--help").output
    for code in ("0    done", "1    a bug", "2    bad input", "3    thalweg doctor", "130  interrupted"):
        assert code in text


@pytest.mark.parametrize("name", ["adamw", "lbfgs", "galore"])
def test_an_explanation_fits_into_a_narrow_terminal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thalweg.cli.commands.explain.stdout_console", lambda: Console(width=80))
    assert "…" not in invoke("explain", name).output


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
    assert names("Adam-W") >= {"adamw", "nadamw", "schedule_free_adamw"}
    assert "adam" not in names("Adam-W")
    assert names("Adam-W") == names("adam_w") <= names("AdamW")
    assert names("Schedule Free") == {"schedule_free_sgd", "schedule_free_adamw"}
    with pytest.raises(UnknownNameError, match=r"^No optimizer matches: adamv\. Did you mean adam or "):
        invoke("list", "adamv")
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
