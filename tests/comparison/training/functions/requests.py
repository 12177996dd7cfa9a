"""Requests for optimizers as a training function makes them."""

import torch
from torch import nn

from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.training.functions.optimizer_requests import OptimizerRequests


def param(value: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.tensor([value]))


def requests(settings=None, contender="adam", schedule="constant", names=("",)) -> OptimizerRequests:
    return OptimizerRequests("mine", parse(contender).for_optimizers(names), settings or {"lr": 0.5}, schedule=schedule)


def step(optimizer) -> None:
    for group in optimizer.param_groups:
        for each in group["params"]:
            each.grad = torch.ones_like(each)
    optimizer.step()


def lrs(optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]
