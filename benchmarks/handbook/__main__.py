"""Write the generated parts of the handbook: ``python -m benchmarks.handbook``, ``... --pictures adamw lion``."""

import argparse
from pathlib import Path

from benchmarks.handbook import commands, index_page, pictures, rule_page
from benchmarks.handbook.evidence import ROOT
from benchmarks.tables.markdown import with_region
from thalweg.registry import RULES, WRAPPERS

INDEX = ROOT / "docs" / "optimizers" / "index.md"
COMMANDS = ROOT / "docs" / "reference" / "commands.md"


def pages() -> dict[Path, str]:
    """Return the text of every page that has generated parts."""
    texts = {}
    for name in (*RULES, *WRAPPERS):
        path = rule_page.PAGES / f"{name}.md"
        texts[path] = rule_page.page(name, path.read_text() if path.exists() else None)
    texts[INDEX] = with_region(INDEX.read_text(), "groups", index_page.groups())
    texts[COMMANDS] = with_region(COMMANDS.read_text(), "commands", commands.reference())
    return texts


def main() -> None:
    """Write the pages, and the pictures that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", nargs="*", metavar="NAME", help="draw the paths of these rules, or of all")
    parser.add_argument("--classes", nargs="*", metavar="CLASS", help="the same, by the names of classes")
    arguments = parser.parse_args()
    if arguments.classes is not None:
        chosen = [name for name, kind in {**RULES, **WRAPPERS}.items() if kind.__name__ in arguments.classes]
        pictures.draw(chosen or [*RULES, *WRAPPERS])
    if arguments.pictures is not None:
        pictures.draw(arguments.pictures or [*RULES, *WRAPPERS])
    rule_page.PAGES.mkdir(exist_ok=True)
    for path, text in pages().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
