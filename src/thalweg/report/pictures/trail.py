"""A trail: a path or a curve up to a step, with a mark at its head."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from thalweg.report.charts.theme import Colours


class Trail:
    """A line on axes that can be shown up to any of its points.

    Args:
        axes: The axes.
        points: The points; the first is that of step 0.
        end: The place of the mark at the end. It may differ from the last point, which may be out of the frame.
        mark: The mark at the end, as matplotlib names it.
        colour: The colour of the mark.
        lines: The lines that hold the points.
        colours: The other colours.

    Attributes:
        axes: The axes.
        points: The points.
        end: The place of the mark at the end.
        mark: The mark at the end.
        colour: The colour.
        artists: All artists of the trail.
    """

    def __init__(
        self,
        axes: Axes,
        points: Sequence[tuple[float, float]],
        end: tuple[float, float],
        mark: str,
        colour: str,
        lines: Sequence[Line2D],
        colours: Colours,
    ) -> None:
        self.axes, self.points, self.end, self.mark, self.colour = axes, points, end, mark, colour
        (self._head,) = axes.plot(
            [], [], color=colour, mec=colours.paper, mew=1.0, markersize=8, zorder=7, clip_on=False
        )
        self._lines = lines
        self.artists = (*lines, self._head)
        self.show(len(points) - 1)

    def show(self, step: int) -> None:
        """Show the points up to a step, and the mark at the last of them.

        Args:
            step: The step; one beyond the end shows the whole trail.
        """
        last = min(step, len(self.points) - 1)
        shown = self.points[: last + 1]
        for line in self._lines:
            line.set_data([x for x, _ in shown], [y for _, y in shown])
        is_whole = last == len(self.points) - 1
        x, y = self.end if is_whole else self.points[last]
        self._head.set_data([x], [y])
        self._head.set_marker(self.mark if is_whole else "o")
        self._head.set_clip_on(not is_whole)

    def hide(self) -> None:
        """Hide the trail."""
        for artist in self.artists:
            artist.set_visible(False)
