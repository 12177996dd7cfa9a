"""The store: nothing is lost, and each error says why a file cannot be used."""

import json
import math
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sql

import thalweg
from cases.comparison_records import PLAN, WORKLOAD
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.results.storage import opening
from thalweg.comparison.results.storage.opening import writing
from thalweg.comparison.results.storage.tables import RESULTS
from thalweg.comparison.results.store import VERSION, Store
from thalweg.comparison.training.result import Evaluation, TrainingResult
from thalweg.errors import StoreError


def filled(store: Store) -> int:
    return store.create("key", workload=WORKLOAD, contenders=[], plan=PLAN, environment={"cores": 2}).id


def record(trial: int, seed: int = 0, value: float = 1.5) -> TrialRecord:
    evaluations = [Evaluation(0, 3.0, math.nan), Evaluation(5, value, value)]
    return TrialRecord(
        "sgd", "search", 0, trial, seed, {"lr": 0.1}, TrainingResult("ok", value, value, value, 0.25, 0.5, evaluations)
    )


@contextmanager
def every_connection(statement: str) -> Iterator[None]:
    """Run a statement on each database connection made meanwhile."""

    def run(connection: sqlite3.Connection, _: object) -> None:
        connection.execute(statement)

    sql.event.listen(sql.engine.Engine, "connect", run)
    try:
        yield
    finally:
        sql.event.remove(sql.engine.Engine, "connect", run)


def test_records_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "store.sqlite"
    store = Store(path)
    comparison = filled(store)
    store.add(comparison, [record(1), record(0, value=1 / 3)])
    store.close()
    read = Store(path)
    stored = read.find()
    assert stored is not None
    assert (stored.key, stored.workload, stored.contenders, stored.plan) == ("key", WORKLOAD, [], PLAN)
    assert stored.environment == {"cores": 2}
    assert read.find("other") is None
    (first, second) = read.trials(comparison, "search", "sgd")
    assert (first.trial, second.trial) == (0, 1)
    assert first.result.train == 1 / 3
    assert first.result.evaluations[1] == Evaluation(5, 1 / 3, 1 / 3)
    assert math.isnan(first.result.evaluations[0].validation)
    assert read.trials(comparison, "final") == []


def test_results_are_stored_all_or_none(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.sqlite")
    comparison = filled(store)
    store.add(comparison, [record(0)])
    with pytest.raises(StoreError, match="Another process is running the same comparison"):
        store.add(comparison, [record(1), record(0)])
    assert [trial.trial for trial in store.trials(comparison)] == [0]


@contextmanager
def ctrl_c_at_each_statement(store: Store) -> Iterator[None]:
    """Send Ctrl-C at each statement of a store, before it runs."""

    def interrupt(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    sql.event.listen(store._engine, "before_cursor_execute", interrupt)
    try:
        yield
    finally:
        sql.event.remove(store._engine, "before_cursor_execute", interrupt)


@pytest.mark.parametrize("name", [None, "store.sqlite"])
def test_ctrl_c_neither_undoes_what_is_written_nor_loses_what_was_there(tmp_path: Path, name: str | None) -> None:
    store = Store(name and tmp_path / name)
    comparison = filled(store)
    store.add(comparison, [record(0)])
    with pytest.raises(KeyboardInterrupt), ctrl_c_at_each_statement(store):
        store.add(comparison, [record(1)])
    for read in (store.find, lambda: store.trials(comparison)):
        with pytest.raises(KeyboardInterrupt), ctrl_c_at_each_statement(store):
            read()
    assert [trial.trial for trial in store.trials(comparison)] == [0, 1]


def test_ctrl_c_while_a_write_fails_is_not_lost() -> None:
    store = Store(None)
    comparison = filled(store)
    store.add(comparison, [record(0)])
    with pytest.raises(KeyboardInterrupt), ctrl_c_at_each_statement(store):
        store.add(comparison, [record(0)])


def test_a_transaction_that_writes_waits_for_others_from_its_start_and_readers_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.sqlite"
    first = Store(path)
    comparison = filled(first)
    first.add(comparison, [record(0)])
    monkeypatch.setattr(opening, "_LOCK_WAIT_MS", 0)  # the second one says at once that it would wait
    second = Store(path)
    assert second.trials(comparison)
    with writing(first._engine, first.label) as connection:
        assert connection.execute(sql.select(RESULTS)).all()
        assert second.trials(comparison)
        # It has not written yet, but it will: another one must not begin, or one of the two could never end.
        with pytest.raises(StoreError, match="locked"), writing(second._engine, second.label):
            pass
        connection.execute(sql.delete(RESULTS))
    with writing(second._engine, second.label):
        assert second.trials(comparison) == []


def test_a_number_that_is_not_finite_is_stored_as_null_and_read_as_nan() -> None:
    store = Store(None)
    comparison = filled(store)
    store.add(comparison, [record(0, value=math.inf)])
    assert math.isnan(store.trials(comparison)[0].result.test)


def test_another_programs_files_are_left_alone(tmp_path: Path) -> None:
    text, database = tmp_path / "notes.txt", tmp_path / "other.sqlite"
    text.write_text("my notes, which are longer than a header of SQLite " * 50)
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE recipes (name)")
    connection.close()
    for path, message in ((text, "another program's file"), (database, "another program's database")):
        before = path.read_bytes()
        with pytest.raises(StoreError, match=message):
            thalweg.compare("quadratic", ["gd"], budget="1trial", store=path)
        assert path.read_bytes() == before


def test_a_file_that_is_no_store_raises(tmp_path: Path) -> None:
    whole = tmp_path / "store.sqlite"
    Store(whole).close()
    empty, text, damaged = (tmp_path / name for name in ("empty", "notes.txt", "damaged.sqlite"))
    empty.touch()
    text.write_text("my notes, which are longer than a header of SQLite " * 50)
    content = whole.read_bytes()
    damaged.write_bytes(content.replace(b"thalweg_store", b"\xff\xfe\xfd\xfclweg_store"))
    for path, message in (
        (empty, "a store must be made by thalweg, got an empty file"),
        (text, "a store must be made by thalweg, got another program's file"),
        (damaged, "a store must be readable, got a damaged file"),
    ):
        before = path.read_bytes()
        with pytest.raises(StoreError, match=message) as raised:
            Store(path, write=False)
        assert "decode" not in str(raised.value)
        assert path.read_bytes() == before


@pytest.mark.parametrize("column", ["status", "looks"])
def test_damaged_results_raise(tmp_path: Path, column: str) -> None:
    path = tmp_path / "store.sqlite"
    store = Store(path)
    comparison = filled(store)
    store.add(comparison, [record(0), record(1)])
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE results SET {column} = CAST(x'fffefdfc' AS TEXT) WHERE trial = 0")
    connection.close()
    message = (
        r"store.sqlite: stored trainings must be as they were written, and a stored training is damaged\. The training "
        r"of 'sgd' \(stage 'search', study 0, trial 0, seed 0\): its checksum is not that of its columns\. Run the same"
    )
    with pytest.raises(StoreError, match=message):
        Store(path, write=False).trials(comparison)
    assert Store(path, write=False).read_trials(comparison).trials == [record(1)]


def test_a_store_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE thalweg_store (version INTEGER)")
        connection.execute("INSERT INTO thalweg_store VALUES (999)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=f"of version {VERSION}, got version 999, which a newer thalweg wrote"):
        Store(path)
    assert path.read_bytes() == before


def test_a_store_of_an_older_protocol_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE thalweg_store (version INTEGER)")
        connection.execute("INSERT INTO thalweg_store VALUES (1)")
    connection.close()
    with pytest.raises(StoreError, match="got version 1, whose results follow an older protocol"):
        Store(path)


def test_a_read_only_store_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    comparison = thalweg.compare("quadratic", ["gd"], budget="1trial", store=path)
    with every_connection("PRAGMA query_only = ON"):
        opened = Store(path, write=False)
        assert thalweg.Comparison(opened, opened.find()).to_json() == comparison.to_json()


def test_any_path_is_used_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "odd?name=1 #2" / "store.sqlite"
    Store(path).close()
    assert path.exists()


def test_a_read_only_store_raises_before_the_first_trial(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    Store(path).close()
    with every_connection("PRAGMA query_only = ON"), pytest.raises(StoreError, match="Give write permission"):
        Store(path)


def test_a_folder_that_cannot_be_made_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="its folder must be writable"):
        Store(tmp_path / "file" / "store.sqlite")


def test_the_keys_and_columns_of_version_4_are_still_there(tmp_path: Path) -> None:
    """A store of this version and of the one before must be read: keys may be added, none may go."""
    path = tmp_path / "store.sqlite"
    thalweg.compare("quadratic", ["gd"], budget="1trial", store=path)
    with sqlite3.connect(path) as connection:
        row = connection.execute("SELECT task, contenders, plan FROM comparisons").fetchone()
        columns = {column[1] for column in connection.execute("PRAGMA table_info(results)")}
    connection.close()
    task, (contender,), plan = map(json.loads, row)
    assert {"name", "about", "measured", "passes"} <= task.keys()
    assert {
        *("name", "about", "optimizer", "arguments", "then", "source", "full_batch", "schedule", "start"),
        *("recommended", "defaults", "keywords", "space", "remarkable", "state_numbers", "state_bytes", "searched"),
    } <= contender.keys()
    assert {
        *("seed", "design", "scale", "workers", "horizons", "ways", "ranges", "extended", "draws", "step_s"),
        *("optimum", "target", "selected_on", "judged_on", "device", "device_reason", "num_devices"),
    } <= plan.keys()
    assert {"steps", "schedule", "looks"} <= plan["horizons"]["gd"].keys()
    assert {"members", "fixed_s", "member_s", "reason"} <= plan["ways"]["gd"].keys()
    assert {"kind", "untrained"} <= plan["scale"].keys()
    assert {
        *("comparison", "contender", "stage", "study", "trial", "seed", "settings", "status", "message"),
        *("train", "validation", "test", "test_error", "seconds", "looks", "hardware", "traceback", "checksum"),
    } <= columns


def test_a_store_of_version_4_is_read_as_unchecked_and_gets_the_columns_when_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    before = thalweg.compare("quadratic", ["gd"], budget="1trial", store=path, workers=1)
    expected = before.to_json()
    with sqlite3.connect(path) as connection:
        for column in ("hardware", "traceback", "checksum"):
            connection.execute(f"ALTER TABLE results DROP COLUMN {column}")
        connection.execute("ALTER TABLE comparisons DROP COLUMN checksum")
        connection.execute("UPDATE thalweg_store SET version = 4")
        (plan,) = connection.execute("SELECT plan FROM comparisons").fetchone()
        old = {key: value for key, value in json.loads(plan).items() if "device" not in key}
        connection.execute("UPDATE comparisons SET plan = ?", [json.dumps(old)])
    connection.close()
    store = Store(path, write=False)
    count = len(before.store.trials(1))
    assert store.read_trials(1).unchecked == count > 0
    read = thalweg.Comparison(store, before.record).to_json()
    assert f"{count} stored trainings have no checksum" in read["cautions"][-1]
    assert read | {"cautions": read["cautions"][:-1]} == expected | {"device": expected["device"] | {"hardware": []}}
    again = thalweg.compare("quadratic", ["gd"], budget="1trial", store=path, workers=1)
    assert again.plan.device == "auto"
    assert {trial.result.hardware for trial in again.store.trials(1)} == {""}
    assert again.verdict == before.verdict
    again.store.add(1, [record(9)])
    assert Store(path).read_trials(1).unchecked == count  # of the new row the checksum is known


@pytest.mark.parametrize("column", ["task", "plan"])
def test_a_comparison_whose_record_lacks_a_key_is_damaged(tmp_path: Path, column: str) -> None:
    path = tmp_path / "store.sqlite"
    store = Store(path)
    filled(store)
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE comparisons SET {column} = '{{}}'")
    connection.close()
    with pytest.raises(StoreError, match="a store must be readable, got a damaged file"):
        Store(path, write=False).find()
