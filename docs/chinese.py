"""Typography of Chinese pages: punctuation, spaces, and marks on links to English pages.

`python docs/translations.py` lists the faults of each page beside its differences from the original.
"""

import re
from collections.abc import Iterator
from pathlib import Path

ENGLISH = "英文"
_HAN = r"[\u3400-\u9fff]"
_FULL = r"[，。；：？！、（）“”《》]"
_LATIN = r"A-Za-z0-9\u0370-\u03ff\u221a"  # formulas have Greek letters and roots

# In these patterns code within a line is `x`, and a link is its label.
RULES = {
    "half-width punctuation": rf"{_HAN}[,;:?!]|[,;:?!]{_HAN}|{_HAN}\.(?!\w)",
    "half-width brackets": rf"\({_HAN}|{_HAN}[()]",
    "no space between Chinese and Latin text": rf"{_HAN}[{_LATIN}]|[%{_LATIN}]{_HAN}",
    "a space or line break beside full-width punctuation": rf"{_FULL} +[^\s·]|[^\s·] +{_FULL}",
    "a space or line break between Chinese characters": rf"{_HAN} +{_HAN}",
}
_BLOCK = re.compile(r"^( *)(`{3,}).*\n[\s\S]*?^\1\2$", re.MULTILINE)
_LINK = re.compile(r"!?\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)\s]*)\)")
_ITALICS = re.compile(rf"(?<!\*)\*(?![*\s])[^*]*{_HAN}[^*]*\*(?!\*)")
_BEGINS_A_LINE = re.compile(r"^\s*(?:#+ |[-*] |\d+\. |\||>)")


def _cells(text: str) -> Iterator[str]:
    """Yield each paragraph, list item, heading and cell of a table on one line, without code."""
    text = re.sub(r"``[^`]+``|`[^`]+`", "x", re.sub(r"<!--[\s\S]*?-->", "", _BLOCK.sub("\n", text)))
    for block in re.split(r"\n\s*\n", text):
        lines: list[str] = []
        after_heading = True
        for line in block.strip().splitlines():
            if after_heading or _BEGINS_A_LINE.match(line):
                lines.append(_BEGINS_A_LINE.sub("", line))
            else:
                lines[-1] += f" {line.strip()}"
            after_heading = line.startswith("#")
        for line in lines:
            yield from (cell.strip() for cell in line.split("|"))


def _shows_english(target: str, page: Path, language: Path) -> bool:
    """Return whether a link leads to a page of the repository that is not in the language of this page."""
    path = target.partition("#")[0]
    return path.endswith(".md") and ":" not in path and not (page.parent / path).resolve().is_relative_to(language)


def faults(page: Path, language: Path, original: Path | None = None) -> list[str]:
    """Return the faults of a Chinese page, each with the text where it is.

    A link to an English page needs the word 英文 in its sentence. If the page says 链接指向英文页面 once (links lead to
    English pages), then links to the pages of optimizers need none.

    Args:
        page: Path of the page.
        language: Folder of the pages of its language.
        original: Path of the English page that it was made from, to which a link needs no mark.
    """
    text = page.read_text(encoding="utf-8")
    says_so = "链接指向英文页面" in text
    result = []
    for cell in _cells(text):
        bare = re.sub(r"\*+|<[^>]*>", "", _LINK.sub(r"\1", cell))
        for fault, pattern in RULES.items():
            result += [f"{fault}: {bare[max(0, m.start() - 8) : m.end() + 8]!r}" for m in re.finditer(pattern, bare)]
        for sentence in re.split(r"(?<=[。；！？])", cell):
            result += [f"italics, which Chinese fonts lack: {text!r}" for text in _ITALICS.findall(sentence)]
            for label, target in _LINK.findall(sentence):
                exempt = says_so and "/optimizers/rules/" in target
                is_original = original is not None and (page.parent / target).resolve() == original.resolve()
                if _shows_english(target, page, language) and not (exempt or is_original) and ENGLISH not in sentence:
                    result.append(f"a link to an English page without {ENGLISH}: {label!r}")
    return result
