"""Changes to the row of a comparison, in a transaction of the caller."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sql

from thalweg.comparison.results.storage import rows
from thalweg.comparison.results.storage.tables import CLOCKS, COMPARISONS


def change_comparison(connection: sql.Connection, comparison: int, values: Mapping[str, Any]) -> None:
    """Change columns of a comparison, and its checksum with them."""
    is_this = COMPARISONS.c.id == comparison
    row = dict(connection.execute(sql.select(COMPARISONS).where(is_this)).mappings().one())
    changed = {name: value for name, value in rows.encode(values).items() if name != rows.CHECKSUM}
    if row[rows.CHECKSUM] != rows.UNCHECKED:
        changed[rows.CHECKSUM] = rows.checksum_of(row | changed)
    connection.execute(sql.update(COMPARISONS).where(is_this).values(changed))


def set_elapsed(connection: sql.Connection, comparison: int, elapsed_s: float) -> None:
    """Store the seconds that a comparison has used."""
    connection.execute(sql.delete(CLOCKS).where(CLOCKS.c.comparison == comparison))
    connection.execute(sql.insert(CLOCKS).values(comparison=comparison, elapsed_s=float(elapsed_s)))
