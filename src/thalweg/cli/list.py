"""The command ``thalweg list``: list the optimizers and wrappers that can take part in a comparison."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from thalweg.cli.output import example, json_option, print_json, stdout_console

if TYPE_CHECKING:
    from thalweg.comparison import Contender
    from thalweg.rules import Rule, Wrapper


@click.command(
    "list",
    short_help="List the optimizers and wrappers.",
    epilog=example("thalweg list decoupled elementwise"),
)
@click.argument("words", nargs=-1)
@json_option
def list_(words: tuple[str, ...], as_json: bool) -> None:
    """List the optimizers that `thalweg compare` knows by name, and the wrappers around them.

    WORDS are filters: an optimizer is listed if each word occurs in its name, its description, or the lines "Scope"
    and "Semantics" of `thalweg explain`. Examples: matrix, elementwise, decoupled, closure, Hessian.
    """
    from thalweg.comparison import CONTENDERS
    from thalweg.errors import UnknownNameError
    from thalweg.registry import WRAPPERS
    from thalweg.rules import Adam, Rule
    from thalweg.rules.explanation.explain import semantics

    def matches(name: str, about: str, rule: Rule) -> bool:
        text = " ".join((name, about, rule.traits.scope, *semantics(rule).values())).lower()
        return all(word.lower() in text for word in words)

    contenders = [
        (contender, contender.rule)
        for contender in CONTENDERS.values()
        if isinstance(contender.rule, Rule) and matches(contender.name, contender.about, contender.rule)
    ]
    wrappers = {
        name: wrapper for name, wrapper in sorted(WRAPPERS.items()) if matches(name, wrapper.summary(), wrapper(Adam()))
    }
    if not contenders and not wrappers:
        raise UnknownNameError(f"No optimizer matches: {', '.join(words)}. Remove a filter.")
    if as_json:
        print_json(_as_json(contenders, wrappers))
    else:
        _print_tables(contenders, wrappers)


def _as_json(
    contenders: "Sequence[tuple[Contender, Rule]]", wrappers: "Mapping[str, type[Wrapper]]"
) -> list[dict[str, Any]]:
    from thalweg.rules.explanation.explain import semantics, state_bytes

    optimizer_records = [
        {
            "name": contender.name,
            "rule": type(rule).__name__,
            "about": contender.about,
            "state_bytes": state_bytes(rule),
            "settings": rule.settings(),
            "scope": rule.traits.scope,
            "semantics": semantics(rule),
        }
        for contender, rule in contenders
    ]
    wrapper_records = [
        {"name": name, "rule": wrapper.__name__, "about": wrapper.summary(), "wraps": True}
        for name, wrapper in wrappers.items()
    ]
    return optimizer_records + wrapper_records


def _print_tables(contenders: "Sequence[tuple[Contender, Rule]]", wrappers: "Mapping[str, type[Wrapper]]") -> None:
    from rich.table import Table

    from thalweg.rules.explanation.explain import state_bytes

    console = stdout_console()
    if contenders:
        table = Table(box=None, pad_edge=False)
        for column in ("name", "class", "state"):
            table.add_column(column, no_wrap=True)
        table.add_column("description", overflow="fold")
        for contender, rule in contenders:
            table.add_row(contender.name, type(rule).__name__, f"{state_bytes(rule):g} B", contender.about)
        console.print(table)
        console.print("\nState: bytes for each float32 parameter. `thalweg explain NAME` says more.")
    if wrappers:
        if contenders:
            console.print()
        table = Table(box=None, pad_edge=False)
        for column in ("wrapper", "class"):
            table.add_column(column, no_wrap=True)
        table.add_column("effect on the optimizer inside", overflow="fold")
        for name, wrapper in wrappers.items():
            table.add_row(name, wrapper.__name__, wrapper.summary())
        console.print(table)
        console.print("\nWrite a wrapper as cautious(adamw). Wrappers nest: cautious(clip(adamw)).")
