"""Loops that leave something out, or do too much."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks.doctor.architectures import Architecture
from benchmarks.doctor.cases import Pair, fault
from benchmarks.doctor.run import Run, plain_step


@fault("no_zero_grad", on=("mlp", "rnn", "autoencoder", "cnn", "gpt"))
def no_zero_grad(architecture: Architecture) -> Pair:
    base = architecture.with_momentum(0.3)
    if architecture.name in ("rnn", "gpt", "autoencoder"):
        base = architecture.with_momentum()

    def step(run: Run, x: Tensor, y: Tensor) -> Tensor:
        loss = run.loss_fn(run.model(x), y)
        loss.backward()
        run.optimizer.step()
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
        run.model.eval()
        return run

    return Pair(replace(base, after=evaluating).run, base.run)


@fault("schedule_kills_lr", on=("mlp", "rnn", "autoencoder", "cnn", "gpt"))
def schedule_kills_lr(architecture: Architecture) -> Pair:
    """A decay that was meant for passes over the data is applied at each step."""
    schedules: dict[int, torch.optim.lr_scheduler.LRScheduler] = {}

    def step(run: Run, x: Tensor, y: Tensor) -> Tensor:
        schedule = schedules.get(id(run.optimizer))
        if schedule is None:
            schedules.clear()
            schedule = schedules[id(run.optimizer)] = torch.optim.lr_scheduler.ExponentialLR(run.optimizer, 0.7)
        loss = plain_step(run, x, y)
        schedule.step()
        return loss

    return Pair(replace(architecture, step=step).run, architecture.run)


@fault("clip_too_small", on=("mlp", "rnn", "table", "cnn", "gpt"))
def clip_too_small(architecture: Architecture) -> Pair:
    base = architecture.with_momentum()

    def step(run: Run, x: Tensor, y: Tensor) -> Tensor:
        run.optimizer.zero_grad()
        loss = run.loss_fn(run.model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(run.model.parameters(), 1e-3)
        run.optimizer.step()
        return loss.detach()

    return Pair(replace(base, step=step).run, base.run)
