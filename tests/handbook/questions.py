"""The questions of practitioners, as `docs/questions.md` lists them."""

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "questions.md"
_QUESTION = re.compile(
    r"^(\d+)\. \*\*(.+?)\*\*\s+Asked in (.+?)\.\s+→ (.+?): \"(.+?)\"$", flags=re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Question:
    """A question and its answer.

    Attributes:
        number: Its place in the list.
        text: The question.
        threads: Addresses of threads in which it was asked.
        answers: Pages that answer, each with its anchor, relative to `docs/`.
        phrase: A quotation of a page that answers.
    """

    number: int
    text: str
    threads: list[str]
    answers: list[str]
    phrase: str


def questions() -> list[Question]:
    """Return all questions in their order."""
    addresses = re.compile(r"\]\(([^)]+)\)")
    return [
        Question(int(number), text, addresses.findall(threads), addresses.findall(answers), " ".join(phrase.split()))
        for number, text, threads, answers, phrase in _QUESTION.findall(PAGE.read_text())
    ]
