"""The page on pictures lists what there is; tests/handbook/checks.py has its examples."""

import re
from pathlib import Path

from thalweg.trajectories import SURFACES

PAGE = Path(__file__).parents[2] / "docs" / "learning" / "pictures.md"


def test_the_page_lists_each_surface() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), flags=re.MULTILINE) == list(SURFACES)
