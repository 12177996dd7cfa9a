"""Tables: no cell is cut at any width, and the layout at 40, 60, 80 and 120 columns is as written here."""

import random
import re

import pytest
from rich.cells import cell_len

from thalweg.comparison.presentation.tables import Column, Table

NAMES = ["cautious(clip(adamw)):max_norm=0.5", "adam"]
TABLE = Table(
    [
        Column("contender", NAMES, "left"),
        Column("value", ["0.0931", "≥ 12.5"]),
        Column("95 % interval", ["0.089 – 0.0962", "–"]),
        Column("worse by", ["–", "3.0 %"]),
        Column("settings", ["lr=0.035 beta1=0.53 eps=1e-08", "lr=0.88"], folds=True),
    ],
    bold_row=0,
)

AT_120 = """\
contender                            value   95 % interval  worse by  settings
cautious(clip(adamw)):max_norm=0.5  0.0931  0.089 – 0.0962         –  lr=0.035 beta1=0.53 eps=1e-08
adam                                ≥ 12.5               –     3.0 %  lr=0.88"""
AT_80 = """\
contender                            value   95 % interval  worse by
cautious(clip(adamw)):max_norm=0.5  0.0931  0.089 – 0.0962         –
adam                                ≥ 12.5               –     3.0 %

contender                           settings
cautious(clip(adamw)):max_norm=0.5  lr=0.035 beta1=0.53 eps=1e-08
adam                                lr=0.88"""
AT_60 = """\
contender                            value   95 % interval
cautious(clip(adamw)):max_norm=0.5  0.0931  0.089 – 0.0962
adam                                ≥ 12.5               –

contender                           worse by
cautious(clip(adamw)):max_norm=0.5         –
adam                                   3.0 %

contender                           settings
cautious(clip(adamw)):max_norm=0.5  lr=0.035 beta1=0.53
                                    eps=1e-08
adam                                lr=0.88"""
AT_40 = """\
cautious(clip(adamw)):max_norm=0.5
  value          0.0931
  95 % interval  0.089 – 0.0962
  worse by       –
  settings
    lr=0.035 beta1=0.53 eps=1e-08
adam
  value          ≥ 12.5
  95 % interval  –
  worse by       3.0 %
  settings       lr=0.88"""


@pytest.mark.parametrize(("width", "text"), [(120, AT_120), (80, AT_80), (60, AT_60), (40, AT_40)])
def test_columns_are_divided_or_stacked_where_they_do_not_fit(width: int, text: str) -> None:
    assert TABLE.text(width) == text


def test_the_emphasized_row_is_bold_in_each_part() -> None:
    bold = [line.text for line in TABLE.lines(60) if line.is_bold]
    assert len(bold) == 4  # three tables, and a line of settings that continues
    assert all(text.startswith(NAMES[0]) or text.strip() == "eps=1e-08" for text in bold)
    assert [line.text for line in TABLE.lines(40) if line.is_bold] == NAMES[:1]


def random_word(rng: random.Random) -> str:
    return "".join(rng.choice("abcxyz():=._-0123456789名é") for _ in range(rng.randint(1, 45)))


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_no_cell_is_cut_whatever_the_names_and_numbers_are(seed: int, width: int) -> None:
    rng = random.Random(seed)
    rows = rng.randint(1, 5)
    names = [random_word(rng) for _ in range(rows)]
    values = [f"{rng.choice([-1, 1]) * 10 ** rng.uniform(-30, 30):.4g}" for _ in range(rows)]
    settings = [" ".join(f"{random_word(rng)}" for _ in range(rng.randint(0, 6))) for _ in range(rows)]
    columns = [
        Column("contender", names, "left"),
        Column("value", values),
        Column("settings", settings, "left", folds=True),
    ]
    lines = Table(columns).text(width).splitlines()
    words = " ".join(lines).split()
    for word in [*names, *values, *" ".join(settings).split()]:
        assert word in words
    longest = max(map(cell_len, [*names, *values, *" ".join(settings).split()])) + 4
    assert all(cell_len(line) <= max(width, longest) for line in lines)
    # A value stands in the line of its name, or in the paragraph below it.
    text = "\n".join(lines)
    for name, value in zip(names, values, strict=True):
        assert re.search(rf"{re.escape(name)}(\s|\n  value)+{re.escape(value)}(\s|$)", text)


def test_html_is_escaped() -> None:
    table = Table([Column("contender", ["<script>alert('x')</script>"], "left"), Column("a & b", ["<1"])], bold_row=0)
    assert table.html() == (
        "<table><thead><tr><th>contender</th><th>a &amp; b</th></tr></thead><tbody>"
        '<tr style="font-weight:bold"><td style="text-align:left">&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;'
        '</td><td style="text-align:right">&lt;1</td></tr></tbody></table>'
    )


def test_control_characters_are_escaped_before_the_width_is_counted() -> None:
    table = Table([Column("contender", ["a\x1b[31m", "b"], "left"), Column("value", ["1", "2"])])
    assert table.text(80) == "contender  value\na\\x1b[31m      1\nb              2"
