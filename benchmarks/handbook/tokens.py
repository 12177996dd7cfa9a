"""Tokens of a formula in the notation of the rules' docstrings, such as ``m̂_t = m_t / (1 - β₁ᵗ)``."""

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

GREEK = {
    "α": "alpha",
    "β": "beta",
    "γ": "gamma",
    "δ": "delta",
    "ε": "varepsilon",
    "ζ": "zeta",
    "η": "eta",
    "θ": "theta",
    "κ": "kappa",
    "λ": "lambda",
    "μ": "mu",
    "ν": "nu",
    "π": "pi",
    "ρ": "rho",
    "ϱ": "varrho",
    "σ": "sigma",
    "τ": "tau",
    "φ": "varphi",
    "ψ": "psi",
    "ω": "omega",
    "Δ": "Delta",
    "∞": "infty",
    "∇": "nabla",
}
OPERATORS = {
    "=": "=",
    "←": r"\leftarrow",
    "~": r"\sim",
    "≥": r"\ge",
    "≤": r"\le",
    ">": ">",
    "<": "<",
    "+": "+",
    "-": "-",
    "±": r"\pm",
    "×": r"\times",
    "·": r"\cdot",
    "Σ": r"\sum",
    "…": r"\ldots",
    "...": r"\ldots",
}
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ᵗᵖʳᵏ", "0123456789+-tprk", strict=True)) | {"ᵀ": r"\top"}
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
HAT = "\u0302"

_TOKEN = re.compile(
    rf"""(?P<space>\s+)
    | (?P<code>`[^`]+`)
    | (?P<word>[A-Za-z]{{2,}}(?:['-][A-Za-z]+)*)
    | (?P<symbol>[A-Za-z{"".join(GREEK)}]{HAT}?'?)
    | (?P<number>\d+(?:\.\d+)?)
    | (?P<lower>_(?:\{{[^}}]*\}}|\d+|[A-Za-z]+|[{"".join(GREEK)}])|[{"".join(_LOWERED)}]+)
    | (?P<upper>[{"".join(_RAISED)}]+)
    | (?P<power>\^)
    | (?P<root>[√∛])
    | (?P<open>[(⟨])
    | (?P<close>[)⟩])
    | (?P<bar>[‖|])
    | (?P<slash>/)
    | (?P<comma>[,;:])
    | (?P<operator>\.\.\.|[{"".join(re.escape(mark) for mark in OPERATORS if len(mark) == 1)}])""",
    re.VERBOSE,
)


class Token(NamedTuple):
    """A token.

    Attributes:
        kind: The name of its kind: a group of the pattern above.
        text: Its text in the formula.
        has_space: True if a space stands before it.
    """

    kind: str
    text: str
    has_space: bool


def tokens(text: str) -> Iterator[Token]:
    """Yield the tokens of a formula.

    Raises:
        ValueError: If a character has no meaning in a formula.

    Example:
        >>> [token.text for token in tokens("√v_t + ε")]
        ['√', 'v', '_t', '+', 'ε']
    """
    text = unicodedata.normalize("NFD", text)
    place, has_space = 0, False
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise ValueError(f"formula: every character must be known, got {text[place]!r} in {text!r}. Add it here.")
        if match.lastgroup == "space":
            has_space = True
        else:
            yield Token(str(match.lastgroup), match[0], has_space)
            has_space = False
        place = match.end()


def raised(text: str) -> str:
    """Return superscript characters as LaTeX."""
    return "".join(_RAISED[char] for char in text)


def lowered(text: str) -> str:
    """Return a subscript as LaTeX, without the mark before it."""
    if text[0] != "_":
        return "".join(_LOWERED[char] for char in text)
    inner = text[1:].strip("{}")
    if len(inner) > 1 and inner.isalpha() and inner.isascii():
        return rf"\text{{{inner}}}"
    return "".join(rf"\{GREEK[char]} " if char in GREEK else char for char in inner).strip()


def symbol(text: str) -> str:
    """Return a letter as LaTeX, with its hat and its prime."""
    letter = rf"\{GREEK[text[0]]}" if text[0] in GREEK else text[0]
    return (rf"\hat{{{letter}}}" if HAT in text else letter) + ("'" if "'" in text else "")
