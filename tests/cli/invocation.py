"""Commands that run in this process or in another one."""

import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner, Result

from thalweg.cli.main import cli


def thalweg(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "thalweg", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def invoke(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result
