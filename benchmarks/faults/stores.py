"""Attacks on stores: `python -m benchmarks.faults.stores` (some minutes, one core).

A store survives a flipped byte, a cut, a malformed column or a hostile schema if what is read is equal to what was
written, or the damage is told: an error of the store, or a part of the result that is missing, but no traceback and no
other value. (Rows that somebody deleted are not told: this one of the hostile schemas is not survived.) It survives a
full disk if no training that was stored is lost, and the same call ends the comparison. The script writes the numbers
of attacks, tried and survived, to `benchmarks/records/faults_stores.json`.
"""

import argparse
import json
import random
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import thalweg
from cases.full_disk import full_disk
from thalweg.bench.bench import machine
from thalweg.comparison import Comparison, Store
from thalweg.errors import StoreError
from thalweg.report import render

RECORD = Path(__file__).parents[1] / "records" / "faults_stores.json"
FLIPS, CUTS = 400, 40
CONTENDERS, ARGUMENTS = ["gd", "adam"], {"budget": "4trials", "workers": 1, "seed": 5}
VALUES = (
    "NULL",
    "'text'",
    "1e999",
    "-1",
    "x'00ff'",
    "CAST(x'fffefd' AS TEXT)",
    f"'{'[' * 3000}'",
    "'[[1, \"x\"]]'",
    "''",
)
SCHEMAS = (
    "DROP TABLE results; CREATE VIEW results AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
    "SELECT 1 AS comparison, i AS trial FROM n",
    "ALTER TABLE comparisons RENAME TO c; CREATE VIEW comparisons AS SELECT * FROM c",
    "CREATE TRIGGER evil AFTER INSERT ON results BEGIN DELETE FROM comparisons; END",
    "CREATE TRIGGER evil BEFORE DELETE ON thalweg_store BEGIN SELECT RAISE(IGNORE); END",
    "ALTER TABLE results ADD COLUMN evil TEXT GENERATED ALWAYS AS (hex(zeroblob(1000000))) VIRTUAL",
    "DROP TABLE results; CREATE VIRTUAL TABLE results USING fts5(contender)",
    "DROP TABLE results",
    "DROP TABLE comparisons",
    "DELETE FROM thalweg_store",
    "UPDATE thalweg_store SET version = 'x'",
    "UPDATE comparisons SET plan = '[]'",
    "UPDATE comparisons SET contenders = '{}'",
    "UPDATE comparisons SET task = 'null', checksum = 'none'",
    "DELETE FROM results WHERE rowid % 2",
)


def facts(path: Path, *, with_page: bool = False) -> dict[str, Any]:
    """Return all that a store says, with each stored number; also make its page."""
    store = Store(path, write=False)
    try:
        record = store.find()
        if record is None:
            raise StoreError("no comparison")
        comparison = Comparison(store, record)
        if with_page:
            render(comparison)
        return comparison.to_json() | {"trials": [repr(trial) for trial in comparison.trainings]}
    finally:
        store.close()


def outcome(path: Path, expected: dict[str, Any], *, with_page: bool) -> str:
    """Return ``error``, ``note`` or ``equal`` if the store survives, else what went wrong."""
    try:
        read = facts(path, with_page=with_page)
    except StoreError:
        return "error"
    except Exception as error:
        return f"wrong: {type(error).__name__}: {error}"
    if any(part["is_bug"] for part in read["missing_parts"]):
        return f"wrong: {read['missing_parts']}"
    is_told = read["missing_parts"] or any("no checksum" in caution for caution in read["cautions"])
    return "note" if is_told else "equal" if read == expected else "wrong: another value"


def mutations(whole: Path, path: Path) -> Iterator[str]:
    """Damage copies of a store at a path, and yield the kind of each damage."""
    content, draw = whole.read_bytes(), random.Random(0)
    used = [place for place, byte in enumerate(content) if byte]
    for place in draw.sample(used, FLIPS):
        flipped = bytearray(content)
        flipped[place] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        yield "a bit flipped"
    for size in draw.sample(range(len(content)), CUTS):
        path.write_bytes(content[:size])
        yield "cut"
    with closing(sqlite3.connect(whole)) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(results)")]
        (definition,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'results'").fetchone()
    for column in columns:
        for value in VALUES:
            shutil.copy(whole, path)
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("ALTER TABLE results RENAME TO before")
                connection.execute(definition.replace(" NOT NULL", ""))
                connection.execute("INSERT INTO results SELECT * FROM before")
                connection.execute("DROP TABLE before")
                connection.execute(f"UPDATE results SET {column} = {value} WHERE rowid = 2")
                connection.commit()
            yield "a malformed column"
    for statements in SCHEMAS:
        shutil.copy(whole, path)
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(statements)
        yield "a hostile schema"


def attack_writes(whole: Path, folder: Path) -> Counter[str]:
    """Let each write of a comparison fail in turn, and run it again to its end."""
    expected, results = facts(whole)["verdict"], Counter[str]()
    with full_disk(0) as writes:
        thalweg.compare("quadratic", CONTENDERS, **ARGUMENTS, store=folder / "counted.sqlite")
    for write in range(1, len(writes) + 1):
        path = folder / f"full-{write}.sqlite"
        try:
            with full_disk(write):
                thalweg.compare("quadratic", CONTENDERS, **ARGUMENTS, store=path)
            results["wrong: no error"] += 1
            continue
        except StoreError as error:
            if "Free some space" not in str(error):
                raise
        try:
            before = facts(path)["trials"]
        except StoreError:  # nothing was stored yet
            before = []
        ended = thalweg.compare("quadratic", CONTENDERS, **ARGUMENTS, store=path)
        after = facts(path)["trials"]
        is_whole = set(before) <= set(after) and ended.to_json()["verdict"] == expected
        results["resumed" if is_whole else "wrong: a training was lost"] += 1
    return results


def main() -> None:
    """Attack, and write the record."""
    results: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole, path = folder / "whole.sqlite", folder / "store.sqlite"
        thalweg.compare("quadratic", CONTENDERS, **ARGUMENTS, store=whole)
        expected = facts(whole)
        for kind in mutations(whole, path):
            results.setdefault(kind, Counter())[outcome(path, expected, with_page="schema" in kind)] += 1
        results["a disk full at a write"] = attack_writes(whole, folder)
    table = {
        kind: {
            "tried": counts.total(),
            "survived": sum(count for end, count in counts.items() if not end.startswith("wrong")),
            "ends": dict(sorted(counts.items())),
        }
        for kind, counts in results.items()
    }
    total = {key: sum(entry[key] for entry in table.values()) for key in ("tried", "survived")}
    RECORD.write_text(json.dumps({"total": total, "attacks": table, "machine": machine()}, indent=1) + "\n")
    print(json.dumps(table, indent=1), total)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
