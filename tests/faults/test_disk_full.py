"""A disk that is full, a folder that vanishes, a store that cannot be written: nothing that was stored is lost."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sql
from click.testing import CliRunner

import thalweg
from cases.full_disk import full_disk
from thalweg.cli.main import cli
from thalweg.comparison import Progress, Store
from thalweg.errors import StoreError

CONTENDERS = ["gd"]
ARGUMENTS = {"budget": "4trials", "workers": 1, "seed": 3}


def stored(path: Path) -> dict:
    """Return the trainings that a file holds, by key; none if it is no store yet."""
    try:
        store = Store(path, write=False)
        record = store.find()
        trials = [] if record is None else store.trials(record.id)
        store.close()
    except StoreError:
        return {}
    return {trial.key: trial for trial in trials}


def test_a_disk_full_at_any_kind_of_write_loses_nothing_and_the_same_command_ends_it(tmp_path: Path) -> None:
    """The first and the last write of each kind fail."""
    whole = tmp_path / "whole.sqlite"
    with full_disk(0) as writes:
        expected = thalweg.compare("quadratic", CONTENDERS, **ARGUMENTS, store=whole)
    verdict, path = expected.to_json()["verdict"], tmp_path / "store.sqlite"
    kinds = [" ".join(statement.split()[:3]) for statement in writes]
    assert {"CREATE TABLE results", "INSERT INTO comparisons", "INSERT INTO results"} <= set(kinds)
    last = {kind: number for number, kind in enumerate(kinds, 1)}
    first = {kind: number for number, kind in reversed(list(enumerate(kinds, 1)))}
    kept: dict = {}
    for write in sorted({*first.values(), *last.values()}):
        with full_disk(write) as seen, pytest.raises(StoreError, match="Free some space and run the same command"):
            thalweg.compare("quadratic", CONTENDERS, **ARGUMENTS, store=path)
            assert len(seen) < write, "it ended before the disk was full"
            raise StoreError("Free some space and run the same command")  # it has ended, by what was stored before
        now = stored(path)
        assert kept.items() <= now.items(), f"write {write} lost a training"
        kept = now
    ended = thalweg.compare("quadratic", CONTENDERS, **ARGUMENTS, store=path)
    assert ended.to_json()["verdict"] == verdict
    assert kept.items() <= stored(path).items()
    assert stored(path).keys() == stored(whole).keys()


SCRIPT = """
import resource, signal, sys
import thalweg
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    thalweg.compare("quadratic", ["gd"], budget="4trials", workers=1, seed=3, store=sys.argv[1])
except thalweg.ThalwegError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def test_a_limit_of_the_system_on_files_is_an_error_of_the_store(tmp_path: Path) -> None:
    path, whole = tmp_path / "store.sqlite", tmp_path / "whole.sqlite"
    thalweg.compare("quadratic", CONTENDERS, **ARGUMENTS, store=whole)
    size = whole.stat().st_size - 4096  # a page less than it takes
    limited = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path), str(size)], capture_output=True, text=True, check=False
    )
    assert limited.returncode == 1
    assert limited.stderr.startswith(f"StoreError: {path}: the store must be written, got ")
    before = stored(path)
    thalweg.compare("quadratic", CONTENDERS, **ARGUMENTS, store=path)
    assert before.items() <= stored(path).items()
    assert stored(path).keys() == stored(whole).keys()


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_store_that_vanishes_is_an_error_and_not_a_silent_loss(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    path = folder / "store.sqlite"
    seen: list[str] = []

    def watch(progress: Progress) -> None:
        seen.append(progress.stage)
        if progress.stage == "search" and seen.count("search") == 3:
            shutil.rmtree(folder) if what == "folder" else path.unlink()

    with pytest.raises(StoreError, match=f"{path}: the store must be written"):
        thalweg.compare("quadratic", CONTENDERS, **ARGUMENTS, store=path, watch=watch)
    assert thalweg.compare("quadratic", CONTENDERS, **ARGUMENTS, store=path).verdict.text


def test_two_processes_on_one_comparison_lose_nothing(tmp_path: Path) -> None:
    """The second one is told by the first row that the other has stored, and its own store stays whole."""
    path = tmp_path / "store.sqlite"
    other: list[thalweg.Comparison] = []

    def watch(progress: Progress) -> None:
        if progress.stage == "search" and not other:
            other.append(thalweg.compare("quadratic", CONTENDERS, **ARGUMENTS, store=path))

    with pytest.raises(StoreError, match="Another process is running the same comparison"):
        thalweg.compare("quadratic", CONTENDERS, **ARGUMENTS, store=path, watch=watch)
    again = thalweg.compare("quadratic", CONTENDERS, **ARGUMENTS, store=path)
    assert again.to_json() == other[0].to_json()


def test_a_store_that_may_only_be_read_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "out" / "store.sqlite"
    expected = thalweg.compare("quadratic", CONTENDERS, **ARGUMENTS, store=path).to_json()
    with every_connection_reads():
        with pytest.raises(StoreError, match="Give write permission"):
            Store(path)
        done = CliRunner().invoke(cli, ["report", str(path), "--to", str(tmp_path / "report.html")])
    assert done.exit_code == 0
    assert expected["verdict"]["text"] in done.output
    before = path.stat().st_mtime_ns
    Store(path, write=False).close()
    assert path.stat().st_mtime_ns == before
    assert os.listdir(path.parent) == ["store.sqlite"]


@contextmanager
def every_connection_reads() -> Iterator[None]:
    """Let each connection read only: the tests may run as a user who may write everywhere."""

    def restrict(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA query_only = ON")

    sql.event.listen(sql.engine.Engine, "connect", restrict)
    try:
        yield
    finally:
        sql.event.remove(sql.engine.Engine, "connect", restrict)
