"""Parts of Markdown pages: tables, and regions that a program writes between marks."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

HANDBOOK = "benchmarks/handbook"  # the program that writes most pages


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""Return a table; a bar within a cell is escaped.

    Example:
        >>> print(table(["name", "value"], [["lr", "|x|"]]))
        | name | value |
        | --- | --- |
        | lr | \|x\| |
    """
    lines = [head, ["---"] * len(head), *rows]
    escaped = [[cell.replace("|", r"\|") for cell in cells] for cells in lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in escaped)


def machine_text(machine: dict[str, Any]) -> str:
    """Return the machine of a measurement in a few words."""
    return f"{machine['processor']}, {machine['threads']} threads, PyTorch {machine['torch']}, no GPU"


def region(name: str, content: str, author: str = HANDBOOK) -> str:
    """Return a generated region with its marks, which name the program that writes it."""
    return f"<!-- {name}: made by {author} -->\n{content.strip()}\n<!-- /{name} -->"


def region_names(text: str, author: str = HANDBOOK) -> list[str]:
    """Return the names of the regions of a page that a program writes."""
    return re.findall(rf"^<!-- ([\w-]+): made by {author} -->$", text, flags=re.MULTILINE)


def with_region(text: str, name: str, content: str, author: str = HANDBOOK) -> str:
    """Return a page with one of its regions written anew.

    Raises:
        ValueError: If the page has no such region.
    """
    pattern = rf"<!-- {name}: made by {author} -->\n(.*?\n)?<!-- /{name} -->"
    if not re.search(pattern, text, flags=re.DOTALL):
        raise ValueError(f"page: it must have a region {name!r}, got none. Add the marks of region().")
    return re.sub(pattern, lambda _: region(name, content, author), text, flags=re.DOTALL)


def linked(text: str) -> str:
    """Return a text whose arXiv numbers, DOIs and addresses of pages are links.

    Example:
        >>> linked("Kingma 2015, arXiv:1412.6980.")
        'Kingma 2015, [arXiv:1412.6980](https://arxiv.org/abs/1412.6980).'
    """
    text = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)
    text = re.sub(r"doi:(10\.\d{4,}/[\w./()-]*\w)", r"[doi:\1](https://doi.org/\1)", text)
    return re.sub(
        r"(?<![/\w.])((?:[a-z]+\.)+(?:com|io|net|press)/[\w./?=-]*\w|jmlr\.org/[\w./-]*\w)", r"[\1](https://\1)", text
    )


def anchor(heading: str) -> str:
    """Return the anchor that a code host and MyST give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
