"""Opening: a database as one would open a file from a stranger, and its errors in words that say what to do.

Tables alone are read, and only those that a store has. A view, a trigger or a computed column under their names would
run statements of whoever wrote the file. A limit on the time of a statement and on the length of a value stops what is
left. Nothing in a file is run as code.
"""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from thalweg.comparison.processes.stopping import interrupts_delayed
from thalweg.errors import StoreError, shown

STATEMENT_LIMIT_S = 60.0
MAX_FILE_BYTES = 1 << 32
MAX_VALUE_BYTES = 1 << 26
_LOCK_WAIT_MS = 30_000
_WRITES = "writes"  # option of a connection whose transaction writes
_INSTRUCTIONS = 10_000  # of SQLite's machine between two looks at the clock
_NUM_PROBLEMS = 3  # of a damaged file that are told


def file_of(path: Path) -> Path:
    """Return the file of a store: a folder means the file in it."""
    try:
        return path / "store.sqlite" if path.is_dir() else path
    except OSError as error:  # a name that is too long
        raise StoreError(
            f"{shown(str(path))}: a store must be a file, got {error.strerror}. Choose another."
        ) from error


def open_engine(path: Path | None, label: str, *, write: bool) -> sql.Engine:
    """Return the engine of a database.

    Args:
        path: The file. None for a database in memory.
        label: The name of the store in messages.
        write: False opens the file for reading only. Then it must exist.

    Raises:
        StoreError: If the file is missing, no regular file or too large, or its folder cannot be made.
    """
    # JSON is written and read by `rows`, so that one damaged value does not lose the others.
    options: dict[str, Any] = {"json_serializer": _unchanged, "json_deserializer": _unchanged}
    if path is None:
        # One connection for all threads: each further one would open another, empty database.
        engine = sql.create_engine(
            "sqlite://", poolclass=sql.pool.StaticPool, connect_args={"check_same_thread": False}, **options
        )
    else:
        _check_file(path, label, write=write)
        engine = sql.create_engine(sql.URL.create("sqlite", database=str(path)), **options)
    sql.event.listen(engine, "connect", lambda connection, record: _restrict(connection, record, write=write))
    sql.event.listen(engine, "before_cursor_execute", _restart_clock)
    sql.event.listen(engine, "begin", _begin)
    return engine


def _unchanged(text: Any) -> Any:
    return text


def _check_file(path: Path, label: str, *, write: bool) -> None:
    try:
        if write:
            path.parent.mkdir(parents=True, exist_ok=True)
        exists = path.exists()
        if exists and not path.is_file():
            raise StoreError(f"{label}: a store must be a regular file, got another kind of file. Choose another.")
        size = path.stat().st_size if exists else 0
    except (OSError, ValueError) as error:  # a path with a null character is no value
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{label}: its folder must be writable, got {error}. Choose another.") from error
    if not write and not exists:
        raise StoreError(f"{label}: the store must exist, got no such file. {_remedy_in(path.parent)}")
    if size > MAX_FILE_BYTES:
        raise StoreError(
            f"{label}: a store must have at most {MAX_FILE_BYTES:,} bytes, got {size:,}. Choose another file."
        )


def _remedy_in(folder: Path) -> str:
    """Return what to do in a folder without a store: that of a suite, or of several runs, has some below it."""
    below = sorted(str(path.parent) for path in folder.glob("*/store.sqlite"))
    if not below:
        return "Run `thalweg compare` first."
    choice = f", or another of the {len(below)} folders with a store" if len(below) > 1 else ""
    return f"Name {below[0]}{choice}. `thalweg report {folder}` shows them together, as a suite."


class _Clock:
    """Stops a statement that takes too long."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._deadline_s = time.monotonic() + STATEMENT_LIMIT_S

    def is_over(self) -> int:
        return int(time.monotonic() > self._deadline_s)


def _restrict(connection: sqlite3.Connection, record: Any, *, write: bool) -> None:
    """Restrict a new connection: nothing of the file is trusted, and neither time nor length is unlimited."""
    connection.isolation_level = None  # Python would leave the creation of tables out of a transaction
    # Text that is no UTF-8 is damage of one row, which is told there.
    connection.text_factory = lambda content: content.decode(errors="surrogateescape")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
    connection.execute(f"PRAGMA busy_timeout = {_LOCK_WAIT_MS}")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    if not write:
        connection.execute("PRAGMA query_only = ON")
    clock = record.info["clock"] = _Clock()
    connection.set_progress_handler(clock.is_over, _INSTRUCTIONS)


@contextlib.contextmanager
def reading(engine: sql.Engine, label: str) -> Iterator[sql.Connection]:
    """Yield a connection that reads, with errors that say what to do.

    An interrupt within SQLAlchemy ends the connection, and a database in memory with it, so there it is delayed. A file
    is opened again, and a statement on a file of others may take long.
    """
    delayed = interrupts_delayed() if engine.url.database is None else contextlib.nullcontext()
    with delayed, explained(label, "read"), engine.connect() as connection:
        yield connection


@contextlib.contextmanager
def writing(engine: sql.Engine, label: str) -> Iterator[sql.Connection]:
    """Yield a transaction that may write, and waits until no other one does, with errors that say what to do.

    A transaction that reads first and then writes would fail at once, if another one wrote in between. An interrupt is
    delayed: it must not undo what has been trained.
    """
    transaction = engine.execution_options(**{_WRITES: True}).begin()
    with interrupts_delayed(), explained(label, "written"), transaction as connection:
        yield connection


def _begin(connection: sql.Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _restart_clock(connection: sql.Connection, *_: Any) -> None:
    connection.connection.info["clock"].restart()


def check_schema(connection: sql.Connection, tables: sql.MetaData, label: str) -> set[str]:
    """Return the names of the tables in a file, after checking that those of a store are plain tables.

    Args:
        connection: The connection.
        tables: The tables of a store.
        label: The name of the store in messages.

    Raises:
        StoreError: If one of them is a view, has a trigger or computes a column.
    """
    names: set[str] = set()
    for kind, name, table, definition in connection.execute(
        sql.text("SELECT type, name, tbl_name, sql FROM sqlite_master")
    ).all():
        if any("\ud800" <= char <= "\udfff" for char in f"{kind}{name}{table}"):  # no UTF-8
            raise damaged(label)
        of_store = table in tables.tables
        is_table = kind == "table" and not str(definition).lower().startswith("create virtual")
        if of_store and kind != "index" and not is_table:
            what = kind if kind != "table" else "virtual table"
            raise StoreError(
                f"{label}: a store must hold plain tables, got the {what} {shown(name)}, which another program made. "
                "Choose another file, or a copy from before."
            )
        if is_table:
            names.add(name)
    for table in names & set(tables.tables):
        for _, column, *_, hidden in connection.execute(sql.text(f'PRAGMA table_xinfo("{table}")')).all():
            if hidden:
                raise StoreError(
                    f"{label}: a store must hold plain columns, got {shown(column)} in {table}, which is computed. "
                    "Choose another file, or a copy from before."
                )
    return names


def find_damage(connection: sql.Connection) -> str:
    """Return the problems that SQLite sees in the structure of a file; empty if there is none."""
    try:
        rows = connection.execute(sql.text(f"PRAGMA integrity_check({_NUM_PROBLEMS})")).all()
    except DBAPIError as error:
        if "malformed" not in str(error.orig):
            raise
        return str(error.orig)
    problems = [str(row[0]) for row in rows]
    return "" if problems == ["ok"] else "; ".join(" ".join(problem.split()) for problem in problems)


@contextlib.contextmanager
def explained(label: str, verb: str) -> Iterator[None]:
    """Turn an error of the database in this ``with`` block into a StoreError that says what to do.

    Args:
        label: The name of the store.
        verb: What must be possible: ``"read"``.
    """
    try:
        yield
    except DBAPIError as error:
        text = str(error.orig)
        if "not a database" in text:
            raise StoreError(
                f"{label}: a store must be made by thalweg, got another program's file. Choose another file."
            ) from error
        if any(sign in text for sign in ("Could not decode", "malformed", "no such column", "too big")):
            raise damaged(label) from error
        raise StoreError(f"{label}: the store must be {verb}, got {text}. {_advice(text)}") from error
    except SQLAlchemyError as error:
        raise StoreError(f"{label}: the store must be {verb}, got {error}.") from error
    except UnicodeError as error:
        raise damaged(label) from error


def _advice(text: str) -> str:
    """The way out of an error of SQLite with this text."""
    if "full" in text:
        return "Free some space and run the same command again. All finished results are kept."
    if "readonly" in text or "unable to open" in text:
        return "Give write permission, or choose another file."
    if "disk I/O" in text:
        return "Look whether the disk works and the folder is still there, and run the same command again."
    if "locked" in text:
        return "Another process is writing to it. Wait for it to end, then run the same command again."
    if "UNIQUE" in text:
        return "Another process is running the same comparison. Wait for it to end, then run this one again."
    if "interrupted" in text:
        return f"A statement must end within {STATEMENT_LIMIT_S:g} s. Choose another file, or a copy from before."
    return "The results stored before are kept. Copy the file and start with a new one."


def damaged(label: str, what: str = "a damaged file") -> StoreError:
    """Return the error of a damaged store."""
    return StoreError(f"{label}: a store must be readable, got {what}. Choose another, or a copy from before.")
