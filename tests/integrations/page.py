"""The code on the page about trainers."""

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "running" / "trainers.md"


def code_on_the_page(containing: str) -> str:
    """Return the block of code on the page that contains a text."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (block,) = [block for block in blocks if containing in block]
    return block


def from_the_page(name: str) -> Any:
    """Return a class that the page defines."""
    scope: dict[str, Any] = {}
    exec(code_on_the_page(f"class {name}("), scope)
    return scope[name]
