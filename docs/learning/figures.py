"""Draw the pictures of the lesson and fill in the output of its examples.

    python docs/learning/figures.py                # everything, from the record
    python docs/learning/figures.py data six       # two pictures
    python docs/learning/figures.py --record       # train the network at all learning rates anew; a minute

Each picture is an SVG of its own background and colours, light or dark as the reader's system is, so that it is legible
on every page. `tests/learning` draws all of them again and compares.
"""

import argparse
import contextlib
import importlib
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parent))
import drawings

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "learning" / "images"


def render(draw: Callable[[Figure], None], width: float = 5.0, height: float = 3.4) -> str:
    """Return a drawing as SVG text with the colours of both themes."""
    with mpl.rc_context({**drawings.STYLE, "svg.hashsalt": "thalweg"}):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    for placeholder, (name, _, _) in drawings.THEME.items():
        svg = svg.replace(placeholder, f"var(--{name})")
    light, dark = (";".join(f"--{theme[0]}:{theme[k]}" for theme in drawings.THEME.values()) for k in (1, 2))
    style = f"<style>:root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
    svg = svg.replace("<defs>", f"{style}<defs>", 1)
    return re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE)


def output_of(example: str) -> str:
    """Return the text that an example prints."""
    module = importlib.import_module(Path(example).stem)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        module.main()
    return printed.getvalue()


def with_outputs(text: str) -> str:
    """Return a page in which the block below each `<!-- output of PATH -->` is the output of that example."""
    return re.sub(
        r"(<!-- output of (\S+) -->\n```text\n)[\s\S]*?(```)",
        lambda match: match[1] + output_of(match[2]) + match[3],
        text,
    )


def main() -> None:
    """Write the record, the pictures of these names, or all pictures and outputs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", help=f"of {', '.join(drawings.PICTURES)} (default: all)")
    parser.add_argument("--record", action="store_true", help="train the network anew first")
    arguments = parser.parse_args()
    if arguments.record:
        drawings.RECORD.write_text(json.dumps(drawings.measure_network(), indent=1) + "\n", encoding="utf-8")
    IMAGES.mkdir(exist_ok=True)
    for name in arguments.pictures or drawings.PICTURES:
        (IMAGES / f"{name}.svg").write_text(render(drawings.PICTURES[name]), encoding="utf-8")
    if not arguments.pictures:
        for page in sorted((ROOT / "docs" / "learning").glob("*.md")):
            page.write_text(with_outputs(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
