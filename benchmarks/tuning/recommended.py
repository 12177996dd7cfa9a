"""Settings to recommend: for each contender one that is good on many tasks without tuning, and its loss.

On every task a contender trains the same quasi-random settings (learning rate and first momentum; the others at their
starting values) and its library default, each from the same seeds, for all passes and for a quarter of them: what is
best for a short training need not be best for a long one. The regret of a setting on a task is the factor
between its validation loss and the best that the contender reaches on this task. The setting with the least mean regret
is recommended. Regrets are averaged over the nearest settings, so that no lucky point off a plateau wins; of equal
plateaus the setting with the least mean regret of its own is taken. To estimate the regret on a new task, the setting
is chosen on all other tasks. A contender takes two minutes on two cores, one with matrices ten.

`--names lion nadam` trains these alone; the record keeps all contenders that it had.
"""

import argparse
import json
import math
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import qmc

from thalweg.bench.records import machine
from thalweg.comparison.contenders.contender import Contender, Settings
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.planning.seeds import derive
from thalweg.comparison.protocol.score_scale import ScoreScale
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.timing import measure_task
from thalweg.comparison.training.workload import as_workload
from thalweg.rules import Range
from thalweg.tasks.catalogue import BUILT_IN

RECORD = Path(__file__).parents[1] / "records" / "recommended.json"
# With their passes, fewer than those of the built-in task where a training would take long; the longest first.
TASKS = {
    "digits-cnn": 4,
    "modular-addition": 15,
    "digits-deep": 15,
    "elevation": 8,
    "digits": 20,
    "patches": 10,
    "breast-cancer": 20,
    "logistic-regression": 30,
    "diabetes": 20,
}
NAMES = (
    *("gd", "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw"),
    *("nadam", "radam", "lion", "signum", "muon", "muon+adamw", "schedule_free_adamw", "soap"),
)
LENGTHS = (0.25, 1.0)  # shares of the passes
SETTINGS, SEEDS = 48, 2
SCHEDULE = "linear"  # of contenders that have none of their own
ORDER = 2  # the learning rate and the first momentum are open
NEAREST = 3  # settings whose regret is averaged, the setting itself among them
WORKERS = 2  # with one thread each


def rounded(value: float, bounds: Range) -> float:
    """Return a value rounded to two digits; of a momentum, its distance to 1 is rounded."""
    return round(1 - float(f"{1 - value:.1e}"), 6) if bounds.scale == "log-to-one" else float(f"{value:.1e}")


def draw(contender: Contender, count: int) -> list[Settings]:
    """Return the settings to try, rounded as they are printed; the library default is the last."""
    space, start = contender.space(ORDER), contender.rule.settings()
    points = qmc.Sobol(len(space), scramble=True, rng=0).random_base2((count - 1).bit_length())[:count]
    drawn = [
        {
            name: rounded(bounds.value_at(float(position)), bounds)
            for (name, bounds), position in zip(space.items(), point, strict=True)
        }
        for point in points
    ]
    return [*drawn, {name: float(start[name]) for name in space}]


def score(result: TrainingResult) -> float:
    """Return the logarithm of the validation loss. A training that diverged, or learnt nothing, counts as untrained."""
    untrained = ScoreScale("log", {"validation": result.evaluations[0].validation})
    return untrained.score(result.validation if result.status == "ok" else math.nan, "validation")


def scores(task_name: str, length: float, name: str, settings: list[Settings]) -> tuple[list[float], float]:
    """Train all settings; return the mean score of each over the seeds, and the seconds. Runs in a worker process."""
    began = time.perf_counter()
    task = replace(BUILT_IN[task_name](), passes=max(1, round(length * TASKS[task_name])))
    contender = parse(name)
    schedule = TrainingSchedule(
        task.passes * task.batches_per_pass(full_batch=contender.full_batch),
        contender.schedule or SCHEDULE,
        num_evaluations=1,
    )
    trials = [Trial(values, derive(0, "recommended", k)) for values in settings for k in range(SEEDS)]
    size = measure_task(task, contender, schedule, derive(0, "recommended", 0)).mode.members
    results = [
        result
        for start in range(0, len(trials), size)
        for result in as_workload(task).train(contender, trials[start : start + size], schedule)
    ]
    failed = [result.message for result in results if result.status == "failed"]
    assert not failed, f"{task_name}, {name}: {failed[0]}"
    means = np.reshape([score(result) for result in results], (len(settings), SEEDS)).mean(1)
    return means.tolist(), time.perf_counter() - began


def nearest(contender: Contender, settings: list[Settings]) -> np.ndarray:
    """Return the numbers of the nearest settings for each setting, on the scales that are searched."""
    space = contender.space(ORDER)
    places = np.array([[bounds.position(values[name]) for name, bounds in space.items()] for values in settings])
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    return distances.argsort(axis=1, kind="stable")[:, :NEAREST]


def choose(regrets: np.ndarray, near: np.ndarray) -> int:
    """Return the number of the setting in the middle of the best plateau.

    Args:
        regrets: The regret of each setting on each task, ``(tasks, settings)``.
        near: The numbers of the nearest settings of each setting, ``(settings, NEAREST)``.
    """
    own = regrets.mean(0)
    # Settings that are each other's nearest have the same mean but for its last digits.
    plateaus = np.sort(own[near], axis=1).mean(1)
    return int(np.lexsort((own, plateaus))[0])


def title(task: str, length: float) -> str:
    """Return the name of a task in the record, with the share of its passes if it is not trained for all.

    Example:
        >>> title("digits", 1.0), title("digits", 0.25)
        ('digits', 'digits, 0.25 of the passes')
    """
    return task if length == 1 else f"{task}, {length:g} of the passes"


def evaluate(contender: Contender, settings: list[Settings], scores: dict[str, list[float]]) -> dict[str, Any]:
    """Choose the setting to recommend.

    Args:
        contender: The contender.
        settings: The settings that were tried.
        scores: The score of each setting, by the title of a task.

    Returns:
        The setting, with its regret, the regret of a setting chosen without the task, and that of the default.
    """
    table = np.array(list(scores.values()))
    regrets = table - table.min(1, keepdims=True)
    near = nearest(contender, settings)
    chosen = choose(regrets, near)
    tasks = np.array([title.partition(",")[0] for title in scores])  # a task is left out at all of its lengths
    without = [choose(regrets[tasks != task], near) for task in tasks]
    columns = {
        "recommended": regrets[:, chosen],
        "left_out": regrets[range(len(scores)), without],
        "default": regrets[:, -1],
    }
    return {
        "recommended": settings[chosen],
        "default": settings[-1],
        "mean_factor": {name: math.exp(column.mean()) for name, column in columns.items()},
        "factor_by_task": {
            task: {name: math.exp(column[row]) for name, column in columns.items()}
            | {"chosen_without": settings[without[row]]}
            for row, task in enumerate(scores)
        },
    }


def main() -> None:
    """Train, choose, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", default=list(NAMES), choices=NAMES, metavar="NAME")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS, metavar="TASK", help="at least two")
    parser.add_argument(
        "--lengths", nargs="+", type=float, default=LENGTHS, metavar="SHARE", help="shares of the passes"
    )
    parser.add_argument("--settings", type=int, default=SETTINGS, help="beside the library default")
    parser.add_argument("--out", type=Path, default=RECORD)
    arguments = parser.parse_args()
    entrants = {name: parse(name) for name in arguments.names}
    settings = {name: draw(contender, arguments.settings) for name, contender in entrants.items()}
    trained = {title(task, length): (task, length) for length in arguments.lengths for task in arguments.tasks}
    results: dict[str, dict[str, list[float]]] = {name: {task: [] for task in trained} for name in entrants}
    seconds = dict.fromkeys(entrants, 0.0)
    with ProcessPoolExecutor(WORKERS, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        jobs = {
            pool.submit(scores, *trained[task], name, settings[name]): (task, name)
            for task in trained
            for name in entrants
        }
        for done, job in enumerate(as_completed(jobs), 1):
            task, name = jobs[job]
            results[name][task], took_s = job.result()
            seconds[name] += took_s
            print(f"{done} of {len(jobs)}: {task}, {name}, {took_s:.1f} s", file=sys.stderr, flush=True)
    protocol = {
        "tasks": {task: {"passes": TASKS[task]} for task in arguments.tasks},
        "lengths": list(arguments.lengths),
        "settings": arguments.settings,
        "seeds": SEEDS,
        "schedule": SCHEDULE,
    }
    measured = {
        name: evaluate(contender, settings[name], results[name])
        | {"core_seconds": round(seconds[name], 1), "machine": machine()}
        for name, contender in entrants.items()
    }
    record = merged(arguments.out, protocol, measured)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    for name, result in measured.items():
        factors = ", ".join(f"{words} {factor:.2f}" for words, factor in result["mean_factor"].items())
        print(f"{name:10} {result['recommended']}: {factors}")


def merged(path: Path, protocol: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    """Return a record with these contenders, and those that the file has by the same protocol, in our order.

    Raises:
        ValueError: If the file has contenders that were measured in another way.
    """
    earlier: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    kept = {name: result for name, result in earlier.get("contenders", {}).items() if name not in measured}
    if kept and any(earlier[key] != value for key, value in protocol.items()):
        raise ValueError(f"{path}: {', '.join(kept)} were measured on other tasks or settings. Write to another --out.")
    both = kept | measured
    return protocol | {"contenders": {name: both[name] for name in NAMES if name in both}}


if __name__ == "__main__":
    main()
