"""Diagnoses of the examples on the pages of causes: does the doctor name the kind that each page is about?

    python -m benchmarks.doctor.pages                          # all pages, about a quarter of an hour on one core
    python -m benchmarks.doctor.pages --only plateau loss_spike

Each example is saved as a file and diagnosed as ``thalweg doctor FILE:training`` does it. The record,
``benchmarks/records/pages.json``, has a row for each page: the kinds in the order of the findings, the place of the
page's own kind, the cure, and the time. A row holds a hash of its example, so a test notices a page that has changed.
"""

import argparse
import hashlib
import json
import re
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.doctor.rows import ROOT, Row, finite
from thalweg.bench.records import machine
from thalweg.diagnosis.diagnose import diagnose
from thalweg.diagnosis.diagnosis import Diagnosis
from thalweg.diagnosis.kinds import KINDS
from thalweg.tasks.catalogue import load_training

PAGES = ROOT / "docs" / "diagnosis" / "causes"
RECORD = ROOT / "benchmarks" / "records" / "pages.json"
BUDGET = "60s"  # that of the command


def example(kind: str) -> str:
    """Return the program on the page of a kind.

    Args:
        kind: A name of ``KINDS``.
    """
    text = (PAGES / f"{kind}.md").read_text()
    return re.findall(r"^## An example$.*?```python\n(.*?)```", text, flags=re.DOTALL | re.MULTILINE)[0]


def fingerprint(kind: str) -> str:
    """Return a short hash of the program on the page of a kind."""
    return hashlib.sha256(example(kind).encode()).hexdigest()[:12]


def diagnose_page(kind: str) -> Diagnosis:
    """Diagnose the program on the page of a kind."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / f"{kind}.py"
        path.write_text(example(kind))
        return diagnose(load_training(f"{path}:training"), budget=BUDGET)


def row_of(kind: str) -> Row:
    """Return what a diagnosis says of the page of a kind."""
    began, worked = time.perf_counter(), time.process_time()
    diagnosis = diagnose_page(kind)
    named = [finding.kind for finding in diagnosis.findings]
    cure = diagnosis.cure
    return {
        "kind": kind,
        "named": named,
        "place": named.index(kind) + 1 if kind in named else None,
        "where": diagnosis.findings[0].where if named else None,
        "severity": diagnosis.findings[0].severity if named else None,
        "cure": None if cure is None else cure.name,
        "verified": cure is not None and cure.verified,
        "caution": diagnosis.caution,
        "seconds": time.perf_counter() - began,
        "processor_seconds": time.process_time() - worked,
        "example": fingerprint(kind),
    }


def record_of(rows: Mapping[str, Row]) -> dict[str, Any]:
    """Return the record of the rows of pages, by kind, in the order of kinds."""
    ordered = [rows[kind] for kind in KINDS if kind in rows]
    return {
        "machine": machine(),
        "pages": len(ordered),
        "first": sum(row["place"] == 1 for row in ordered),
        "in the first three": sum(row["place"] is not None and row["place"] <= 3 for row in ordered),
        "verified": sum(row["verified"] for row in ordered),
        "disagreements": [row["kind"] for row in ordered if row["place"] != 1],
        "rows": ordered,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Diagnose pages and write the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.doctor.pages", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(KINDS), metavar="KIND", help="keep the rows of other pages")
    parser.add_argument("--record", type=Path, default=RECORD)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: dict[str, Row] = {}
    if options.only is not None and options.record.exists():
        rows = {row["kind"]: row for row in json.loads(options.record.read_text())["rows"]}
    for kind in options.only or KINDS:
        row = rows[kind] = row_of(kind)
        options.record.write_text(json.dumps(finite(record_of(rows)), indent=1) + "\n")
        cure = f"{row['cure']} {'verified' if row['verified'] else 'not verified'}" if row["cure"] else "no cure"
        print(f"{kind}: {', '.join(row['named']) or 'healthy'}; {cure}; {row['seconds']:.1f} s", flush=True)
    record = record_of(rows)
    print(f"{record['first']} of {record['pages']} pages are named first; not {', '.join(record['disagreements'])}")


if __name__ == "__main__":
    main()
