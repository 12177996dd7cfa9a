"""Imports that torch postpones, done before a time is measured."""

import torch


def import_lazy_parts() -> None:
    """Have torch import what it imports at the first optimizer: seconds that say nothing of a training."""
    torch.optim.SGD([torch.zeros(1)])
