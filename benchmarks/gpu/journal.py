"""The journal of a part, and the record and summary that are made from it."""

import json
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def read(journals: list[Path]) -> list[dict[str, Any]]:
    """Return all events of all processes of a part. A line that a crash has cut off is left out."""
    events = []
    for journal in journals:
        for line in journal.read_text().splitlines() if journal.exists() else []:
            try:
                events.append(json.loads(line))
            except ValueError:
                continue
    return events


def append(path: Path, **event: Any) -> None:
    """Write an event into a journal."""
    with path.open("a") as lines:
        lines.write(json.dumps(event) + "\n")


def finished(events: list[dict[str, Any]]) -> frozenset[str]:
    """Return the names of the checks that have an outcome."""
    return frozenset(event["name"] for event in events if event["event"] in ("passed", "failed", "skipped"))


def interrupted(events: list[dict[str, Any]]) -> list[str]:
    """Return the names of the checks that began and have no outcome: those that ended their process."""
    started = [event["name"] for event in events if event["event"] == "start"]
    return [name for name in dict.fromkeys(started) if name not in finished(events)]


def record(part: str, events: list[dict[str, Any]], **facts: Any) -> Record:
    """Return the record of a part."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        by_kind.setdefault(event.pop("event"), []).append(event)
    return {
        "part": part,
        **facts,
        "passed": len(by_kind.get("passed", [])),
        "failed": by_kind.get("failed", []),
        "skipped": by_kind.get("skipped", []),
        "targets": by_kind.get("target", []),
        "results": {result["name"]: result["value"] for result in by_kind.get("result", [])},
    }


def summary(record: Record) -> list[str]:
    """Return the lines that are printed of a record: outcomes, first lines of errors, numbers beside their bounds."""
    counts = f"{record['passed']} passed, {len(record['failed'])} failed, {len(record['skipped'])} skipped"
    lines = [f"{record['part']}: {record['outcome']}, {record['seconds']:.0f} s, {counts}"]
    lines += [f"  FAILED {failure['name']}: {failure['error']}" for failure in record["failed"]]
    reasons: dict[str, list[str]] = {}
    for skipped in record["skipped"]:
        reasons.setdefault(skipped["reason"], []).append(skipped["name"])
    for reason, names in reasons.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lines.append(f"  skipped {', '.join(names[:3])}{more}: {reason}")
    for target in record["targets"]:
        mark = "reached" if target["reached"] else "MISSED "
        value = target["value"] if isinstance(target["value"], str) else f"{target['value']:.3g}"
        lines.append(f"  {mark} {target['name']}: {value}, {target['bound']}")
    return lines
