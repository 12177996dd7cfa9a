"""The losses at learning rates that `optim.transfer` computes from a tuned AdamW, on real tasks.

For each task AdamW's learning rate is tuned on a grid and its gradients of thirty steps are recorded. Every other rule
is trained at the transferred rate, at AdamW's rate, at its default, and on a grid of its own, all from the same seeds.
`python benchmarks/tuning/transfer.py` writes `benchmarks/records/transfer.json`; a few minutes on two cores.
"""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from thalweg import rules
from thalweg.bench.records import machine
from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.planning.seeds import derive
from thalweg.comparison.protocol.score_scale import ScoreScale
from thalweg.comparison.training.runs import SingleRun, Trial
from thalweg.comparison.training.workload import as_workload
from thalweg.optim import route, transfer
from thalweg.optim.transfer import Match
from thalweg.tasks import Task
from thalweg.tasks.catalogue import BUILT_IN

RECORD = Path(__file__).parents[1] / "records" / "transfer.json"
TASKS = {"digits": 20, "breast-cancer": 20, "patches": 10, "elevation": 8, "modular-addition": 15}  # with their passes
SOURCE = "adamw"
TARGETS = ("lion", "signum", "momentum", "rmsprop", "nadam", "adagrad", "muon+adamw")
MATCHES: tuple[Match, ...] = ("step", "distance")
GRID, SEEDS, NUM_GRADIENTS = 21, 2, 30


def scores_at(task: Task, contender: Contender, lrs: list[float]) -> list[float]:
    """Return the mean log validation loss at each learning rate. A training that diverged counts as untrained."""
    schedule = TrainingSchedule(task.passes * task.batches_per_pass(), "linear", num_evaluations=1)
    trials = [Trial({"lr": lr}, derive(0, "transfer", k)) for lr in lrs for k in range(SEEDS)]
    scores = []
    for result in as_workload(task).train(contender, trials, schedule):
        assert result.status != "failed", f"{task.name}, {contender.name}: {result.message}"
        untrained = ScoreScale("log", {"validation": result.evaluations[0].validation})
        scores.append(untrained.score(result.validation if result.status == "ok" else math.nan, "validation"))
    return [fmean(scores[k : k + SEEDS]) for k in range(0, len(scores), SEEDS)]


def grid(contender: Contender) -> list[float]:
    """Return learning rates over a contender's search range."""
    bounds = contender.space(1)["lr"]
    return [float(f"{bounds.value_at(k / (GRID - 1)):.3g}") for k in range(GRID)]


def gradients(task: Task, contender: Contender, lr: float) -> tuple[torch.nn.Module, list[dict[str, torch.Tensor]]]:
    """Return the model and its gradients by name, of some steps after a fifth of a training."""
    schedule = TrainingSchedule(task.passes * task.batches_per_pass(), "linear")
    run = SingleRun(task, contender, Trial({"lr": lr}, derive(0, "transfer", 0)))
    recorded = []
    for step in range(schedule.steps // 5 + NUM_GRADIENTS):
        run.step(schedule.lr_factor(step))
        if step >= schedule.steps // 5:
            grads = {name: param.grad for name, param in run.model.named_parameters()}
            recorded.append({name: grad.clone() for name, grad in grads.items() if grad is not None})
    return run.model, recorded


def transferred_lr(
    source: rules.Rule,
    target: Contender,
    task: Task,
    model: torch.nn.Module,
    recorded: list[dict[str, torch.Tensor]],
    match: Match,
) -> float:
    """Return the transferred learning rate; of a routed rule, that of its Muon on the parameters that Muon gets."""
    rule, names = target.rule_at({}), [name for name, _ in model.named_parameters()]
    if rule.parts:
        names = [part.name for part in route(model, rule, roles=task.roles).parameters if part.rule == "muon"]
        rule = rule.parts["muon"]
    params = [dict(model.named_parameters())[name] for name in names]
    result = transfer(source, rule, params, [[grads[name] for name in names] for grads in recorded], match=match)
    return float(f"{float(result.rule.settings()['lr']):.3g}")


def measure(name: str) -> list[dict[str, Any]]:
    """Train all targets on a task and return a row of the record for each."""
    task = replace(BUILT_IN[name](), passes=TASKS[name])
    source = parse(SOURCE)
    lrs = grid(source)
    lr = lrs[int(np.argmin(scores_at(task, source, lrs)))]
    model, recorded = gradients(task, source, lr)
    rows = []
    for target_name in TARGETS:
        target = parse(target_name)
        target_grid = grid(target)
        tried = {
            f"by {match}": transferred_lr(source.rule_at({"lr": lr}), target, task, model, recorded, match)
            for match in MATCHES
        }
        tried |= {"same": lr, "default": float(target.rule.hypers()["lr"].default)}
        scores = scores_at(task, target, [*target_grid, *tried.values()])
        best = int(np.argmin(scores))
        rows.append(
            {
                "task": name,
                "target": target_name,
                "source_lr": lr,
                "best_lr": [*target_grid, *tried.values()][best],
                "lr": tried,
                "factor": {
                    label: math.exp(score - scores[best])
                    for label, score in zip(tried, scores[len(target_grid) :], strict=True)
                },
            }
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measure and write the record."""
    rows = [row for name in TASKS for row in measure(name)]
    record = {
        "machine": machine(),
        "source": SOURCE,
        "grid": GRID,
        "seeds": SEEDS,
        "kept": NUM_GRADIENTS,
        "tasks": TASKS,
        "rows": rows,
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
