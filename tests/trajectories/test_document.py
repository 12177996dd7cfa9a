"""The page on pictures: its examples run and print what it shows."""

import contextlib
import io
import re
from pathlib import Path

from thalweg.trajectories import SURFACES

PAGE = Path(__file__).parents[2] / "docs" / "learning" / "pictures.md"


def test_the_examples_print_what_the_page_shows(tmp_path: Path) -> None:
    pairs = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(pairs) == PAGE.read_text().count("```python")
    scope: dict = {}
    for code, shown in pairs:
        printed = io.StringIO()
        with contextlib.chdir(tmp_path), contextlib.redirect_stdout(printed):
            exec(code, scope)
        assert printed.getvalue() == shown
    assert (tmp_path / "rosenbrock.png").stat().st_size > 10_000


def test_the_page_lists_each_surface() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), flags=re.MULTILINE) == list(SURFACES)
