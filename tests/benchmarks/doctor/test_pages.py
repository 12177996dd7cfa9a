"""The record of diagnoses of the pages of causes is of the pages as they are; the documents state its numbers."""

import json
import re
from typing import Any

import pytest

from benchmarks.doctor import pages
from thalweg.diagnosis.judging.candidates import SYMPTOMS
from thalweg.diagnosis.kinds import KINDS

LEAST = 53  # pages whose kind the doctor names first


@pytest.fixture(scope="module")
def record() -> Any:
    return json.loads(pages.RECORD.read_text())


def test_the_record_has_a_row_of_every_page_as_it_is(record: Any) -> None:
    assert [row["kind"] for row in record["rows"]] == list(KINDS)
    changed = [row["kind"] for row in record["rows"] if row["example"] != pages.fingerprint(row["kind"])]
    assert not changed, f"run: python -m benchmarks.doctor.pages --only {' '.join(changed)}"


def test_the_numbers_of_the_record_are_those_of_its_rows(record: Any) -> None:
    rows = {row["kind"]: row for row in record["rows"]}
    counted = pages.record_of(rows)
    for name in ("pages", "first", "in the first three", "verified", "disagreements"):
        assert record[name] == counted[name]
    assert all(
        row["place"] == (1 + row["named"].index(kind) if kind in row["named"] else None) for kind, row in rows.items()
    )
    assert record["first"] >= LEAST


def test_the_index_states_the_agreements(record: Any) -> None:
    text = " ".join((pages.PAGES.parent / "index.md").read_text().split())
    ((first, of),) = re.findall(r"On (\d+) of (\d+) it names the kind of the page first", text)
    assert (int(first), int(of)) == (record["first"], len(KINDS))
    (stated,) = re.findall(r"It names another cause first on \d+: (.*?)\.(?: |$)(?!md)", text)
    assert re.findall(r"\(causes/(\w+)\.md\)", stated) == record["disagreements"]


def test_where_the_doctor_names_another_kind_it_is_the_cause_of_a_symptom_and_the_page_names_it(record: Any) -> None:
    for row in record["rows"]:
        if row["place"] != 1:
            assert KINDS[row["kind"]].group == SYMPTOMS
            text = " ".join((pages.PAGES / f"{row['kind']}.md").read_text().split())
            assert f"on the example [{row['named'][0]}]({row['named'][0]}.md)" in text


@pytest.mark.parametrize("kind", ["update_below_precision", "adam_eps_underflow"])
def test_the_doctor_names_the_kind_of_a_page(kind: str) -> None:
    row = pages.row_of(kind)
    assert row["place"] == 1
    assert row["verified"]
    assert row["example"] == pages.fingerprint(kind)


def test_counts_of_rows() -> None:
    row = {"verified": True, "place": 1}
    rows = {
        "lr_too_low": row | {"kind": "lr_too_low", "place": 4, "verified": False},
        "lr_too_high": row | {"kind": "lr_too_high"},
        "plateau": row | {"kind": "plateau", "place": 3},
        "zero_init": row | {"kind": "zero_init", "place": None},
    }
    record = pages.record_of(rows)
    assert [row["kind"] for row in record["rows"]] == ["lr_too_high", "lr_too_low", "zero_init", "plateau"]
    assert (record["pages"], record["first"], record["in the first three"], record["verified"]) == (4, 1, 2, 3)
    assert record["disagreements"] == ["lr_too_low", "zero_init", "plateau"]


def test_rows_of_other_pages_are_kept(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def row_of(kind: str) -> Any:
        return {"kind": kind, "named": [kind], "place": 1, "cure": "x", "verified": True, "seconds": 1.0}

    monkeypatch.setattr(pages, "row_of", row_of)
    path = tmp_path / "pages.json"
    pages.main(["--only", "plateau", "--record", str(path)])
    pages.main(["--only", "zero_init", "--record", str(path)])
    record = json.loads(path.read_text())
    assert [row["kind"] for row in record["rows"]] == ["zero_init", "plateau"]
    with pytest.raises(SystemExit):
        pages.main(["--only", "no_such_kind"])
