"""The entry point: the group of commands, and how an error becomes an exit code."""

import errno
import io
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import click

from thalweg import __version__
from thalweg.cli.bench import bench
from thalweg.cli.compare import compare
from thalweg.cli.explain import explain
from thalweg.cli.list import list_
from thalweg.cli.report import report
from thalweg.cli.tasks import tasks
from thalweg.errors import SettingWarning, ThalwegError

EXIT_CODES = """\b
Exit codes:
  0    done
  1    a bug in thalweg: please report it
  2    bad input: the message on stderr says what to change
  130  interrupted: the same command goes on where it ended"""


@click.group(epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="thalweg")
def cli() -> None:
    """Which optimizer, at which settings, for this model, with the evidence.

    Results go to stdout; progress and messages go to stderr.
    """


for command in (compare, report, tasks, list_, explain, bench):
    cli.add_command(command)


def _show_settings_warnings() -> None:
    """Show warnings about settings as errors are shown: where in the code they arise says nothing to who typed them."""
    others = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, SettingWarning):
            click.echo(f"warning: {message}", err=True)
        else:
            others(message, category, *where, **more)

    warnings.showwarning = show


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line and exit."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # formulas are Greek: a terminal that has none shows a question mark
        sys.stdout.reconfigure(errors="replace")
    _show_settings_warnings()
    try:
        # Without standalone mode, errors come here instead of ending the process inside click.
        code = cli.main(args=None if arguments is None else list(arguments), standalone_mode=False)
    except ThalwegError as error:
        click.echo(f"error: {error}", err=True)
        code = 2
    except click.ClickException as error:
        error.show()
        code = 2
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted: what was finished is stored; the same command goes on from there", err=True)
        code = 130
    except BrokenPipeError:  # the reader, `head` say, has had enough
        sys.stderr.close()
        code = 0
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        click.echo("error: the output could not be written: no space is left", err=True)
        sys.stdout = None  # what is left for it cannot be written at the end either
        code = 2
    sys.exit(code or 0)
