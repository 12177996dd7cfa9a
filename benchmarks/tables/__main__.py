"""Write the tables of the documents from the committed records: `python -m benchmarks.tables`.

Measurements come from the records in `benchmarks/records` and `lab/records`. Facts that a rule declares (scope, weight
decay, state, advice) come from the registry of rules, so that a new optimizer is in the documents without another edit.
The tables are in the files of this folder, by subject; those of one benchmark are beside it.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.choosing_in_the_wild import regret_record, replay, truth_tables
from benchmarks.doctor import tables as doctor_tables
from benchmarks.tables import calibration, choosing, evidence, gpu, speed
from benchmarks.tables.markdown import region_names, with_region
from benchmarks.tables.module_map import module_map

ROOT = Path(__file__).parents[2]
AUTHOR = "benchmarks/tables"  # the name in the marks of its regions
RECORDS = ROOT / "benchmarks" / "records"
Record = Any  # parsed JSON

TABLES: dict[str, Callable[[Any], str]] = {
    "catalogue": evidence.catalogue_table,
    "steps": speed.steps_table,
    "rivals": speed.rivals_table,
    "conformance": evidence.conformance_table,
    "calibration": calibration.calibration_table,
    "live": calibration.live_line,
    "choosing": choosing.choosing_table,
    "store_overhead": choosing.store_table,
    "recommended": choosing.recommended_table,
    "transfer": choosing.transfer_table,
    "matrices": speed.matrices_table,
    "rules": speed.rules_table,
    "facts": calibration.facts_table,
    "choosing_in_the_wild_regret": regret_record.as_table,
    "choosing_in_the_wild_replay": replay.as_table,
    "verdicts": choosing.verdicts_table,
    "doctor": doctor_tables.doctor_table,
    "pages": doctor_tables.pages_line,
    "watch": doctor_tables.watch_line,
    "doctor_exam": doctor_tables.exam_line,
}


def wild_tables(record: Record) -> dict[str, str]:
    """Return what the true best settings of real trainings say, as tables and as a sentence for each training."""
    return {
        "wild_contenders": truth_tables.contenders_table(record),
        "wild_summary": truth_tables.summary_table(record),
        "wild_learning_rates": truth_tables.learning_rates_table(record),
        **{f"wild_{name}": truth_tables.evidence_line(record, name) for name in record["trainings"]},
    }


def tables() -> dict[str, str]:
    """Return every table, by the name that marks its place in a document."""
    records = {path.stem: json.loads(path.read_text()) for path in RECORDS.glob("*.json")}
    results = {name: table(records[name]) for name, table in TABLES.items() if name in records}
    demo = json.loads((ROOT / "lab" / "records" / "2026-11-21-demo-two-questions.json").read_text())
    return results | {
        **wild_tables(records["choosing_in_the_wild"]),
        "untuned": truth_tables.defaults_table(records["recommended"]),
        "setting_designs": choosing.setting_designs(),
        "demo": choosing.demo_table(demo),
        "optuna": choosing.optuna_text(records),
        "adamw": speed.adamw_text(records),
        "resting": evidence.resting_table(),
        "modules": module_map(),
        "kinds": doctor_tables.kinds_list(),
        "predicted": gpu.predicted_floors(),
        "gpu": gpu.gpu_line(),
        "gpu_parts": gpu.gpu_parts(),
    }


def documents() -> list[Path]:
    """Return the pages that have a place for a table."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")]
    return sorted(page for page in pages if region_names(page.read_text(), AUTHOR))


def filled(text: str, contents: dict[str, str]) -> str:
    """Return a document with the table of each of its places written anew.

    Raises:
        ValueError: If a place names no table.
    """
    for name in region_names(text, AUTHOR):
        if name not in contents:
            raise ValueError(f"table: a mark must name one of {', '.join(sorted(contents))}, got {name!r}. Correct it.")
        text = with_region(text, name, contents[name], AUTHOR)
    return text


def main() -> None:
    """Write the tables into all documents."""
    contents = tables()
    for document in documents():
        document.write_text(filled(document.read_text(), contents))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
