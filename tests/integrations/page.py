"""The code on the page about trainers."""

from pathlib import Path
from typing import Any

from tests.handbook.blocks import blocks_of

PAGE = Path(__file__).parents[2] / "docs" / "running" / "trainers.md"


def code_on_the_page(containing: str) -> str:
    """Return the block of code on the page that contains a text."""
    (code,) = [block.code for block in blocks_of(PAGE) if containing in block.code]
    return code


def from_the_page(name: str) -> Any:
    """Return a class that the page defines."""
    scope: dict[str, Any] = {}
    exec(code_on_the_page(f"class {name}("), scope)
    return scope[name]
