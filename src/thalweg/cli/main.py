"""The entry point: the group of commands, and the exit code of each error."""

import errno
import io
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

import click

from thalweg import __version__
from thalweg.cli import interrupts
from thalweg.cli.commands.bench import bench
from thalweg.cli.commands.compare import compare
from thalweg.cli.commands.doctor import doctor
from thalweg.cli.commands.explain import explain
from thalweg.cli.commands.list import list_
from thalweg.cli.commands.report import report
from thalweg.cli.commands.show import show
from thalweg.cli.commands.tasks import tasks
from thalweg.cli.ending import end
from thalweg.cli.output import echo, shorten
from thalweg.errors import SettingWarning, ThalwegError

EXIT_CODES = """\b
Exit codes:
  0    done
  1    a bug in thalweg: please report it. Parts of a result that are not affected are shown
  2    bad input, or a part of the result is missing: the message on stderr says what to change
  3    thalweg doctor: the training is not healthy
  130  interrupted (Ctrl-C): rerun the same command to resume; a diagnosis begins again
  143  interrupted (SIGTERM): the same"""


@click.group(epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="thalweg")
def cli() -> None:
    """Find the optimizer and the settings that suit a model, and show the evidence.

    Results go to stdout. Progress and messages go to stderr.
    """


for command in (compare, doctor, report, show, tasks, list_, explain, bench):
    cli.add_command(command)


def _print_setting_warnings() -> None:
    """Print warnings about settings like errors, without a line of our source code."""

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any) -> None:
        if issubclass(category, SettingWarning):
            echo(f"warning: {message}", err=True)
        else:
            echo(warnings.formatwarning(message, category, filename, lineno).rstrip(), err=True)

    warnings.showwarning = show


def _end_of_output(error: OSError) -> int:
    """Return the exit code after an error of the operating system that nobody expected."""
    if error.errno != errno.ENOSPC:
        echo(traceback.format_exc().rstrip(), err=True)
        return 1
    echo("error: the output could not be written: no space is left", err=True)
    sys.stdout = None  # Python would fail again when it flushes stdout at exit
    return 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line and exit.

    Args:
        arguments: The words after ``thalweg``. None means those of this process.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal without Greek letters shows question marks in formulas
        sys.stdout.reconfigure(errors="replace")
    _print_setting_warnings()
    callers_threads = threading.enumerate()
    interrupts.begin()
    try:
        # Without standalone mode click raises its errors here instead of ending the process.
        code = cli.main(args=None if arguments is None else list(arguments), standalone_mode=False)
    except ThalwegError as error:
        echo(f"error: {shorten(str(error))}", err=True)
        code = 2
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        echo(shorten(shown.getvalue().rstrip()), err=True)
        code = 2
    except (KeyboardInterrupt, click.Abort):  # click makes an Abort of any KeyboardInterrupt
        echo(interrupts.message(), err=True)
        code = interrupts.exit_code()
    except BrokenPipeError:  # the reader, for example `head`, closed the pipe
        sys.stderr.close()
        code = 0
    except OSError as error:
        code = _end_of_output(error)
    except Exception:  # a bug: nothing in its text reaches the terminal as it is
        echo(traceback.format_exc().rstrip(), err=True)
        code = 1
    end(code or 0, callers_threads)
