"""Pictures of the paths of every rule, and the record of the learning rates in them."""

import json
import math
from collections.abc import Iterable
from typing import Any

from benchmarks.handbook.evidence import RECORDS, ROOT
from benchmarks.handbook.rule_page import Subject
from thalweg.errors import ThalwegError
from thalweg.registry import WRAPPERS
from thalweg.report.pictures.one_rule import STEPS, SURFACES, rule_picture
from thalweg.trajectories import trace

FOLDER = ROOT / "docs" / "images" / "rules"
RECORD = RECORDS / "paths.json"
_DOTS_PER_INCH, _QUALITY = 110, 60


def expression(name: str) -> str:
    """Return the contender that a picture shows: a wrapper is drawn around Adam, SGD with its momentum."""
    return f"{name}(adam)" if name in WRAPPERS else Subject(name).main.name


def measure(name: str) -> dict[str, Any]:
    """Return, by surface, the learning rate, True if it was chosen from a grid, and the height of the path's end."""
    return {surface: end_of_path(surface, expression(name)) for surface in SURFACES}


def end_of_path(surface: str, contender: str) -> dict[str, Any]:
    """Return the learning rate of a path, True if it was chosen from a grid, and the height of its end."""
    paths = trace(surface, contender, steps=STEPS).optimizers[0]
    height = paths.trajectories[0].final_height
    end = float(f"{height:.6g}") if math.isfinite(height) else None
    return {"lr": paths.lr, "chosen": bool(paths.tried), "end": end}


def draw(names: Iterable[str]) -> None:
    """Draw the pictures of rules and wrappers, and record their learning rates.

    A rule that cannot step a single point, such as a rule of matrices with large ones alone, has no picture.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    rules = json.loads(RECORD.read_text())["rules"] if RECORD.exists() else {}
    for name in names:
        try:
            rules[name] = measure(name)
        except ThalwegError as error:
            print(f"{name}: no picture. {error}")
            continue
        rates = {surface: rules[name][surface]["lr"] for surface in SURFACES}
        figure = rule_picture(expression(name), lrs=rates)
        figure.savefig(FOLDER / f"{name}.webp", dpi=_DOTS_PER_INCH, pil_kwargs={"quality": _QUALITY, "method": 6})
        RECORD.write_text(json.dumps({"steps": STEPS, "rules": dict(sorted(rules.items()))}, indent=1) + "\n")
