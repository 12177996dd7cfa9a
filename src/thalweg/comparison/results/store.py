"""Store: every result, kept from the moment it exists. SQLite through SQLAlchemy.

One file can hold many comparisons; each is found again by its key, the fingerprint of everything that decides its
results. A batch of results is written in one transaction: after a kill, a result is there whole or not at all.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from thalweg.comparison.results.records import ComparisonRecord, TrialRecord
from thalweg.comparison.training.result import Evaluation, TrainingResult
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
)


class Store:
    """Comparisons and their results, in a file (`store.sqlite` of a folder), or in memory without a path.

    `write=False` only reads.
    """

    def __init__(self, path: str | Path | None, *, write: bool = True) -> None:
        self.path = None if path is None else Path(path)
        if self.path is not None and self.path.is_dir():
            self.path /= "store.sqlite"
        self._who = str(self.path) if self.path else "the store in memory"
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
                        f"{self._who}: its folder must be writable, got {error}. Choose another."
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
        """Refuse what is no store of this thalweg's before anything is written. An empty file may become one."""
        with self._explained("opened"), self._engine.connect() as connection:
            names = sql.inspect(connection).get_table_names()
            if not names and not write:
                raise StoreError(
                    f"{self._who}: a store must be made by thalweg, got an empty file. "
                    "Name the folder that `thalweg compare` wrote."
                )
            if names and _versions.name not in names:
                raise StoreError(
                    f"{self._who}: a store must be made by thalweg, got another program's database. "
                    "Choose another file."
                )
            version = connection.execute(sql.select(_versions.c.version)).scalar() if names else None
        if version is not None and version < VERSION:
            raise StoreError(
                f"{self._who}: this thalweg reads stores of version {VERSION}, got version {version}, whose results "
                "came about by an older protocol. Choose another file."
            )
        if version is not None and version > VERSION:
            raise StoreError(
                f"{self._who}: this thalweg reads stores of version {VERSION}, got version {version}, "
                "which a newer thalweg wrote. Update thalweg, or choose another file."
            )

    def _prepare(self) -> None:
        """Make the tables. Something is written even where they are there: a read-only file is found out now."""
        with self._explained("written"), self._engine.begin() as connection:
            _tables.create_all(connection)
            connection.execute(sql.delete(_versions))
            connection.execute(sql.insert(_versions).values(version=VERSION))

    @contextlib.contextmanager
    def _explained(self, verb: str) -> Iterator[None]:
        """Turn what the database says into a StoreError that says what to do."""
        try:
            yield
        except DBAPIError as error:
            text = str(error.orig)
            if "not a database" in text:
                raise StoreError(
                    f"{self._who}: a store must be made by thalweg, got another program's file. Choose another file."
                ) from error
            if "Could not decode" in text or "malformed" in text:
                raise self._damaged() from error
            if "full" in text:
                advice = "Free some space and run the same command again: everything finished before is kept."
            elif "readonly" in text or "unable to open" in text:
                advice = "Give write permission, or choose another file."
            elif "locked" in text:
                advice = "Another process is writing to it. Wait for it to end, then run the same command again."
            elif "UNIQUE" in text:
                advice = "Another process is running the same comparison. Wait for it to end, then run this one again."
            else:
                advice = "What was stored before is kept. Copy the file and start with a new one."
            raise StoreError(f"{self._who}: the store must be {verb}, got {text}. {advice}") from error
        except SQLAlchemyError as error:
            raise StoreError(f"{self._who}: the store must be {verb}, got {error}.") from error
        except ValueError as error:  # its text or JSON cannot be decoded
            raise self._damaged() from error

    def _damaged(self) -> StoreError:
        return StoreError(
            f"{self._who}: a store must be readable, got a damaged file. Choose another, or a copy from before."
        )

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()

    def find(self, key: str | None = None) -> ComparisonRecord | None:
        """The comparison of this key, or without one the newest; None where there is none."""
        query = sql.select(_comparisons).order_by(_comparisons.c.id.desc()).limit(1)
        if key is not None:
            query = query.where(_comparisons.c.key == key)
        with self._explained("read"), self._engine.connect() as connection:
            found = connection.execute(query).mappings().first()
        return None if found is None else ComparisonRecord(**found)

    def create(
        self,
        key: str,
        *,
        task: dict[str, Any],
        contenders: list[dict[str, Any]],
        plan: dict[str, Any],
        environment: dict[str, Any],
    ) -> ComparisonRecord:
        """Begin a comparison: its plan is stored before its first trial."""
        values = {"key": key, "created": _now(), "task": task, "contenders": contenders}
        values |= {"plan": plan, "environment": environment}
        with self._explained("written"), self._engine.begin() as connection:
            connection.execute(sql.insert(_comparisons).values(**values))
        header = self.find(key)
        assert header is not None
        return header

    def add(self, comparison: int, entries: Sequence[TrialRecord]) -> None:
        """Write results, all or none."""
        rows = [
            {
                "comparison": comparison,
                "contender": entry.contender,
                "stage": entry.stage,
                "study": entry.study,
                "trial": entry.trial,
                "seed": entry.seed,
                "settings": entry.settings,
                **{key: _stored(value) for key, value in asdict(entry.result).items() if key != "evaluations"},
                "looks": [
                    [look.step, _stored(look.train), _stored(look.validation)] for look in entry.result.evaluations
                ],
            }
            for entry in entries
        ]
        with self._explained("written"), self._engine.begin() as connection:
            connection.execute(sql.insert(_results), rows)

    def entries(self, comparison: int, stage: str | None = None, contender: str | None = None) -> list[TrialRecord]:
        """The stored results of a comparison, in the order of trials and seeds."""
        columns = _results.c
        query = (
            sql.select(_results)
            .where(columns.comparison == comparison)
            .order_by(columns.study, columns.trial, columns.seed)
        )
        if stage is not None:
            query = query.where(columns.stage == stage)
        if contender is not None:
            query = query.where(columns.contender == contender)
        with self._explained("read"), self._engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return [_entry(dict(row)) for row in rows]

    def forget(self, comparison: int) -> None:
        """Delete a comparison in which nothing could be trained, so that a mended task is not met with its failures."""
        with self._explained("written"), self._engine.begin() as connection:
            connection.execute(sql.delete(_results).where(_results.c.comparison == comparison))
            connection.execute(sql.delete(_comparisons).where(_comparisons.c.id == comparison))

    def finish(self, comparison: int) -> None:
        """Note that nothing of the plan is left to do."""
        change = sql.update(_comparisons).where(_comparisons.c.id == comparison).values(finished=_now())
        with self._explained("written"), self._engine.begin() as connection:
            connection.execute(change)


def _wait_for_locks(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA busy_timeout = 30000")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _stored(value: Any) -> Any:
    """A value as the database takes it: what is not finite has no place in JSON, and is stored as nothing."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read(value: float | None) -> float:
    return math.nan if value is None else value


def _entry(row: dict[str, Any]) -> TrialRecord:
    looks = [Evaluation(step, _read(train), _read(validation)) for step, train, validation in row["looks"]]
    losses = {name: _read(row[name]) for name in ("train", "validation", "test", "test_error")}
    result = TrainingResult(row["status"], **losses, seconds=row["seconds"], evaluations=looks, message=row["message"])
    return TrialRecord(row["contender"], row["stage"], row["study"], row["trial"], row["seed"], row["settings"], result)
