"""The reference of the command line, from the commands themselves."""

import inspect
import re

import click

from benchmarks.tables.markdown import table
from thalweg.cli.main import cli

ORDER = ("compare", "doctor", "show", "report", "list", "explain", "tasks", "bench")


def names() -> list[str]:
    """Return the names of all commands: those of `ORDER` first."""
    known = [name for name in ORDER if name in cli.commands]
    return known + sorted(set(cli.commands) - set(known))


def reference() -> str:
    """Return the region `commands`: each command with its usage, options and example."""
    parts = [_prose(cli.help), table(["command", "effect"], _summaries())]
    parts += [_epilog(cli.epilog)]
    for name in names():
        parts += _command(name, cli.commands[name])
    return "\n\n".join(part for part in parts if part)


def _summaries() -> list[list[str]]:
    return [
        [f"[`thalweg {name}`](#thalweg-{name})", cli.commands[name].get_short_help_str(limit=200)] for name in names()
    ]


def _command(name: str, command: click.Command) -> list[str]:
    command._help_option = None  # which click keeps from an earlier context, with that context's names
    names = cli.context_settings["help_option_names"]
    context = click.Context(command, info_name=f"thalweg {name}", max_content_width=1000, help_option_names=names)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    records = [record for param in command.get_params(context) if (record := param.get_help_record(context))]
    rows = [[f"`{option}`", _cell(meaning)] for option, meaning in records if meaning]
    return [
        f"## thalweg {name}",
        f"```text\n{usage}\n```",
        _prose(command.help),
        table(["option", "meaning"], rows),
        _epilog(command.epilog),
    ]


def _prose(text: str | None) -> str:
    """Return a help text as paragraphs, each on one line."""
    paragraphs = inspect.cleandoc(text or "").replace("\b\n", "").split("\n\n")
    return "\n\n".join(_cell(" ".join(paragraph.split())) for paragraph in paragraphs)


def _cell(text: str) -> str:
    return re.sub(r"([<>*_])", r"\\\1", text.replace("\n", " ")) if "`" not in text else _outside_code(text)


def _outside_code(text: str) -> str:
    """Escape the marks of Markdown, except within backticks."""
    parts = text.replace("\n", " ").split("`")
    return "`".join(part if index % 2 else re.sub(r"([<>*_])", r"\\\1", part) for index, part in enumerate(parts))


def _epilog(text: str | None) -> str:
    """Return what follows the options: sections of indented lines, as blocks."""
    parts = []
    for section in (text or "").split("\b\n"):
        title, _, body = section.strip("\n").partition("\n")
        if not title:
            continue
        language = "console" if title.startswith("Example") else "text"
        lines = inspect.cleandoc("\n" + body)
        prompt = "$ " if language == "console" else ""
        parts.append(f"{title}\n\n```{language}\n{prompt}{lines.strip()}\n```")
    return "\n\n".join(parts)
