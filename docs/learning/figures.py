"""Draw the pictures of the lesson and fill in the output of its examples.

    python docs/learning/figures.py                # everything
    python docs/learning/figures.py data six       # two pictures

Each picture is an SVG of its own background and colours, light or dark as the reader's system is, so that it is legible
on every page. `tests/learning` draws all of them again and compares.
"""

import contextlib
import importlib
import io
import re
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import linear_regression as line
from lesson import mistakes
from lesson.numpy_optimizers import SGD, Adam, Momentum, RMSprop
from lesson.side_by_side import LEARNING_RATES, SIX, numpy_path, steps_to_settle

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "learning" / "images"
# Placeholder in the drawing: colour in a light and in a dark theme. 3:1 against the background, ink 4.5:1.
THEME = {
    "#fefefe": ("background", "#ffffff", "#15181d"),
    "#111213": ("ink", "#23262d", "#e4e6ea"),
    "#d0d1d2": ("grid", "#d9dce1", "#3a3f48"),
    "#0b62a8": ("blue", "#0b62a8", "#6db3f2"),
    "#b34700": ("orange", "#b34700", "#ff9e4a"),
    "#00734d": ("green", "#00734d", "#3ecf9b"),
    "#8a3f8f": ("purple", "#8a3f8f", "#d79adf"),
    "#70757f": ("grey", "#70757f", "#9aa0ab"),
    "#a3122f": ("red", "#a3122f", "#ff8794"),
}
BACKGROUND, INK, GRID, BLUE, ORANGE, GREEN, PURPLE, GREY, RED = THEME
COLOURS = dict(zip(SIX, (GREY, RED, BLUE, GREEN, PURPLE, ORANGE), strict=True))
STYLES = dict(zip(SIX, ("-", "-", "--", "-.", (0, (1, 1)), "-"), strict=True))
STYLE = {
    "font.size": 11,
    "font.family": "sans-serif",
    "svg.fonttype": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titlecolor": INK,
    "axes.facecolor": BACKGROUND,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "figure.facecolor": BACKGROUND,
    "lines.linewidth": 1.8,
}


def render(draw: Callable[[Figure], None], width: float = 6.4, height: float = 3.4) -> str:
    """Return a drawing as SVG text with the colours of both themes."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": "thalweg"}):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    for placeholder, (name, _, _) in THEME.items():
        svg = svg.replace(placeholder, f"var(--{name})")
    light, dark = (";".join(f"--{theme[0]}:{theme[k]}" for theme in THEME.values()) for k in (1, 2))
    style = f"<style>:root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
    svg = svg.replace("<defs>", f"{style}<defs>", 1)
    return re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE)


def label(axes: Axes, x: float, y: float, text: str, colour: str = INK, **options: object) -> None:
    """Write a text at a point of the data, in the colour of its line."""
    axes.text(x, y, text, color=colour, **{"va": "center", **options})


def plain_logarithms(axis: object) -> None:
    """Label a logarithmic axis with plain numbers."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


# Linear regression


def _points(figure: Figure) -> Axes:
    axes = figure.subplots()
    axes.plot(line.x, line.y, ".", color=GREY, markersize=5)
    w, b = line.least_squares()
    axes.plot([0, 1], [b, w + b], color=BLUE)
    axes.set(xlabel="x", ylabel="y", xlim=(0, 1.35), ylim=(0, 4.2), xticks=[0, 0.25, 0.5, 0.75, 1])
    label(axes, 1.02, w + b, "least squares", BLUE)
    return axes


def data(figure: Figure) -> None:
    """The points and the least-squares line."""
    _points(figure)


def mistake_gradient(figure: Figure) -> None:
    """The line of the gradient θ - y."""
    axes = _points(figure)
    w, b = mistakes.train_on_distance()[-1]
    axes.plot([0, 1], [b, w + b], "--", color=RED)
    label(axes, 1.02, w + b, "with θ - y", RED)


def mistake_prediction(figure: Figure) -> None:
    """The line of the right parameters without their slope."""
    axes = _points(figure)
    _, b = line.least_squares()
    axes.plot([0, 1], [b, 1 + b], "--", color=RED)
    label(axes, 1.02, 1 + b, "x + b", RED)


def _excess_axes(figure: Figure, steps: int, lowest: float, label_room: float = 1.45) -> Axes:
    axes = figure.subplots()
    axes.set(xlabel="step", ylabel="excess loss", yscale="log", ylim=(lowest, 200), xlim=(0, steps * label_room))
    axes.set_xticks(np.linspace(0, steps, 6))
    axes.axhline(0.01, color=INK, linewidth=0.8, linestyle=":")
    return axes


def mistake_one_rate(figure: Figure) -> None:
    """Excess loss of Adam, and of one decay rate for both moments."""
    axes = _excess_axes(figure, 500, 1e-9)
    runs = [
        (Adam(0.05), BLUE, "-", "Adam"),
        (mistakes.AdamWithOneRate(0.05, beta=0.9), ORANGE, "--", "both 0.9"),
        (mistakes.AdamWithOneRate(0.05, beta=0.999), RED, "-.", "both 0.999"),
    ]
    for (optimizer, colour, style, name), y in zip(runs, (1e-6, 1e-4, 6), strict=True):
        excess = np.maximum(line.excess(mistakes.train(optimizer, 500)), 1e-12)
        axes.plot(excess, color=colour, linestyle=style)
        label(axes, 510, y, name, colour)
    label(axes, 510, 0.01, "settled: below 1 %")


def mistake_bias(figure: Figure) -> None:
    """Length of a step without bias correction."""
    axes = figure.subplots()
    t = np.arange(1, 5001)
    axes.plot(t, mistakes.step_length_without_correction(t), color=RED)
    axes.axhline(1, color=BLUE)
    axes.set(xlabel="step", ylabel="step / learning rate", xscale="log", ylim=(0, 7.5), xlim=(1, 5000))
    plain_logarithms(axes.xaxis)
    for step in (1, 12, 100, 1000):
        length = mistakes.step_length_without_correction(step)
        axes.plot(step, length, "o", color=RED)
        label(axes, step * (1.25 if step == 1 else 1.15), length + (-0.1 if step == 1 else 0.45), f"{length:.2f}", RED)
    label(axes, 1.2, 0.6, "with correction: 1", BLUE)


def mistake_memory(figure: Figure) -> None:
    """Excess loss of momentum, of momentum without memory, and of gradient descent."""
    axes = _excess_axes(figure, 600, 1e-5)
    runs = [
        (Momentum(0.05), BLUE, "-"),
        (mistakes.MomentumWithoutMemory(0.05), RED, "-"),
        (SGD(0.05), INK, (0, (2, 3))),
    ]
    for optimizer, colour, style in runs:
        axes.plot(np.maximum(line.excess(mistakes.train(optimizer, 600)), 1e-7), color=colour, linestyle=style)
    label(axes, 190, 3e-5, "momentum", BLUE)
    label(axes, 330, 0.8, "without memory,", RED)
    label(axes, 330, 0.2, "gradient descent")
    label(axes, 610, 0.01, "settled: below 1 %")


def mistake_squares(figure: Figure) -> None:
    """Slope along a training by RMSprop, and without squares."""
    axes = figure.subplots()
    start = np.array(mistakes.POSITIVE_START)
    with np.errstate(invalid="ignore"):
        wrong = mistakes.train(mistakes.RMSpropWithoutSquares(0.01), 500, start)
    right = mistakes.train(RMSprop(0.01, alpha=0.9), 500, start)
    axes.plot(right[:, 0], color=BLUE)
    axes.plot(wrong[:, 0], "--", color=RED)
    end = mistakes.first_nan(wrong)
    axes.plot(end - 1, wrong[end - 1, 0], "X", color=RED, markersize=9)
    axes.set(xlabel="step", ylabel="slope w", xlim=(0, 500), ylim=(2.5, 5.2))
    label(axes, end + 12, wrong[end - 1, 0] + 0.12, f"NaN at step {end}", RED)
    label(axes, 330, 2.75, "RMSprop", BLUE)


def six(figure: Figure) -> None:
    """Excess loss of the six optimizers at their best learning rate."""
    axes = _excess_axes(figure, 600, 1e-4, 1.02)
    for name in SIX:
        path = numpy_path(line.PROBLEM, name, line.BEST_LR[name])[:601]
        axes.plot(np.maximum(line.excess(path), 1e-7), color=COLOURS[name], linestyle=STYLES[name], label=name)
    axes.legend(loc="upper right", frameon=False, ncols=2)


def six_learning_rates(figure: Figure) -> None:
    """Steps until settled against the learning rate."""
    axes = figure.subplots()
    with np.errstate(over="ignore", invalid="ignore"):
        for name in SIX:
            paths = [numpy_path(line.PROBLEM, name, lr) for lr in LEARNING_RATES]
            steps = [steps_to_settle(line.excess(path)) for path in paths]
            values = [np.nan if count is None else count for count in steps]
            axes.plot(
                LEARNING_RATES,
                values,
                marker="o",
                color=COLOURS[name],
                linestyle=STYLES[name],
                label=name,
                markersize=4,
            )
    axes.set(xlabel="learning rate", ylabel="steps until settled", xscale="log", yscale="log", ylim=(20, 1300))
    axes.set_xlim(0.003, 7)
    axes.set_xticks([0.01, 0.1, 1])
    axes.set_yticks([20, 50, 100, 200, 500, 1000])
    plain_logarithms(axes.xaxis)
    plain_logarithms(axes.yaxis)
    figure.legend(loc="outside right center", frameon=False)


PICTURES: dict[str, Callable[[Figure], None]] = {
    drawing.__name__: drawing
    for drawing in (
        data,
        mistake_gradient,
        mistake_one_rate,
        mistake_bias,
        mistake_prediction,
        mistake_memory,
        mistake_squares,
        six,
        six_learning_rates,
    )
}


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


def main(names: list[str]) -> None:
    """Write the pictures of these names, or all pictures and outputs."""
    IMAGES.mkdir(exist_ok=True)
    for name in names or PICTURES:
        (IMAGES / f"{name}.svg").write_text(render(PICTURES[name]), encoding="utf-8")
    if not names:
        for page in sorted((ROOT / "docs" / "learning").glob("*.md")):
            page.write_text(with_outputs(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
