"""The pictures of the lesson, drawn from the examples. `docs/learning/figures.py` writes them."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
import linear_regression as line
import logistic_regression as tumours
import small_network as network
from lesson import minima as valleys
from lesson import mistakes
from lesson.numpy_optimizers import SGD, Adam, Momentum, RMSprop
from lesson.side_by_side import LEARNING_RATES, SIX, Problem, numpy_path, steps_to_settle

RECORD = Path(__file__).resolve().parents[2] / "benchmarks" / "records" / "lesson_network.json"

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
    label(axes, 510, 0.01, "settled: 1 %")


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
    label(axes, 610, 0.01, "settled: 1 %")


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
    figure.legend(loc="outside upper center", frameon=False, ncols=3, handlelength=1.6, columnspacing=1)


def _settling(figure: Figure, problem: Problem, excess: Callable, lowest: int, highest: int) -> None:
    axes = figure.subplots()
    with np.errstate(over="ignore", invalid="ignore"):
        for name in SIX:
            steps = [steps_to_settle(excess(numpy_path(problem, name, lr))) for lr in LEARNING_RATES]
            values = [np.nan if count is None else count for count in steps]
            style = {"color": COLOURS[name], "linestyle": STYLES[name], "marker": "o", "markersize": 4}
            axes.plot(LEARNING_RATES, values, label=name, **style)
    axes.set(xlabel="learning rate", ylabel="steps until settled", xscale="log", yscale="log", ylim=(lowest, highest))
    axes.set_xlim(0.003, 13)
    axes.set_xticks([0.01, 0.1, 1, 10])
    axes.set_yticks([count for count in (20, 50, 100, 200, 500, 1000) if lowest <= count <= highest])
    plain_logarithms(axes.xaxis)
    plain_logarithms(axes.yaxis)
    figure.legend(loc="outside upper center", frameon=False, ncols=3, handlelength=1.6, columnspacing=1)


def six_learning_rates(figure: Figure) -> None:
    """Steps until settled against the learning rate, of the line."""
    _settling(figure, line.PROBLEM, line.excess, 20, 1300)


def path(name: str, figure: Figure) -> None:
    """The path of an optimizer over the loss of the line, at its best learning rate and at a tenth of it."""
    axes = figure.subplots()
    w, b = np.meshgrid(np.linspace(-0.3, 4.3, 120), np.linspace(-0.4, 2.9, 120))
    theta = np.stack([w.ravel(), b.ravel()], axis=1)
    heights = line.excess(theta).reshape(w.shape)
    axes.contour(w, b, heights, levels=[0.1, 1, 3, 8, 16, 32, 64], colors=[GRID], linewidths=1)
    best = line.BEST_LR[name]
    for lr, colour, style in ((best / 10, GREY, "o:"), (best, BLUE, "o-")):
        steps = numpy_path(line.PROBLEM, name, lr)[:101]
        axes.plot(*steps.T, style, color=colour, markersize=3, linewidth=1.2, label=f"lr {lr:g}")
        axes.plot(*steps[-1], "s", color=colour, markersize=7)
    axes.plot(*line.least_squares(), "*", color=RED, markersize=14, zorder=5)
    axes.plot(*line.START, "o", color=INK, markersize=7)
    axes.set(xlabel="slope w", ylabel="intercept b", xlim=(-0.3, 4.3), ylim=(-0.4, 2.9))
    axes.grid(visible=False)
    axes.legend(loc="upper right", frameon=False)


# Logistic regression


def slopes(figure: Figure) -> None:
    """Slope of the cross-entropy and of the squared error against the logit."""
    axes = figure.subplots()
    z = np.linspace(-10, 6, 200)
    p = tumours.sigmoid(z)
    axes.plot(z, p - 1, color=BLUE)
    axes.plot(z, 2 * (p - 1) * p * (1 - p), "--", color=RED)
    axes.set(xlabel="logit z of an example with t = 1", ylabel="slope of the loss", xlim=(-10, 6), ylim=(-1.1, 0.15))
    label(axes, -9.8, -0.92, "cross-entropy", BLUE)
    label(axes, -9.8, 0.07, "squared error: no slope where the model is wrong", RED)


def tumours_learning_rates(figure: Figure) -> None:
    """Steps until settled against the learning rate, of the tumours."""
    _settling(figure, tumours.PROBLEM, tumours.excess, 20, 330)


# A small network


def measure_network() -> dict[str, dict[str, list[float | None]]]:
    """Return, for each optimizer and learning rate, the training loss and the test loss after the last step."""
    record: dict[str, dict[str, list[float | None]]] = {}
    with np.errstate(over="ignore", invalid="ignore"):
        for name in SIX:
            # Without the cache: 78 paths of 2,410 parameters fill half a gigabyte.
            ends = {lr: numpy_path.__wrapped__(network.PROBLEM, name, lr)[-1] for lr in LEARNING_RATES}
            record[name] = {f"{lr:g}": [network.loss(end), network.loss(end, network.TEST)] for lr, end in ends.items()}
    return record


def network_learning_rates(figure: Figure) -> None:
    """Training loss against the learning rate, from the record."""
    axes = figure.subplots()
    for name, losses in json.loads(RECORD.read_text()).items():
        rates = [float(lr) for lr in losses]
        values = [training for training, _ in losses.values()]
        style = {"color": COLOURS[name], "linestyle": STYLES[name], "marker": "o", "markersize": 4}
        axes.plot(rates, values, label=name, **style)
    axes.set(xlabel="learning rate", ylabel="training loss", xscale="log", yscale="log", ylim=(0.004, 10))
    axes.set_xticks([0.001, 0.01, 0.1, 1, 10])
    axes.set_yticks([0.01, 0.1, 1, 10])
    plain_logarithms(axes.xaxis)
    plain_logarithms(axes.yaxis)
    figure.legend(loc="outside upper center", frameon=False, ncols=3, handlelength=1.6, columnspacing=1)


def minima(figure: Figure) -> None:
    """A function with two minima, and gradient descent from two starts."""
    axes = figure.subplots()
    x = np.linspace(-2.15, 2.05, 300)
    axes.plot(x, valleys.height(x), color=INK)
    for start, colour, name in ((-0.3, BLUE, "good"), (1.9, RED, "poor")):
        steps = [np.array([start])]
        for _ in range(40):
            steps.append(steps[-1] - 0.02 * valleys.slope(steps[-1]))
        steps = np.concatenate(steps)
        axes.plot(steps, valleys.height(steps), "o", color=colour, markersize=5)
        label(axes, steps[-1], valleys.height(steps[-1]) - 0.7, f"{name}: x = {steps[-1]:.3f}", colour, ha="center")
    axes.set(xlabel="x", ylabel="f(x)", ylim=(-7, 4.2))


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
        slopes,
        tumours_learning_rates,
        network_learning_rates,
        minima,
    )
} | {f"path_{name.replace(' ', '_').lower()}": partial(path, name) for name in SIX}
