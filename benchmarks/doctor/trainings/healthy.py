"""Healthy trainings that look odd, and every architecture as it is."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks.doctor.trainings.architectures import ARCHITECTURES, Architecture
from benchmarks.doctor.trainings.cases import healthy
from benchmarks.doctor.trainings.faults.forms import images, tagger, towers
from benchmarks.doctor.trainings.faults.several import EIGHT, THREE, adversarial
from benchmarks.doctor.trainings.run import Run, scheduled_each_step, train
from thalweg.tasks import Training


def _odd(name: str, architecture: Architecture) -> None:
    healthy(name, held_out=architecture.held_out, author=_odd)(architecture.run)


for architecture in ARCHITECTURES.values():
    _odd(f"{architecture.name}-adam", architecture)
    _odd(f"{architecture.name}-momentum", architecture.with_momentum())
    criterion = architecture.loss_fn
    _odd(
        f"{architecture.name}-small-loss",
        replace(architecture, loss_fn=lambda output, target, criterion=criterion: 1e-3 * criterion(output, target)),
    )


def _zero_head(model: nn.Module) -> None:
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)


def _clipped(training: Training, x: Tensor, y: Tensor) -> Tensor:
    training.optimizer.zero_grad()
    loss = training.loss_fn(training.model(x), y)
    loss.backward()
    nn.utils.clip_grad_norm_(training.model.parameters(), 0.05)
    training.optimizer.step()
    return loss.detach()


def _accumulated(training: Training, x: Tensor, y: Tensor) -> Tensor:
    training.optimizer.zero_grad()
    total = 0.0
    for part_x, part_y in zip(x.chunk(4), y.chunk(4), strict=True):
        loss = training.loss_fn(training.model(part_x), part_y) / 4
        loss.backward()
        total += loss.detach()
    training.optimizer.step()
    return torch.as_tensor(total)


for name in ("mlp", "table", "cnn", "residual", "gpt"):
    _odd(f"{name}-zero-head", replace(ARCHITECTURES[name], prepare=_zero_head))
for name in ("mlp", "rnn", "autoencoder", "cnn", "gpt"):
    _odd(f"{name}-always-clipped", replace(ARCHITECTURES[name], step=_clipped))
for name in ("mlp", "table", "cnn"):
    _odd(f"{name}-accumulated", replace(ARCHITECTURES[name], step=_accumulated))
for name in ("mlp", "table", "cnn", "autoencoder"):
    _odd(
        f"{name}-batch-of-two",
        replace(ARCHITECTURES[name], batch_size=2, lr=1e-3, goal=0.75 if name != "autoencoder" else 0.4),
    )
for name in ("mlp", "cnn", "rnn"):
    _odd(f"{name}-batch-norm", ARCHITECTURES[name].shaped(norm=nn.BatchNorm1d))
for name in ("mlp", "table", "residual"):
    _odd(
        f"{name}-large-rate",
        replace(ARCHITECTURES[name].with_momentum({"mlp": 2.0, "table": 4.0, "residual": 3.0}[name]), goal=0.85),
    )
for name in ("mlp", "cnn", "residual", "table"):
    architecture = ARCHITECTURES[name]
    _odd(
        f"{name}-large-inputs",
        replace(
            architecture,
            transform=lambda x, y, generator: (100 * x, y),
            score=lambda model, x, y, score=architecture.score: score(model, 100 * x, y),
            goal=0.8,
        ),
    )


BIAS = 1.2  # three units in four are inactive


def _sparse_bias(model: nn.Module) -> None:
    with torch.no_grad():
        next(iter(model.get_submodule("hidden").children())).bias.sub_(BIAS)


for name in ("mlp", "table", "cnn"):
    _odd(f"{name}-mostly-inactive", replace(ARCHITECTURES[name].shaped(width=256), prepare=_sparse_bias, goal=0.9))


def _frozen_first(model: nn.Module) -> None:
    next(iter(model.get_submodule("hidden").children())).requires_grad_(False)


for name in ("mlp", "cnn", "autoencoder"):
    _odd(
        f"{name}-frozen-first-layer",
        replace(
            ARCHITECTURES[name].shaped(width=256), prepare=_frozen_first, goal=0.85 if name != "autoencoder" else 0.5
        ),
    )


def _one_cycle(architecture: Architecture, peak: float) -> Architecture:
    def after(run: Run) -> Run:
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            run.training.optimizer, peak, total_steps=run.steps + 1, pct_start=0.3, cycle_momentum=False
        )
        return scheduled_each_step(run, schedule)

    return replace(architecture, after=after)


for name in ("mlp", "cnn", "gpt", "residual"):
    _odd(f"{name}-one-cycle", _one_cycle(ARCHITECTURES[name], 0.01))


def _label_noise(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    wrong = torch.rand(y.shape, generator=generator) < 0.3
    return x, torch.where(wrong, torch.randint(10, y.shape, generator=generator), y)


for name in ("mlp", "cnn"):
    _odd(f"{name}-noisy-labels", replace(ARCHITECTURES[name], transform=_label_noise, goal=0.88))


def _outliers(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One batch in thirty is of another scale: the loss has spikes."""
    return (20 * x if torch.rand((), generator=generator) < 1 / 30 else x), y


def _noisy(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return x, y + torch.randn(y.shape, generator=generator)


def _shrunk(factor: float) -> Callable[[nn.Module], None]:
    """The loss stays where it is for a third of the training before it falls."""

    def shrink(model: nn.Module) -> None:
        with torch.no_grad():
            for name, param in model.named_parameters():
                if name.endswith("weight"):
                    param.mul_(factor)

    return shrink


for name in ("mlp", "cnn"):
    _odd(f"{name}-loss-spikes", replace(ARCHITECTURES[name], transform=_outliers, goal=0.88))
for name, factor in (("curve", 4.0), ("residual", 2.0)):
    _odd(f"{name}-gradient-noise", replace(ARCHITECTURES[name], batch_size=8, transform=_noisy, goal=0.4))
    _odd(f"{name}-edge-of-stability", replace(ARCHITECTURES[name].with_momentum(factor), batch_size=900))
for name, factor in (("mlp", 0.7), ("table", 0.5)):
    base = replace(ARCHITECTURES[name].shaped(depth=4).with_momentum(), goal=0.85)
    _odd(f"{name}-plateau", replace(base, prepare=_shrunk(factor)))


@healthy("gan", held_out=True)
def gan(seed: int) -> Run:
    """An adversarial training in balance: its loss goes nowhere."""
    return adversarial(seed, EIGHT, goal=-0.25)


@healthy("small-gan")
def small_gan(seed: int) -> Run:
    """The same for fewer centres."""
    return adversarial(seed, THREE, goal=-0.3)


healthy("towers", held_out=True)(towers)
healthy("tagger", held_out=True)(tagger)
healthy("images", held_out=True)(images)


@healthy("negative-likelihood")
def negative_likelihood(seed: int) -> Run:
    """A Gaussian likelihood whose deviation is learnt: the loss becomes negative."""
    base = ARCHITECTURES["residual"].shaped(outputs=2, norm=None)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        mean, log_deviation = output[:, :1], output[:, 1:].clamp(-4, 4)
        return (0.5 * ((target - mean) / log_deviation.exp()).square() + log_deviation).mean()

    def score(model: nn.Module, x: Tensor, y: Tensor) -> float:
        return 1 - ((model(x)[:, :1] - y).square().mean() / y.var()).item()

    return replace(base, loss_fn=loss, score=score, lr=3e-3, goal=0.8).run(seed)


@healthy("continued")
def continued(seed: int) -> Run:
    """A training that begins at a good point: its loss hardly falls."""
    run = ARCHITECTURES["mlp"].run(seed)
    train(run, 150)
    run.training.optimizer = torch.optim.Adam(run.training.model.parameters(), lr=1e-4)
    return run
