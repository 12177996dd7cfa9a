"""Formulas become LaTeX without loss: every symbol, every division, every word."""

import re
import unicodedata
from itertools import chain

import pytest
from docutils.utils.math import latex2mathml

from benchmarks.handbook.formulas import to_latex
from benchmarks.handbook.rule_page import Subject
from benchmarks.handbook.tokens import GREEK
from thalweg.registry import RULES, WRAPPERS


def rows(formula: str) -> list[str]:
    return to_latex(formula).removeprefix("\\begin{aligned}\n").removesuffix("\n\\end{aligned}").split(" \\\\\n")


@pytest.mark.parametrize(
    ("formula", "latex"),
    [
        ("m_t = β₁ m_{t-1} + (1 - β₁) g_t", r"m_t &= \beta_1 \,m_{t-1} + (1 - \beta_1) \,g_t"),
        ("v̂_t = v_t / (1 - β₂ᵗ)", r"\hat{v}_t &= \frac{v_t}{1 - \beta_2^{t}}"),
        ("x = η m̂_t / (√v̂_t + ε)", r"x &= \eta \,\frac{\hat{m}_t}{\sqrt{\hat{v}_t} + \varepsilon}"),
        ("x = √(a + b) / √c d", r"x &= \frac{\sqrt{a + b}}{\sqrt{c}} \,d"),
        ("x = a / b / (c + d)", r"x &= \frac{a}{b\, c + d}".replace("c + d", r"(c + d)")),
        ("y = s_mᵀy_m / y_mᵀy_m", r"y &= \frac{s_m^{\top} y_m}{y_m^{\top} y_m}"),
        ("r = (a b / c)", r"r &= \left(\frac{a \,b}{c}\right)"),
        ("r = ‖g_t‖₁ / |x|", r"r &= \frac{\lVert g_t \rVert_1}{\lvert x \rvert}"),
        ("k = 0.96^(tψ)", r"k &= 0.96^{t\psi}"),
        ("H_i^(-1/2k)", r"&H_i^{-1/2k}"),
        ("a_t = max(x, 1) of a row", r"a_t &= \operatorname{max}(x ,\; 1) \text{ of a row}"),
        ("η_min = step_t", r"\eta_{\text{min}} &= \text{step}_t"),
        ("R = ∛v", r"R &= \sqrt[3]{v}"),
        ("g'_t ← ⟨a, b⟩", r"g'_t &\leftarrow \langle a ,\; b \rangle"),
    ],
)
def test_a_formula_is_written_as_mathematicians_do(formula: str, latex: str) -> None:
    assert rows(formula) == [latex]


def test_wide_spaces_divide_a_line_and_short_remarks_stay_beside_it() -> None:
    assert rows("m = a        n = b") == ["m &= a", "n &= b"]
    assert rows("m = a        from d_0") == [r"m &= a \quad \text{from } d_0"]
    assert rows("m = a        the largest value of all steps so far") == [
        "m &= a",
        r"&\quad \text{the largest value of all steps so far}",
    ]
    assert rows("for each β:\n    m = β") == [r"&\text{for each } \beta \text{: }".rstrip(), r"\quad m &= \beta"]


@pytest.mark.parametrize("formula", ["m = §", "m = (a", "m = foo(a)", "m = ^"])
def test_what_cannot_be_read_raises_an_error(formula: str) -> None:
    with pytest.raises((ValueError, AssertionError), match="formula|"):
        to_latex(formula)


@pytest.mark.parametrize("name", [*RULES, *WRAPPERS])
def test_the_formula_of_a_rule_keeps_every_symbol_and_word(name: str) -> None:
    formula = unicodedata.normalize("NFD", Subject(name).explanation.formula)
    latex = to_latex(formula)
    for letter, command in GREEK.items():
        assert formula.count(letter) == len(re.findall(rf"\\{command}(?![a-zA-Z])", latex)), letter
    assert formula.count("\u0302") == latex.count(r"\hat{")
    assert len(re.findall("[√∛]", formula)) == latex.count(r"\sqrt")
    assert formula.count("‖") == 2 * latex.count(r"\lVert") == 2 * latex.count(r"\rVert")
    plain = re.sub(r"\\[a-zA-Z]+|[^A-Za-z]+", " ", re.sub(r"\\(text|operatorname)\{([^}]*)\}", r" \2 ", latex))
    for word in set(re.findall(r"[A-Za-z]{2,}", formula)):
        assert word in plain.split(), word
    chains = len(re.findall(r"/ \([^()]*\) / ", formula))  # a / b / c is one fraction
    assert latex.count(r"\frac") + latex.count("/") == formula.count("/") - chains
    assert latex.count("{") == latex.count("}")
    assert latex.isascii()
    assert "<merror" not in latex2mathml.tex2mathml(latex, as_block=True)


def test_the_alphabet_of_formulas_is_the_one_of_the_pages() -> None:
    used = set(chain.from_iterable(Subject(name).explanation.formula for name in (*RULES, *WRAPPERS)))
    greek = {char for char in used if "GREEK SMALL LETTER" in unicodedata.name(char, "") and len(char) == 1}
    assert {unicodedata.normalize("NFD", char)[0] for char in greek} - {"ς"} <= set(GREEK)
