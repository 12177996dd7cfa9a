"""`thalweg explain`: one optimizer, from its own declarations."""

import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from thalweg.cli.output import example, json_option, print_json, stdout_console

if TYPE_CHECKING:
    from thalweg.rules import Explanation


@click.command(epilog=example("thalweg explain adamw"))
@click.argument("name")
@json_option
def explain(name: str, as_json: bool) -> None:
    """Explain the optimizer NAME: formula, symbols, defaults, bounds, memory, source."""
    from thalweg import rules
    from thalweg.comparison import parse
    from thalweg.errors import SettingError
    from thalweg.registry import WRAPPERS

    contender = parse(f"{name}(adam)" if name in WRAPPERS else name)
    if not isinstance(contender.rule, rules.Rule):
        raise SettingError(f"explain: {name} must be one of thalweg's, got an optimizer from elsewhere. Read its help.")
    if parts := contender.rule.parts:
        names = ", ".join(parts)
        raise SettingError(f"explain: one rule is explained at a time, got {names}. Ask for each by itself.")
    explanation = rules.explain(contender.rule)
    if as_json:
        print_json({"contender": contender.name, "about": contender.about} | asdict(explanation))
    else:
        print_explanation(contender.name, contender.about, explanation)


def print_explanation(name: str, about: str, explanation: "Explanation") -> None:
    """The explanation as a page of the terminal."""
    from rich.table import Table
    from rich.text import Text

    console = stdout_console()
    console.print(Text(f"{name}: {about}", style="bold"))
    if about.lower() != explanation.title.lower():
        console.print(Text(f"{explanation.name}: {explanation.title}"))
    console.print()
    click.echo(textwrap.indent(explanation.formula, "    "))  # a formula is not wrapped
    console.print()
    table = Table(box=None, pad_edge=False)
    for column in ("", "setting", "value", "must be", "unit", "searched", "what it is"):
        table.add_column(column, no_wrap=column == "setting")
    for one in explanation.hypers:
        searched = f"{one.search.low:g} – {one.search.high:g}, {one.search.scale}" if one.search else ""
        table.add_row(one.symbol, one.name, f"{one.value}", one.bound, one.unit, searched, one.doc)
    console.print(table)
    console.print()
    kept = ", ".join(f"{symbol} ({unit}, {key!r})" for symbol, unit, key in explanation.state) or "nothing"
    memory = f"{kept}: {explanation.state_bytes:g} bytes for each float32 parameter"
    for word, text in (
        ("Remembers", memory),
        ("Notes", explanation.notes),
        ("Use", explanation.use),
        ("Avoid", explanation.avoid),
        ("Source", explanation.source),
        ("Departs", explanation.departs),
        ("Semantics", "; ".join(f"{what} {how}" for what, how in explanation.semantics.items())),
        ("Warned of", "; ".join(explanation.warned_of)),
        ("Scope", explanation.scope),
    ):
        if text:
            console.print(Text.assemble((f"{word}: ", "bold"), text))
