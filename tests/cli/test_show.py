"""``thalweg show``, as a user types it."""

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.pages import Reader
from thalweg.cli.main import cli, main
from thalweg.errors import StoreError
from thalweg.trajectories import trace

FAST = ("--with", "gd:lr=1,momentum:lr=0.5", "--steps", "20")


def show(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["show", *arguments], catch_exceptions=False)


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["show", *arguments])
    assert end.value.code == 2
    return capsys.readouterr().err


def test_it_writes_a_page_and_prints_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = show("quadratic", *FAST)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "Picture: runs/quadratic.html"
    assert re.search(r"^momentum:lr=0.5 +0.5 +\d", result.stdout, flags=re.MULTILINE)
    assert "could not be made" not in Path("runs/quadratic.html").read_text()


def test_each_kind_of_file_is_written(tmp_path: Path) -> None:
    files = [tmp_path / f"a{suffix}" for suffix in (".html", ".png", ".svg", ".gif")]
    result = show("quadratic", *FAST, "--width", "320", *(word for file in files for word in ("--to", str(file))))
    assert result.exit_code == 0
    beginnings = [file.read_bytes()[:9] for file in files]
    assert beginnings == [b"<!doctype", b"\x89PNG\r\n\x1a\n\x00", b"<?xml ver", b"GIF89a\x40\x01" + beginnings[3][8:]]


def test_json_has_the_numbers_and_the_files(tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    result = show("saddle", *FAST, "--start", "-1,0.5", "--start", "1,-0.5", "--to", str(page), "--json")
    value = json.loads(result.stdout)
    assert value["starts"] == [[-1.0, 0.5], [1.0, -0.5]]
    assert [paths["name"] for paths in value["optimizers"]] == ["gd:lr=1", "momentum:lr=0.5"]
    assert [len(path["points"]) for paths in value["optimizers"] for path in paths["paths"]] == [21] * 4
    assert value["files"] == [str(page)]


def test_the_page_names_the_command_that_makes_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    show("quadratic", *FAST, "--start", "-1,2.5", "--noise", "0.30000000000000004", "--seed", "4", "--to", "a.html")
    first = Path("a.html").read_text()
    (command,) = re.findall(r"thalweg show [^<\n]*--with [^<\n]*", Reader(first).text)
    words = shlex.split(command)
    assert words[-2:] == ["--start", "-1,2.5"]
    show(*words[2:], "--to", "b.html")
    assert Path("b.html").read_text() == first
    assert words[words.index("--noise") + 1] == "0.30000000000000004"


def test_the_page_does_not_tell_the_folder_of_its_maker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bowl = tmp_path / "bowls" / "bowl.py"
    bowl.parent.mkdir()
    bowl.write_text("def bowl(point):\n    return (point ** 2).sum(-1)\n")
    show(f"{bowl}:bowl", *FAST, "--to", "a.html")
    page = Path("a.html").read_text()
    assert "thalweg show bowls/bowl.py:bowl --with" in page
    assert str(tmp_path) not in page


def test_a_place_that_cannot_be_written_is_told_before_the_computation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("thalweg.trajectories.trace", lambda *_, **__: pytest.fail("it computed"))
    monkeypatch.chdir(tmp_path)
    Path("notes.html").write_text("mine")
    Path("link.png").symlink_to("notes.html")
    for target, message in (
        ("/proc/a/b.png", "must be writable"),
        ("notes.html/a.svg", "must be writable"),
        ("notes.html", "must not replace a file of someone else"),
        ("link.png", "got a link"),
    ):
        assert message in error_of(capsys, "quadratic", *FAST, "--to", target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.png", "notes.html"]


def test_a_picture_that_cannot_be_written_at_the_end_leaves_the_table_and_the_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fill(path: Path, content: bytes, **_: object) -> Path:
        raise StoreError(f"{path}: the report must be writable, got No space left on device. Choose another place.")

    monkeypatch.setattr("thalweg.report.pictures.files.write_file", fill)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["show", "quadratic", *FAST, "--to", "a.svg", "--to", "a.html"])
    shown = capsys.readouterr()
    assert end.value.code == 2
    assert re.search(r"^momentum:lr=0.5 +0.5 +\d", shown.out, flags=re.MULTILINE)
    assert shown.out.splitlines()[-1] == "Picture: a.html"
    assert "The file a.svg could not be made: --to a.svg: the report must be writable, got No space left" in shown.err


def test_it_shows_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = show("quadratic", *FAST)
    assert [line.partition(" (")[0] for line in result.stderr.splitlines()] == ["tracing gd:lr=1"]
    calls: list[tuple[str, int, int]] = []
    trace("quadratic", "gd:lr=1,adam:lr=1", steps=1, start=[(0, 1), (1, 0)], progress=lambda *call: calls.append(call))
    assert calls == [("gd:lr=1", 0, 4), ("gd:lr=1", 1, 4), ("adam:lr=1", 2, 4), ("adam:lr=1", 3, 4)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rosenbrok"], "Did you mean rosenbrock?"),
        (["quadratic", "--steps", "0"], "steps must be a whole number from 1 to 5,000, got 0"),
        (["quadratic", "--with", "gdd"], "Did you mean gd"),
        (["quadratic", "--with", "gd,sgd,adam,adamw,lion,muon,nadam,adan,radam"], "at most 8 optimizers"),
        (["quadratic", "--start", "1"], "'1' must read like -1.2,1."),
        (["quadratic", "--start", "nan,1"], "start must be a point"),
        (["quadratic", *FAST, "--to", "a.jpg"], "must end in .html, .png, .svg, .gif, got 'a.jpg'"),
        (["quadratic", *FAST, "--to", "a.png", "--width", "10"], "width must be 300 to 4,000 pixels, got 10"),
        (["quadratic", *FAST, "--to", "/proc/a/b.png"], "/proc/a/b.png: the report must be writable"),
        (["none.py:bowl"], "none.py: the file must exist"),
    ],
)
def test_bad_input_says_what_to_change(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in error_of(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []
