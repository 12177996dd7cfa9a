"""Store: every result, kept from the moment it exists. SQLite through SQLAlchemy.

One file can hold many comparisons. The key of a comparison is the fingerprint of everything that decides its results.
Results that end together are written in one transaction: after a kill, they are all there or none is. Records become
JSON here and nowhere else; the keys and the columns are those of every store of this version. Each row has a checksum.
A damaged row is told and trained again; it never hides the others.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import DBAPIError

from thalweg.comparison.contenders.record import ContenderRecord
from thalweg.comparison.planning.plan import ComparisonPlan
from thalweg.comparison.results.records import ComparisonRecord, TrialRecord
from thalweg.comparison.results.storage import rows
from thalweg.comparison.results.storage.changes import change_comparison, set_elapsed
from thalweg.comparison.results.storage.opening import (
    check_schema,
    damaged,
    explained,
    file_of,
    find_damage,
    open_engine,
    reading,
    writing,
)
from thalweg.comparison.results.storage.rows import DamagedRowError
from thalweg.comparison.results.storage.tables import (
    CLOCKS,
    COMPARISONS,
    METADATA,
    RESULTS,
    VERSIONS,
    belongs_to,
    column_names,
    stored_columns,
)
from thalweg.comparison.results.storage.trials import (
    DamagedRow,
    StoredTrials,
    name_of_row,
    trial_of_values,
    values_of_trial,
)
from thalweg.comparison.training.workload_record import WorkloadRecord
from thalweg.errors import StoreError, shown

VERSION = 5  # of what is written: rows with a checksum
OLDEST_VERSION = 4  # that is read: the same columns, without checksums
MAX_TRAININGS = 1_000_000  # of a contender that a plan may ask for, and of a comparison that is read


class Store:
    """Comparisons and their results, in a file or in memory.

    Attributes:
        path: The file. None for a store in memory.
        label: The name of the store in messages.
        listeners: Functions that are called with each trial once it is stored. They must not raise.
        damage: The problems that SQLite sees in the structure of the file; empty if there is none. A damaged file can
            only be read.

    Example:
        >>> store = Store(None)
        >>> store.find() is None
        True
    """

    def __init__(self, path: str | Path | None, *, write: bool = True) -> None:
        """Open a store, or create an empty one.

        Args:
            path: The file, or a folder for the file `store.sqlite` in it. None keeps everything in memory.
            write: False opens the store for reading only.

        Raises:
            StoreError: If the file cannot be opened or written, or is not a store of this version.
        """
        self.listeners: Sequence[Callable[[TrialRecord], None]] = ()
        self.path = None if path is None else file_of(Path(path))
        self.label = str(self.path) if self.path else "the store in memory"
        self._engine = open_engine(self.path, self.label, write=write)
        try:
            self._check(write=write)
            if write:
                self._prepare()
        except BaseException:
            self.close()
            raise

    def _check(self, *, write: bool) -> None:
        """Raise StoreError before anything is written to a file that is no store of this version, or a damaged one.

        An empty file may become a store.
        """
        version, is_new = None, True
        with explained(self.label, "opened"), self._engine.connect() as connection:
            names = check_schema(connection, METADATA, self.label)
            if not names and not write:
                raise StoreError(
                    f"{self.label}: a store must be made by thalweg, got an empty file. "
                    "Name the folder that `thalweg compare` wrote."
                )
            if names and VERSIONS.name not in names:
                raise StoreError(
                    f"{self.label}: a store must be made by thalweg, got another program's database. "
                    "Choose another file."
                )
            if names:
                version = connection.execute(sql.select(VERSIONS.c.version)).scalar()
                is_new = version is None and not (
                    COMPARISONS.name in names and connection.execute(sql.select(COMPARISONS.c.id)).first()
                )  # a thalweg was killed while it made the store
            self.damage = find_damage(connection)
        if not is_new and not isinstance(version, int):
            raise damaged(self.label)
        if version is not None and version < OLDEST_VERSION:
            raise StoreError(
                f"{self.label}: this thalweg reads stores of version {VERSION}, got version {version}, whose results "
                "follow an older protocol. Choose another file."
            )
        if version is not None and version > VERSION:
            raise StoreError(
                f"{self.label}: this thalweg reads stores of version {VERSION}, got version {version}, "
                "which a newer thalweg wrote. Update thalweg, or choose another file."
            )
        if self.damage and write:
            raise damaged(self.label, f"a damaged file ({self.damage}); `thalweg report` shows what it still holds")

    def _prepare(self) -> None:
        """Create the tables. Write something in any case, so that a read-only file raises an error now."""
        with writing(self._engine, self.label) as connection:
            METADATA.create_all(connection)
            for table in (COMPARISONS, RESULTS):
                stored = column_names(connection, table)
                for column in table.columns:
                    if column.name not in stored:
                        definition = sql.schema.CreateColumn(column).compile(dialect=connection.dialect)
                        connection.execute(sql.text(f"ALTER TABLE {table.name} ADD COLUMN {definition}"))
            connection.execute(sql.delete(VERSIONS))
            connection.execute(sql.insert(VERSIONS).values(version=VERSION))

    def close(self) -> None:
        """Close the file."""
        self._engine.dispose()

    def find(self, key: str | None = None) -> ComparisonRecord | None:
        """Return a comparison.

        Args:
            key: The key of the comparison. None selects the newest one.

        Returns:
            The comparison, or None if there is none.

        Raises:
            StoreError: If the store cannot be read.
        """
        columns = COMPARISONS.c
        query = sql.select(COMPARISONS).order_by(columns.id.desc()).limit(1)
        if key is not None:
            # The sum keeps SQLite from an index, which may be damaged: a row must not be missed.
            query = query.where((columns.key + "") == key)
        with reading(self._engine, self.label) as connection:
            row = connection.execute(stored_columns(connection, query, COMPARISONS)).mappings().first()
        return None if row is None else self._comparison(dict(row))

    def count(self) -> int:
        """Return the number of comparisons.

        Raises:
            StoreError: If the store cannot be read.
        """
        with reading(self._engine, self.label) as connection:
            return connection.execute(sql.select(sql.func.count()).select_from(COMPARISONS)).scalar_one()

    def create(
        self,
        key: str,
        *,
        workload: WorkloadRecord,
        contenders: Sequence[ContenderRecord],
        plan: ComparisonPlan,
        environment: dict[str, Any],
    ) -> ComparisonRecord:
        """Store a new comparison with its plan, before its first trial.

        Args:
            key: The fingerprint of the comparison, unique in the store.
            workload: The task or the training function.
            contenders: The contenders, in the order in which the user named them.
            plan: The plan.
            environment: Versions and machine, as plain JSON.

        Returns:
            The stored comparison.

        Raises:
            StoreError: If the store cannot be written.
        """
        values = {
            "key": key,
            "created": _now(),
            "task": workload.to_json(),
            "contenders": [contender.to_json() for contender in contenders],
            "plan": plan.to_json(),
            "environment": environment,
        }
        with writing(self._engine, self.label) as connection:
            connection.execute(sql.insert(COMPARISONS), rows.encode(values))
        record = self.find(key)
        assert record is not None
        return record

    def add(
        self,
        comparison: int,
        trials: Sequence[TrialRecord],
        *,
        elapsed_s: float | None = None,
        plan: ComparisonPlan | None = None,
        replaced: Sequence[TrialRecord] = (),
    ) -> None:
        """Store trials, all or none.

        Args:
            comparison: The number of the comparison.
            trials: The trials. None of them may be stored already, except in place of one that is replaced.
            elapsed_s: Seconds that the comparison has used, over all sessions. None leaves what is stored.
            plan: The plan that these trials complete. None leaves what is stored.
            replaced: Stored trials that failed, which are deleted.

        Raises:
            StoreError: If the store cannot be written.
        """
        encoded = [rows.encode({"comparison": comparison} | values_of_trial(trial)) for trial in trials]
        with writing(self._engine, self.label) as connection:
            is_failed = (RESULTS.c.comparison == comparison) & (RESULTS.c.status == "failed")
            for trial in replaced:
                of_trial = [RESULTS.c[name] == value for name, value in trial.key._asdict().items()]
                connection.execute(sql.delete(RESULTS).where(is_failed, *of_trial))
            if encoded:
                connection.execute(sql.insert(RESULTS), encoded)
            if elapsed_s is not None:
                set_elapsed(connection, comparison, elapsed_s)
            if plan is not None:
                change_comparison(connection, comparison, {"plan": plan.to_json()})
        for trial in trials:
            for listener in self.listeners:
                listener(trial)

    def elapsed_s(self, comparison: int) -> float:
        """Return the seconds that a comparison has used so far, over all sessions; 0 if none are known.

        Args:
            comparison: The number of the comparison.

        Raises:
            StoreError: If the store cannot be read.
        """
        query = sql.select(CLOCKS.c.elapsed_s).where(CLOCKS.c.comparison == comparison)
        with reading(self._engine, self.label) as connection:
            stored = connection.execute(query).scalar()
        return float(stored) if isinstance(stored, int | float) and 0 <= stored < math.inf else 0.0

    def trials(self, comparison: int, stage: str | None = None, contender: str | None = None) -> list[TrialRecord]:
        """Return the stored trials of a comparison, ordered by study, trial and seed.

        Args:
            comparison: The number of the comparison.
            stage: Only trials of this stage. None selects all.
            contender: Only trials of this contender. None selects all.

        Raises:
            StoreError: If the store cannot be read, or one of its rows is damaged. ``read_trials`` returns the others.
        """
        stored = self.read_trials(comparison)
        if stored.damaged:
            raise StoreError(self.sentence_of(stored.damaged))
        return [
            trial for trial in stored.trials if stage in (None, trial.stage) and contender in (None, trial.contender)
        ]

    def read_trials(self, comparison: int) -> StoredTrials:
        """Return all trials of a comparison that can be read, and what is wrong with the others.

        Args:
            comparison: The number of the comparison.

        Raises:
            StoreError: If the store cannot be read.
        """
        read, trials, damage, unchecked = list[dict[str, Any]](), [], [], 0
        with reading(self._engine, self.label) as connection:
            query = sql.select(RESULTS).where(belongs_to(comparison)).limit(MAX_TRAININGS + 1)
            query = stored_columns(connection, query, RESULTS).add_columns(sql.literal_column("rowid").label("rowid"))
            try:
                read.extend(dict(row) for row in connection.execute(query).mappings())
            except DBAPIError as error:
                if "malformed" not in str(error.orig):
                    raise
                damage.append(DamagedRow(None, f"the trainings after the first {len(read)}: {error.orig}"))
        if len(read) > MAX_TRAININGS:
            raise damaged(self.label, f"more than {MAX_TRAININGS:,} trainings")
        for row in read:
            rowid = row.pop("rowid")
            try:
                if row["comparison"] != comparison:
                    raise DamagedRowError("it belongs to no comparison")
                trials.append(trial_of_values(rows.decode(row, RESULTS)))
                unchecked += row.get(rows.CHECKSUM, rows.UNCHECKED) == rows.UNCHECKED
            except DamagedRowError as error:
                damage.append(DamagedRow(rowid, f"{name_of_row(row)}: {error}"))
        trials.sort(key=lambda trial: (trial.study, trial.trial, trial.seed))
        return StoredTrials(trials, damage, unchecked)

    def sentence_of(self, damage: Sequence[DamagedRow]) -> str:
        """Return one sentence on damaged rows: how many, the first of them, and what to do."""
        count = "a stored training is" if len(damage) == 1 else f"{len(damage)} stored trainings are"
        return (
            f"{self.label}: stored trainings must be as they were written, and {count} damaged. {damage[0].text}. "
            "Run the same compare command again to train it anew; the others are kept."
        )

    def discard(self, damage: Sequence[DamagedRow]) -> None:
        """Delete damaged rows, so that they can be trained again.

        Args:
            damage: The rows, from ``read_trials``.

        Raises:
            StoreError: If the store cannot be written.
        """
        numbers = [row.rowid for row in damage if row.rowid is not None]
        with writing(self._engine, self.label) as connection:
            connection.execute(sql.delete(RESULTS).where(sql.literal_column("rowid").in_(numbers)))

    def finish(self, comparison: int, *, elapsed_s: float | None = None) -> None:
        """Mark a comparison as finished.

        Args:
            comparison: The number of the comparison.
            elapsed_s: Seconds that the comparison has used, over all sessions. None leaves what is stored.

        Raises:
            StoreError: If the store cannot be written.
        """
        self._set_finished(comparison, _now(), elapsed_s)

    def reopen(self, comparison: int, *, elapsed_s: float | None = None) -> None:
        """Mark a comparison as unfinished, before trainings that failed or are damaged are done again.

        Args:
            comparison: The number of the comparison.
            elapsed_s: Seconds of its budget that count as used. None leaves what is stored.

        Raises:
            StoreError: If the store cannot be written.
        """
        self._set_finished(comparison, None, elapsed_s)

    def _set_finished(self, comparison: int, time: str | None, elapsed_s: float | None = None) -> None:
        with writing(self._engine, self.label) as connection:
            change_comparison(connection, comparison, {"finished": time})
            if elapsed_s is not None:
                set_elapsed(connection, comparison, elapsed_s)

    def _comparison(self, row: Mapping[str, Any]) -> ComparisonRecord:
        """The record of a row; raises StoreError if it is damaged or lacks a key."""
        try:
            values = rows.decode(row, COMPARISONS)
            record = ComparisonRecord(
                id=values["id"],
                key=values["key"],
                created=values["created"],
                finished=values["finished"],
                workload=WorkloadRecord.from_json(values["task"]),
                contenders=[ContenderRecord.from_json(stored) for stored in values["contenders"]],
                plan=ComparisonPlan.from_json(values["plan"]),
                environment=dict(values["environment"]),
            )
            num_trainings = record.plan.num_planned_trainings
            if not num_trainings <= 2 * MAX_TRAININGS:  # a plan of so many would be read for ever
                raise DamagedRowError(f"its plan asks for {num_trainings:,} trainings")
        except Exception as error:  # JSON of another shape can raise anything
            reason = str(error) if isinstance(error, DamagedRowError) else f"{type(error).__name__}: {error}"
            raise damaged(
                self.label, f"a damaged file: in the row of comparison {row.get('id')}, {shown(reason, 200)}"
            ) from error
        return record


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
