"""Pictures of the paths of every rule, and the record of the learning rates in them."""

import json
import math
from collections.abc import Iterable
from functools import cache
from typing import Any

from benchmarks.handbook.evidence import RECORDS, ROOT
from benchmarks.handbook.rule_page import Subject
from thalweg.errors import ThalwegError
from thalweg.report.pictures.one_rule import REFERENCES, SURFACES, expression_of, rule_picture
from thalweg.trajectories import trace

FOLDER = ROOT / "docs" / "images" / "rules"
RECORD = RECORDS / "paths.json"
_DOTS_PER_INCH, _QUALITY = 110, 60


def contender_of(name: str) -> str:
    """Return the contender that a picture shows: a wrapper is drawn around Adam, SGD with its momentum."""
    subject = Subject(name)
    return expression_of(name) if subject.is_wrapper else subject.main.name


@cache
def end_of_path(surface: str, contender: str) -> dict[str, Any]:
    """Return the steps and learning rate of a path, true if the rate was chosen, and the height of the path's end."""
    trajectories = trace(surface, contender)
    paths = trajectories.optimizers[0]
    height = paths.trajectories[0].final_height
    end = float(f"{height:.6g}") if math.isfinite(height) else None
    return {"steps": trajectories.steps, "lr": paths.lr, "chosen": bool(paths.tried), "end": end}


def draw(names: Iterable[str]) -> None:
    """Draw the pictures of rules and wrappers, and record their learning rates.

    A rule that cannot step a single point has no picture.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    rules = json.loads(RECORD.read_text())["rules"] if RECORD.exists() else {}
    for name in names:
        contender = contender_of(name)
        try:
            rules[name] = {surface: end_of_path(surface, contender) for surface in SURFACES}
        except ThalwegError as error:
            print(f"{name}: no picture. {error}")
            continue
        rates = {
            drawn: {surface: end_of_path(surface, drawn)["lr"] for surface in SURFACES}
            for drawn in (contender, *REFERENCES)
        }
        figure = rule_picture(contender, lrs=rates)
        figure.savefig(FOLDER / f"{name}.webp", dpi=_DOTS_PER_INCH, pil_kwargs={"quality": _QUALITY, "method": 6})
        RECORD.write_text(json.dumps({"rules": dict(sorted(rules.items()))}, indent=1) + "\n")
