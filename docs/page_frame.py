"""What surrounds the text of a Chinese page, in Chinese: the sidebar, and the words of the theme.

The section with the Chinese pages comes first in the sidebar. The other sections lead to English pages and say so.
"""

import re

CAPTIONS = {
    "Use it": "英文页面：使用",
    "中文": "中文页面",
    "Look it up": "英文页面：查阅",
    "Work on it": "英文页面：参与开发",
}
TITLES = {
    "Overview and installation": "简介与安装",
    "Five minutes to a first verdict": "五分钟得到第一个结论",
    "Choose and tune an optimizer": "选择优化器与调参",
    "Optimizers": "优化器一览",
    "Run an optimizer": "运行优化器",
    "Why a training fails": "训练为什么失败",
    "Learn it from the formulas": "从公式学起",
    "Extend thalweg": "扩展 thalweg",
    "Questions": "常见问题",
    "Reference": "参考手册",
    "Changelog": "更新记录",
    "Contributing to thalweg": "参与贡献",
    "Security": "安全",
    "Architecture": "架构",
    "Log of experiments and decisions": "实验与决策记录",
}
WORDS = {
    "Search": "搜索",
    "Next": "下一页",
    "Previous": "上一页",
    "Home": "首页",
    "Back to top": "回到顶部",
    "On this page": "本页目录",
}
_TOP_ENTRY = re.compile(r'(<li class="toctree-l1[^"]*"><a [^>]*>)([^<]*)(</a>)')
_CAPTION = re.compile(r'(<span class="caption-text">)([^<]*)(</span>)')
_TOGGLE = re.compile(r'aria-label="Toggle navigation of ([^"]*)"')


def in_chinese(text: str) -> str:
    """Return a text of the theme in Chinese; unchanged if it is not among the words that readers see."""
    return WORDS.get(text, text)


def chinese_sidebar(tree: str) -> str:
    """Return the sidebar with Chinese captions and titles, the section of the Chinese pages first.

    Args:
        tree: The sidebar as the theme made it: a caption and a list for each section.
    """
    tree = _CAPTION.sub(lambda match: f"{match[1]}{CAPTIONS.get(match[2], match[2])}{match[3]}", tree)
    tree = _TOP_ENTRY.sub(lambda match: f"{match[1]}{TITLES.get(match[2], match[2])}{match[3]}", tree)
    tree = _TOGGLE.sub(lambda match: f'aria-label="展开或收起：{TITLES.get(match[1], match[1])}"', tree)
    start, *sections = re.split(r'(?=<p class="caption")', tree)
    sections.sort(key=lambda section: CAPTIONS["中文"] not in section)
    return start + "".join(sections)
