"""Loops that leave something out, or do too much."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks.doctor.trainings.architectures import Architecture
from benchmarks.doctor.trainings.cases import Pair, fault
from benchmarks.doctor.trainings.run import Run, scheduled_each_step
from thalweg.tasks import Training


@fault("no_zero_grad", on=("mlp", "rnn", "autoencoder", "curve", "attention", "cnn", "gpt"))
def no_zero_grad(architecture: Architecture) -> Pair:
    base = architecture.with_momentum(0.3 if architecture.name in ("mlp", "cnn") else 1.0)

    def step(training: Training, x: Tensor, y: Tensor) -> Tensor:
        loss = training.loss_fn(training.model(x), y)
        loss.backward()
        training.optimizer.step()
        return loss.detach()

    return Pair(replace(base, step=step).run, base.run)


@fault("left_in_eval_mode", on=("mlp", "cnn"))
def left_in_eval_mode(architecture: Architecture) -> Pair:
    """After a first evaluation the model is never put back into training mode; its inputs rely on BatchNorm."""
    scale = 30.0 if architecture.name == "mlp" else 1000.0
    base = replace(
        architecture.shaped(norm=nn.BatchNorm1d, depth=6 if architecture.name == "mlp" else 3).with_momentum(),
        transform=lambda x, y, generator: (scale * x, y),
        score=lambda model, x, y: architecture.score(model, scale * x, y),
        goal=0.85,
    )

    def evaluating(run: Run) -> Run:
        run.training.model.eval()
        return run

    return Pair(replace(base, after=evaluating).run, base.run)


@fault("schedule_kills_lr", on=("mlp", "rnn", "autoencoder", "curve", "cnn", "gpt"))
def schedule_kills_lr(architecture: Architecture) -> Pair:
    """A decay that was meant for passes over the data is applied at each step."""

    def scheduled(run: Run) -> Run:
        schedule = torch.optim.lr_scheduler.ExponentialLR(run.training.optimizer, 0.7)
        return scheduled_each_step(run, schedule)

    return Pair(replace(architecture, after=scheduled).run, architecture.run)


@fault("clip_too_small", on=("mlp", "rnn", "table", "attention", "cnn", "gpt"))
def clip_too_small(architecture: Architecture) -> Pair:
    base = architecture.with_momentum()

    def step(training: Training, x: Tensor, y: Tensor) -> Tensor:
        training.optimizer.zero_grad()
        loss = training.loss_fn(training.model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(training.model.parameters(), 1e-3)
        training.optimizer.step()
        return loss.detach()

    return Pair(replace(base, step=step).run, base.run)
