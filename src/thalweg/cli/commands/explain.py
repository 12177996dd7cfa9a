"""The command ``thalweg explain``: explain one optimizer from its own declarations."""

import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from thalweg.cli.output import echo, example, json_option, print_json, stdout_console

if TYPE_CHECKING:
    from rich.table import Table

    from thalweg.comparison.presentation.profile import Profile
    from thalweg.rules import Explanation


@click.command(short_help="Explain one optimizer.", epilog=example("thalweg explain adamw"))
@click.argument("name")
@json_option
def explain(name: str, as_json: bool) -> None:
    """Explain the optimizer NAME: formula, settings with bounds and search ranges, memory, advice, source, the line of
    code that makes it, and a starting point.

    NAME is a name from `thalweg list`, with settings if you like: adamw:lr=0.01.
    """
    from thalweg import rules
    from thalweg.comparison import parse
    from thalweg.comparison.presentation.profile import profile_of
    from thalweg.errors import SettingError
    from thalweg.registry import WRAPPERS

    contender = parse(f"{name}(adam)" if name in WRAPPERS else name)
    if not isinstance(contender.rule, rules.Rule):
        raise SettingError(
            f"explain: {name} must be an optimizer of thalweg, got one of another library. Read its documentation."
        )
    if parts := contender.rule.parts:
        raise SettingError(f"explain: NAME must be one rule, got {', '.join(parts)}. Explain each of them separately.")
    explanation, profile = rules.explain(contender.rule), profile_of(contender)
    if as_json:
        print_json({"contender": contender.name, "about": contender.about} | asdict(explanation) | asdict(profile))
    else:
        print_explanation(contender.name, contender.about, explanation, profile)


def print_explanation(name: str, about: str, explanation: "Explanation", profile: "Profile") -> None:
    """Print an explanation and a profile for a person."""
    from rich.text import Text

    console = stdout_console()
    console.print(Text(f"{name}: {about}", style="bold"))
    if about.lower() != explanation.title.lower():
        console.print(Text(f"{explanation.name}: {explanation.title}"))
    if profile.group:
        console.print(f"Group: {profile.group}")
    for entry in profile.shortlist:
        console.print(f"On the shortlist as {entry.name}: {entry.reason} ({entry.evidence})")
    console.print()
    echo(textwrap.indent(explanation.formula, "    "))  # click does not wrap the formula
    console.print()
    console.print(_settings_table(explanation))
    console.print()
    for label, text in _sections(explanation):
        if text:
            console.print(Text.assemble((f"{label}: ", "bold"), text))
    console.print()
    console.print(Text("Start with:", style="bold"))
    echo(f"    {profile.code}")
    console.print(_origin(profile))
    if profile.scale:
        console.print(
            f"This is for short trainings: it comes from {profile.scale}. For longer trainings of larger models "
            "begin at a published learning rate: docs/choosing/learning_rates.md"
        )
    for link in (*profile.links, profile.page):
        if link:
            echo(f"Read: {link}")


def _origin(profile: "Profile") -> str:
    """Return a sentence on where the starting point comes from."""
    if not profile.record:
        return "Settings that are left out are at their defaults. No other starting point was measured."
    if profile.is_estimate:
        return f"The learning rate is derived from that of Adam. How well this works: {profile.record}"
    if not profile.starting_point:
        return f"No other settings did better than the defaults: {profile.record}"
    return f"These settings did best without tuning: {profile.record}"


def _settings_table(explanation: "Explanation") -> "Table":
    """Make a table that fits into 80 columns: the meaning of a setting, and below it bound, unit and search range."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("", "setting", "value"):
        table.add_column(column, no_wrap=True)
    table.add_column("meaning")
    for hyper in explanation.hypers:
        facts = [hyper.bound]
        if hyper.unit:
            facts.append(f"unit {hyper.unit}")
        if hyper.search:
            facts.append(f"searched from {hyper.search.low:g} to {hyper.search.high:g} ({hyper.search.scale})")
        meaning = Text.assemble(hyper.doc, "\n", ("; ".join(facts), "dim"))
        table.add_row(hyper.symbol, hyper.name, f"{hyper.value}", meaning)
    return table


def _sections(explanation: "Explanation") -> Iterator[tuple[str, str]]:
    """Yield the label and the text of each paragraph below the table; a text may be empty."""
    tensors = ", ".join(f"{symbol} ({unit}, {key!r})" for symbol, unit, key in explanation.state) or "none"
    yield "State", f"{tensors}: {explanation.state_bytes:g} bytes for each float32 parameter"
    yield "Notes", explanation.notes
    yield "Use", explanation.use
    yield "Avoid", explanation.avoid
    yield "Source", explanation.source
    yield "Departs from the source", explanation.departs
    yield "Scope", explanation.scope
    yield "Semantics", "; ".join(f"{name} {value}" for name, value in explanation.semantics.items())
    yield "Warns about", "; ".join(explanation.warned_of)
