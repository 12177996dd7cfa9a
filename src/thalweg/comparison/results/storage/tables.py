"""Tables: those of a store. The names of the columns and of the keys in their JSON are those of every store."""

from typing import Any

import sqlalchemy as sql

from thalweg.comparison.results.storage.rows import CHECKSUM, UNCHECKED

METADATA = sql.MetaData()
VERSIONS = sql.Table("thalweg_store", METADATA, sql.Column("version", sql.Integer, nullable=False))
COMPARISONS = sql.Table(
    "comparisons",
    METADATA,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("key", sql.String, unique=True, nullable=False),
    sql.Column("created", sql.String, nullable=False),
    sql.Column("finished", sql.String),
    sql.Column("task", sql.JSON, nullable=False),
    sql.Column("contenders", sql.JSON, nullable=False),
    sql.Column("plan", sql.JSON, nullable=False),
    sql.Column("environment", sql.JSON, nullable=False),
    sql.Column(CHECKSUM, sql.String, server_default=UNCHECKED),
)
RESULTS = sql.Table(
    "results",
    METADATA,
    sql.Column("comparison", sql.ForeignKey("comparisons.id"), primary_key=True),
    sql.Column("contender", sql.String, primary_key=True),
    sql.Column("stage", sql.String, primary_key=True),
    sql.Column("study", sql.Integer, primary_key=True),
    sql.Column("trial", sql.Integer, primary_key=True),
    sql.Column("seed", sql.BigInteger, primary_key=True),
    sql.Column("settings", sql.JSON, nullable=False),
    sql.Column("status", sql.String, nullable=False),
    sql.Column("message", sql.String, nullable=False),
    sql.Column("train", sql.Double),
    sql.Column("validation", sql.Double),
    sql.Column("test", sql.Double),
    sql.Column("test_error", sql.Double),
    sql.Column("seconds", sql.Double, nullable=False),
    sql.Column("looks", sql.JSON, nullable=False),
    # Added later: a store that lacks one of these gets it when it is written.
    sql.Column("hardware", sql.String),
    sql.Column("traceback", sql.String),
    sql.Column("reported", sql.JSON),
    sql.Column("optimizers", sql.JSON(none_as_null=True)),
    sql.Column(CHECKSUM, sql.String, server_default=UNCHECKED),
)
# The seconds that a comparison has used, over all of its sessions.
CLOCKS = sql.Table(
    "clocks",
    METADATA,
    sql.Column("comparison", sql.ForeignKey("comparisons.id"), primary_key=True),
    sql.Column("elapsed_s", sql.Double, nullable=False),
)


def belongs_to(comparison: int) -> sql.ColumnElement[bool]:
    """Return the condition for the results of a comparison, and for those of none: their number is damaged.

    The sum keeps SQLite from an index, which may be damaged, too.
    """
    number = RESULTS.c.comparison
    return (number + 0 == comparison) | number.is_(None) | number.not_in(sql.select(COMPARISONS.c.id))


def column_names(connection: sql.Connection, table: sql.Table) -> set[str]:
    """Return the names of the columns that a table of a file has."""
    return {column["name"] for column in sql.inspect(connection).get_columns(table.name)}


def stored_columns(connection: sql.Connection, query: sql.Select[Any], table: sql.Table) -> sql.Select[Any]:
    """Return the query with those columns of a table that the file has: a store of an older version lacks some."""
    stored = column_names(connection, table)
    return query.with_only_columns(*(column for column in table.columns if column.name in stored))
