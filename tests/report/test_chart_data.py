"""What the charts show: spans without outliers, the expected best, colours that everyone can tell apart."""

import itertools
import math
import re
from statistics import fmean

import numpy as np
import pytest

from thalweg.report.assets import load_assets, read_text
from thalweg.report.charts.comparison import valley
from thalweg.report.charts.data import (
    Axis,
    Chart,
    Kind,
    Point,
    Series,
    View,
    alt_of_best,
    alt_of_ends,
    place_axis,
    thinned,
    value_axis,
)
from thalweg.report.charts.search import expected_best, running_best
from thalweg.report.charts.static import static_chart
from thalweg.report.charts.theme import DARK, DASHES, LIGHT, MARKERS, assign_colours, colour_of, turn_of, variable
from thalweg.report.raw_numbers import embedded_json


@pytest.mark.parametrize("costs", [[3.0], [0.4, 0.1, 0.9, 0.1, 2.0], [5.0, 5.0, 5.0], [-1.0, 4.0, 0.0, 7.5]])
def test_the_expected_best_is_the_mean_over_all_choices(costs: list[float]) -> None:
    for count, mean in enumerate(expected_best(costs), 1):
        assert mean == pytest.approx(fmean(map(min, itertools.combinations(costs, count))), rel=1e-12)


def test_the_running_best_keeps_the_least_so_far() -> None:
    assert running_best([3.0, 1.0, 2.0, 0.5]) == [3.0, 1.0, 1.0, 0.5]
    assert running_best([]) == []


def test_outliers_do_not_squeeze_an_axis() -> None:
    axis = value_axis("loss", [0.1, 0.11, 0.12, 0.13, 900.0])
    assert axis.linear[0] == 0.1
    assert axis.linear[1] == pytest.approx(0.1 + 10 * 0.02)
    assert axis.log == (0.1, pytest.approx(1.2))
    assert axis.scale == "log"
    upward = value_axis("accuracy", [0.9, 0.89, 0.88, 0.87, 0.001], maximize=True)
    assert upward.log == (pytest.approx(0.088), 0.9)
    assert upward.linear == (pytest.approx(0.9 - 10 * 0.02), 0.9)


@pytest.mark.parametrize(
    ("values", "log", "linear", "scale"),
    [
        ([], None, (0.0, 1.0), "linear"),
        ([math.nan, math.inf, 1e301], None, (0.0, 1.0), "linear"),
        ([2.0, 2.0], None, (1.8, 2.2), "linear"),
        ([0.0], None, (-1.0, 1.0), "linear"),
        ([-1.0, 0.0, 1.0], None, (-1.0, 1.0), "linear"),
        ([1.0, 4.9, 4.9], (1.0, 4.9), (1.0, 4.9), "linear"),
        ([1.0, 5.1, 5.1], (1.0, 5.1), (1.0, 5.1), "log"),
    ],
)
def test_axes_of_any_values(
    values: list[float], log: tuple[float, float] | None, linear: tuple[float, float], scale: str
) -> None:
    axis = value_axis("loss", values)
    assert (axis.log, axis.linear, axis.scale) == (log, pytest.approx(linear), scale)


def test_places_are_all_inside_their_axis() -> None:
    assert place_axis("lr", [1e-4, 10.0], is_log=True).span == (1e-4, 10.0)
    assert place_axis("lr", [0.0, 10.0], is_log=True).scale == "linear"
    assert place_axis("lr", [0.1], is_log=True).span == pytest.approx((0.05, 0.2))


def test_the_valley_joins_the_best_of_each_third_of_a_decade() -> None:
    rates = [0.010, 0.012, 0.03, 0.2]
    points = [Point(rate, value) for rate, value in zip(rates, [3.0, 2.0, 5.0, 1.0], strict=True)]
    lost = Point(0.03, 0.1, mark="lost")
    assert [point.x for point in valley([*points, lost])] == [0.012, 0.03, 0.2]
    assert [point.x for point in valley(points, maximize=True)] == [0.010, 0.03, 0.2]


def test_thinned_points_keep_both_ends() -> None:
    points = [Point(x, 0.0) for x in range(1000)]
    kept = thinned(points, 11)
    assert [point.x for point in kept] == [0, 100, 200, 300, 400, 500, 599, 699, 799, 899, 999]
    assert thinned(points, 1000) == points


def test_texts_for_a_screen_reader_have_the_values() -> None:
    series = [
        Series("adam", 0, [Point(1, 0.5), Point(2, 0.25), Point(3, math.nan)]),
        Series("sgd", 1, [Point(1, math.nan)]),
    ]
    assert alt_of_ends("Loss", series) == "Loss. At the end: adam 0.25; sgd no value."
    assert alt_of_best("Loss", "rate", series, maximize=False) == "Loss against rate. The best: adam 0.25 at rate 2."
    assert alt_of_best("Score", "rate", series, maximize=True) == "Score against rate. The best: adam 0.5 at rate 1."


@pytest.mark.parametrize("kind", ["lines", "dots", "intervals"])
@pytest.mark.parametrize("values", [[], [math.nan], [1e308, -1e308], [0.0], [1e-320, 5.0], [3.0, 3.0, 9.0]], ids=str)
def test_any_numbers_are_drawn(kind, values: list[float]) -> None:
    points = [Point(x, value, value, value, mark="lost" if x == 1 else "") for x, value in enumerate(values)]
    series = [Series("$x$ <b>", 0, points, points)] if values else []
    x, y = place_axis("x", range(3)), value_axis("y", values)
    axes = (y, x) if kind == "intervals" else (x, y)
    svg = static_chart(Chart("id", kind, "title", [View("", *axes, series, "an <alt>")]))
    assert svg.startswith('<svg role="img" aria-label="an &lt;alt&gt;"')
    assert "<b>" not in svg


# --- colours ----------------------------------------------------------------------------------------------------------

# Machado, Oliveira and Fernandes 2009, severity 1.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
# Ottosson 2020: from linear sRGB to Oklab.
TO_LMS = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566]])
TO_LMS = np.vstack([TO_LMS, [0.0883024619, 0.2817188376, 0.6299787005]])
TO_LAB = np.array([[0.2104542553, 0.793617785, -0.0040720468], [1.9779984951, -2.428592205, 0.4505937099]])
TO_LAB = np.vstack([TO_LAB, [0.0259040371, 0.7827717662, -0.808675766]])
DISTINCT = 0.07  # in Oklab; a just noticeable difference is about 0.02


def linear(colour: str) -> np.ndarray:
    encoded = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def luminance(colour: str) -> float:
    return float(linear(colour) @ [0.2126, 0.7152, 0.0722])


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(
    ("palette", "grounds"), [(LIGHT, ("#ffffff", "#fbfaf7", "#e3f1f0")), (DARK, ("#1b2127", "#14181c", "#17343a"))]
)
def test_colours_stand_out_from_the_page_and_from_each_other(palette, grounds) -> None:
    style = str(load_assets(with_charts=False).style)
    for ground in grounds:
        assert ground in style
        for colour in palette:
            assert contrast(colour, ground) >= 3.0, (colour, ground)
    for name, matrix in VISION.items():
        seen = [np.clip(np.asarray(matrix) @ linear(colour), 0, 1) for colour in palette[:8]]
        lab = [TO_LAB @ np.cbrt(TO_LMS @ each) for each in seen]
        for (first, a), (second, b) in itertools.combinations(zip(palette, lab, strict=False), 2):
            assert np.linalg.norm(a - b) > DISTINCT, (name, first, second)


def test_contenders_of_one_colour_differ_in_mark_and_lines() -> None:
    colours = assign_colours([f"c{k}" for k in range(40)])
    seen = [(colour_of(number), MARKERS[turn_of(number)], str(DASHES[turn_of(number)])) for number in colours.values()]
    assert len(set(seen)) == 40
    assert [variable(colours[name]) for name in ("c0", "c9", "c10", "c39")] == [
        "var(--c0)",
        "var(--c9)",
        "var(--c0)",
        "var(--c9)",
    ]
    assert [turn_of(colours[name]) for name in ("c9", "c10", "c29", "c30")] == [0, 1, 2, 3]


def test_the_scripts_count_colours_and_turns_as_the_drawings_do() -> None:
    script = read_text("static/common.js")
    assert f"const COLOURS = {len(LIGHT)};" in script
    symbols = re.findall(r'symbol: "(\w+)"', script)
    assert symbols == [{"o": "circle", "s": "square", "D": "diamond", "P": "cross"}[marker] for marker in MARKERS]
    assert all(f".swatch.turn-{turn} " in read_text("static/style.css") for turn in range(1, len(MARKERS)))


@pytest.mark.parametrize("kind", ["lines", "dots", "intervals"])
def test_an_eleventh_contender_is_drawn_otherwise_than_the_first(kind: Kind) -> None:
    axis = Axis("y", "linear", None, (0.0, 9.0))
    points = [Point(1.0, 1.0), Point(2.0, 3.0)]

    def drawn(number: int) -> str:
        series = [Series("a", number, points, line=points)]
        return static_chart(Chart("id", kind, "t", [View("", axis, axis, series, "")]))

    assert "var(--c0)" in drawn(10)
    assert drawn(10) != drawn(0)
    assert drawn(40) == drawn(0)


def test_data_cannot_end_their_element_or_hide() -> None:
    text = embedded_json({"<script>": "</script><!-- & \u202e \x7f \ud800 \U000e0041", "nan": math.nan})
    assert not set("<>&\x7f") & set(text)
    assert text.isascii()
    assert '"nan":null' in text
