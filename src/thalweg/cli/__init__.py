"""The command line. A command parses, calls one public function that a script could call, and prints.

Nothing here imports torch until a command runs, so that `--help` answers at once.
"""

from thalweg.cli.main import main

__all__ = ["main"]
