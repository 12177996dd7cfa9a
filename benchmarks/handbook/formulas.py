r"""Formulas: from the text in a rule's docstring to LaTeX, so that a page shows them as mathematics.

    θ_t = θ_{t-1} - η m̂_t / (√v̂_t + ε)
    \theta_t &= \theta_{t-1} - \eta\, \frac{\hat{m}_t}{\sqrt{\hat{v}_t} + \varepsilon}

A slash divides the factor before it by the factor after it; letters that touch are one factor. Words stay text.
"""

import re
from dataclasses import dataclass, replace

from benchmarks.handbook.tokens import OPERATORS, Token, lowered, raised, symbol, tokens

_FUNCTIONS = {"max", "min", "clip", "sign", "mean", "cos", "RMS", "rms", "triu", "diag"}
_RELATIONS = {"=", "←", "~"}
_TALL = re.compile(r"\\frac|\\sqrt|\\hat|\\sum")
_SHORT_REMARK = 24  # characters; a longer remark has a row of its own


@dataclass(frozen=True)
class Node:
    """A part of a formula.

    Attributes:
        kind: ``atom``, ``text``, ``operator``, ``comma`` or ``slash``.
        latex: The part as LaTeX.
        has_space: True if a space stands before it.
        inner: The content of parentheses that a fraction or root can drop; empty if it has to keep them.
        fraction: Numerator and denominator of a fraction.
    """

    kind: str
    latex: str
    has_space: bool
    inner: str = ""
    fraction: tuple[str, str] | None = None


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens = list(tokens(text))
        self.place = 0

    @property
    def token(self) -> Token | None:
        return self.tokens[self.place] if self.place < len(self.tokens) else None

    def sequence(self, end: str = "") -> list[Node]:
        """Parse up to the token that ends this sequence, and pass it."""
        nodes: list[Node] = []
        while self.token is not None and self.token.text != end:
            nodes.append(self.part())
        if end:
            if self.token is None:
                raise ValueError(f"formula: {end!r} must close a pair, got the end of the text. Close it.")
            self.place += 1
        return nodes

    def part(self) -> Node:
        token = self.token
        assert token is not None
        if token.kind == "operator":
            self.place += 1
            return Node("operator", OPERATORS[token.text], token.has_space)
        if token.kind in ("comma", "slash"):
            self.place += 1
            return Node(token.kind, token.text, token.has_space)
        if token.kind == "code" or (token.kind == "word" and not self._follows("(", "_")):
            self.place += 1
            return Node("text", token.text.strip("`"), token.has_space)
        return self.scripts(self.base())

    def _follows(self, *marks: str) -> bool:
        """Return True if the next token touches this one and begins with one of these marks."""
        following = self.tokens[self.place + 1 : self.place + 2]
        return bool(following) and not following[0].has_space and following[0].text.startswith(marks)

    def base(self) -> Node:
        """Parse a symbol, number, pair of brackets, root or call, without scripts; a symbol has its lower ones."""
        token = self.token
        assert token is not None
        is_call = self._follows("(")
        self.place += 1
        if token.kind == "open":
            return self._brackets(token)
        if token.kind == "bar":
            inner = joined(self.sequence(token.text))
            left, right = (r"\lVert", r"\rVert") if token.text == "‖" else (r"\lvert", r"\rvert")
            return Node("atom", f"{left} {inner} {right}", token.has_space)
        if token.kind == "root":
            return self._root(token)
        if token.kind == "word" and not is_call:
            return self._lower(Node("atom", rf"\text{{{token.text}}}", token.has_space))
        if token.kind == "word":
            if token.text not in _FUNCTIONS:
                raise ValueError(f"formula: a function must be known, got {token.text!r}. Add it to _FUNCTIONS.")
            return self._call(Node("atom", rf"\operatorname{{{token.text}}}", token.has_space))
        if token.kind == "number":
            return Node("atom", token.text, token.has_space)
        if token.kind != "symbol":
            raise ValueError(f"formula: a symbol, number or bracket must stand here, got {token.text!r}. Rewrite it.")
        node = self._lower(Node("atom", symbol(token.text), token.has_space))
        is_call = is_call or (self.token is not None and self.token.text == "(" and not self.token.has_space)
        return self._call(node) if is_call else node

    def _brackets(self, token: Token) -> Node:
        nodes = self.sequence(")" if token.text == "(" else "⟩")
        inner = joined(nodes, whole=True)
        if token.text == "⟨":
            return Node("atom", rf"\langle {inner} \rangle", token.has_space)
        return Node("atom", _parenthesized(inner), token.has_space, inner=inner)

    def _root(self, token: Token) -> Node:
        argument = self.base()
        degree = "[3]" if token.text == "∛" else ""
        return Node("atom", rf"\sqrt{degree}{{{argument.inner or argument.latex}}}", token.has_space)

    def _lower(self, node: Node) -> Node:
        while self.token is not None and self.token.kind == "lower" and not self.token.has_space:
            script = lowered(self.token.text)
            node = replace(node, latex=f"{node.latex}_{{{script}}}" if len(script) > 1 else f"{node.latex}_{script}")
            self.place += 1
        return node

    def _call(self, node: Node) -> Node:
        self.place += 1
        inner = joined(self.sequence(")"), whole=True)
        return replace(node, latex=node.latex + _parenthesized(inner), inner="")

    def scripts(self, node: Node) -> Node:
        """Parse the scripts after a base."""
        while self.token is not None and not self.token.has_space and self.token.kind in ("upper", "power", "lower"):
            if self.token.kind == "lower":
                node = replace(self._lower(node), inner="")
                continue
            if self.token.kind == "upper":
                script = raised(self.token.text)
                self.place += 1
            else:
                self.place += 1
                script = self._exponent()
            node = replace(node, latex=f"{node.latex}^{{{script}}}", inner="")
        return node

    def _exponent(self) -> str:
        assert self.token is not None
        if self.token.text != "(":
            return self.base().latex
        self.place += 1
        return "".join(node.latex for node in self.sequence(")"))


def _parenthesized(inner: str) -> str:
    return rf"\left({inner}\right)" if _TALL.search(inner) else f"({inner})"


def joined(nodes: list[Node], *, whole: bool = False) -> str:
    """Return parts as one text of LaTeX.

    Args:
        nodes: The parts.
        whole: True if they fill brackets or a root: then a product before a slash is one numerator.
    """
    nodes = _merge_words(nodes)
    nodes = _divide(nodes, whole=whole)
    texts: list[str] = []
    for index, node in enumerate(nodes):
        before = nodes[index - 1] if index else None
        if node.kind == "text":
            space = " " if before is not None and before.kind != "comma" else ""
            after = " " if index + 1 < len(nodes) and nodes[index + 1].kind != "comma" else ""
            texts.append(rf"\text{{{space}{node.latex}{after}}}")
        elif node.kind == "comma":
            following = nodes[index + 1].kind if index + 1 < len(nodes) else ""
            texts.append(rf"\text{{{node.latex} }}" if following == "text" or node.latex == ":" else rf"{node.latex}\;")
        elif node.kind == "slash":
            texts.append("/")
        elif node.kind == "atom" and before is not None and before.kind == "atom" and node.has_space:
            texts.append(rf"\,{node.latex}")
        else:
            texts.append(node.latex)
    return " ".join(texts).removesuffix(r"\;")


def _merge_words(nodes: list[Node]) -> list[Node]:
    """Join neighbouring words. A single `a` between words is the article."""
    merged: list[Node] = []
    for index, node in enumerate(nodes):
        is_article = (
            node.latex == "a"
            and (not merged or merged[-1].kind in ("text", "comma"))
            and index + 1 < len(nodes)
            and nodes[index + 1].kind == "text"
        )
        if is_article:
            node = replace(node, kind="text")
        if node.kind == "text" and merged and merged[-1].kind == "text":
            merged[-1] = replace(merged[-1], latex=f"{merged[-1].latex} {node.latex}")
        else:
            merged.append(node)
    return merged


def _divide(nodes: list[Node], *, whole: bool) -> list[Node]:
    """Replace each slash and the factors beside it by a fraction."""
    result: list[Node] = []
    index = 0
    only_product = whole and all(node.kind in ("atom", "slash") for node in nodes)
    slashes = sum(node.kind == "slash" for node in nodes)
    while index < len(nodes):
        node = nodes[index]
        if node.kind != "slash":
            result.append(node)
            index += 1
            continue
        above = _tight_end(result)
        below_end = index + 1 + _tight_length(nodes[index + 1 :])
        below = nodes[index + 1 : below_end]
        if not above or not below or any(part.kind == "text" and " " in part.latex for part in (*above, *below)):
            result.append(node)
            index += 1
            continue
        if only_product and slashes == 1 and below_end == len(nodes):
            above = list(result)
        del result[len(result) - len(above) :]
        result.append(_fraction(above, below))
        index = below_end
    return result


def _tight_end(nodes: list[Node]) -> list[Node]:
    """The last factor: parts that touch."""
    start = len(nodes)
    while start > 0 and nodes[start - 1].kind in ("atom", "text"):
        start -= 1
        if nodes[start].has_space or nodes[start].kind == "text":
            break
    return nodes[start:]


def _tight_length(nodes: list[Node]) -> int:
    """The number of parts of the first factor."""
    length = 0
    for node in nodes:
        if node.kind not in ("atom", "text") or (length and node.has_space):
            break
        length += 1
        if node.kind == "text":
            break
    return length


def _fraction(above: list[Node], below: list[Node]) -> Node:
    if len(above) == 1 and above[0].fraction:  # a / b / c is a / (b c)
        numerator, denominator = above[0].fraction
        denominator = (
            rf"{_parenthesized(denominator) if ' ' in denominator else denominator}\, {_product(below, False)}"
        )
    else:
        numerator, denominator = _product(above, len(above) == 1), _product(below, len(below) == 1)
    return Node(
        "atom", rf"\frac{{{numerator}}}{{{denominator}}}", above[0].has_space, fraction=(numerator, denominator)
    )


def _product(nodes: list[Node], drops: bool) -> str:
    if drops and nodes[0].inner:
        return nodes[0].inner
    return joined(nodes)


def _row(segment: str) -> tuple[str, str]:
    """Return the left side of a definition and the rest with its relation; an empty left side if it is a remark."""
    nodes = _Parser(segment.strip(",;")).sequence()
    for index, node in enumerate(nodes):
        if node.kind == "text" or (node.kind == "comma" and not _is_list(nodes[: index + 2])):
            break
        if node.kind == "operator" and node.latex in {OPERATORS[mark] for mark in _RELATIONS} and index:
            return joined(nodes[:index]), f"{node.latex} {joined(nodes[index + 1 :])}"
    return "", joined(nodes)


def _is_list(nodes: list[Node]) -> bool:
    return all(node.kind in ("atom", "comma") for node in nodes)


def to_latex(formula: str) -> str:
    r"""Return a formula as the rows of an `aligned` environment.

    Args:
        formula: Lines of definitions. Wide spaces divide a line into definitions and remarks.

    Raises:
        ValueError: If a line cannot be read.

    Example:
        >>> print(to_latex("θ_t = θ_{t-1} - η m_t / (√v_t + ε)"))
        \begin{aligned}
        \theta_t &= \theta_{t-1} - \eta \,\frac{m_t}{\sqrt{v_t} + \varepsilon}
        \end{aligned}
    """
    rows: list[str] = []
    for line in formula.splitlines():
        if not line.strip():
            continue
        indent = r"\quad " if line.startswith("    ") else ""
        for number, segment in enumerate(re.split(r"\s{2,}", line.strip())):
            left, right = _row(segment)
            if left:
                rows.append(f"{indent}{left} &{right}")
            elif number and len(segment) <= _SHORT_REMARK:
                rows[-1] += rf" \quad {right}"
            else:
                rows.append(rf"&\quad {right}" if number else f"{indent}&{right}")
    return "\n".join([r"\begin{aligned}", " \\\\\n".join(rows), r"\end{aligned}"])
