"""Assets: the style and the scripts that stand inside a page, and the policy that lets it load and run nothing else.

``vendor/`` holds two libraries as their authors published them; ``static/`` holds our own files.
"""

import base64
import functools
import hashlib
from dataclasses import dataclass
from importlib import resources

from markupsafe import Markup

from thalweg.report.charts.theme import DARK, DARK_PAGE, LIGHT, LIGHT_PAGE, page_variables

VENDORED = ("vendor/d3.min.js", "vendor/plot.umd.min.js")
_COMMON = ("common.js",)
_CHARTS = ("axes.js", "charts.js", "search.js")
_START = ("start.js",)
_PATHS = ("paths.js",)  # plays the picture of optimizers
# The library writes this style into each of its charts, word for word; the policy names its hash.
_PLOT_STYLE = """:where(.plot-svg) {
  --plot-background: white;
  display: block;
  height: auto;
  height: intrinsic;
  max-width: 100%;
}
:where(.plot-svg text),
:where(.plot-svg tspan) {
  white-space: pre;
}"""


@dataclass(frozen=True)
class Assets:
    """The constant parts of a page.

    Attributes:
        style: The style.
        scripts: The texts of the scripts, in order.
        policy: The Content-Security-Policy.
    """

    style: Markup
    scripts: tuple[Markup, ...]
    policy: str


@functools.cache
def load_assets(*, with_charts: bool = False, with_paths: bool = False, is_live: bool = False) -> Assets:
    """Return the style, scripts and policy of a page.

    Attributes of style remain allowed, because the charts need them; they can load nothing.

    Args:
        with_charts: True if the page has charts that a script draws.
        with_paths: True if the page plays paths of optimizers.
        is_live: True if the page asks the server that sent it for news.
    """
    style = _style() + (_asset("paths.css") if with_paths else "")
    own = "\n".join(map(_asset, (*_COMMON, *(_CHARTS if with_charts else ()), *(_START if with_charts else ()))))
    if not with_charts:
        own += "\nstartTheme();\nstartCopying();\nstartSorting();\nstartStaticImages();\n"
    if with_paths:
        own += "".join(map(_asset, _PATHS))
    scripts = (*(map(read_text, VENDORED) if with_charts else ()), f'"use strict";\n{own}')
    styles = " ".join([_hash(style), *([_hash(_PLOT_STYLE)] if with_charts else [])])
    policy = (
        f"default-src 'none'; style-src {styles}; style-src-elem {styles}; style-src-attr 'unsafe-inline'; "
        f"script-src {' '.join(map(_hash, scripts))}; img-src data:; base-uri 'none'; form-action 'none'"
        + ("; connect-src 'self'" if is_live else "")
    )
    return Assets(Markup(style), tuple(map(Markup, scripts)), policy)  # noqa: S704  (files of this package)


def read_text(name: str) -> str:
    """Return the text of a file of this package.

    Args:
        name: The path inside ``thalweg/report``.
    """
    return resources.files("thalweg.report").joinpath(name).read_text(encoding="utf-8")


def _asset(name: str) -> str:
    return read_text(f"static/{name}")


def _style() -> str:
    light, dark = page_variables(LIGHT_PAGE, LIGHT), page_variables(DARK_PAGE, DARK)
    return _asset("style.css").replace("LIGHT", light).replace("DARK", dark)


def _hash(text: str) -> str:
    """Return the hash of an element's text, as a policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
