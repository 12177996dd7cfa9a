"""How good a learning rate is that `optim.transfer` brings over from a tuned AdamW, on real tasks.

For each task AdamW's learning rate is tuned on a grid, its gradients of thirty steps are kept, and every other rule is
trained at the rate that comes over, at the same number as AdamW's, at its default, and on a grid of its own, all from
the same seeds. `python benchmarks/transfer.py` writes `benchmarks/records/transfer.json`; a few minutes on two cores.
"""

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from thalweg import rules
from thalweg.bench.bench import machine
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

RECORD = Path(__file__).parent / "records" / "transfer.json"
TASKS = {"digits": 20, "breast-cancer": 20, "patches": 10, "elevation": 8, "modular-addition": 15}  # with their passes
SOURCE = "adamw"
TARGETS = ("lion", "signum", "momentum", "rmsprop", "nadam", "adagrad", "muon+adamw")
MATCHES: tuple[Match, ...] = ("step", "distance")
GRID, SEEDS, KEPT = 21, 2, 30


def trained(task: Task, contender: Contender, lrs: list[float]) -> list[float]:
    """The mean logarithm of the validation loss at each learning rate; what diverged counts as untrained."""
    horizon = TrainingSchedule(task.passes * task.batches_per_pass(), "linear", num_evaluations=1)
    trials = [Trial({"lr": lr}, derive(0, "transfer", k)) for lr in lrs for k in range(SEEDS)]
    found = []
    for result in as_workload(task).train(contender, trials, horizon):
        assert result.status != "failed", f"{task.name}, {contender.name}: {result.message}"
        untrained = ScoreScale("log", {"validation": result.evaluations[0].validation})
        found.append(untrained.score(result.validation if result.status == "ok" else math.nan, "validation"))
    return [fmean(found[k : k + SEEDS]) for k in range(0, len(found), SEEDS)]


def grid(contender: Contender) -> list[float]:
    within = contender.space(1)["lr"]
    return [float(f"{within.at(k / (GRID - 1)):.3g}") for k in range(GRID)]


def gradients(task: Task, contender: Contender, lr: float) -> tuple[torch.nn.Module, list[dict[str, torch.Tensor]]]:
    """The model and the gradients by name, of some steps after a fifth of a training."""
    horizon = TrainingSchedule(task.passes * task.batches_per_pass(), "linear")
    run = SingleRun(task, contender, Trial({"lr": lr}, derive(0, "transfer", 0)))
    kept = []
    for step in range(horizon.steps // 5 + KEPT):
        run.step(horizon.lr_factor(step))
        if step >= horizon.steps // 5:
            kept.append({name: param.grad.clone() for name, param in run.model.named_parameters()})
    return run.model, kept


def brought(
    source: rules.Rule, target: Contender, task: Task, model: torch.nn.Module, kept: list[Any], match: Match
) -> float:
    """The learning rate that comes over; for rules side by side, that of the first on its own parameters."""
    rule, names = target.rule, [name for name, _ in model.named_parameters()]
    if rule.parts:
        names = [one.name for one in route(model, rule, roles=task.roles).parameters if one.rule == "muon"]
        rule = rule.parts["muon"]
    params = [dict(model.named_parameters())[name] for name in names]
    found = transfer(source, rule, params, [[grads[name] for name in names] for grads in kept], match=match)
    return float(f"{float(found.rule.settings()['lr']):.3g}")


def on(name: str) -> list[dict[str, Any]]:
    """What all targets come to on one task."""
    task = replace(BUILT_IN[name](), passes=TASKS[name])
    source = parse(SOURCE)
    lrs = grid(source)
    lr = lrs[int(np.argmin(trained(task, source, lrs)))]
    model, kept = gradients(task, source, lr)
    rows = []
    for wanted in TARGETS:
        target = parse(wanted)
        own = grid(target)
        tried = {
            f"by {match}": brought(source.rule_at({"lr": lr}), target, task, model, kept, match) for match in MATCHES
        }
        tried |= {"same": lr, "default": float(target.rule.hypers()["lr"].default)}
        scores = trained(task, target, [*own, *tried.values()])
        best = int(np.argmin(scores))
        rows.append(
            {
                "task": name,
                "target": wanted,
                "source_lr": lr,
                "best_lr": [*own, *tried.values()][best],
                "lr": tried,
                "factor": {
                    where: math.exp(score - scores[best])
                    for where, score in zip(tried, scores[len(own) :], strict=True)
                },
            }
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    rows = [row for name in TASKS for row in on(name)]
    record = {
        "machine": machine(),
        "source": SOURCE,
        "grid": GRID,
        "seeds": SEEDS,
        "kept": KEPT,
        "tasks": TASKS,
        "rows": rows,
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
