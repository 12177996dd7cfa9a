"""The command line. A command parses its arguments, calls one public function of the library and prints the result.

No module here imports torch before a command runs, so that ``--help`` answers at once.
"""

from thalweg.cli.main import main

__all__ = ["main"]
