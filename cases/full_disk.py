"""A disk that is full at one write of a store."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sql


@contextmanager
def full_disk(write: int) -> Iterator[list[str]]:
    """Let the write of this number fail, as SQLite does if the disk is full; yields the statements that wrote."""
    writes: list[str] = []

    def fail(_: object, __: object, statement: str, *___: object) -> None:
        if statement.split()[0] in ("INSERT", "UPDATE", "DELETE", "CREATE", "ALTER"):
            writes.append(statement)
            if len(writes) == write:
                raise sqlite3.OperationalError("database or disk is full")

    sql.event.listen(sql.engine.Engine, "before_cursor_execute", fail)
    try:
        yield writes
    finally:
        sql.event.remove(sql.engine.Engine, "before_cursor_execute", fail)
