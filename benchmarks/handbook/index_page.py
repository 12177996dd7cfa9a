"""The index of all optimizers: the shortlist first, then a table for each group."""

from collections.abc import Iterator

from benchmarks.handbook.rule_page import Subject
from benchmarks.tables.markdown import linked, table
from thalweg.comparison import parse
from thalweg.groups import GROUPS, SHORTLIST
from thalweg.rules.explanation.explain import state_bytes

_RECORDS = "../../benchmarks/records"


def groups() -> str:
    """Return the region `groups` of the index."""
    parts = [
        "## Shortlist",
        "Try these first, in this order. `thalweg compare` tells which one suits your model.",
        _shortlist(),
    ]
    for group in GROUPS.values():
        members = sorted(group.members, key=lambda name: Subject(name).kind.__name__.casefold())
        parts += [f"## {group.name}", group.about, table(_HEAD, map(_row, members))]
    return "\n\n".join(parts)


_HEAD = ["optimizer", "name", "state", "use it for"]


def _row(name: str) -> list[str]:
    subject = Subject(name)
    names = f"`{name}(...)`" if subject.is_wrapper else ", ".join(f"`{c.name}`" for c in subject.contenders)
    state = "as inside" if subject.is_wrapper else f"{subject.explanation.state_bytes:g} B"
    return [f"[{subject.kind.__name__}](rules/{name}.md)", names, state, linked(subject.explanation.use)]


def _shortlist() -> str:
    rows = []
    for entry in SHORTLIST.values():
        rule = parse(entry.name).rule
        pages = ", ".join(_pages(entry.name))
        evidence = linked(entry.evidence)
        if evidence == entry.evidence:
            evidence = f"[record]({_RECORDS}/{entry.evidence.rpartition('/')[2]})"
        rows.append([f"`{entry.name}`", pages, f"{state_bytes(rule):g} B", entry.reason, evidence])  # type: ignore[arg-type]
    return table(["name", "pages", "state", "good for", "evidence"], rows)


def _pages(expression: str) -> Iterator[str]:
    for name in expression.split("+"):
        subject = next(Subject(member) for group in GROUPS.values() for member in group.members if _is_of(name, member))
        yield f"[{subject.kind.__name__}](rules/{subject.name}.md)"


def _is_of(contender: str, member: str) -> bool:
    """Return True if a contender is the rule of this name at settings of its own."""
    return contender in {known.name for known in Subject(member).contenders}
