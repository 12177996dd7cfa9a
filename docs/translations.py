"""Translated pages and the originals that they follow.

    python docs/translations.py                          # list every translated page, and what differs
    python docs/translations.py --accept docs/zh/NAME.md # the page follows its original as that is now

The first line of a translated page names its original and the version that was translated:

    <!-- translation of docs/start.md, version 0123456789ab -->

The version is the hash that git gives to the content of a file (`git hash-object docs/start.md`), so
`git diff 0123456789ab HEAD:docs/start.md` shows what changed since. A page whose original changed since is stale. The
built page says so at its top. Staleness is no error, so that an edit of the original needs no translator. A current
page is compared with its original, and its typography is checked (`docs/chinese.py`).
"""

import argparse
import hashlib
import os
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import chinese

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("zh",)
VERSION_LENGTH = 12
_FIRST_LINE = re.compile(rf"<!-- translation of (\S+), version ([0-9a-f]{{{VERSION_LENGTH}}}) -->\n")
_NOTICE = "本页译自英文页面 [{name}]({link})。"
_STALE_NOTICE = """```{{admonition}} 译文待更新
:class: warning

英文页面 [{name}]({link}) 在本页译出之后有改动。内容不一致时，以英文页面为准。
```"""


class TranslationError(ValueError):
    """The first line of a translated page is missing or wrong, or its original does not exist."""


def version_of(path: Path) -> str:
    """Return the start of the hash that git gives to the content of a file."""
    content = path.read_bytes().replace(b"\r\n", b"\n")
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()[:VERSION_LENGTH]


def title_of(page: Path) -> str:
    """Return the title of a page: its first heading, or its name if it has none."""
    title = re.search(r"^# (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return title[1].strip() if title else page.name


@dataclass(frozen=True)
class Translation:
    """A translated page and its original.

    Attributes:
        page: Path of the translated page.
        original: Path of the page that it was made from.
        version: Version of the original that was translated.
    """

    page: Path
    original: Path
    version: str

    @property
    def is_stale(self) -> bool:
        """True if the original changed after it was translated."""
        return version_of(self.original) != self.version

    def notice(self) -> str:
        """Return the sentence that links the original, as a warning if the page is stale."""
        link = os.path.relpath(self.original, self.page.parent)
        return (_STALE_NOTICE if self.is_stale else _NOTICE).format(name=title_of(self.original), link=link)

    def differences(self) -> list[str]:
        """Return what differs from the original, links that pass a translation by, and faults of typography.

        Equal must be code, decimal numbers, all numbers in tables, pictures, and the levels of headings.
        """
        texts = self.original.read_text(encoding="utf-8"), self.page.read_text(encoding="utf-8")
        differences = []
        for part, extract in _PARTS.items():
            before, after = (Counter(extract(text)) for text in texts)
            missing, surplus = list((before - after).elements()), list((after - before).elements())
            if missing or surplus:
                differences.append(f"{part}: missing {_shorten(missing)}; not in the original {_shorten(surplus)}")
        passed = self._passed_translations()
        if passed:
            differences.append(f"links: to an original that has a translation {_shorten(passed)}")
        return [*differences, *chinese.faults(self.page, self._language(), self.original)]

    def _language(self) -> Path:
        """Return the folder of the pages of the language."""
        return next(folder for folder in self.page.parents if folder.parent.name == "docs")

    def _passed_translations(self) -> list[str]:
        """Return the links to pages of the original language that this language has, other than to the own original."""
        language = self._language()
        docs, root = language.parent, language.parent.parent
        links = re.findall(r"\]\(([^)\s#:]+)(?:#[^)\s]*)?\)", _prose(self.page.read_text(encoding="utf-8")))
        passed = []
        for link in links:
            target = (self.page.parent / link).resolve()
            if target == self.original.resolve() or not target.is_relative_to(root) or target.is_relative_to(language):
                continue
            if (language / target.relative_to(docs if target.is_relative_to(docs) else root)).is_file():
                passed.append(link)
        return passed


def _shorten(parts: list[str]) -> str:
    return ", ".join(repr(part if len(part) < 60 else part[:57] + "...") for part in parts[:8]) or "nothing"


_BLOCK = re.compile(r"^( *)```(.*)\n([\s\S]*?)^\1```$", re.MULTILINE)


def _code(text: str) -> list[str]:
    """Return the blocks of code, without directives such as `{toctree}`, which hold paths and captions."""
    return [body for _, language, body in _BLOCK.findall(text) if "{" not in language]


def _prose(text: str) -> str:
    return re.sub(r"<!--[\s\S]*?-->", "", _BLOCK.sub("", text))


def _table_numbers(text: str) -> list[str]:
    """Return the numbers in tables, without addresses of links."""
    rows = re.findall(r"^ *\|.*$", _prose(text), flags=re.MULTILINE)
    return re.findall(r"\d+(?:[.,]\d+)*", re.sub(r"\]\([^)]*\)", "]", "\n".join(rows)))


_PARTS = {
    "code": _code,
    "numbers": lambda text: re.findall(r"\d+(?:,\d{3})*\.\d+|\d{1,3}(?:,\d{3})+", _prose(text)),
    "numbers in tables": _table_numbers,
    "pictures": lambda text: re.findall(
        r"(?:!\[[^\]]*\]\(|<img [^>]*?src=\")[^)\"\s]*?([\w-]+\.\w+)[)\"]", _prose(text)
    ),
    "headings": lambda text: re.findall(r"^(#+) ", _prose(text), flags=re.M),
}


def read_translation(page: Path, root: Path = ROOT) -> Translation:
    """Read which version of which original a page translates.

    Args:
        page: Path of the translated page.
        root: Folder that the paths of originals are relative to.

    Returns:
        The page with its original.

    Raises:
        TranslationError: If the first line does not say it, or the original does not exist.
    """
    text = page.read_text(encoding="utf-8")
    match = _FIRST_LINE.match(text)
    if match is None:
        first = text.partition("\n")[0]
        raise TranslationError(
            f"{page.name}: the first line must be <!-- translation of PATH, version {VERSION_LENGTH} HEXADECIMAL DIGITS"
            f" -->, got {first!r}. Write <!-- translation of PATH, version {'0' * VERSION_LENGTH} -->, translate, then "
            f"run: python docs/translations.py --accept {page.name}"
        )
    original = root / match[1]
    if not original.is_file():
        raise TranslationError(f"{page.name}: its original must exist, got {match[1]}. Correct the path, or delete it.")
    return Translation(page, original, match[2])


def translated_pages(root: Path = ROOT) -> list[Path]:
    """Return the paths of all translated pages, in order. The first page of a language has no original."""
    folders = [root / "docs" / folder for folder in FOLDERS]
    return sorted(page for folder in folders for page in folder.rglob("*.md") if page != folder / "index.md")


def accept(page: Path, root: Path = ROOT) -> Translation:
    """Write the present version of the original into the first line of a page, and return the translation."""
    translation = read_translation(page, root)
    path = translation.original.relative_to(root).as_posix()
    line = f"<!-- translation of {path}, version {version_of(translation.original)} -->\n"
    page.write_text(_FIRST_LINE.sub(line, page.read_text(encoding="utf-8"), count=1), encoding="utf-8")
    return read_translation(page, root)


def with_notice(page: Path, text: str, root: Path = ROOT) -> str:
    """Return the text of a translated page with the link to its original below the title."""
    notice = read_translation(page, root).notice()
    return re.sub(r"^# .*$", lambda title: f"{title[0]}\n\n{notice}", text, count=1, flags=re.MULTILINE)


def report(root: Path = ROOT) -> str:
    """Return a line for each translated page, and below it the commands or differences that concern it."""
    lines = []
    for page in translated_pages(root):
        name = page.relative_to(root).as_posix()
        translation = read_translation(page, root)
        original = translation.original.relative_to(root).as_posix()
        if translation.is_stale:
            lines += [
                f"stale    {name}",
                f"         what changed: git diff {translation.version} HEAD:{original}",
                f"         when it is translated: python docs/translations.py --accept {name}",
            ]
        else:
            differences = translation.differences()
            lines += [
                f"{'differs' if differences else 'current'}  {name}",
                *(f"         {text}" for text in differences),
            ]
    return "\n".join(lines) or "no translated pages"


def main(arguments: list[str] | None = None) -> int:
    """Run the command at the top of this file. Returns 1 if a page cannot be read or accepted."""
    parser = argparse.ArgumentParser(description="List translated pages: current, stale, or different.")
    parser.add_argument("--accept", nargs="+", type=Path, metavar="PAGE", default=[], help="pages that are up to date")
    pages = parser.parse_args(arguments).accept
    try:
        for page in pages:
            accept(page.resolve())
        print(report())
    except (TranslationError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
