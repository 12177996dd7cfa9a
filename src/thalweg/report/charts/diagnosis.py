"""Charts of a diagnosis: the loss with the event marked, a profile over depth, and the cure beside the training."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from thalweg.diagnosis.run_record import RunRecord
from thalweg.report.charts.data import MAX_DRAWN
from thalweg.report.charts.static import INK, WIDTH, render_svg, set_scale
from thalweg.report.charts.theme import LIGHT
from thalweg.report.numbers import MAX_NAME, format_number, shorten

BEFORE, AFTER = LIGHT[1], LIGHT[0]
MAX_LABELS = 28  # names of modules in a profile; of a deeper network every second one is named, or fewer
_MAX_POINTS = 1000  # of a curve: a longer one is thinned
_AIR = 1.6  # factor between the values and the end of a logarithmic axis


def loss_chart(run: RunRecord, since: int) -> Markup:
    """Draw the training loss of a run, with a mark where a finding began.

    Args:
        run: The run.
        since: The step from which the finding holds; 0 marks nothing.
    """
    losses = np.asarray(run.losses, dtype=float)
    drawn = np.abs(losses) < MAX_DRAWN
    lost = np.flatnonzero(~drawn)
    steps = _thinned(np.arange(1, len(losses) + 1)[drawn])
    finite = losses[drawn]

    def draw(axes: Axes) -> None:
        axes.plot(steps, losses[steps - 1], color=BEFORE, linewidth=1.4)
        set_scale(axes, "y", list(finite))
        if since:
            axes.axvline(since, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            near_end = since > 0.6 * max(len(losses), since)
            axes.annotate(
                f"step {since:,}",
                (since, 1),
                (-4 if near_end else 4, -2),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="right" if near_end else "left",
                va="top",
            )
        if len(lost):
            axes.plot(
                [lost[0] + 1], [0.98], "x", color=BEFORE, markersize=8, mew=2, transform=axes.get_xaxis_transform()
            )
        axes.set_xlim(0, max(len(losses), since, 1))
        axes.set_xlabel("step")
        axes.set_ylabel("training loss")

    text = "Training loss of each step"
    if len(finite):
        text += f": {format_number(finite[0])} at first, {format_number(finite[-1])} at last"
    text += f"; not finite from step {lost[0] + 1:,}" if len(lost) else ""
    text += f"; the cause shows from step {since:,}" if since else ""
    return render_svg(text, WIDTH, 2.8, draw)


def profile_chart(quantity: str, values: Mapping[str, float], where: str | None) -> Markup:
    """Draw a quantity of each module in order of depth, the first on top; the module to blame is emphasized.

    Args:
        quantity: The name of the quantity.
        values: The value of each module or parameter, in order of depth.
        where: The module to blame; None if none is.
    """
    names = list(values)
    blamed = [is_part_of(name, where) for name in names]
    finite = [value for value in values.values() if abs(value) < MAX_DRAWN]
    step = math.ceil(len(names) / MAX_LABELS)

    def draw(axes: Axes) -> None:
        set_scale(axes, "x", finite)
        is_log = axes.get_xscale() == "log"
        if is_log:
            positive = [value for value in finite if value > 0]
            axes.set_xlim(min(positive) / _AIR, max(positive) * _AIR)
        low, high = axes.get_xlim() if finite else (0.0, 1.0)
        for place, value in enumerate(values.values()):
            colour = BEFORE if blamed[place] else AFTER
            marker, shown = "o", value
            if not abs(value) < MAX_DRAWN:
                marker, shown = "x", high
            elif is_log and value <= 0:
                marker, shown = "<", low
            axes.plot([shown], [place], marker, color=colour, markersize=6 if blamed[place] else 5, clip_on=False)
        pairs = [(place, value) for place, value in enumerate(values.values()) if low <= value <= high]
        axes.plot([value for _, value in pairs], [place for place, _ in pairs], color=AFTER, alpha=0.35, linewidth=1)
        labelled = [place for place in range(len(names)) if place % step == 0 or (blamed[place] and sum(blamed) == 1)]
        axes.set_yticks(labelled, [shorten(names[place], MAX_NAME) for place in labelled])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(shorten(quantity, MAX_NAME))

    text = f"{quantity} over depth"
    if len(names) > 1:
        ends = (f"{format_number(values[name])} in {shorten(name, MAX_NAME)}" for name in (names[0], names[-1]))
        text += f": {' to '.join(ends)}"
    return render_svg(shorten(text), WIDTH, 0.9 + 0.21 * min(max(len(names), 3), MAX_LABELS), draw)


def is_part_of(name: str, where: str | None) -> bool:
    """Return True if a module or parameter is the one that is meant, or lies in it."""
    return bool(where) and (name == where or name.startswith(f"{where}.") or f"{where}".startswith(f"{name}."))


def score_limits(runs: Iterable[RunRecord], sign: float) -> tuple[float, float] | None:
    """Return the range of scores that charts of these runs share; None if no score can be drawn.

    Args:
        runs: The runs.
        sign: -1 if the score is a loss.
    """
    scores = [sign * score for run in runs for _, score in run.scores if abs(score) < MAX_DRAWN]
    return (min(scores), max(scores)) if scores else None


def cure_chart(
    before: RunRecord, after: RunRecord, label: str, sign: float, limits: tuple[float, float] | None
) -> Markup:
    """Draw the score of a seed along the training, as it is and with the cure.

    Args:
        before: The run as it is.
        after: The run with the cure.
        label: The name of the score.
        sign: -1 if the score is a loss.
        limits: The range of scores, shared by the charts of all seeds.
    """

    def draw(axes: Axes) -> None:
        _set_score_axis(axes, limits, is_loss=sign < 0)
        for run, colour in ((before, BEFORE), (after, AFTER)):
            points = [(step, sign * score) for step, score in run.scores if abs(score) < MAX_DRAWN]
            axes.plot(
                [step for step, _ in points],
                [score for _, score in points],
                color=colour,
                linewidth=1.6,
                marker="o",
                markersize=3,
            )
            if (lost := _lost_at(run)) is not None:
                edge = 0.98 if sign < 0 else 0.02
                axes.plot([lost], [edge], "x", color=colour, markersize=8, mew=2, transform=axes.get_xaxis_transform())
        axes.set_xlim(left=0)
        axes.set_xlabel("step")
        axes.set_ylabel(shorten(label, MAX_NAME))
        axes.set_title(f"seed {after.seed}", loc="left", fontsize=10, color=INK)

    ends = " and ".join(f"{_end(run, sign)} {name}" for run, name in ((before, "as it is"), (after, "with the cure")))
    return render_svg(f"{shorten(label)} along the training, seed {after.seed}: {ends}", 3.4, 2.5, draw)


def _set_score_axis(axes: Axes, limits: tuple[float, float] | None, *, is_loss: bool) -> None:
    """Use the range of all seeds; a loss over several orders of magnitude has a logarithmic axis, a metric never."""
    if limits is None:
        return
    low, high = limits
    if is_loss:
        set_scale(axes, "y", limits)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_number(value)))
    if axes.get_yscale() == "log":
        axes.set_ylim(low / _AIR, high * _AIR)
    elif low < high:
        room = 0.06 * (high - low)
        axes.set_ylim(low - room, high + room)


def _lost_at(run: RunRecord) -> int | None:
    """Return the step at which a run was seen to diverge; None if it was not. It may have no score after that."""
    step = next((step for step, score in run.scores if not abs(score) < MAX_DRAWN), None)
    return len(run.losses) if step is None and run.ending == "diverged" else step


def _end(run: RunRecord, sign: float) -> str:
    score = run.scores[-1][1] if run.scores and run.ending != "diverged" else math.nan
    return format_number(sign * score) if math.isfinite(score) else "diverged"


def _thinned(steps: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return some of many steps, the first and the last among them."""
    steps = np.asarray(steps, dtype=int)
    if len(steps) <= _MAX_POINTS:
        return steps
    return steps[np.unique(np.linspace(0, len(steps) - 1, _MAX_POINTS).astype(int))]
