"""Diagnoses of trainings as people run them: distributed, in mixed precision, compiled."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thalweg

STEPS = 60
X = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
Y = X[:, :1] * X[:, 1:2] + X[:, 2:3]


def explained(model: nn.Module) -> float:
    return float(1 - (model(X) - Y).square().mean() / Y.var())


def plain(model: nn.Module) -> nn.Module:
    return model


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


def training(seed: int, wrap: Callable[[nn.Module], nn.Module], lr: float, *, is_mixed: bool) -> thalweg.Training:
    """Make a training of a wrapped model; in mixed precision with a scaler of losses."""
    torch.manual_seed(seed)
    model = wrap(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1)))
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def step(training: thalweg.Training, x: Tensor, y: Tensor) -> Tensor:
        training.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = training.loss_fn(training.model(x), y)
        scaler.scale(loss).backward()
        scaler.step(training.optimizer)
        scaler.update()
        return loss

    batches = list(zip(X.split(32), Y.split(32), strict=True))
    return thalweg.Training(model, optimizer, batches, nn.MSELoss(), step if is_mixed else None, explained)


@pytest.fixture
def distributed(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("distributed", "fresh_compiler")
@pytest.mark.parametrize(
    ("wrap", "is_mixed"),
    [(nn.parallel.DistributedDataParallel, False), (plain, True), (compiled, False)],
    ids=["distributed", "mixed precision", "compiled"],
)
def test_the_cause_is_named_and_cured_and_a_healthy_one_is_healthy(
    wrap: Callable[[nn.Module], nn.Module], is_mixed: bool
) -> None:
    def sick(seed: int) -> thalweg.Training:
        return training(seed, wrap, 1e-5, is_mixed=is_mixed)

    def healthy(seed: int) -> thalweg.Training:
        return training(seed, wrap, 1e-2, is_mixed=is_mixed)

    diagnosis = thalweg.diagnose(sick, steps=STEPS, budget="10m")
    assert diagnosis.cause is not None
    assert (diagnosis.cause.kind, diagnosis.caution) == ("lr_too_low", "")
    assert diagnosis.cure is not None
    assert diagnosis.cure.verified
    assert min(diagnosis.cure.after) > 0.8 > 0.1 > max(diagnosis.cure.before)
    assert thalweg.diagnose(healthy, steps=STEPS, budget="10m").healthy
