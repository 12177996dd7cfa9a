"""Store: every result, kept from the moment it exists. SQLite through SQLAlchemy.

One file can hold many comparisons. The key of a comparison is the fingerprint of everything that decides its results.
Results that end together are written in one transaction: after a kill, they are all there or none is. Records become
JSON here and nowhere else; the keys and the columns are those of every store of this version.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from thalweg.comparison.contenders.record import ContenderRecord
from thalweg.comparison.planning.plan import ComparisonPlan
from thalweg.comparison.results.records import ComparisonRecord, TrialRecord
from thalweg.comparison.training.result import Evaluation, TrainingResult
from thalweg.comparison.training.workload import WorkloadRecord
from thalweg.errors import StoreError

VERSION = 4

_tables = sql.MetaData()
_versions = sql.Table("thalweg_store", _tables, sql.Column("version", sql.Integer, nullable=False))
_comparisons = sql.Table(
    "comparisons",
    _tables,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("key", sql.String, unique=True, nullable=False),
    sql.Column("created", sql.String, nullable=False),
    sql.Column("finished", sql.String),
    sql.Column("task", sql.JSON, nullable=False),
    sql.Column("contenders", sql.JSON, nullable=False),
    sql.Column("plan", sql.JSON, nullable=False),
    sql.Column("environment", sql.JSON, nullable=False),
)
_results = sql.Table(
    "results",
    _tables,
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
    sql.Column("hardware", sql.String),  # added later: a store that lacks it gets it when it is written
)


class Store:
    """Comparisons and their results, in a file or in memory.

    Attributes:
        path: The file. None for a store in memory.
        label: The name of the store in messages.
        listeners: Functions that are called with each trial once it is stored. They must not raise.

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
        self.path = None if path is None else Path(path)
        if self.path is not None and self.path.is_dir():
            self.path /= "store.sqlite"
        self.label = str(self.path) if self.path else "the store in memory"
        if self.path is None:
            # One connection for all threads: each further one would open another, empty database.
            self._engine = sql.create_engine(
                "sqlite://", poolclass=sql.pool.StaticPool, connect_args={"check_same_thread": False}
            )
        else:
            if write:
                try:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    raise StoreError(
                        f"{self.label}: its folder must be writable, got {error}. Choose another."
                    ) from error
            self._engine = sql.create_engine(sql.URL.create("sqlite", database=str(self.path)))
        sql.event.listen(self._engine, "connect", _wait_for_locks)
        try:
            self._check_version(write=write)
            if write:
                self._prepare()
        except BaseException:
            self.close()
            raise

    def _check_version(self, *, write: bool) -> None:
        """Raise StoreError before anything is written to a file that is no store of this version.

        An empty file may become a store.
        """
        with self._explained("opened"), self._engine.connect() as connection:
            names = sql.inspect(connection).get_table_names()
            if not names and not write:
                raise StoreError(
                    f"{self.label}: a store must be made by thalweg, got an empty file. "
                    "Name the folder that `thalweg compare` wrote."
                )
            if names and _versions.name not in names:
                raise StoreError(
                    f"{self.label}: a store must be made by thalweg, got another program's database. "
                    "Choose another file."
                )
            version = connection.execute(sql.select(_versions.c.version)).scalar() if names else None
        if version is not None and version < VERSION:
            raise StoreError(
                f"{self.label}: this thalweg reads stores of version {VERSION}, got version {version}, whose results "
                "follow an older protocol. Choose another file."
            )
        if version is not None and version > VERSION:
            raise StoreError(
                f"{self.label}: this thalweg reads stores of version {VERSION}, got version {version}, "
                "which a newer thalweg wrote. Update thalweg, or choose another file."
            )

    def _prepare(self) -> None:
        """Create the tables. Write something in any case, so that a read-only file raises an error now."""
        with self._explained("written"), self._engine.begin() as connection:
            _tables.create_all(connection)
            if not self._has_hardware(connection):
                connection.execute(sql.text("ALTER TABLE results ADD COLUMN hardware VARCHAR"))
            connection.execute(sql.delete(_versions))
            connection.execute(sql.insert(_versions).values(version=VERSION))

    def _has_hardware(self, connection: sql.Connection) -> bool:
        """True if results have a column for their hardware, which stores of older versions lack."""
        return any(column["name"] == "hardware" for column in sql.inspect(connection).get_columns(_results.name))

    @contextlib.contextmanager
    def _explained(self, verb: str) -> Iterator[None]:
        """Turn an error of the database into a StoreError that says what to do."""
        try:
            yield
        except DBAPIError as error:
            text = str(error.orig)
            if "not a database" in text:
                raise StoreError(
                    f"{self.label}: a store must be made by thalweg, got another program's file. Choose another file."
                ) from error
            if "Could not decode" in text or "malformed" in text:
                raise self._damaged() from error
            if "full" in text:
                advice = "Free some space and run the same command again. All finished results are kept."
            elif "readonly" in text or "unable to open" in text:
                advice = "Give write permission, or choose another file."
            elif "locked" in text:
                advice = "Another process is writing to it. Wait for it to end, then run the same command again."
            elif "UNIQUE" in text:
                advice = "Another process is running the same comparison. Wait for it to end, then run this one again."
            else:
                advice = "The results stored before are kept. Copy the file and start with a new one."
            raise StoreError(f"{self.label}: the store must be {verb}, got {text}. {advice}") from error
        except SQLAlchemyError as error:
            raise StoreError(f"{self.label}: the store must be {verb}, got {error}.") from error
        except ValueError as error:  # its text or JSON cannot be decoded
            raise self._damaged() from error

    def _damaged(self) -> StoreError:
        return StoreError(
            f"{self.label}: a store must be readable, got a damaged file. Choose another, or a copy from before."
        )

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
        query = sql.select(_comparisons).order_by(_comparisons.c.id.desc()).limit(1)
        if key is not None:
            query = query.where(_comparisons.c.key == key)
        with self._explained("read"), self._engine.connect() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else self._comparison(dict(row))

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
        with self._explained("written"), self._engine.begin() as connection:
            connection.execute(sql.insert(_comparisons).values(**values))
        record = self.find(key)
        assert record is not None
        return record

    def add(self, comparison: int, trials: Sequence[TrialRecord]) -> None:
        """Store trials, all or none.

        Args:
            comparison: The number of the comparison.
            trials: The trials. None of them may be stored already.

        Raises:
            StoreError: If the store cannot be written.
        """
        rows = [{"comparison": comparison} | _row_of_trial(trial) for trial in trials]
        with self._explained("written"), self._engine.begin() as connection:
            connection.execute(sql.insert(_results), rows)
        for trial in trials:
            for listener in self.listeners:
                listener(trial)

    def trials(self, comparison: int, stage: str | None = None, contender: str | None = None) -> list[TrialRecord]:
        """Return the stored trials of a comparison, ordered by study, trial and seed.

        Args:
            comparison: The number of the comparison.
            stage: Only trials of this stage. None selects all.
            contender: Only trials of this contender. None selects all.

        Raises:
            StoreError: If the store cannot be read.
        """
        columns = _results.c
        query = (
            sql.select(*(column for column in columns if column is not columns.hardware))
            .where(columns.comparison == comparison)
            .order_by(columns.study, columns.trial, columns.seed)
        )
        if stage is not None:
            query = query.where(columns.stage == stage)
        if contender is not None:
            query = query.where(columns.contender == contender)
        with self._explained("read"), self._engine.connect() as connection:
            if self._has_hardware(connection):
                query = query.add_columns(columns.hardware)
            rows = connection.execute(query).mappings().all()
        return [_trial_of_row(dict(row)) for row in rows]

    def forget(self, comparison: int) -> None:
        """Delete a comparison in which every training failed, so that a repaired task starts anew.

        Args:
            comparison: The number of the comparison.

        Raises:
            StoreError: If the store cannot be written.
        """
        with self._explained("written"), self._engine.begin() as connection:
            connection.execute(sql.delete(_results).where(_results.c.comparison == comparison))
            connection.execute(sql.delete(_comparisons).where(_comparisons.c.id == comparison))

    def finish(self, comparison: int) -> None:
        """Mark a comparison as finished.

        Args:
            comparison: The number of the comparison.

        Raises:
            StoreError: If the store cannot be written.
        """
        change = sql.update(_comparisons).where(_comparisons.c.id == comparison).values(finished=_now())
        with self._explained("written"), self._engine.begin() as connection:
            connection.execute(change)

    def _comparison(self, row: Mapping[str, Any]) -> ComparisonRecord:
        """The record of a row; raises StoreError if its JSON lacks a key."""
        try:
            return ComparisonRecord(
                id=row["id"],
                key=row["key"],
                created=row["created"],
                finished=row["finished"],
                workload=WorkloadRecord.from_json(row["task"]),
                contenders=[ContenderRecord.from_json(stored) for stored in row["contenders"]],
                plan=ComparisonPlan.from_json(row["plan"]),
                environment=row["environment"],
            )
        except (KeyError, TypeError) as error:
            raise self._damaged() from error


def _wait_for_locks(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA busy_timeout = 30000")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _row_of_trial(trial: TrialRecord) -> dict[str, Any]:
    result = trial.result
    return {
        "contender": trial.contender,
        "stage": trial.stage,
        "study": trial.study,
        "trial": trial.trial,
        "seed": trial.seed,
        "settings": trial.settings,
        "status": result.status,
        "message": result.message,
        "train": _to_column(result.train),
        "validation": _to_column(result.validation),
        "test": _to_column(result.test),
        "test_error": _to_column(result.test_error),
        "seconds": _to_column(result.seconds),
        "hardware": result.hardware or None,
        "looks": [
            [evaluation.step, _to_column(evaluation.train), _to_column(evaluation.validation)]
            for evaluation in result.evaluations
        ],
    }


def _trial_of_row(row: Mapping[str, Any]) -> TrialRecord:
    result = TrainingResult(
        status=row["status"],
        train=_from_column(row["train"]),
        validation=_from_column(row["validation"]),
        test=_from_column(row["test"]),
        test_error=_from_column(row["test_error"]),
        seconds=row["seconds"],
        evaluations=[
            Evaluation(step, _from_column(train), _from_column(validation)) for step, train, validation in row["looks"]
        ],
        message=row["message"],
        hardware=row.get("hardware") or "",
    )
    return TrialRecord(row["contender"], row["stage"], row["study"], row["trial"], row["seed"], row["settings"], result)


def _to_column(value: float) -> float | None:
    """A number as the database holds it: JSON has no number that is not finite."""
    return value if math.isfinite(value) else None


def _from_column(value: float | None) -> float:
    return math.nan if value is None else value
