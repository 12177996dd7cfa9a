"""Templates: HTML from values that may be missing. Everything is escaped, and the page may load and run nothing."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from thalweg.errors import printable
from thalweg.parts import Parts
from thalweg.report.assets import Assets
from thalweg.report.charts.theme import turn_of, variable

_NOTES = "<!-- notes -->"  # the place of notes on values that are missing


def render_template(template: str, values: Mapping[str, Any], parts: Parts, assets: Assets) -> str:
    """Fill a template of this folder. A value that the template names and that is missing is an error.

    In the template, ``{% call part("the table") %}`` begins a part: if it cannot be made, a note stands in its place.

    Args:
        template: The name of the template.
        values: The values, from ``values_of``.
        parts: Knows the parts that could not be made.
        assets: The style, the scripts and the policy of the page.
    """
    environment = Environment(
        loader=PackageLoader("thalweg.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=_visible,
    )
    environment.globals |= {"turn_of": turn_of, "variable": variable, "with_code": with_code, "with_links": with_links}
    shown: set[str] = set()

    def part(name: str, caller: Callable[[], str]) -> Markup:
        try:
            return Markup(caller())  # noqa: S704  (the template has escaped it)
        except Exception as error:
            text = parts.add(name, error).text
            shown.add(text)
            return _note(text)

    page = environment.get_template(template).render(values, part=part, assets=assets)
    notes = dict.fromkeys(missing.text for missing in parts.missing if missing.text not in shown)
    return page.replace(_NOTES, "".join(map(_note, notes)), 1)


def values_of(functions: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """Return the values that functions return; one that raises becomes a value that raises the error where it is used.

    Args:
        functions: A function for each value, by name.
    """
    values = {}
    for name, function in functions.items():
        try:
            values[name] = function()
        except Exception as error:
            values[name] = StrictUndefined(name=name, exc=lambda _, error=error: error)  # type: ignore[arg-type]
    return values


def unbroken_options(text: str) -> Markup:
    """Return a text as HTML in which no line ends within an option of the command line."""
    parts = re.split(r"(--[\w-]+)", printable(text))
    return Markup("").join(
        Markup('<span class="option">{}</span>').format(part) if part.startswith("--") else part for part in parts
    )


def with_code(text: str) -> Markup:
    """Return a text as HTML in which what stands between backticks is code.

    Example:
        >>> print(with_code("Return logits & use `nn.BCELoss`."))
        Return logits &amp; use <code>nn.BCELoss</code>.
    """
    parts = re.split(r"`([^`\s](?:[^`\n]*[^`\s])?)`", printable(text, keep="\n\t"))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else part for index, part in enumerate(parts)
    )


def with_links(source: str) -> Markup:
    """Return the text of a source as HTML in which numbers of arXiv are links. A link loads nothing by itself.

    Example:
        >>> print(with_links("Goyal (2017), arXiv:1706.02677, section 2.2"))
        Goyal (2017), <a href="https://arxiv.org/abs/1706.02677" rel="noreferrer">arXiv:1706.02677</a>, section 2.2
    """
    link = Markup('<a href="https://arxiv.org/abs/{}" rel="noreferrer">arXiv:{}</a>')
    parts = re.split(r"arXiv:(\d{4}\.\d{4,5})", printable(source))
    return Markup("").join(link.format(part, part) if index % 2 else part for index, part in enumerate(parts))


def _note(text: str) -> Markup:
    return Markup('<p class="warn">{}</p>').format(printable(text))


def _visible(value: Any) -> Any:
    """Make control characters and marks of the writing direction visible in a text that is not HTML."""
    return printable(value, keep="\n\t") if isinstance(value, str) and not isinstance(value, Markup) else value
