"""Columns: where the probes put their values."""

from collections.abc import Callable, Mapping

from thalweg.diagnosis.monitoring.probes.readings import Column, Readings
from thalweg.diagnosis.monitoring.record import Record, Table

# Measured values that the record holds in another form.
RAW = ("update_norms", "slopes", "next_slopes", "next_squares", "inputs")


class Columns:
    """The columns of a record's tables, and of tables from which others are computed.

    Args:
        record: The record.
        readings: Values that were not read yet.
        names: Returns the names of parameters by their id.

    Attributes:
        readings: Values that were not read yet.
        names: Returns the names of parameters by their id.
        raw: The further tables by name.
        parameters_of: Names of the parameters of each optimizer.
    """

    def __init__(self, record: Record, readings: Readings, names: Callable[[], Mapping[int, str]]) -> None:
        self.readings, self.names = readings, names
        self.raw = {name: Table() for name in RAW}
        self.parameters_of: dict[str, list[str]] = {}
        self._tables = self.raw | record.tables()

    def column(self, table: str, name: str) -> Column:
        """Return the column of a name in a table."""
        return self._tables[table].setdefault(name, [])

    def of_optimizer(self, name: str, *tables: str) -> list[Column]:
        """Return the columns of an optimizer in several tables."""
        return [self.column(table, name) for table in tables]

    def pad(self, length: int) -> None:
        """Give all columns as many values."""
        for table in self._tables.values():
            table.pad(length)
