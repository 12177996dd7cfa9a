"""Settings of the optimizer that do not suit the training."""

from dataclasses import replace

import torch
from torch import nn

from benchmarks.doctor.trainings.architectures import Architecture
from benchmarks.doctor.trainings.cases import Pair, fault
from benchmarks.doctor.trainings.data import Data
from benchmarks.doctor.trainings.run import Run, scheduled_each_step


@fault("lr_too_high", on=("mlp", "rnn", "table", "autoencoder", "curve", "attention", "cnn", "residual", "gpt"))
def lr_too_high(architecture: Architecture) -> Pair:
    if architecture.name in ("table", "cnn", "residual"):
        base = architecture.with_momentum()
        return Pair(
            replace(base, lr=base.lr * {"table": 400, "cnn": 30, "residual": 40}[architecture.name]).run, base.run
        )
    return Pair(replace(architecture, lr=architecture.lr * 200).run, architecture.run)


@fault("lr_too_low", on=("mlp", "rnn", "autoencoder", "curve", "attention", "cnn", "residual", "gpt"))
def lr_too_low(architecture: Architecture) -> Pair:
    base = architecture.with_momentum() if architecture.name in ("rnn", "cnn") else architecture
    return Pair(replace(base, lr=base.lr / 1000).run, base.run)


@fault("weight_decay_too_strong", on=("mlp", "rnn", "autoencoder", "curve", "cnn", "residual"))
def weight_decay_too_strong(architecture: Architecture) -> Pair:
    def decayed(model: nn.Module, lr: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.3 / lr)

    def usual(model: nn.Module, lr: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)

    return Pair(replace(architecture, make_optimizer=decayed).run, replace(architecture, make_optimizer=usual).run)


@fault("momentum_too_high", on=("mlp", "autoencoder", "cnn"))
def momentum_too_high(architecture: Architecture) -> Pair:
    base = architecture.with_momentum()

    def heavy(model: nn.Module, lr: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9995)

    return Pair(replace(base, make_optimizer=heavy).run, base.run)


def _badly_scaled(examples: Data, seed: int) -> Data:
    scales = torch.logspace(-1.5, 1.5, examples.x.shape[1])
    return replace(examples, x=examples.x * scales, held_out_x=examples.held_out_x * scales)


@fault("sgd_on_badly_scaled", on=("residual",))
def sgd_on_badly_scaled(architecture: Architecture) -> Pair:
    """Features differ in scale by a factor of a thousand: no single rate suits all weights."""
    base = replace(architecture.shaped(norm=None), goal=0.7)

    def descent(model: nn.Module, lr: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=1e-4)

    return Pair(replace(base, make_optimizer=descent, change_data=_badly_scaled).run, base.run)


@fault("no_warmup", on=("gpt",))
def no_warmup(architecture: Architecture) -> Pair:
    """A high peak that the first steps do not stand."""
    base = replace(architecture, lr=0.1, goal=0.9).shaped(depth=5)

    def warmed(run: Run) -> Run:
        schedule = torch.optim.lr_scheduler.LambdaLR(
            run.training.optimizer, lambda done: min(1.0, (done + 1) / 80) * min(1.0, (run.steps - done) / 100)
        )
        return scheduled_each_step(run, schedule)

    return Pair(base.run, replace(base, after=warmed).run)
