"""Files of pictures: PNG, SVG and animated GIF, written whole or not at all."""

import io
import math
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from scipy.spatial import cKDTree

from thalweg.errors import SettingError, shown
from thalweg.report.charts.theme import ON_PAPER, drawing_style
from thalweg.report.files import PAGE_SIGNATURES, check_place, write_file
from thalweg.report.pictures.figure import NARROW, WIDE, Picture, draw_picture, title_of
from thalweg.trajectories import Trajectories

SUFFIXES = (".html", ".png", ".svg", ".gif")
MIN_WIDTH, MAX_WIDTH = 300, 4000  # pixels
_NARROW_BELOW = 700  # pixels
_FRAMES = 60  # of an animation, at most
_SIGNATURE = b"thalweg"  # near the beginning of each file, so that a file of someone else is noticed
_FRAME_MS, _LAST_MS = 80, 2500
DEFAULT_WIDTH = {".png": 1600, ".svg": 960, ".gif": 960}


def write_image(trajectories: Trajectories, path: Path, *, width: int | None = None, overwrite: bool = False) -> Path:
    """Write a picture to a file, in the format of its suffix: ``.png``, ``.svg`` or ``.gif``.

    Args:
        trajectories: The paths.
        path: The file. Its folder is made if it does not exist.
        width: Width in pixels, 300 to 4,000; below 700 the curves stand below the contours. None for 1,600 of a PNG,
            960 of the others.
        overwrite: True replaces a file that thalweg did not make.

    Returns:
        The path.

    Raises:
        SettingError: If the width is out of its bounds.
        StoreError: If the file cannot be written.
    """
    suffix = path.suffix.lower()
    width = DEFAULT_WIDTH[suffix] if width is None else width
    _check_width(width)
    narrow = width < _NARROW_BELOW
    picture = draw_picture(trajectories, narrow=narrow)
    dpi = width / (NARROW if narrow else WIDE)
    with drawing_style(ON_PAPER, title_of(trajectories)):
        content = _gif(picture, dpi) if suffix == ".gif" else _image(picture, suffix[1:], dpi)
    return write_file(path, content, signs=() if overwrite else (_SIGNATURE,))


def check_target(path: Path, *, width: int | None = None, overwrite: bool = False) -> None:
    """Raise the error of a file that cannot be written, before its picture is computed. Nothing is written.

    Args:
        path: The file.
        width: Width of an image in pixels; None for that of its format.
        overwrite: True if a file that thalweg did not make may be replaced.

    Raises:
        SettingError: If the width is out of its bounds.
        StoreError: If the file cannot be written.
    """
    if width is not None:
        _check_width(width)
    signs = PAGE_SIGNATURES if path.suffix.lower() == ".html" else (_SIGNATURE,)
    check_place(path, signs=() if overwrite else signs)


def _check_width(width: object) -> None:
    if not isinstance(width, int) or isinstance(width, bool) or not MIN_WIDTH <= width <= MAX_WIDTH:
        raise SettingError(f"show: width must be {MIN_WIDTH} to {MAX_WIDTH:,} pixels, got {shown(width)}.")


def _image(picture: Picture, kind: str, dpi: float) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Creator": _SIGNATURE.decode(), "Date": None} if kind == "svg" else {"Software": _SIGNATURE.decode()}
    picture.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def _gif(picture: Picture, dpi: float) -> bytes:
    """Return an animation that shows all paths grow. What does not move is drawn once."""
    steps = picture.trajectories.steps
    every = math.ceil(steps / _FRAMES)
    picture.set_dpi(dpi)
    canvas = FigureCanvasAgg(picture)
    moving = [artist for trail in picture.trails for artist in trail.artists]
    for artist in [*moving, *picture.end_labels]:
        artist.set_animated(True)
    canvas.draw()  # type: ignore[no-untyped-call]
    background = canvas.copy_from_bbox(picture.bbox)  # type: ignore[no-untyped-call]  # matplotlib has not typed it
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    frames = []
    for step in [*range(0, steps, every), steps]:
        canvas.restore_region(background)  # type: ignore[no-untyped-call]
        picture.show_step(step)
        for artist in sorted([*moving, *picture.end_labels], key=lambda artist: artist.get_zorder()):
            if artist.get_visible():
                artist.draw(renderer)
        frames.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())  # type: ignore[no-untyped-call]
    images = _with_one_palette(frames)
    buffer = io.BytesIO()
    durations = [_FRAME_MS] * (len(frames) - 1) + [_LAST_MS]
    images[0].save(
        buffer, "gif", save_all=True, append_images=images[1:], duration=durations, loop=0, comment=_SIGNATURE
    )
    return buffer.getvalue()


def _with_one_palette(frames: list[np.ndarray]) -> list[Image.Image]:
    """Return images with the 256 colours of the last frame; Pillow's own search of a palette is coarse."""
    last = Image.fromarray(frames[-1]).quantize(256, dither=Image.Dither.NONE)
    palette = np.array(last.getpalette(), dtype=np.uint8).reshape(-1, 3)
    levels = 4 * np.arange(64) + 2
    cells = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1)
    nearest = cKDTree(palette).query(cells)[1].astype(np.uint8)
    images = []
    for frame in frames:
        image = Image.fromarray(nearest[tuple((frame >> 2).transpose(2, 0, 1))], "P")
        image.putpalette(palette.tobytes())
        images.append(image)
    return images
