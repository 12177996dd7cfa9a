"""`thalweg list`: what there is to compete."""

import click

from thalweg.cli.output import example, json_option, print_json, stdout_console


@click.command("list", epilog=example("thalweg list decoupled elementwise"))
@click.argument("words", nargs=-1)
@json_option
def list_(words: tuple[str, ...], as_json: bool) -> None:
    """List the optimizers that `thalweg compare` knows by name.

    With WORDS those alone of which all are true: what `thalweg explain` says of scope, decay, ε, needs (closure,
    Hessian, eval) and parameters, and of what it is.
    """
    from rich.table import Table

    from thalweg.comparison import CONTENDERS
    from thalweg.errors import UnknownNameError
    from thalweg.registry import WRAPPERS
    from thalweg.rules import Adam, Rule
    from thalweg.rules.explanation.explain import semantics, state_bytes

    def suits(name: str, about: str, rule: Rule) -> bool:
        said = " ".join((name, about, rule.traits.scope, *semantics(rule).values())).lower()
        return all(word.lower() in said for word in words)

    entries = [
        (one, one.rule)
        for one in CONTENDERS.values()
        if isinstance(one.rule, Rule) and suits(one.name, one.about, one.rule)
    ]
    wrappers = [(name, kind) for name, kind in sorted(WRAPPERS.items()) if suits(name, kind.summary(), kind(Adam()))]
    if not entries and not wrappers:
        raise UnknownNameError(f"list: of no optimizer all of these are true: {', '.join(words)}. Leave one out.")
    if as_json:
        print_json(
            [
                {
                    "name": one.name,
                    "rule": type(rule).__name__,
                    "about": one.about,
                    "state_bytes": state_bytes(rule),
                    "settings": rule.settings(),
                    "scope": rule.traits.scope,
                    "semantics": semantics(rule),
                }
                for one, rule in entries
            ]
            + [{"name": name, "rule": kind.__name__, "about": kind.summary(), "wraps": True} for name, kind in wrappers]
        )
        return
    table = Table(box=None, pad_edge=False)
    for column in ("name", "rule", "state", "what it is"):
        table.add_column(column, overflow="fold")
    for one, rule in entries:
        table.add_row(one.name, type(rule).__name__, f"{state_bytes(rule):g} B", one.about)
    console = stdout_console()
    console.print(table)
    around = Table(box=None, pad_edge=False)
    for column in ("wrapper", "rule", "what it does to another optimizer"):
        around.add_column(column, overflow="fold")
    for name, kind in wrappers:
        around.add_row(name, kind.__name__, kind.summary())
    console.print()
    console.print(around)
    console.print(
        "\nstate: bytes kept for each float32 parameter. Wrappers are written as cautious(adamw), and nest. "
        "`thalweg explain NAME` says more."
    )
