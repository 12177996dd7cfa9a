"""Summary: the numbers of all rows, by half of the architectures, and the record of them."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.doctor.rows import ROOT, Row, finite

RECORD = ROOT / "benchmarks" / "records" / "doctor.json"
FIRST_PLACES = 3
SYMPTOMS = {"loss_not_decreasing", "unchanged_tensor"}  # published rules that describe the loss
HALVES = {"open": False, "held_out": True}


def alarms(row: Row) -> list[str]:
    """Return the kinds of the findings above a note."""
    return [finding["kind"] for finding in row.get("findings", []) if finding["severity"] != "note"]


def wrong(row: Row) -> str:
    """Return what is wrong with a judged row in a few words; empty if nothing is."""
    if "error" in row:
        return "error: " + row["error"].strip().splitlines()[-1]
    if row["state"] != "sick":
        return f"false alarm: {', '.join(alarms(row))}" if alarms(row) else ""
    kinds = [finding["kind"] for finding in row["findings"]]
    faults = []
    if row["rank"] != 1:
        faults.append(f"rank {row['rank']}: said {', '.join(kinds[:5]) or 'healthy'}")
    if row["place_right"] is False:
        faults.append(f"wrong place, not {' or '.join(row['where'])}")
    if row["curable"] and not (row["cure_works"] and row["cure_verified"]):
        verified = "verified" if row["cure_verified"] else "not verified"
        metrics = ", ".join("-" if metric is None else f"{metric:.3g}" for metric in row["cured_metrics"])
        faults.append(f"cure {row['cure']} {verified}, reaches {metrics or 'nothing'} of {row['goal']}")
    return "; ".join(faults)


def share(rows: Sequence[Row], holds: Callable[[Row], Any]) -> dict[str, int]:
    """Return how many rows a statement holds for, and how many there are."""
    return {"count": sum(bool(holds(row)) for row in rows), "of": len(rows)}


def numbers(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the numbers of judged rows."""
    sick = [row for row in rows if row["state"] == "sick"]
    blamed = [row for row in sick if row["where"]]
    timed = [row for row in rows if "times" in row]
    works = [row for row in rows if row["state"] != "sick"]
    result: dict[str, Any] = {
        "true cause first": share(sick, lambda row: row.get("rank") == 1),
        "true cause in the first three": share(sick, lambda row: (row.get("rank") or 99) <= FIRST_PLACES),
        "right module": share(blamed, lambda row: row.get("place_right")),
        "false alarms": share(works, lambda row: "error" in row or alarms(row)),
        "cures that work": share(
            [row for row in sick if row["curable"]], lambda row: row.get("cure_verified") and row.get("cure_works")
        ),
        "errors": share(rows, lambda row: "error" in row),
    }
    if timed:
        times, seconds = [row["times"] for row in timed], [row["seconds"] for row in timed]
        result["times of 250 steps"] = {"median": median(times), "largest": max(times)}
        result["seconds"] = {"median": median(seconds), "largest": max(seconds)}
    return result


def rule_numbers(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the numbers of the published rules."""
    sick = [row for row in rows if row["state"] == "sick"]
    works = [row for row in rows if row["state"] != "sick"]
    return {
        "true cause first": share(sick, lambda row: row["rank"] == 1),
        "true cause in the first three": share(sick, lambda row: (row["rank"] or 99) <= FIRST_PLACES),
        "true cause named": share(sick, lambda row: row["rank"]),
        "any rule fires on a sick run": share(sick, lambda row: row["fired"]),
        "false alarms": share(works, lambda row: row["fired"]),
        "false alarms of rules that name a cause": share(works, lambda row: set(row["fired"]) - SYMPTOMS),
        "fired": dict(Counter(rule for row in rows for rule in row["fired"]).most_common()),
    }


def by_half(rows: Sequence[Row], count: Callable[[Sequence[Row]], dict[str, Any]]) -> dict[str, Any]:
    """Return numbers for each half of the architectures."""
    return {name: count([row for row in rows if row["held_out"] == held_out]) for name, held_out in HALVES.items()}


def by_kind(rows: Sequence[Row]) -> dict[str, Any]:
    """Return how many sick rows of each kind were named first."""
    kinds = sorted({row["kind"] for row in rows if row["state"] == "sick"})
    return {
        kind: share([row for row in rows if row["kind"] == kind], lambda row: row.get("rank") == 1) for kind in kinds
    }


def summarize(judged: Sequence[Row], rules: Sequence[Row], verified: Sequence[Row], more: Row, path: Path) -> Row:
    """Write the record of all rows and return it."""
    record = more | {
        "diagnosis": by_half(judged, numbers),
        "published_rules": by_half(rules, rule_numbers),
        "kinds": by_half(judged, by_kind),
        "verified": {
            "cases": len({row["case"] for row in verified}),
            "trainings as said": share(verified, lambda row: row["as_said"]),
            "not as said": sorted({row["case"] for row in verified if not row["as_said"]}),
        },
        "wrong": {row["patient"]: wrong(row) for row in judged if wrong(row)},
        "rows": [brief(row) for row in judged],
    }
    path.write_text(json.dumps(finite(record), indent=1) + "\n")
    return record


def brief(row: Row) -> Row:
    """Return what the record keeps of a judged row."""
    if "error" in row:
        return {"patient": row["patient"], "held_out": row["held_out"], "error": row["error"].strip().splitlines()[-1]}
    kept = {key: row[key] for key in ("patient", "held_out", "seconds", "times")}
    kept["findings"] = [f"{item['kind']} {item['where'] or ''} {item['severity']}" for item in row["findings"]]
    if row["state"] == "sick":
        kept |= {key: row[key] for key in ("rank", "place_right", "cure", "cure_verified", "cure_works")}
    return kept


def lines(table: dict[str, Any]) -> list[str]:
    """Return the numbers by half as lines of text."""
    result = []
    for half, values in table.items():
        result.append(half)
        for name, value in values.items():
            if "of" in value and set(value) == {"count", "of"}:
                percent = f" ({100 * value['count'] / value['of']:.0f} %)" if value["of"] else ""
                result.append(f"  {name}: {value['count']} of {value['of']}{percent}")
            else:
                result.append(f"  {name}: " + ", ".join(f"{key} {part:.3g}" for key, part in value.items()))
    return result
