"""Evidence: the reference, semantics and conformance of each optimizer, from records and declarations of rules."""

from typing import Any

from benchmarks.tables import markdown
from thalweg import rules
from thalweg.registry import RULES, WRAPPERS

Record = Any  # parsed JSON


def catalogue_table(record: Record) -> str:
    """Return the evidence for each optimizer and wrapper, and how each differs from its source."""
    rows, differences = [], []
    measured = {entry["name"]: entry for entry in record["rules"]}
    for kind in sorted(RULES.values(), key=lambda kind: kind.__name__.lower()):
        entry = measured.get(kind.__name__)
        explained = rules.explain(kind())
        differences.append(f"- **{kind.__name__}**: {explained.departs}")
        if entry is None:
            rows.append([kind.__name__, "not measured", *[""] * 10])
            continue
        semantics = explained.semantics
        rows.append(
            [
                kind.__name__,
                entry["reference"],
                f"{entry['error']:.0e}",
                semantics["weight decay"],
                semantics["ε"],
                semantics["bias correction"],
                explained.scope,
                ", ".join(entry["ways"]),
                f"{explained.state_bytes:g}",
                *(f"{entry['checks'].get(outcome, 0)}" for outcome in ("passed", "failed", "refused")),
            ]
        )
    head = ["optimizer", "reference", "error", "weight decay", "ε", "bias correction", "scope", "backends"]
    head += ["state (bytes)", "checks passed", "failed", "refused"]
    wrappers = [
        [entry["name"], entry["reference"].removeprefix("around "), f"{entry['error']:.0e}", ", ".join(entry["ways"])]
        for entry in record["wrappers"]
    ]
    tested = {entry["name"] for entry in record["wrappers"]}
    wrappers += [[kind.__name__, "not measured", "", ""] for kind in WRAPPERS.values() if kind.__name__ not in tested]
    differences += [
        f"- **{kind.__name__}**: {rules.explain(kind(rules.Adam())).departs}" for _, kind in sorted(WRAPPERS.items())
    ]
    return "\n".join(
        [
            markdown.table(head, rows),
            "",
            markdown.table(["wrapper", "around", "error", "backends"], wrappers),
            "",
            "Differences from the source:",
            "",
            *differences,
        ]
    )


def resting_table() -> str:
    """Return what happens to parameters without a gradient, for rules and wrappers that do more than leave them."""
    explained = [(kind.__name__, rules.explain(kind())) for _, kind in sorted(RULES.items())]
    explained += [(kind.__name__, rules.explain(kind(rules.Adam()))) for _, kind in sorted(WRAPPERS.items())]
    usual = rules.explain(rules.SGD()).semantics["without a gradient"]
    rows = [
        [name, explanation.semantics["without a gradient"]]
        for name, explanation in explained
        if explanation.semantics["without a gradient"] != usual
    ]
    return markdown.table(["rule or wrapper", "in a step without a gradient"], [*rows, ["all others", usual]])


def conformance_table(record: Record) -> str:
    """Return how many optimizers of each library pass all checks, and which checks fail most often."""
    rows = []
    for library, result in sorted(record["libraries"].items()):
        failed = failed_checks(result["optimizers"])
        every = [check for checks in failed.values() for check in checks]
        most = sorted(set(every), key=lambda check: (-every.count(check), check))[:3]
        worst = ", ".join(f"{check.replace('_', ' ')} ({every.count(check)})" for check in most)
        sound = sum(not checks for checks in failed.values())
        rows.append([f"{library} {result['version']}", str(len(failed)), str(sound), worst])
    ours = failed_checks(record["libraries"]["thalweg.optim"]["optimizers"])
    known = "; ".join(
        f"{name} ({', '.join(check.replace('_', ' ') for check in checks)})" for name, checks in ours.items() if checks
    )
    head = ["library", "optimizers checked", "pass all checks", "failed most often (by how many optimizers)"]
    return "\n".join([markdown.table(head, rows), "", f"Of ours, these fail: {known}."])


def failed_checks(optimizers: dict[str, Any]) -> dict[str, list[str]]:
    """Return the checks that each optimizer fails; an optimizer that could not be checked is left out."""
    return {
        name: [finding["check"] for finding in findings if finding["outcome"] == "failed"]
        for name, findings in optimizers.items()
        if isinstance(findings, list)
    }
