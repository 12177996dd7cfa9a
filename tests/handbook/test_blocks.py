"""Every Python block of every page runs, and every command line of a page is one that the command accepts."""

import re
import shlex
from pathlib import Path

import click
import pytest
import torch

from tests.handbook.blocks import Block, blocks_of, run_blocks, smaller
from tests.handbook.checks import CHECKS, OUTPUTS, check
from thalweg.cli.main import cli

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# Each page with blocks is run by one module of tests. Translations do not run: their code is that of the original.
CAUSES = [page for page in DOCUMENTS if page.parent.name == "causes"]
TRANSLATIONS = [page for page in DOCUMENTS if "zh" in page.relative_to(ROOT).parts]
RUN_HERE = [page for page in DOCUMENTS if page not in {*CAUSES, *TRANSLATIONS} and blocks_of(page)]
# Modules that run blocks, or read them. No other module may: a second reader has other rules, and runs blocks twice.
READERS = {
    "tests/handbook/checks.py": "a fragment of the page on transfer, with batches of its own",
    "tests/handbook/test_blocks.py": "all pages but causes and translations",
    "tests/diagnosis/test_pages.py": "pages of causes, with their cures",
    "tests/integrations/page.py": "classes of a page, to use them in trainers",
    "tests/learning/test_pages.py": "functions on a page, to compare them with the examples",
}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")  # of torch, in Trainer, without a GPU
@pytest.mark.parametrize("page", RUN_HERE, ids=relative)
def test_the_blocks_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    random_state, threads = torch.get_rng_state(), torch.get_num_threads()
    try:
        run = run_blocks(page, tmp_path)
        assert len(run.printed) == len([block for block in blocks_of(page) if not block.reason])
        check(run)
    finally:
        torch.set_rng_state(random_state)
        torch.set_num_threads(threads)
    for report in tmp_path.rglob("*.html"):
        assert "could not be made" not in report.read_text(), report.name


def test_every_block_of_every_page_is_run_by_one_module() -> None:
    fence = re.compile(r"^ *(?:```|~~~) *(?:py|python|pycon|\{code-block\} *python)\b", flags=re.MULTILINE)
    for page in DOCUMENTS:
        fences = fence.findall(page.read_text())
        assert len(fences) == len(blocks_of(page)), f"{relative(page)}: begin a block of Python with ```python"
        owners = [pages for pages in (CAUSES, TRANSLATIONS, RUN_HERE) if page in pages]
        assert len(owners) == 1 or (not owners and not fences), relative(page)


def test_no_other_module_reads_blocks() -> None:
    reading = re.compile(r"\bblocks_(?:of|in)\(|\brun_blocks\(|\[^\n]*```python|```python[^\n]*\(\.")
    readers = {relative(path) for path in (ROOT / "tests").rglob("*.py") if reading.search(path.read_text())}
    assert readers - {"tests/handbook/blocks.py"} == set(READERS)


def test_a_check_is_of_a_block_that_runs_and_has_an_output() -> None:
    run_here = {relative(page) for page in RUN_HERE}
    assert set(CHECKS) <= run_here
    for name, place in OUTPUTS:
        runs = [block for block in blocks_of(ROOT / name) if not block.reason]
        assert runs[place].shown, (name, place)


@pytest.mark.parametrize("page", [page for page in DOCUMENTS if "\n<!-- not run" in page.read_text()], ids=relative)
def test_a_block_that_does_not_run_has_a_reason_and_is_python(page: Path) -> None:
    marked = [block for block in blocks_of(page) if block.reason]
    marks = re.findall(r"^<!-- not run", page.read_text(), flags=re.MULTILINE)
    assert len(marked) == len(marks), "the mark stands directly above a block"
    for block in marked:
        compile(block.code, str(page), "exec")


def console_lines() -> list[tuple[str, str]]:
    """Every command line of thalweg in a console block, with the page that shows it."""
    lines = []
    for page in DOCUMENTS:
        for console in re.findall(r"```(?:console|bash|sh)\n(.*?)```", page.read_text(), flags=re.DOTALL):
            joined = console.replace("\\\n", " ")
            lines += [
                (relative(page), line) for line in re.findall(r"^(?:\$ )?(thalweg .*)$", joined, flags=re.MULTILINE)
            ]
    return lines


@pytest.mark.parametrize(("page", "line"), console_lines())
def test_a_command_line_on_a_page_is_accepted(page: str, line: str) -> None:
    words = shlex.split(re.split(r"[|>]", line)[0], comments=True)[1:]
    if not words or words[0].startswith("-") or words[0].isupper():
        return
    assert words[0] in cli.commands, f"{page}: {line}"
    try:
        cli.commands[words[0]].make_context(words[0], words[1:])
    except click.exceptions.Exit:  # --help
        pass
    except click.ClickException as error:
        pytest.fail(f"{page}: {line}: {error.format_message()}")


def page_with(tmp_path: Path, text: str) -> Path:
    page = tmp_path / "page.md"
    page.write_text(text)
    return page


def test_blocks_share_a_namespace_and_are_run_in_order(tmp_path: Path) -> None:
    page = page_with(tmp_path, "```python\nx = 1\n```\n\n- item\n\n  ```python\n  y = x + 1\n  ```\n")
    assert blocks_of(page)[1] == Block("y = x + 1\n", 8)
    assert run_blocks(page, tmp_path).namespace["y"] == 2


def test_an_error_names_the_line_of_the_page(tmp_path: Path) -> None:
    page = page_with(tmp_path, "text\n\n```python\nx = 1\nraise ValueError\n```\n")
    with pytest.raises(ValueError) as caught:
        run_blocks(page, tmp_path)
    assert caught.traceback[-1].lineno + 1 == 5


def test_the_output_beside_a_print_is_compared(tmp_path: Path) -> None:
    run_blocks(page_with(tmp_path, "```python\nprint(1 + 1)  # 2\nprint(3)  # a number, say\n```\n"), tmp_path)
    with pytest.raises(AssertionError, match=r"page\.md:2"):
        run_blocks(page_with(tmp_path, "```python\nprint(1 + 1)  # 3\n```\n"), tmp_path)


def test_a_block_is_left_out_only_with_a_reason_directly_above_it(tmp_path: Path) -> None:
    run_blocks(page_with(tmp_path, "<!-- not run: it needs a GPU -->\n```python\n1 / 0\n```\n"), tmp_path)
    for mark in ("<!-- not run -->\n", "<!-- not run: it needs a GPU -->\n\n"):
        with pytest.raises(ZeroDivisionError):
            run_blocks(page_with(tmp_path, f"{mark}```python\n1 / 0\n```\n"), tmp_path)


def test_budgets_are_cut() -> None:
    assert smaller('compare(task, budget="20s", out="x")') == 'compare(task, budget="4trials", out="x")'
    assert smaller('thalweg.compare_suite(budget="2m")') == 'thalweg.compare_suite(budget="2trials")'
    assert smaller('diagnose(training, budget="60s")') == 'diagnose(training, steps=100, budget="60s")'
    assert smaller("diagnose(training, steps=60)") == "diagnose(training, steps=60)"
