"""Pictures of optimizers: figures, images, the animation, the page and its script."""

import functools
import io
import itertools
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

import thalweg
from tests.pages import Reader, needs_browser, open_browser, open_tab
from thalweg.errors import SettingError, StoreError
from thalweg.report.charts.theme import LIGHT
from thalweg.report.pictures import draw_picture, render_picture, rule_picture, write_image, write_picture_page
from thalweg.report.pictures.contours import end_in_frame
from thalweg.report.pictures.labels import spread
from thalweg.report.pictures.one_rule import SURFACES as PAIR
from thalweg.report.pictures.overlay import alternative_text
from thalweg.report.pictures.page import rows_of
from thalweg.trajectories import SURFACES, Surface, Trajectories, trace

RATES = {
    "gd": {"rosenbrock": 0.001, "quadratic": 1.0},
    "adamw": {"rosenbrock": 0.2, "quadratic": 0.5},
    "lion": {"rosenbrock": 0.02, "quadratic": 0.1},
    "cautious(adam)": {"rosenbrock": 0.2, "quadratic": 0.5},
}
NAMES = "gd:lr=0.001,momentum:lr=0.001,adam:lr=0.2,muon:lr=0.05,gd:lr=0.05"
COMMAND = "thalweg show rosenbrock --with gd,adam"


@functools.cache
def rosenbrock() -> Trajectories:
    return trace("rosenbrock", NAMES, steps=60)


@functools.cache
def page() -> str:
    return render_picture(rosenbrock(), command=COMMAND)


def colours_of(picture: mpl.figure.Figure) -> set[str]:
    return {line.get_color() for axes in picture.axes for line in axes.lines if len(line.get_xdata()) > 1}


def test_a_figure_shows_each_optimizer_in_a_colour_of_its_own() -> None:
    picture = draw_picture(rosenbrock())
    assert set(LIGHT[:5]) < colours_of(picture)
    texts = {text.get_text() for axes in picture.axes for text in axes.texts}
    assert {"adam:lr=0.2", "lr 0.05, diverged at step 2"} < texts
    frame, curves = picture.axes
    assert (frame.get_xlim(), frame.get_ylim()) == ((-2.0, 2.0), (-1.0, 3.0))
    assert curves.get_yscale() == "log"
    assert frame.get_window_extent().width == pytest.approx(frame.get_window_extent().height)  # one scale


def test_a_path_is_drawn_through_all_its_points() -> None:
    picture = draw_picture(rosenbrock())
    points = rosenbrock().optimizers[2].trajectories[0].points
    (line,) = (
        line for line in picture.frame.lines if line.get_color() == LIGHT[2] and len(line.get_xdata()) == len(points)
    )
    np.testing.assert_allclose(line.get_xydata(), points)
    picture.show_step(7)
    np.testing.assert_allclose(line.get_xydata(), points[:8])
    assert not any(label.get_visible() for label in picture.end_labels)
    picture.show_step(60)
    assert all(label.get_visible() for label in picture.end_labels)


def test_python_gets_a_figure_and_its_style_stays() -> None:
    before = dict(mpl.rcParams)
    figure = thalweg.show("quadratic", ["gd:lr=0.5"], steps=5)
    assert isinstance(figure, mpl.figure.Figure)
    assert figure.trajectories.optimizers[0].lr == 0.5
    assert Image.open(io.BytesIO(figure._repr_png_())).size == (1152, round(120 * figure.get_figheight()))
    assert dict(mpl.rcParams) == before
    assert figure.number if hasattr(figure, "number") else True  # pyplot numbers the figures that it owns


def text_boxes(picture: mpl.figure.Figure) -> Iterator[mpl.transforms.Bbox]:
    for axes in picture.axes:
        for text in axes.texts:
            if text.get_text():
                yield mpl.text.Text.get_window_extent(text)


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("surface", ["rosenbrock", "quadratic", "saddle"])
def test_no_label_covers_another_one_or_leaves_the_picture(surface: str, narrow: bool) -> None:
    trajectories = trace(surface, "gd,momentum,rmsprop,adam,adamw:beta1=0.5,muon,lion,signum", lr=0.02, steps=40)
    picture = draw_picture(trajectories, narrow=narrow)
    FigureCanvasAgg(picture).draw()
    boxes = list(text_boxes(picture))
    assert len(boxes) == 3 * 8
    whole = picture.bbox
    for box in boxes:
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1
    for first, second in itertools.combinations(boxes, 2):
        overlap = mpl.transforms.Bbox.intersection(first, second)
        assert overlap is None or min(overlap.width, overlap.height) < 3


def test_labels_spread_in_order_and_within_bounds() -> None:
    assert spread([4.0], 2.0, 0.0, 10.0) == [4.0]
    assert spread([9.0, 9.5, 9.9], 2.0, 0.0, 10.0) == pytest.approx([6.0, 8.0, 10.0])
    assert spread([3.0, 3.0, 8.0], 2.0, 0.0, 10.0) == pytest.approx([2.0, 4.0, 8.0])
    assert spread([5.0] * 5, 9.0, 0.0, 10.0) == pytest.approx([0.0, 2.5, 5.0, 7.5, 10.0])


def test_a_path_that_leaves_the_frame_is_marked_where_it_leaves() -> None:
    surface = SURFACES["rosenbrock"]  # from (-2, -1) to (2, 3)
    assert end_in_frame(surface, [(0.0, 0.0), (1.0, 1.0)]) == ((1.0, 1.0), True)
    assert end_in_frame(surface, [(0.0, 0.0), (1.0, 1.0), (3.0, 2.0)]) == ((2.0, 1.5), False)
    assert end_in_frame(surface, [(0.0, 0.0), (1.0, -3.0), (9.0, 9.0)]) == ((pytest.approx(1 / 3), -1.0), False)
    assert end_in_frame(surface, [(5.0, 0.0), (6.0, 9.0)]) == ((2.0, 3.0), False)


def opened(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(path.read_bytes()))


def test_images_have_the_width_that_was_asked_for(tmp_path: Path) -> None:
    for width in (400, 1600):
        image = opened(write_image(rosenbrock(), tmp_path / f"{width}.png", width=width))
        assert image.width == width
        assert (image.height > image.width) == (width == 400)  # below 700 the curves stand below the contours
    root = ElementTree.parse(write_image(rosenbrock(), tmp_path / "a.svg")).getroot()
    assert root.tag.endswith("svg")
    assert {"adam:lr=0.2", "height above the minimum"} <= {
        "".join(text.itertext()) for text in root.iter() if text.tag.endswith("text")
    }


def test_the_animation_ends_in_the_whole_picture(tmp_path: Path) -> None:
    gif = opened(write_image(rosenbrock(), tmp_path / "a.gif", width=800))
    assert gif.n_frames == 61
    frames, durations = [], []
    for number in (0, 30, 60):
        gif.seek(number)
        durations.append(gif.info["duration"])
        frames.append(np.asarray(gif.convert("RGB"), dtype=float))
    assert durations == [80, 80, 2500]
    whole = opened(write_image(rosenbrock(), tmp_path / "a.png", width=800)).convert("RGB")
    differences = [np.abs(frame - np.asarray(whole)).mean() for frame in frames]
    assert differences[2] < 2 < differences[1] < differences[0]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".gif", ".html"])
def test_only_files_of_thalweg_are_replaced(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mine{suffix}"
    write = write_picture_page if suffix == ".html" else write_image
    path.write_text("my notes")
    with pytest.raises(StoreError, match="must not replace a file of someone else"):
        write(trace("quadratic", "gd:lr=1", steps=2), path)
    assert path.read_text() == "my notes"
    write(trace("quadratic", "gd:lr=1", steps=2), path, overwrite=True)
    size = path.stat().st_size
    write(trace("quadratic", "gd:lr=1", steps=9), path)
    assert path.stat().st_size != size


@pytest.mark.parametrize("width", [299, 4001, 2.5, True])
def test_a_width_out_of_bounds_is_refused(tmp_path: Path, width: object) -> None:
    with pytest.raises(SettingError, match="width must be 300 to 4,000 pixels"):
        write_image(rosenbrock(), tmp_path / "a.png", width=width)


def test_the_rows_are_in_the_order_of_the_heights() -> None:
    rows = rows_of(rosenbrock())
    heights = [optimizer.trajectories[0].final_height for optimizer in rosenbrock().optimizers]
    assert [row["name"] for row in rows] == [NAMES.split(",")[k] for k in np.argsort(heights)]
    assert rows[-1]["gap"] == "diverged at step 2"


def test_the_page_is_whole_and_loads_nothing() -> None:
    assert "could not be made" not in page()
    names = "http://www.w3.org/2000/svg"  # a name that scripts need; nothing is loaded from there
    assert not re.findall(r"https?:|//[a-z]", page().replace(names, ""))
    tags = Reader(page()).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert sum("trail" in attributes.get("class", "").split() for _, attributes in tags) == 2 * 2 * 5
    assert COMMAND in Reader(page()).text
    assert page() == render_picture(rosenbrock(), command=COMMAND)
    assert len(page()) < 2e6


def test_the_page_tells_its_values_to_those_who_do_not_see_it() -> None:
    wide, narrow = (attributes["aria-label"] for tag, attributes in Reader(page()).tags if tag == "svg")
    assert wide == narrow
    adam = rosenbrock().optimizers[2].trajectories[0]
    x, y = adam.points[-1]
    sentence = f"adam:lr=0.2 at learning rate 0.2, from (-1.2, 1), ends at ({x:.3g}, {y:.3g}), above the minimum by"
    assert sentence in wide
    assert "gd:lr=0.05 at learning rate 0.05, from (-1.2, 1), diverges at step 2." in wide
    assert "which it reaches" not in wide
    bowl = alternative_text(trace("quadratic", "gd:lr=1.9", steps=100))
    assert bowl.endswith(", above the minimum by 4.5e-05, which it reaches at step 87.")


def test_a_name_of_the_user_is_text() -> None:
    name = "</script><b>$x$"
    surface = Surface(name, name, name, name, lambda point: (point**2).sum(-1))
    text = render_picture(trace(surface, "gd:lr=0.1", steps=3))
    assert "could not be made" not in text
    assert "<b>$x$" not in text
    assert text.count("</script>") == 1
    assert name in Reader(text).text


def test_a_surface_without_a_known_minimum_has_heights() -> None:
    surface = Surface("waves", "Waves", "", "", lambda point: point.sin().sum(-1))
    trajectories = trace(surface, "gd:lr=0.5", steps=30)
    assert draw_picture(trajectories).axes[1].get_yscale() == "linear"
    assert "ends at height" in render_picture(trajectories)


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (768, "dark"), (1600, "dark")])
def test_the_page_plays_steps_and_stops(tmp_path: Path, width: int, scheme: str) -> None:
    path = tmp_path / "page.html"
    path.write_text(page())
    with open_browser() as browser:
        tab = open_tab(browser, viewport={"width": width, "height": 900}, color_scheme=scheme)
        messages: list[str] = []
        requests: list[str] = []
        tab.on("console", lambda message: messages.append(message.text))
        tab.on("pageerror", lambda error: messages.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.clock.install(time=datetime(2030, 1, 1, tzinfo=UTC))
        tab.clock.pause_at(datetime(2031, 1, 1, tzinfo=UTC))  # from here on, time passes only in run_for
        tab.goto(path.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        shown = "narrow" if width < 960 else "wide"
        assert [svg.get_attribute("class") for svg in tab.locator("svg").all() if svg.is_visible()] == [shown]
        size = "parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a"
        smallest = f"Math.min(...[...document.querySelectorAll('svg.{shown} text')].map(text => {size}))"
        assert tab.evaluate(smallest) >= 11  # pixels

        points = f"document.querySelectorAll('svg.{shown} .line')[2].getAttribute('d').split('L').length"
        slider, output, button = tab.locator("input"), tab.locator("output"), tab.locator(".controls button")
        assert (tab.evaluate(points), output.inner_text()) == (61, "60 of 60")
        slider.focus()
        tab.keyboard.press("Home")
        assert (tab.evaluate(points), output.inner_text()) == (1, "0 of 60")
        tab.keyboard.press("ArrowRight")
        assert (tab.evaluate(points), slider.get_attribute("aria-valuetext")) == (2, "step 1 of 60")
        label = tab.locator(f"[id^='{shown}-end-0']")
        assert label.evaluate("label => getComputedStyle(label).opacity") == "0"
        assert tab.locator(f"svg.{shown} .cross:not(.off)").count() == 0  # step 2 is the first that is lost

        button.focus()
        tab.keyboard.press("Space")
        assert button.inner_text() == "Pause"
        tab.clock.run_for(2000)  # of four seconds
        tab.keyboard.press("Space")
        assert button.inner_text() == "Play"
        assert 25 <= int(slider.input_value()) <= 35
        assert tab.locator(f"svg.{shown} .cross:not(.off)").count() == 2  # on the contours and on the curves
        tab.keyboard.press("Space")
        tab.clock.run_for(3000)
        assert button.inner_text() == "Play"
        assert (tab.evaluate(points), output.inner_text()) == (61, "60 of 60")
        assert label.evaluate("label => getComputedStyle(label).opacity") == "1"
    assert messages == []
    assert requests == [path.as_uri()]


@needs_browser
def test_without_a_script_the_page_shows_the_whole_paths(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(page())
    with open_browser() as browser:
        tab = open_tab(browser, java_script_enabled=False)
        tab.goto(path.as_uri())
        assert not tab.locator(".controls").is_visible()
        assert tab.locator("svg.wide .line").nth(2).get_attribute("d").count("L") == 60


def test_the_picture_of_a_rule_is_its_path_beside_two_grey_ones() -> None:
    picture = rule_picture("lion", lrs=RATES)
    for axes, surface in zip(picture.axes, PAIR, strict=True):
        assert axes.get_title(loc="left").endswith(f"lr {RATES['lion'][surface]:g}")
        assert {text.get_text() for text in axes.texts} >= {"gd", "adamw", "lion"}
        grey = [line for line in axes.lines if line.get_linestyle() == "--" and len(line.get_xdata()) > 1]
        assert len(grey) == 2
    own = trace("rosenbrock", "lion", lr=RATES["lion"]["rosenbrock"]).optimizers[0].trajectories[0]
    assert any(np.array_equal(line.get_xydata(), own.points) for line in picture.axes[0].lines)
    names = {text.get_text() for text in rule_picture("adamw", lrs=RATES).axes[0].texts}
    assert names - {""} == {"gd", "adamw"}  # a rule is no reference beside itself


def test_a_learning_rate_that_is_missing_is_chosen() -> None:
    rates = {name: RATES[name] for name in ("gd", "adamw")} | {"lion": {"rosenbrock": 0.02}}
    titles = [axes.get_title(loc="left") for axes in rule_picture("lion", lrs=rates).axes]
    chosen = trace("quadratic", "lion").optimizers[0].lr
    assert titles == ["Rosenbrock, 200 steps, lr 0.02", f"Ill-conditioned quadratic, 100 steps, lr {chosen:g}"]


def test_the_picture_of_a_wrapper_is_that_around_adam() -> None:
    texts = {text.get_text() for text in rule_picture("cautious", lrs=RATES).axes[1].texts}
    assert "cautious(adam)" in texts
