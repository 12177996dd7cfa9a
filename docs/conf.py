"""Configuration of the documentation. `make docs` builds it into `build/docs`, offline.

The source folder is the root of the repository, so that links between README.md, docs/ and the other pages work the
same on a code host and in the built pages.
"""

import inspect
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import thalweg
from thalweg import optim, registry

sys.path.insert(0, str(Path(__file__).parent))
import translations

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
myst_enable_extensions = ["html_image"]
myst_heading_anchors = 3

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


def add_translation_notice(app: Sphinx, docname: str, source: list[str]) -> None:
    """Add a link to the original below the title of a translated page, and a warning if the page is stale."""
    page = Path(app.srcdir) / f"{docname}.md"
    if page in translations.translated_pages():
        source[0] = translations.with_notice(page, source[0])


def setup(app: Sphinx) -> None:
    """Connect the functions above to Sphinx."""
    app.connect("source-read", add_translation_notice)
    app.connect("autodoc-process-docstring", add_formula)
