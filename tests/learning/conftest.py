"""The tests of the lesson import its examples and the code of its pictures."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
for folder in (Path(__file__).parent, ROOT / "docs" / "learning", ROOT / "examples"):
    sys.path.insert(0, str(folder))
