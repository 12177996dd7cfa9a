"""Translated pages follow their originals: code, numbers, pictures and headings; stale pages are reported."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
try:
    import chinese
    import translations
finally:
    sys.path.pop(0)

ORIGINAL = """# Steps

The loss is 0.25 after 1,000 steps of 3.

```python
print(0.5)
```

| steps | loss |
|---|---|
| 20 | [0.3](log.md#step-7) |

![loss 0.25](images/loss.svg)

## More
"""
TRANSLATED = """# 步数

1,000 步（每步 3 个样本）之后，损失为 0.25。

```python
print(0.5)
```

| 步数 | 损失 |
|---|---|
| 20 | [0.3](../log.md#第-8-步)（英文） |

![损失 0.25](../images/loss.svg)

## 更多
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A translated page that follows its original, in a folder like the repository."""
    (tmp_path / "docs" / "zh").mkdir(parents=True)
    (tmp_path / "docs" / "steps.md").write_text(ORIGINAL, encoding="utf-8")
    page = tmp_path / "docs" / "zh" / "steps.md"
    page.write_text(f"<!-- translation of docs/steps.md, version {'0' * 12} -->\n{TRANSLATED}", encoding="utf-8")
    translations.accept(page, tmp_path)
    return page


@pytest.mark.parametrize("page", translations.translated_pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_translated_page_has_the_code_numbers_and_pictures_of_its_original(page: Path) -> None:
    translation = translations.read_translation(page)
    if translation.is_stale:
        pytest.skip("the original changed after this page was translated; python docs/translations.py lists what to do")
    assert not translation.differences(), "python docs/translations.py lists the differences"


def test_the_version_is_the_hash_of_git() -> None:
    path = ROOT / "CONTRIBUTING.md"
    done = subprocess.run(["git", "hash-object", path], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("this folder is no clone, or git is missing")
    assert translations.version_of(path) == done.stdout[: translations.VERSION_LENGTH]
    assert done.stdout.startswith(translations.version_of(path))


def test_a_page_that_follows_its_original_is_current(page: Path, tmp_path: Path) -> None:
    assert translations.report(tmp_path) == "current  docs/zh/steps.md"
    text = translations.with_notice(page, page.read_text(encoding="utf-8"), tmp_path)
    assert "# 步数\n\n本页译自英文页面 [Steps](../steps.md)。\n\n1,000" in text
    assert "warning" not in text


def test_a_page_whose_original_changed_is_reported_and_says_so(page: Path, tmp_path: Path) -> None:
    version = translations.read_translation(page, tmp_path).version
    (tmp_path / "docs" / "steps.md").write_text(ORIGINAL.replace("The loss", "The mean loss"), encoding="utf-8")
    assert translations.report(tmp_path).splitlines() == [
        "stale    docs/zh/steps.md",
        f"         what changed: git diff {version} HEAD:docs/steps.md",
        "         when it is translated: python docs/translations.py --accept docs/zh/steps.md",
    ]
    text = translations.with_notice(page, page.read_text(encoding="utf-8"), tmp_path)
    assert "# 步数\n\n```{admonition} 译文待更新\n:class: warning\n\n英文页面 [Steps](../steps.md)" in text
    translations.accept(page, tmp_path)
    assert translations.report(tmp_path) == "current  docs/zh/steps.md"


@pytest.mark.parametrize(
    ("before", "after", "difference"),
    [
        ("print(0.5)", "print(0.6)", "code: missing 'print(0.5)\\n'; not in the original 'print(0.6)\\n'"),
        ("损失为 0.25", "损失为 0.52", "numbers: missing '0.25'; not in the original '0.52'"),
        ("1,000 步", "10,000 步", "numbers: missing '1,000'; not in the original '10,000'"),
        ("| 20 |", "| 30 |", "numbers in tables: missing '20'; not in the original '30'"),
        ("images/loss.svg", "images/step.svg", "pictures: missing 'loss.svg'; not in the original 'step.svg'"),
        ("\n## 更多\n", "", "headings: missing '##'; not in the original nothing"),
        ("```python\nprint(0.5)\n```\n", "", "code: missing 'print(0.5)\\n'; not in the original nothing"),
    ],
)
def test_a_difference_to_the_original_is_named(
    page: Path, tmp_path: Path, before: str, after: str, difference: str
) -> None:
    text = page.read_text(encoding="utf-8")
    assert before in text
    page.write_text(text.replace(before, after), encoding="utf-8")
    assert translations.report(tmp_path).splitlines() == ["differs  docs/zh/steps.md", f"         {difference}"]


def test_a_link_past_a_translation_is_named(page: Path, tmp_path: Path) -> None:
    assert translations.report(tmp_path) == "current  docs/zh/steps.md"
    (page.parent / "log.md").write_text(f"<!-- translation of docs/log.md, version {'0' * 12} -->\n# 记录\n", "utf-8")
    (tmp_path / "docs" / "log.md").write_text("# Log\n", encoding="utf-8")
    assert translations.read_translation(page, tmp_path).differences() == [
        "links: to an original that has a translation '../log.md'"
    ]
    text = page.read_text(encoding="utf-8").replace("../log.md", "log.md")
    page.write_text(f"{text}\n[英文版](../steps.md)、[别处](../other.md)\n", encoding="utf-8")
    assert translations.read_translation(page, tmp_path).differences() == []


def test_the_first_page_in_chinese_has_no_fault() -> None:
    language = ROOT / "docs" / "zh"
    assert chinese.faults(language / "index.md", language) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("损失,梯度", "half-width punctuation: '损失,梯度'"),
        ("如下:\n\n```text\nx\n```", "half-width punctuation: '如下:'"),
        ("损失变小.", "half-width punctuation: '损失变小.'"),
        ("步长(每步)", "half-width brackets: '步长(每步)'"),
        ("比较 (见下) 一次", "half-width brackets: '比较 (见下) 一次'"),
        ("用Adam训练", "no space between Chinese and Latin text: '用Adam训练'"),
        ("学习率 0.1时", "no space between Chinese and Latin text: '学习率 0.1时'"),
        ("误差为 5%以内", "no space between Chinese and Latin text: '误差为 5%以内'"),
        ("令`lr`为零", "no space between Chinese and Latin text: '令x为零'"),
        ("**动量**η", "no space between Chinese and Latin text: '动量η'"),
        ("- **动量。** 它", "a space or line break beside full-width punctuation: '动量。 它'"),
        ("损失 ，梯度", "a space or line break beside full-width punctuation: '损失 ，梯度'"),
        ("见下一节。\n然后", "a space or line break beside full-width punctuation: '见下一节。 然后'"),
        ("学习率\n调度", "a space or line break between Chinese characters: '学习率 调度'"),
        ("- 学习率\n  调度", "a space or line break between Chinese characters: '学习率 调度'"),
        ("| 学习率 调度 | 1 |", "a space or line break between Chinese characters: '学习率 调度'"),
        ("结果是 *最小值* 吗？", "italics, which Chinese fonts lack: '*最小值*'"),
        ("见[调度](../schedules.md)。下一页是英文的。", "a link to an English page without 英文: '调度'"),
        ("见[梯度](../../x.md#y)。", "a link to an English page without 英文: '梯度'"),
        ("其余在[Lion](../optimizers/rules/lion.md)", "a link to an English page without 英文: 'Lion'"),
    ],
)
def test_a_fault_of_typography_is_named(page: Path, tmp_path: Path, text: str, fault: str) -> None:
    before = page.read_text(encoding="utf-8")
    page.write_text(f"{before}\n{text}\n", encoding="utf-8")
    found = chinese.faults(page, page.parent, tmp_path / "docs" / "steps.md")
    assert fault in found
    assert f"         {fault}" in translations.report(tmp_path).splitlines()


@pytest.mark.parametrize(
    "text",
    [
        "用 Adam 训练 3 步，损失为 0.1（见 `lr` 一节）；误差 5%，即 (y - t)² 的均值。",
        "**动量**：它记住 (s, y) 对。**为什么？**因为“快”。*worse by* 与 a * b * c 都可以。",
        "代码在\n[x.py](../../x.py)，数据在 a:b、3:1 处 · 见 [v](https://x.org/a.md)。",
        "1. 第一步\n2. 第二步\n\n   ```text\n   损失,梯度\n   ```\n\n| 步 | 损失 |\n|---|---|\n| 1 | 2 |",
        "## 小结\n下一行。",
        "`损失,梯度` 和 <b>η</b> <!-- 损失,梯度 -->",
        "见[调度](../schedules.md)（英文）。[原文](../steps.md)。",
        "没有中文版的，链接指向英文页面。见 [Lion](../optimizers/rules/lion.md)。",
    ],
)
def test_good_typography_is_no_fault(page: Path, tmp_path: Path, text: str) -> None:
    page.write_text(f"{page.read_text(encoding='utf-8')}\n{text}\n", encoding="utf-8")
    assert chinese.faults(page, page.parent, tmp_path / "docs" / "steps.md") == []


def test_directives_are_no_code(page: Path, tmp_path: Path) -> None:
    with page.open("a", encoding="utf-8") as file:
        file.write("\n```{toctree}\nsteps\n```\n")
    assert translations.read_translation(page, tmp_path).differences() == []


def test_code_in_a_list_is_code(page: Path, tmp_path: Path) -> None:
    block = "\n1. x\n\n   ```text\n   a = b\n   ```\n"
    (tmp_path / "docs" / "steps.md").write_text(ORIGINAL + block, encoding="utf-8")
    page.write_text(page.read_text(encoding="utf-8") + block.replace("a = b", "a = c"), encoding="utf-8")
    translations.accept(page, tmp_path)
    assert translations.read_translation(page, tmp_path).differences() == [
        "code: missing '   a = b\\n'; not in the original '   a = c\\n'"
    ]


def test_the_first_page_of_a_language_has_no_original(page: Path, tmp_path: Path) -> None:
    (page.parent / "index.md").write_text("# 手册\n", encoding="utf-8")
    assert translations.translated_pages(tmp_path) == [page]


@pytest.mark.parametrize(
    "line", ["", "<!-- translation of docs/steps.md -->\n", "<!-- translation of x, version 1 -->\n"]
)
def test_a_page_without_a_version_is_an_error_that_says_what_to_write(page: Path, tmp_path: Path, line: str) -> None:
    page.write_text(line + TRANSLATED, encoding="utf-8")
    with pytest.raises(translations.TranslationError, match=r"steps\.md: the first line must be <!-- translation of"):
        translations.report(tmp_path)


def test_a_page_without_its_original_is_an_error(page: Path, tmp_path: Path) -> None:
    (tmp_path / "docs" / "steps.md").unlink()
    with pytest.raises(translations.TranslationError, match=r"its original must exist, got docs/steps\.md"):
        translations.report(tmp_path)


def test_the_command_lists_pages_and_fails_for_a_page_that_is_no_translation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert translations.main([]) == 0
    assert capsys.readouterr().out == translations.report() + "\n"
    assert translations.main(["--accept", str(ROOT / "README.md")]) == 1
    assert "README.md: the first line must be" in capsys.readouterr().err
