"""The words of the code: names come from the field, docstrings are sentences."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for folder in ("src", "cases", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py"))
# Words of a private language that this code once had, and pronouns and participles that say nothing as a name.
REPLACED = frozenset(
    (
        "Look",
        "Seen",
        "Way",
        "Crew",
        "Line",
        "Said",
        "Doubt",
        "Deed",
        "Several",
        "Elsewhere",
        "Asking",
        "Wanted",
        "Launch",
        "Foreign",
        "Horizon",
        "Leaf",
        "OneByOne",
        "Ask",
        "Outcome",
        "Numbers",
        "Scalars",
        "Planned",
        "Contract",
        "unwarned",
        "misfits",
        "doubts",
        "rests",
        "anchored",
        "evaluates_elsewhere",
        "carry",
        "carried",
        "chooses",
        "judges",
        "hired",
        "dismiss",
        "patience",
        "horizon",
        "frontier",
        "hindsight",
        "carry_out",
        "core_of",
        "name_of",
        "put_together",
        "spelled",
        "plain",
        "alike",
    )
)
PRONOUNS = frozenset(
    [
        "found",
        "made",
        "one",
        "ones",
        "other",
        "others",
        "taken",
        "told",
        "asked",
        "wanted",
        "given",
        "said",
        "there",
        "here",
    ]
)
CLAUSES = re.compile(r"(What|Whether|Who|Those|That which|How)\b")


def names(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and text of every variable, parameter, function, class and attribute that a file defines."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_are_words_of_the_field(path: Path) -> None:
    wrong = [f"{path.name}:{line} {name}" for line, name in names(path) if name.strip("_") in REPLACED | PRONOUNS]
    assert not wrong, "see the glossary of ARCHITECTURE.md for the word to use"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_are_sentences(path: Path) -> None:
    tree = ast.parse(path.read_text())
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef
    texts = [(node, ast.get_docstring(node)) for node in ast.walk(tree) if isinstance(node, kinds)]
    wrong = [text.splitlines()[0] for _, text in texts if text and CLAUSES.match(text)]
    assert not wrong, "a docstring begins with a noun or a verb, never with a clause"


def test_no_replaced_word_is_left_in_backticks() -> None:
    wrong = []
    for path in FILES:
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
            if token.type in (tokenize.COMMENT, tokenize.STRING):
                quoted = set(re.findall(r"`(\w+)`", token.string)) & REPLACED
                wrong += [f"{path.relative_to(ROOT)}:{token.start[0]} {word}" for word in sorted(quoted)]
    assert not wrong
