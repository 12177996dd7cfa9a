"""Configuration of the documentation. `make docs` builds it into `build/docs`, offline.

The source folder is the root of the repository, so that links between README.md, docs/ and the other pages work the
same on a code host and in the built pages.
"""

import inspect
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

import thalweg
from thalweg import optim, registry

sys.path.insert(0, str(Path(__file__).parent))
import page_frame
import translations

ROOT = Path(__file__).resolve().parents[1]

project = "thalweg"
author = "the thalweg maintainers"
project_copyright = "the thalweg maintainers"
version = release = thalweg.__version__

root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "lab/LOG.md",
    "docs/**",
]
exclude_patterns = [".*", "build", "dist", "runs", "src", "tests", "benchmarks", "examples"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath", "html_image"]
myst_dmath_double_inline = True
myst_fence_as_directive = ["math"]  # as code hosts read it
myst_heading_anchors = 4

# Docstrings follow Google's style. A module's `__all__` says which names are public.
napoleon_numpy_docstring = False
napoleon_use_rtype = False
default_role = "code"  # single backticks mark code, as in Markdown
autodoc_member_order = "groupwise"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}

html_theme = "furo"
html_title = f"thalweg {release}"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["handbook.css"]
html_logo = html_favicon = "_static/logo.svg"
html_theme_options = {
    # Both reach a contrast of 4.5 with the grounds of their theme.
    "light_css_variables": {"color-brand-primary": "#0f5c86", "color-brand-content": "#0f5c86"},
    "dark_css_variables": {"color-brand-primary": "#7cc4ea", "color-brand-content": "#7cc4ea"},
}
smartquotes = False  # two hyphens begin an option
html_math_renderer = "mathml"
highlight_language = "text"


KINDS = {*registry.RULES.values(), *registry.WRAPPERS.values()}


def add_formula(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Add the formula of an optimizer, rule or wrapper, which stands in the docstring of the rule's module."""
    is_optimizer = inspect.isclass(obj) and issubclass(obj, optim.RuleOptimizer) and hasattr(obj, "rule")
    kind = type(obj.rule) if is_optimizer else obj
    if what != "class" or kind not in KINDS:
        return
    text = inspect.getdoc(sys.modules[kind.__module__]) or ""
    formula = text.partition("\n\n")[2].splitlines()
    lines += ["", ".. code-block:: text", "", *(f"   {line}".rstrip() for line in formula), ""]


def mathml(latex: str, *, is_block: bool) -> str:
    """Return a formula as MathML, which browsers draw without a script or a request."""
    text = latex2mathml.tex2mathml(latex, as_block=is_block).replace("&ApplyFunction;", "\u2061")
    tree = ET.fromstring(text)  # noqa: S314 - our own pages
    for element in tree.iter():
        name = element.tag.rpartition("}")[2]
        if name == "mtable":
            element.set("displaystyle", "true")  # fractions of full size
        elif name == "munderover" and element[2].text == "ˆ":  # a hat with a subscript
            base, script, hat = element
            space = element.tag.removesuffix(name)
            hatted = ET.Element(f"{space}mover", accent="true")
            hatted.extend([base, hat])
            element.tag = f"{space}msub"
            element[:] = [hatted, script]
    ET.register_namespace("", "http://www.w3.org/1998/Math/MathML")
    return ET.tostring(tree, encoding="unicode")


def visit_math(translator: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a line."""
    translator.body.append(mathml(node.astext(), is_block=False))
    raise nodes.SkipNode


def visit_math_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula of its own, which scrolls if it is wider than the page."""
    translator.body.append(f'<div class="formula" tabindex="0">{mathml(node.astext(), is_block=True)}</div>\n')
    raise nodes.SkipNode


def copy_pictures(app: Sphinx, error: Exception | None) -> None:
    """Copy the pictures that pages show by HTML of their own, such as `<picture>`, which Sphinx leaves alone."""
    folder = Path(app.outdir).resolve()
    for page in sorted(folder.rglob("*.html")) if error is None else []:
        sources = re.findall(r'<(?:source|img)\b[^>]*\bsrc(?:set)?="([^":]+)"', page.read_text(encoding="utf-8"))
        for copy in (page.parent / source for source in sources):
            place = copy.resolve()
            picture = ROOT / place.relative_to(folder) if place.is_relative_to(folder) else place
            if not copy.exists() and picture.is_file():
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(picture.read_bytes())


def add_translation_notice(app: Sphinx, docname: str, source: list[str]) -> None:
    """Add a link to the original below the title of a translated page, and a warning if the page is stale."""
    page = Path(app.srcdir) / f"{docname}.md"
    if page in translations.translated_pages():
        source[0] = translations.with_notice(page, source[0])


def titles_and_subtrees(contents: nodes.bullet_list) -> nodes.bullet_list:
    """Return the table of contents of a page without the headings below its title; the pages that it lists stay."""
    short = contents.deepcopy()
    for entry in short.children:
        if len(entry) > 1:
            entry[1][:] = list(entry.findall(addnodes.toctree))
    return short


def shorten_sidebar(
    app: Sphinx, docname: str, template: str, context: dict[str, Any], doctree: nodes.Node | None
) -> None:
    """Resolve the sidebar from titles alone.

    Sphinx copies every heading of every page for each page and then keeps the titles: more than half of the build.
    """
    if not hasattr(app, "titles"):
        app.titles = {name: titles_and_subtrees(contents) for name, contents in app.env.tocs.items()}
    resolve, contents = context["toctree"], app.env.tocs

    def from_titles(**options: Any) -> str:
        app.env.tocs = app.titles
        try:
            return resolve(**options)
        finally:
            app.env.tocs = contents

    context["toctree"] = from_titles


def set_language(app: Sphinx, docname: str, template: str, context: dict[str, Any], doctree: nodes.Node | None) -> None:
    """Set the language of a Chinese page, by which browsers choose fonts and screen readers a voice, and its frame."""
    if docname.startswith("docs/zh/"):
        context["language"] = "zh-CN"
        context["gettext"] = page_frame.in_chinese
        context["furo_navigation_tree"] = page_frame.chinese_sidebar(context["furo_navigation_tree"])


def set_dashes(app: Sphinx, doctree: nodes.document) -> None:
    """Write a dash between a parameter and its description, which Sphinx writes as two hyphens."""
    for text in list(doctree.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(" \N{EN DASH} "))


def setup(app: Sphinx) -> None:
    """Connect the functions above to Sphinx."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.connect("doctree-read", set_dashes)
    app.connect("source-read", add_translation_notice)
    app.connect("html-page-context", shorten_sidebar, priority=100)  # before the theme makes the sidebar
    app.connect("html-page-context", set_language, priority=900)  # after the theme has made the sidebar
    app.connect("build-finished", copy_pictures)
    app.connect("autodoc-process-docstring", add_formula)
