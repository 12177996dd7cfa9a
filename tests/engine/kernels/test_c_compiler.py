"""The C compiler as a process: malformed commands, hanging compilers, leftovers."""

import fcntl
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.engine.stepping import take_steps
from thalweg import optim
from thalweg.engine.kernels import c_compiler

Script = Callable[..., str]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Write an executable script; return its path."""

    def write(text: str, name: str = "cc", mode: int = 0o755) -> str:
        path = tmp_path / name
        path.write_text(text)
        path.chmod(mode)
        return str(path)

    return write


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


MALFORMED = {
    "a quotation mark is missing": "'",
    "no name": "''",
    "blank": "  ",
    "a folder": "/",
    "a file that is missing, with arguments": "/nowhere/cc -m64",
    "a file that is no program": __file__,
    "a program that writes nothing": f"{sys.executable} --version",
    "a program that fails": "false",
    "no text": b"\xff\xfe".decode(errors="surrogateescape"),
}


@pytest.mark.parametrize("command", MALFORMED.values(), ids=MALFORMED)
def test_without_a_working_compiler_steps_run_in_plain_pytorch(
    command: str, fresh_machine: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", command)
    param = torch.ones(3, requires_grad=True)
    optimizer = optim.SGD([param], lr=0.25)
    take_steps(optimizer, param)
    assert str(optimizer.prepare()).startswith(("flat: the compiler", "flat: no C compiler was found"))
    take_steps(optimizer, param)
    assert param.tolist() == [0.5] * 3
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("#!/nowhere/interpreter\n", "the compiler cannot be used: [Errno 2]"),
        ("no script", "the compiler cannot be used: [Errno 8]"),
        ("#!/bin/sh\nprintf '\\377 wrong' >&2\nexit 3\n", "the compiler ended with status 3: \ufffd wrong (/"),
        (
            "#!/bin/sh\nhead -c 100000 /dev/zero | tr '\\0' x >&2\nexit 1\n",
            f"the compiler ended with status 1: {500 * 'x'} (",
        ),
        ("#!/bin/sh\nkill -9 $$\n", "the compiler ended with status -9: no message"),
        (
            "#!/bin/sh\nmkfifo step.so 2>/dev/null\nexit 0\n",
            "the compiler cannot be used: step.so is not a regular file",
        ),
    ],
)
def test_the_reason_of_a_failure_is_given(
    text: str, reason: str, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", script(text))
    with pytest.raises(c_compiler.CompilerError) as caught:
        c_compiler.build("", parallel=True, deadline=float("inf"))
    assert str(caught.value).startswith(reason)


def test_a_relative_command_with_arguments_compiles(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script('#!/bin/sh\n[ "$1" = "an argument" ] || exit 1\nshift\nexec cc "$@"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CC", "./cc 'an argument'")
    assert c_compiler.build("int x;", parallel=False, deadline=float("inf"))


def test_a_missing_temporary_folder_is_no_error(fresh_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    assert str(optim.SGD([torch.ones(3)]).prepare()).startswith("flat: the compiler cannot be used: [Errno 2]")


def hanging(folder: Path) -> str:
    """A compiler that waits in a process of its own, and writes down the number of this process."""
    return f"#!/bin/sh\nsleep 100000 &\necho $! > {folder}/pid\nwait\n"


def started(folder: Path) -> bool:
    """Return True if the process of `hanging` has started."""
    return (folder / "pid").exists() and (folder / "pid").read_text().endswith("\n")


def ends(folder: Path) -> bool:
    """Return True if the process of `hanging` ends."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{int((folder / 'pid').read_text())}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.02)
    return False


def test_a_compiler_that_takes_too_long_is_killed(
    fresh_machine: Path, scratch: Path, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", script(hanging(fresh_machine)))
    monkeypatch.setattr(c_compiler, "monotonic", lambda: math.inf if started(fresh_machine) else 0.0)
    assert str(optim.SGD([torch.ones(3)]).prepare()).startswith("flat: the compiler took longer than 60 s")
    assert ends(fresh_machine)
    assert list(scratch.iterdir()) == []


def test_a_script_ends_while_its_compiler_hangs(fresh_machine: Path, script: Script) -> None:
    text = (
        "import torch, time, os; from thalweg import optim; from thalweg.engine.kernels import c_compiler\n"
        "c_compiler.TIME_LIMIT_S = 1e9\n"
        "for kind in (optim.SGD, optim.Adam, optim.Lion):\n"
        "    param = torch.ones(3, requires_grad=True); param.grad = torch.ones(3); kind([param]).step()\n"
        f"while not os.path.exists({str(fresh_machine / 'pid')!r}): time.sleep(0.01)"
    )
    environment = os.environ | {"CC": script(hanging(fresh_machine)), "TMPDIR": str(fresh_machine)}
    subprocess.run([sys.executable, "-c", text], env=environment, check=True, timeout=900)
    assert ends(fresh_machine)
    assert not list(fresh_machine.glob("thalweg-compiler-*"))


def test_folders_of_killed_processes_are_deleted_and_no_others(scratch: Path) -> None:
    def folder(name: str) -> Path:
        path = scratch / f"thalweg-compiler-{name}"
        path.mkdir(mode=0o700)
        (path / "step.c").touch()
        return path

    left, used, foreign, shared = map(folder, ("left", "used", "foreign", "shared"))
    shared.chmod(0o777)
    elsewhere = scratch / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    (scratch / "thalweg-compiler-link").symlink_to(elsewhere)
    (scratch / "thalweg-compiler-file").touch()
    os.mkfifo(scratch / "thalweg-compiler-pipe")
    if os.geteuid() == 0:
        os.chown(foreign, 65534, 65534)
    else:
        foreign.chmod(0o770)
    descriptor = os.open(used, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with c_compiler._working_folder() as (path, _):
            assert os.listdir(path) == []
            c_compiler._delete_leftovers()
            assert os.path.isdir(path)  # in use by this process
            kept = {"used", "foreign", "shared", "link", "file", "pipe"}
            names = {entry.name.removeprefix("thalweg-compiler-") for entry in scratch.iterdir()}
            assert kept <= names
            assert len(names - kept - {"elsewhere"}) == 1
    finally:
        os.close(descriptor)
    assert not left.exists()
    assert (elsewhere / "file").exists()


def test_a_folder_that_was_deleted_before_it_was_locked_is_created_again(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked: list[int] = []

    def lock(folder: int, *, wait: bool = True) -> bool:
        if not locked:  # another process is faster
            for path in scratch.iterdir():
                path.rmdir()
        locked.append(folder)
        return True

    monkeypatch.setattr(c_compiler, "_lock", lock)
    path, folder = c_compiler._create_folder()
    assert os.path.isdir(path)
    assert os.path.samestat(os.stat(path), os.fstat(folder))
    os.close(folder)
    assert len(locked) == 2
