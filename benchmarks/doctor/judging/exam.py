"""Exams: folders of sick trainings of another bench, whose files have ``make(seed) -> dict``."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.doctor.trainings.cases import Case, names_of
from benchmarks.doctor.trainings.run import Run, evaluated
from thalweg.tasks import Training

Setup = dict[str, Any]


def read_exam(folder: Path) -> list[Case]:
    """Return the cases of a folder: files ``NN_name.py``, whose setups name their kind, their goal and their cure."""
    sys.path.insert(0, str(folder))  # its files import what they share by name
    cases = []
    for path in sorted(folder.glob("[0-9]*.py")):
        make = importlib.import_module(path.stem).make
        setup = make(0)
        cure = None if setup["cure"] is None else lambda seed, make=make: _run(make(seed)["cure"]())
        kind = setup["kind"] if cure is not None else "healthy"
        name = path.stem.split("_", 1)[1]
        cases.append(Case(kind, name, lambda seed, make=make: _run(make(seed)), cure, names_of(setup["where"])))
    return cases


def _run(setup: Setup) -> Run:
    step = setup.get("step")
    training = Training(
        setup["model"],
        setup["optimizer"],
        setup["batches"],
        setup["loss_fn"],
        None if step is None else _step(setup, step),
        evaluated(setup["metric"]),
    )
    return Run(training, setup["goal"], setup.get("steps", 250))


def _step(setup: Setup, step: Callable[..., Any]) -> Callable[..., Any]:
    def step_of_setup(training: Training, *batch: Any) -> Any:
        # The step reads the parts of its setup, which a change of the training may have replaced.
        setup.update(model=training.model, optimizer=training.optimizer, loss_fn=training.loss_fn)
        return step(setup, *batch)

    return step_of_setup
