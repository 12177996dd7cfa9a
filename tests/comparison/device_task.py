"""A small task that comparisons train on a fake accelerator."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import thalweg
from thalweg.comparison import CONTENDERS
from thalweg.comparison.contenders.schedule import TrainingSchedule

SCHEDULE = TrainingSchedule(steps=4, schedule="linear", num_evaluations=2)
ADAM = CONTENDERS["adam"]
FAKE = "cuda Fake 0"


def small(model: Callable[[], nn.Module] = lambda: nn.Linear(3, 1), **changes: Any) -> thalweg.Task:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    parts: dict[str, Any] = {"data": (x, x.sum(1, True)), "passes": 1, "name": "small"}
    return thalweg.Task(model=model, loss=thalweg.supervised(nn.functional.mse_loss), **(parts | changes))
