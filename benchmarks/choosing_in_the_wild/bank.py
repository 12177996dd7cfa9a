"""The bank: every training that was run, in a file of JSON lines, so that nothing is trained twice."""

import ast
import hashlib
import inspect
import json
import lzma
import math
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.choosing_in_the_wild import data
from benchmarks.choosing_in_the_wild.training import Mean, Training, TrainingRun, mean_of, run
from thalweg.comparison.contenders.parsing import parse

STORED = Path(__file__).parent / "bank.jsonl.xz"  # the committed trainings
RUNS = Path(__file__).parents[2] / "runs" / "choosing_in_the_wild"
SEARCH_SEED = 0
RETRAINING_SEEDS = range(1, 5)
TRUTH_SEEDS = range(1000, 1020)  # choose the best setting; no search uses these
VALUE_SEEDS = range(2000, 2020)  # measure what was chosen; no choice uses these, so its mean is not lucky
DIGITS = 7  # of stored scores

Key = tuple[str, str, str, int]  # training, contender, settings, seed


@cache
def source_of(train: Any) -> str:
    """Return a hash of the code of a training and of the shared data: an edited training is another one.

    Comments, docstrings, layout and the places of imports do not count.
    """
    digest = hashlib.sha256()
    for file in (inspect.getfile(train), data.__file__):
        tree = ast.parse(Path(file).read_text())
        tree.body = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        digest.update(ast.unparse(tree).encode())
    return digest.hexdigest()[:12]


def canonical(contender: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that differ from the contender's own, in order of their names.

    Example:
        >>> canonical("adam", {"lr": 0.1, "beta1": 0.9})
        {'lr': 0.1}
    """
    start = _starting_settings(contender)
    return {name: settings[name] for name in sorted(settings) if settings[name] != start[name]}


@cache
def _starting_settings(contender: str) -> dict[str, Any]:
    return parse(contender).rule.settings()


class MissingTrainingError(LookupError):
    """Raised by a bank that does not train."""


def stored_rows(path: Path = STORED) -> list[dict[str, Any]]:
    """Return the trainings of a compressed file, which `Bank.write` wrote."""
    return [json.loads(line) for line in lzma.decompress(path.read_bytes()).decode().splitlines()]


class Bank:
    """Trainings by training, contender, settings and seed; missing ones are trained when they are needed.

    Example:
        >>> from benchmarks.choosing_in_the_wild.trainings import TRAININGS
        >>> bank = Bank(None, stored=None)
        >>> round(bank.costs(TRAININGS["fine-tuning"], "adam", {"lr": 0.03}, [0], "validation")[0])
        -1
    """

    def __init__(self, path: Path | None = RUNS / "bank.jsonl", *, stored: Path | None = STORED, trains: bool = True):
        """Read a bank.

        Args:
            path: The file for new trainings, which need not exist; None for the memory alone.
            stored: The compressed file of trainings that are read, too.
            trains: False to raise MissingTrainingError instead of training.
        """
        self.path = path
        self._trains = trains
        self._rows: dict[Key, dict[str, Any]] = {}
        for row in stored_rows(stored) if stored is not None and stored.exists() else []:
            self._add(row)
        for line in path.read_text().splitlines() if path is not None and path.exists() else []:
            self._add(json.loads(line))

    def _add(self, row: dict[str, Any]) -> None:
        self._rows[row["training"], row["contender"], json.dumps(row["settings"]), row["seed"]] = row

    def frozen(self) -> "Bank":
        """Return a bank of the same trainings that does not train."""
        bank = Bank(None, stored=None, trains=False)
        bank._rows = self._rows
        return bank

    def rows(self, training: Training, contender: str | None = None) -> list[dict[str, Any]]:
        """Return the stored rows of the present version of a training."""
        source = source_of(training.train)
        return [
            row
            for row in self._rows.values()
            if row["training"] == training.name
            and row["source"] == source
            and (contender is None or row["contender"] == contender)
        ]

    def result(self, training: Training, contender: str, settings: Mapping[str, Any], seed: int) -> TrainingRun:
        """Return the result of one training, from the bank or by training."""
        chosen = canonical(contender, settings)
        row = self._rows.get((training.name, contender, json.dumps(chosen), seed))
        if row is None or row["source"] != source_of(training.train):
            if not self._trains:
                raise MissingTrainingError(f"{training.name}: {contender} {chosen} from seed {seed}")
            result = run(training, contender, chosen, seed)
            row = self.add(training, contender, chosen, seed, result)
            self._append(row)
        return run_of(row)

    def add(
        self, training: Training, contender: str, settings: Mapping[str, Any], seed: int, result: TrainingRun
    ) -> dict[str, Any]:
        """Hold a result in the memory, and return its row."""
        row = {
            "training": training.name,
            "contender": contender,
            "settings": canonical(contender, settings),
            "seed": seed,
            "validation": _stored(result.validation),
            "test": _stored(result.test),
            "reports": [_stored(report) for report in result.reports],
            "seconds": round(result.seconds, 4),
            "source": source_of(training.train),
        }
        self._add(row)
        return row

    def write(self, path: Path) -> None:
        """Write all rows to a compressed file; the same rows give the same bytes."""
        lines = sorted(json.dumps(row) for row in self._rows.values())
        path.write_bytes(lzma.compress("".join(f"{line}\n" for line in lines).encode(), preset=9))

    def _append(self, row: dict[str, Any]) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # One write, so that the lines of several processes do not mix.
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, (json.dumps(row) + "\n").encode())
        finally:
            os.close(descriptor)

    def costs(
        self, training: Training, contender: str, settings: Mapping[str, Any], seeds: Sequence[int], split: str
    ) -> list[float]:
        """Return the cost of the score on a split, ``"validation"`` or ``"test"``, from each seed."""
        results = [self.result(training, contender, settings, seed) for seed in seeds]
        return [training.cost(getattr(result, split)) for result in results]

    def evaluated(self, training: Training, contender: str) -> list[dict[str, Any]]:
        """Return the settings that were trained from all seeds of the truth."""
        seeds: dict[str, set[int]] = {}
        for row in self.rows(training, contender):
            seeds.setdefault(json.dumps(row["settings"]), set()).add(row["seed"])
        return [json.loads(text) for text, trained in seeds.items() if trained.issuperset(TRUTH_SEEDS)]

    def true_costs(self, training: Training, contender: str, settings: Mapping[str, Any]) -> list[float]:
        """Return the test cost of a setting from each of the seeds that no choice uses; what is missing is trained."""
        return self.costs(training, contender, settings, VALUE_SEEDS, "test")

    def true_value(self, training: Training, contender: str, settings: Mapping[str, Any]) -> Mean:
        """Return the mean test cost of a setting over the seeds that no choice uses; what is missing is trained."""
        return mean_of(self.true_costs(training, contender, settings))


def _stored(score: float) -> float | None:
    return float(f"{score:.{DIGITS}g}") if math.isfinite(score) else None


def run_of(row: Mapping[str, Any]) -> TrainingRun:
    """Return the result that a row holds."""

    def number(stored: float | None) -> float:
        return math.nan if stored is None else stored

    reports = tuple(map(number, row["reports"]))
    return TrainingRun(number(row["validation"]), number(row["test"]), reports, row["seconds"])
