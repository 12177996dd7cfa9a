"""Stores that were damaged, and stores of strangers: a value never changes unnoticed, and nothing of a file is run."""

import base64
import hashlib
import json
import os
import random
import re
import shutil
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import thalweg
from cases.comparison_records import PLAN, WORKLOAD
from tests.pages import without_scripts
from thalweg.cli.main import cli
from thalweg.comparison import Store
from thalweg.comparison.protocol.design import InterimAnalysis
from thalweg.comparison.results.storage import opening
from thalweg.errors import StoreError

ARGUMENTS = {"budget": "6trials", "workers": 1, "seed": 5}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a finished comparison."""
    path = tmp_path_factory.mktemp("whole") / "store.sqlite"
    thalweg.compare("quadratic", ["gd", "adam"], **ARGUMENTS, store=path)
    return path


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    return Path(shutil.copy(whole, tmp_path / "store.sqlite"))


def facts(path: Path) -> dict:
    """Return all that a store says of its newest comparison; raises StoreError if it says nothing."""
    store = Store(path, write=False)
    try:
        record = store.find()
        if record is None:
            raise StoreError("no comparison")
        comparison = thalweg.Comparison(store, record)
        result = comparison.to_json()
        # A table that nobody can see is no result: each stored number counts.
        return result | {"trials": [repr(trial) for trial in comparison.trainings]}
    finally:
        store.close()


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def test_no_flipped_byte_changes_a_value_unnoticed(whole: Path, path: Path) -> None:
    """A changed byte is told as an error or as a missing part, or it changes nothing that is read."""
    content, expected = whole.read_bytes(), facts(whole)
    draw = random.Random(0)
    noticed = 0
    used = [place for place, byte in enumerate(content) if byte]  # the rest is mostly free
    for place in draw.sample(used, 24):
        flipped = bytearray(content)
        flipped[place] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        try:
            result = facts(path)
        except StoreError:
            noticed += 1
            continue
        if result["missing_parts"]:
            noticed += 1
        else:
            assert result == expected, f"the byte at {place}"
    assert noticed > 12


COLUMNS = (
    "comparison",
    "contender",
    "stage",
    "settings",
    "status",
    "message",
    "train",
    "test",
    "seconds",
    "looks",
    "checksum",
)
VALUES = {
    "null": "NULL",
    "a text": "'hostile'",
    "a number": "1e999",
    "a blob": "x'00ff'",
    "text that is no UTF-8": "CAST(x'fffefd' AS TEXT)",
    "nested JSON": "'" + "[" * 3000 + "'",
    "JSON of another shape": """'[[1, "x"], {}]'""",
}


@pytest.mark.parametrize("value", VALUES)
def test_a_malformed_column_is_told_and_the_good_rows_stay(value: str, path: Path) -> None:
    number = len(facts(path)["trials"])
    with closing(sqlite3.connect(path)) as connection:
        (definition,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'results'").fetchone()
    execute(
        path,
        "ALTER TABLE results RENAME TO before",
        definition.replace(" NOT NULL", ""),
        "INSERT INTO results SELECT * FROM before",
        "DROP TABLE before",
    )
    loose = shutil.copy(path, path.with_name("loose.sqlite"))
    for column in COLUMNS:
        shutil.copy(loose, path)
        execute(path, f"UPDATE results SET {column} = {VALUES[value]} WHERE rowid = 1")
        stored = Store(path, write=False).read_trials(1)
        assert len(stored.trials) == number - 1, column
        with pytest.raises(StoreError, match="a stored training is damaged. The training of .* Run the same compare"):
            Store(path, write=False).trials(1)
        result = facts(path)
        assert result["missing_parts"][0]["name"] == "a part of the trainings"
        assert not any(part["is_bug"] for part in result["missing_parts"])


def test_a_row_of_an_older_thalweg_that_belongs_to_no_comparison_is_told(path: Path) -> None:
    number = len(facts(path)["trials"])
    execute(path, "UPDATE results SET checksum = 'none', comparison = 77 WHERE rowid = 1")
    stored = Store(path, write=False).read_trials(1)
    assert len(stored.trials) == number - 1
    assert [damage.text.rpartition(": ")[2] for damage in stored.damaged] == ["it belongs to no comparison"]


def test_damaged_trainings_are_trained_again_by_the_same_command(whole: Path, path: Path) -> None:
    execute(path, "UPDATE results SET test = test * 2 WHERE rowid IN (2, 3)")
    done = CliRunner().invoke(cli, ["report", str(path), "--json"])
    assert done.exit_code == 2
    assert "2 stored trainings are damaged" in done.stderr
    assert json.loads(done.stdout)["missing_parts"][0]["name"] == "a part of the trainings"
    messages: list[str] = []
    again = thalweg.compare(
        "quadratic", ["gd", "adam"], **ARGUMENTS, store=path, watch=lambda progress: messages.append(progress.message)
    )
    assert any("2 stored trainings are damaged and are trained again" in message for message in messages)
    assert again.parts.missing == []
    assert again.to_json()["verdict"] == facts(whole)["verdict"]


def test_a_file_whose_structure_is_damaged_is_read_and_not_written(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE type = 'index' AND tbl_name = 'results'"
        ).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    content = bytearray(path.read_bytes())
    content[(page - 1) * size + 8 : (page - 1) * size + 12] = b"\x0f\xff\x0f\xff"  # places of its cells
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"got a damaged file \(.*\); `thalweg report` shows what it still holds"):
        Store(path)
    assert "a part of the store" in [part["name"] for part in facts(path)["missing_parts"]]


HOSTILE: dict[str, tuple[str, ...]] = {
    "a view that never ends": (
        "DROP TABLE results",
        "CREATE VIEW results AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
        "SELECT 1 AS comparison, 'a' AS contender, i AS trial FROM n",
    ),
    "a view of comparisons": ("ALTER TABLE comparisons RENAME TO c", "CREATE VIEW comparisons AS SELECT * FROM c"),
    "a trigger": ("CREATE TRIGGER evil AFTER INSERT ON results BEGIN DELETE FROM comparisons; END",),
    "a computed column": (
        "ALTER TABLE results ADD COLUMN evil TEXT GENERATED ALWAYS AS (hex(zeroblob(1000000))) VIRTUAL",
    ),
    "a virtual table": ("DROP TABLE results", "CREATE VIRTUAL TABLE results USING fts5(contender)"),
    "no column": ("ALTER TABLE results DROP COLUMN looks",),
    "a version that is no number": ("UPDATE thalweg_store SET version = 'x'",),
    "no version": ("DELETE FROM thalweg_store",),
    "a plan that is a list": ("UPDATE comparisons SET checksum = 'none', plan = '[]'",),
    "a plan of texts": (
        "UPDATE comparisons SET checksum = 'none', plan = json_set(plan, '$.draws', 'x', '$.ways', '{}')",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_schema_gives_an_error_and_no_traceback(kind: str, path: Path) -> None:
    execute(path, *HOSTILE[kind])
    before = path.read_bytes()
    started_s = time.process_time()
    done = CliRunner().invoke(cli, ["report", str(path), "--json"])
    assert time.process_time() - started_s < 30  # of a view that never ends, or a plan
    assert done.exit_code != 0
    if isinstance(done.exception, SystemExit):  # a part of the result is missing
        assert not any(part["is_bug"] for part in json.loads(done.stdout)["missing_parts"])
    else:
        assert isinstance(done.exception, StoreError), done.exception
        assert re.search(r"(must|lacks) .*", str(done.exception))
    assert path.read_bytes() == before


@pytest.mark.parametrize("design", [{"draws": 10**9}, {"race": (InterimAnalysis(10**9, 0.05),)}, {"value": 10**9}])
def test_a_plan_without_end_is_refused(design: dict) -> None:
    """A report asks for all trainings of the plan: it must not ask for ever."""
    store = Store(None)
    plan = replace(PLAN, design=replace(PLAN.design, **design))
    with pytest.raises(StoreError, match="its plan asks for [12],000,000,0.. trainings"):
        store.create("key", workload=WORKLOAD, contenders=[], plan=plan, environment={})


def test_a_statement_that_takes_too_long_is_stopped(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of a stranger may be large without end, too: here the limit is zero."""
    store = Store(path, write=False)
    monkeypatch.setattr(opening, "STATEMENT_LIMIT_S", -1.0)
    monkeypatch.setattr(opening, "_INSTRUCTIONS", 1)
    store.close()  # a new connection takes the new limit
    with pytest.raises(StoreError, match="got interrupted. A statement must end within"):
        store.find()


def test_tables_of_others_in_a_store_are_left_alone(path: Path) -> None:
    expected = facts(path)
    execute(path, "CREATE TABLE mine (x)", "CREATE VIEW notes AS SELECT * FROM mine", "INSERT INTO mine VALUES (1)")
    assert facts(path) == expected
    assert thalweg.compare("quadratic", ["gd", "adam"], **ARGUMENTS, store=path).parts.missing == []


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    """Opening a pipe would wait for ever."""
    pipe = tmp_path / "store.sqlite"
    os.mkfifo(pipe)
    for write in (True, False):
        with pytest.raises(StoreError, match="must be a regular file"):
            Store(pipe, write=write)
    with pytest.raises(StoreError, match="the store must exist"):
        Store(tmp_path / "none.sqlite", write=False)
    assert not (tmp_path / "none.sqlite").exists()
    with pytest.raises(StoreError):
        Store(tmp_path / "a\0b" / "store.sqlite")


# --- reports --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def comparison(whole: Path) -> thalweg.Comparison:
    store = Store(whole, write=False)
    return thalweg.Comparison(store, store.find())


def test_a_report_never_follows_a_link(comparison: thalweg.Comparison, tmp_path: Path) -> None:
    target, link = tmp_path / "precious.txt", tmp_path / "report.html"
    target.write_text("mine")
    for place in (target, tmp_path / "nowhere"):
        link.symlink_to(place)
        for overwrite in (False, True):
            with pytest.raises(StoreError, match="must be a file of its own, got a link to"):
                comparison.report(link, overwrite=overwrite)
        link.unlink()
    assert target.read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()
    os.link(target, link)  # another name of the same file
    comparison.report(link, overwrite=True)
    assert target.read_text() == "mine"


def test_a_file_of_someone_else_is_replaced_only_if_asked(
    comparison: thalweg.Comparison, path: Path, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    page.write_text("<html>my page</html>")
    with pytest.raises(StoreError, match="must not replace a file of someone else"):
        comparison.report(page)
    done = CliRunner().invoke(cli, ["report", str(path)])
    assert done.exit_code == 2
    assert "error: The report could not be made" in done.stderr
    assert "reaches" in done.stdout
    assert page.read_text() == "<html>my page</html>"
    assert CliRunner().invoke(cli, ["report", str(path), "--overwrite"]).exit_code == 0
    assert "thalweg" in page.read_text()
    # Our own pages are replaced, those of older versions too, and their mode is kept.
    page.chmod(0o640)
    page.write_text("<title>digits: Use sgd. · thalweg</title>")
    comparison.report(page)
    assert "How this was measured" in page.read_text()
    assert page.stat().st_mode & 0o777 == 0o640


def test_a_page_is_written_whole_or_not_at_all(
    comparison: thalweg.Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = comparison.report(tmp_path / "report.html")
    before = page.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("fsync", "replace", "fchmod"):
        monkeypatch.setattr(f"thalweg.report.files.os.{name}", full)
        with pytest.raises(StoreError, match="No space left"):
            comparison.report(page)
        monkeypatch.undo()
        assert page.read_bytes() == before
        assert list(tmp_path.iterdir()) == [page]


def test_the_page_may_load_and_run_nothing(comparison: thalweg.Comparison, tmp_path: Path) -> None:
    page = comparison.report(tmp_path / "report.html").read_text()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src &#39;none&#39;;")
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    hashes = {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts}
    (allowed,) = re.findall(r"script-src ([^;]*;[^;]*;.*?); img-src", policy)
    assert set(re.findall(r"sha256-([\w+/=]+)", allowed)) == hashes
    assert "unsafe" not in allowed
    assert "connect-src" not in policy
    assert "http" not in policy
    assert page.index("Content-Security-Policy") < page.index("<style>")
    assert len(re.findall(r"<style\b", without_scripts(page))) == 1


def test_the_store_of_a_stranger_runs_no_code(path: Path, tmp_path: Path) -> None:
    """Whatever a text in a store says, it is shown and not run."""
    mark = tmp_path / "mark"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "UPDATE comparisons SET checksum = 'none', contenders = json_set(contenders, '$[0].optimizer', ?1, "
            "'$[0].about', ?2, '$[0].name', ?2, '$[1].arguments', ?1)",
            [code, "{{ 6 * 7 }}${6*7}{% for x in [1] %}"],
        )
        connection.commit()
    done = CliRunner().invoke(cli, ["report", str(path)])
    assert "42" not in done.output
    assert not mark.exists()
