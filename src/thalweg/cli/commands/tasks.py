"""The command ``thalweg tasks``: list the built-in tasks."""

import inspect

import click

from thalweg.cli.output import example, json_option, print_json, stdout_console


@click.command(short_help="List the built-in tasks.", epilog=example("thalweg tasks"))
@json_option
def tasks(as_json: bool) -> None:
    """List the built-in tasks, and the settings that a task has.

    Write a setting after the name of the task: quadratic:condition=1000. Write a task of your own as
    path/to/file.py:name.
    """
    from rich.table import Table

    from thalweg.tasks import BUILT_IN

    settings = {
        name: {key: parameter.default for key, parameter in inspect.signature(factory).parameters.items()}
        for name, factory in BUILT_IN.items()
    }
    about = {name: (inspect.getdoc(factory) or "").partition("\n\n")[0] for name, factory in BUILT_IN.items()}
    if as_json:
        print_json([{"name": name, "about": about[name], "settings": settings[name]} for name in BUILT_IN])
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("task", no_wrap=True)
    table.add_column("description", overflow="fold")
    table.add_column("settings", overflow="fold")
    for name in BUILT_IN:
        table.add_row(name, about[name], "\n".join(f"{key}={value:g}" for key, value in settings[name].items()))
    stdout_console().print(table)
