"""The cache of kernels: it runs no code of other users, and nothing that lies in it can end a process or raise."""

import ctypes
import hashlib
import logging
import os
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.engine.stepping import take_steps
from thalweg import optim
from thalweg.engine.kernels import c_compiler, kernel_cache, library_cache

NOBODY = 65534
NAME = "kernel.so"
LIBRARY = b"a library"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


@pytest.fixture
def folder(fresh_machine: Path) -> Path:
    """The folder of a cache that keeps a library."""
    library_cache.keep(NAME, LIBRARY)
    assert library_cache.read(NAME) == LIBRARY
    return fresh_machine / "thalweg" / "kernels"


def with_digest(library: bytes) -> bytes:
    return library + hashlib.sha256(library).digest()


def compiled(source: str) -> bytes:
    return c_compiler.build(source, parallel=False, deadline=float("inf"))


def in_process(work: Callable[[], object]) -> None:
    """Run a function in a forked process, and fail if it raises."""
    sys.stdout.flush()
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of forks beside threads
        pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# --- what is read -----------------------------------------------------------------------------------------------------


def chmod(mode: int) -> Callable[[Path], None]:
    return lambda path: path.chmod(mode)


def give_away(path: Path) -> None:
    os.chown(path, NOBODY, NOBODY)


def replace_by_link(path: Path) -> None:
    moved = path.rename(path.with_name("moved"))
    path.symlink_to(moved)


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def enlarge(path: Path) -> None:
    os.truncate(path, 1 << 40)  # a file with a gap, which takes no space


FILE, KERNELS, THALWEG = f"thalweg/kernels/{NAME}", "thalweg/kernels", "thalweg"


@pytest.mark.parametrize(
    ("path", "attack"),
    [
        *((path, chmod(mode)) for path in (FILE, KERNELS, THALWEG) for mode in (0o777, 0o720, 0o702, 0o1777)),
        *((path, replace_by_link) for path in (FILE, KERNELS, THALWEG)),
        *(pytest.param(path, give_away, marks=needs_root) for path in (FILE, KERNELS, THALWEG, "")),
        (FILE, replace_by_pipe),
        (FILE, replace_by_folder),
        (FILE, enlarge),
    ],
)
def test_what_others_may_have_written_is_not_read(
    folder: Path, fresh_machine: Path, path: str, attack: Callable[[Path], None]
) -> None:
    attack(fresh_machine / path)
    assert library_cache.read(NAME) is None


def test_a_private_library_is_read(folder: Path, fresh_machine: Path) -> None:
    for path in (folder / NAME, folder, folder.parent):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
        path.chmod(0o755)
    assert library_cache.read(NAME) == LIBRARY
    fresh_machine.chmod(0o1777)  # as /tmp
    assert library_cache.read(NAME) == LIBRARY


def test_files_are_private_under_every_umask(fresh_machine: Path) -> None:
    before = os.umask(0)
    try:
        library_cache.keep(NAME, LIBRARY)
    finally:
        os.umask(before)
    assert library_cache.read(NAME) == LIBRARY


def test_a_library_that_is_not_whole_is_not_read_and_is_replaced(folder: Path) -> None:
    file = folder / NAME
    library = bytes(range(256)) * 64
    whole = with_digest(library)
    middle = len(whole) // 2
    zeroed = whole[: middle - 512] + bytes(1024) + whole[middle + 512 :]
    cut = [whole[:size] for size in (0, 10, 32, 64, 4096, middle, len(whole) - 32, len(whole) - 1)]
    for broken in (b"not a library", bytes(len(whole)), zeroed, whole + b"more", *cut):
        file.write_bytes(broken)
        assert library_cache.read(NAME) is None
        library_cache.keep(NAME, library)
        assert library_cache.read(NAME) == library


@needs_root
def test_a_library_that_another_user_has_planted_does_not_run(
    fresh_machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In a shared folder, with the right name and digest; also if another user's folder has the owner root for once."""
    mark = tmp_path / "mark"
    evil = compiled(
        "#include <stdio.h>\n__attribute__((constructor)) static void run(void) "
        f'{{ FILE *file = fopen("{mark}", "w"); if (file) fclose(file); }}\nvoid step(void) {{}}\n'
    )
    names: list[str] = []
    original = library_cache.read
    monkeypatch.setattr(library_cache, "read", lambda name: names.append(name) or original(name))
    optim.Adam([torch.ones(3)]).plan  # noqa: B018
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    folder = shared / "thalweg" / "kernels"
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_bytes(with_digest(evil))
        give_away(folder / name)
    give_away(folder)
    give_away(folder.parent)
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared))
    kernel_cache._KERNELS.clear()
    assert str(optim.Adam([torch.ones(3)]).prepare()).startswith("compiled: ")
    assert not mark.exists()
    assert [record.message.split(". ")[0] for record in caplog.records] == [
        f"compiled kernels are not kept, so each process compiles its own: {shared}/thalweg belongs to another user"
    ]
    library_cache.load(evil)  # the attack is one
    assert mark.exists()


# --- what is kept -----------------------------------------------------------------------------------------------------


@pytest.fixture
def logged(fresh_machine: Path, caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """The one warning after two libraries could not be kept."""

    def warning() -> str:
        with caplog.at_level(logging.WARNING):
            library_cache.keep(NAME, LIBRARY)
            library_cache.keep("another.so", LIBRARY)
        assert library_cache.read(NAME) is None
        (record,) = caplog.records
        return record.message

    return warning


def test_a_folder_that_cannot_be_created_is_logged_once(
    fresh_machine: Path, monkeypatch: pytest.MonkeyPatch, logged: Callable[[], str]
) -> None:
    (fresh_machine / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(fresh_machine / "file" / "below"))
    assert "compiled kernels are not kept, so each process compiles its own: [Errno 20]" in logged()


@pytest.mark.parametrize("home", ["", "relative", "/nowhere/home", None])
def test_without_a_home_nothing_is_kept(
    home: str | None, fresh_machine: Path, monkeypatch: pytest.MonkeyPatch, logged: Callable[[], str]
) -> None:
    monkeypatch.chdir(fresh_machine)
    Path("relative").mkdir()
    monkeypatch.delenv("XDG_CACHE_HOME")
    if home is None:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user without an entry in passwd
    else:
        monkeypatch.setenv("HOME", home)
    assert f"there is no home folder {'~' if home is None else home!r}" in logged()
    assert not os.path.exists("/nowhere")
    assert os.listdir("relative") == []


def test_a_relative_path_in_xdg_cache_home_is_ignored(fresh_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fresh_machine)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(fresh_machine))
    library_cache.keep(NAME, LIBRARY)
    assert (fresh_machine / ".cache" / "thalweg" / "kernels" / NAME).exists()
    assert not os.path.exists("relative")


@needs_root
def test_root_keeps_nothing_in_the_home_of_another_user(
    fresh_machine: Path, monkeypatch: pytest.MonkeyPatch, logged: Callable[[], str]
) -> None:
    """As sudo, which keeps HOME: the user could not use a cache that belongs to root."""
    cache = fresh_machine / ".cache"
    cache.mkdir()
    give_away(cache)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    assert f"{cache} belongs to another user" in logged()
    assert os.listdir(cache) == []


@needs_root
def test_root_makes_no_folder_in_the_home_of_another_user(
    fresh_machine: Path, monkeypatch: pytest.MonkeyPatch, logged: Callable[[], str]
) -> None:
    home = fresh_machine / "home"
    home.mkdir()
    give_away(home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(home))
    assert f"{home} belongs to another user" in logged()
    assert os.listdir(home) == []


@needs_root
def test_a_user_without_home_and_passwd_entry_trains_on_kernels(fresh_machine: Path) -> None:
    param = torch.ones(3, requires_grad=True)
    take_steps(optim.SGD([param], backend="compiled"), param)  # imports what the other user may not read

    def train() -> None:
        os.setgid(54321)
        os.setuid(54321)
        for name in ("HOME", "XDG_CACHE_HOME", "TMPDIR"):
            os.environ.pop(name, None)
        tempfile.tempdir = None
        kernel_cache._KERNELS.clear()
        optimizer = optim.SGD([param])
        take_steps(optimizer, param)
        assert str(optimizer.prepare()).startswith("compiled: ")
        take_steps(optimizer, param)

    in_process(train)


# --- what is loaded ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_memory", [True, False])
def test_each_library_is_loaded_from_a_copy_of_its_own(in_memory: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader takes equal paths for one library, and the numbers of descriptors are used again."""
    if not in_memory:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    answers = [library_cache.load(compiled(f"int answer(void) {{ return {k}; }}")).answer() for k in range(3)]
    assert answers == [0, 1, 2]


def test_what_is_no_library_cannot_be_loaded() -> None:
    with pytest.raises(OSError, match="invalid ELF header|file too short|no suitable image"):
        library_cache.load(b"no library" * 100)


def test_a_kernel_runs_on_when_its_file_is_truncated(fresh_machine: Path) -> None:
    """A process that has mapped the file itself ends with SIGBUS."""
    optim.SGD([torch.ones(3)]).prepare()
    kernel_cache._KERNELS.clear()
    param = torch.ones(3, requires_grad=True)
    optimizer = optim.SGD([param], lr=0.25)
    (file,) = (fresh_machine / "thalweg" / "kernels").iterdir()
    assert str(optimizer.plan).startswith("compiled: ")
    assert len(kernel_cache.builds) == 1
    os.truncate(file, 0)
    take_steps(optimizer, param, num_steps=2)
    assert param.tolist() == [0.5] * 3


def test_a_broken_library_is_compiled_again(fresh_machine: Path) -> None:
    def num_builds() -> int:
        """The number of kernels that this process, if it were a new one, has to compile."""
        kernel_cache._KERNELS.clear()
        before = len(kernel_cache.builds)
        assert str(optim.Adam([torch.ones(3)]).prepare()).startswith("compiled: ")
        return len(kernel_cache.builds) - before

    assert num_builds() == 1
    (file,) = (fresh_machine / "thalweg" / "kernels").iterdir()
    broken = [
        file.read_bytes()[:-1],
        with_digest(b"no library"),
        with_digest(compiled("int answer(void) { return 1; }")),
    ]
    for content in broken:
        file.write_bytes(content)
        assert num_builds() == 1
        assert num_builds() == 0
    assert isinstance(library_cache.load(file.read_bytes()), ctypes.CDLL)
