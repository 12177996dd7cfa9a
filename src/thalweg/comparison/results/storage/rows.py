"""Rows: plain values as columns of a table, each row with a checksum, and back with every column checked.

SQLite holds any value in any column, a disk may change a byte, and a file may come from anywhere. So a row is read only
if its checksum is that of its columns and each column has its declared type.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sql

CHECKSUM = "checksum"
UNCHECKED = "none"  # the checksum of a row that an older thalweg wrote
_NOT_COVERED = frozenset({CHECKSUM, "id"})  # a number that the database assigns is unknown when a row is written
_ESCAPED = "\ufdd0"  # no character: it begins a text that UTF-8 cannot hold as it is


class DamagedRowError(Exception):
    """A row cannot be used. The message says which column is wrong."""


def encode(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as the database holds them, with the checksum of the row.

    A number that is not finite becomes None, a list or dict becomes JSON.

    Args:
        values: The value of each column.
    """
    row = {name: _to_column(value) for name, value in values.items()}
    return row | {CHECKSUM: checksum_of(row)}


def _to_column(value: Any) -> Any:
    if isinstance(value, dict | list | tuple):
        return json.dumps(value)
    if isinstance(value, float):
        value = finite(value)
        return None if value is None else value + 0.0  # SQLite keeps no sign of zero
    return encode_text(value) if isinstance(value, str) else value


def finite(value: float) -> float | None:
    """Return a number as the database holds it: JSON has no number that is not finite."""
    return float(value) if math.isfinite(value) else None


def encode_text(text: str) -> str:
    """Return a text as UTF-8 can hold it: one with lone surrogates, as of a file name, is written as JSON."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return _ESCAPED + json.dumps(text)
    return _ESCAPED + json.dumps(text) if text.startswith(_ESCAPED) else text


def checksum_of(row: Mapping[str, Any]) -> str:
    """Return the checksum of a row. Columns without a value do not count, so a table can get new ones.

    Args:
        row: The columns as the database holds them.
    """
    facts = [
        [name, value.hex() if isinstance(value, bytes) else value]
        for name, value in sorted(row.items())
        if value is not None and name not in _NOT_COVERED
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def decode(row: Mapping[str, Any], table: sql.Table) -> dict[str, Any]:
    """Return the values of a row. A column that the row lacks is None.

    Args:
        row: The columns as they were read.
        table: The table, with the type of each column.

    Raises:
        DamagedRowError: If the checksum is not that of the row, or a column has another type.
    """
    stored = row.get(CHECKSUM, UNCHECKED)
    if stored != UNCHECKED and stored != checksum_of(row):
        raise DamagedRowError("its checksum is not that of its columns")
    values = {}
    for column in table.columns:
        value = row.get(column.name)
        if value is None and not column.nullable:
            raise DamagedRowError(f"its column {column.name} must have a value, got none")
        values[column.name] = None if value is None else _of_column(column, value)
    return values


def _of_column(column: sql.Column[Any], value: Any) -> Any:
    kind: Any = column.type
    if isinstance(kind, sql.JSON):
        return _of_json(column.name, value)
    if isinstance(kind, sql.String) and isinstance(value, str):
        return _of_text(column.name, value)
    if isinstance(kind, sql.Integer) and isinstance(value, int):
        return value
    if isinstance(kind, sql.Float) and isinstance(value, int | float):
        return float(value)
    raise DamagedRowError(f"its column {column.name} must be of type {kind}, got {type(value).__name__}")


def _of_text(name: str, text: str) -> str:
    if text.startswith(_ESCAPED):
        text = _of_json(name, text.removeprefix(_ESCAPED))
        if isinstance(text, str):
            return text
    elif text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text):
        return text
    raise DamagedRowError(f"its column {name} must be text, and cannot be decoded")


def _of_json(name: str, text: Any) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError):
        raise DamagedRowError(f"its column {name} must be JSON, and cannot be decoded") from None


def number(value: Any) -> float:
    """Return a stored number; not a number if it is None.

    Raises:
        DamagedRowError: If it is no number.
    """
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DamagedRowError(f"a loss must be a number, got {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        raise DamagedRowError("a loss must be a number, got one of too many digits") from None
