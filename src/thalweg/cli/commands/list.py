"""The command ``thalweg list``: list the optimizers and wrappers that can take part in a comparison."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from thalweg.cli.output import example, json_option, print_json, print_table, stdout_console

if TYPE_CHECKING:
    from thalweg.comparison import Contender
    from thalweg.groups import Group
    from thalweg.rules import Rule, Wrapper


@click.command(
    "list",
    short_help="List the optimizers and wrappers.",
    epilog=example("thalweg list decoupled elementwise"),
)
@click.argument("words", nargs=-1)
@json_option
def list_(words: tuple[str, ...], as_json: bool) -> None:
    """List the optimizers that `thalweg compare` knows by name, and the wrappers around them, by group.

    The shortlist comes first: the optimizers that a newcomer should try, in this order.

    WORDS are filters: an optimizer is listed if each word occurs in its name, however it is written (Adam-W, AdamW),
    in its description, its group, or the lines "Scope" and "Semantics" of `thalweg explain`. Examples: matrix,
    elementwise, decoupled, closure, parameter-free.
    """
    from thalweg.comparison import CONTENDERS
    from thalweg.errors import UnknownNameError, letters_of, nearest
    from thalweg.groups import group_of
    from thalweg.registry import WRAPPERS
    from thalweg.rules import Adam, Rule
    from thalweg.rules.explanation.explain import semantics

    def matches(name: str, about: str, rule: Rule) -> bool:
        group = group_of(rule)
        text = " ".join(
            (name, about, rule.traits.scope, *semantics(rule).values(), group.name if group else "")
        ).lower()
        names = [letters_of(known) for known in (name, type(rule).__name__)]
        return all(
            word.lower() in text or any(letters_of(word) in known for known in names if letters_of(word))
            for word in words
        )

    contenders = [
        (contender, contender.rule)
        for contender in CONTENDERS.values()
        if isinstance(contender.rule, Rule) and matches(contender.name, contender.about, contender.rule)
    ]
    wrappers = {
        name: wrapper for name, wrapper in sorted(WRAPPERS.items()) if matches(name, wrapper.summary(), wrapper(Adam()))
    }
    if not contenders and not wrappers:
        similar = nearest(words[0], {**CONTENDERS, **WRAPPERS}) if len(words) == 1 else ""
        advice = similar if similar.startswith("Did") else "Remove a filter."
        raise UnknownNameError(f"No optimizer matches: {', '.join(words)}. {advice}")
    if as_json:
        print_json(_as_json(contenders, wrappers))
    else:
        _print_tables(contenders, wrappers, with_shortlist=not words)


def _as_json(
    contenders: "Sequence[tuple[Contender, Rule]]", wrappers: "Mapping[str, type[Wrapper]]"
) -> list[dict[str, Any]]:
    from thalweg.groups import SHORTLIST, group_of
    from thalweg.rules.explanation.explain import semantics, state_bytes

    optimizer_records = [
        {
            "name": contender.name,
            "rule": type(rule).__name__,
            "about": contender.about,
            "group": _group_name(group_of(rule)),
            "shortlist": SHORTLIST[contender.name].reason if contender.name in SHORTLIST else None,
            "state_bytes": state_bytes(rule),
            "settings": rule.settings(),
            "scope": rule.traits.scope,
            "semantics": semantics(rule),
        }
        for contender, rule in contenders
    ]
    wrapper_records = [
        {
            "name": name,
            "rule": wrapper.__name__,
            "about": wrapper.summary(),
            "group": _group_name(group_of(wrapper)),
            "shortlist": None,
            "wraps": True,
        }
        for name, wrapper in wrappers.items()
    ]
    return optimizer_records + wrapper_records


def _group_name(group: "Group | None") -> str:
    return group.name if group else ""


def _print_tables(
    contenders: "Sequence[tuple[Contender, Rule]]", wrappers: "Mapping[str, type[Wrapper]]", *, with_shortlist: bool
) -> None:
    from rich.text import Text

    from thalweg.comparison.presentation.tables import Column, Table
    from thalweg.groups import GROUPS, SHORTLIST, group_of
    from thalweg.rules.explanation.explain import state_bytes

    console = stdout_console()

    def heading(name: str, about: str) -> None:
        console.print(Text.assemble((name, "bold"), f": {about}"))

    if with_shortlist:
        heading("shortlist", "try these first, in this order.")
        entries = SHORTLIST.values()
        names = Column("name", [entry.name for entry in entries], "left")
        reasons = Column("good for", [entry.reason for entry in entries], "left", folds=True)
        print_table(console, Table([names, reasons]))
        console.print()
    for group in (*GROUPS.values(), None):
        members = [(contender, rule) for contender, rule in contenders if group_of(rule) == group]
        if not members:
            continue
        heading(*(group.name, group.about) if group else ("others", "They are in no group."))
        columns = [
            Column("name", [contender.name for contender, _ in members], "left"),
            Column("class", [type(rule).__name__ for _, rule in members], "left"),
            Column("state", [f"{state_bytes(rule):g} B" for _, rule in members]),
            Column("description", [contender.about for contender, _ in members], "left", folds=True),
        ]
        print_table(console, Table(columns))
        console.print()
    if contenders:
        console.print("State: bytes for each float32 parameter. `thalweg explain NAME` says more.")
    if wrappers:
        console.print("\n" if contenders else "", end="")
        heading("wrappers", GROUPS["wrappers"].about)
        columns = [
            Column("wrapper", list(wrappers), "left"),
            Column("class", [wrapper.__name__ for wrapper in wrappers.values()], "left"),
            Column(
                "effect on the optimizer inside",
                [wrapper.summary() for wrapper in wrappers.values()],
                "left",
                folds=True,
            ),
        ]
        print_table(console, Table(columns))
        console.print("\nWrite a wrapper as cautious(adamw). Wrappers nest: cautious(clip(adamw)).")
