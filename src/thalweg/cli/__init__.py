"""The command line. A command parses its arguments, calls one public function of the library and prints the result.

No module here imports torch before a command runs, so that ``--help`` answers at once.
"""

import sys
from collections.abc import Sequence

from thalweg.errors import MissingPackageError
from thalweg.extras import require_lab

try:
    # Commands that need more packages of the extra say so when they run.
    require_lab("thalweg", ("click", "rich"))
except MissingPackageError as error:
    _MESSAGE = str(error)

    def main(arguments: Sequence[str] | None = None) -> None:
        """Say how to install the command line, and exit."""
        print(f"error: {_MESSAGE}", file=sys.stderr)
        sys.exit(2)

else:
    from thalweg.cli.main import main

__all__ = ["main"]
