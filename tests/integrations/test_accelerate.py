"""Accelerate: evaluation, saving, a kill and a resume end at the same bits; closures and gradient accumulation."""

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import Tensor, nn

from thalweg import optim
from thalweg.errors import ParameterError
from thalweg.optim import RuleOptimizer

DATA = torch.randn(24, 4, generator=torch.Generator().manual_seed(1))
# Without kernels: a process that is killed leaves its compiler behind.
OPTIMIZERS: dict[str, Callable[[nn.Module], RuleOptimizer]] = {
    "AdamW": lambda model: optim.AdamW(model.parameters(), lr=1e-2, backend="loop"),
    "Prodigy": lambda model: optim.Prodigy(model.parameters(), d0=1e-3, backend="loop"),
    "ScheduleFreeAdamW": lambda model: optim.ScheduleFreeAdamW(model.parameters(), lr=1e-2, backend="loop"),
    "polyak_average(sgd)": lambda model: optim.optimizer_for("polyak_average(sgd)")(
        model.parameters(), lr=0.1, backend="loop"
    ),
    "lookahead(sgd)": lambda model: optim.optimizer_for("lookahead(sgd)")(
        model.parameters(), lr=0.1, every=3, backend="loop"
    ),
    "route(model, 'muon')": lambda model: optim.route(model, "muon", lr=1e-2).optimizer(backend="loop"),
    "sam(sgd)": lambda model: optim.optimizer_for("sam(sgd)")(
        model.parameters(), lr=0.1, momentum=0.9, rho=0.1, backend="loop"
    ),
}


@pytest.fixture(autouse=True)
def _fresh_state() -> Iterator[None]:
    """Accelerate shares its state between all accelerators of a process."""
    yield
    reset_state()


def reset_state() -> None:
    AcceleratorState._reset_state()
    PartialState._reset_state()
    GradientState._reset_state()


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))


def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
    return (model(batch) - batch[:, :2].sin()).square().mean()


def run(name: str, folder: Path, *, first: int = 0, killed_after: int | None = None) -> list[Tensor]:
    """Train for three epochs, each with an evaluation and a checkpoint.

    Args:
        name: The optimizer.
        folder: The folder of the checkpoints.
        first: The first epoch; a checkpoint of the one before it is loaded.
        killed_after: The epoch after whose first step the process kills itself.

    Returns:
        The parameters and, of each epoch, the loss of the evaluation.
    """
    reset_state()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=1 if name == "sam(sgd)" else 2)
    model = make_model()
    model, optimizer, loader = accelerator.prepare(
        model, OPTIMIZERS[name](model), torch.utils.data.DataLoader(DATA, batch_size=4)
    )
    if first:
        accelerator.load_state(str(folder / str(first - 1)))
    losses = []
    for epoch in range(first, 3):
        model.train()
        optimizer.train()
        for step, batch in enumerate(loader):
            if name == "sam(sgd)":

                def closure(batch: Tensor = batch) -> Tensor:
                    optimizer.zero_grad()
                    loss = loss_of(model, batch)
                    accelerator.backward(loss)
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    return loss

                optimizer.step(closure)
            else:
                with accelerator.accumulate(model):
                    accelerator.backward(loss_of(model, batch))
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
            if epoch == killed_after and step == 3:
                os.kill(os.getpid(), signal.SIGKILL)
        model.eval()
        optimizer.eval()
        losses.append(loss_of(model, DATA).detach())
        accelerator.save_state(str(folder / str(epoch)))
    optimizer.train()
    return [*(param.detach().clone() for param in model.parameters()), *losses[-1:]]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoints of processes, one for each optimizer, that were killed in the third epoch."""
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, __file__, str(folder)]
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    assert process.returncode == 0, process.stdout
    return folder


def kill_runs(folder: Path) -> None:
    """Let a child for each optimizer train until it kills itself. This process has run nothing: it may fork."""
    importlib.import_module("torch._dynamo")  # here, in place of in each child
    children = {}
    for name in OPTIMIZERS:
        child = os.fork()
        if child == 0:
            run(name, folder / name, killed_after=2)
            os._exit(1)
        children[child] = name
    for child, name in children.items():
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"{name}: was not killed"
        assert os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_killed_run_resumes_to_the_same_bits(name: str, killed: Path, tmp_path: Path) -> None:
    expected = run(name, tmp_path)
    resumed = run(name, killed / name, first=2)
    assert all(map(torch.equal, resumed, expected))


# --- gradient accumulation and closures -------------------------------------------------------------------------------


def accumulated(optimizer_step: Callable[[Any, Callable[[], Tensor]], None]) -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=3)
    model = make_model()
    model, optimizer = accelerator.prepare(model, OPTIMIZERS["sam(sgd)"](model))
    for batch in DATA.chunk(3):

        def closure(batch: Tensor = batch) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            accelerator.backward(loss)
            return loss

        with accelerator.accumulate(model):
            optimizer_step(optimizer, closure)


def test_a_closure_for_the_last_micro_batch_alone_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"gradients of all micro-batches, .* Let the closure loop over all"):
        accumulated(lambda optimizer, closure: optimizer.step(closure))


def test_a_step_without_closure_names_the_ways_to_get_a_second_gradient() -> None:
    def step(optimizer: Any, closure: Callable[[], Tensor]) -> None:
        closure()
        optimizer.step()

    with pytest.raises(ParameterError, match=r"a second gradient, got no closure\. .* `with optimizer.perturbed\(\):`"):
        accumulated(step)


@pytest.mark.parametrize("ways", [("closure", "closure"), ("perturbed", "perturbed"), ("closure", "perturbed")])
def test_micro_batches_give_the_step_of_the_whole_batch(ways: tuple[str, ...]) -> None:
    accelerator = Accelerator(cpu=True)
    models = [make_model().eval(), make_model().eval()]  # without dropout
    optimizer = accelerator.prepare(OPTIMIZERS["sam(sgd)"](models[0]))
    whole = OPTIMIZERS["sam(sgd)"](models[1])

    def backward(model: nn.Module, batches: list[Tensor]) -> Tensor:
        losses = []
        for batch in batches:
            losses.append(loss_of(model, batch) / len(batches))
            accelerator.backward(losses[-1])
        return torch.stack(losses).sum().detach()

    def closure(optimizer: Any, model: nn.Module, batches: list[Tensor]) -> Tensor:
        optimizer.zero_grad()
        return backward(model, batches)

    batches = list(DATA.chunk(4))
    for way in ways:
        if way == "closure":
            loss = optimizer.step(lambda: closure(optimizer, models[0], batches))
        else:
            optimizer.zero_grad()
            loss = backward(models[0], batches)
            with optimizer.optimizer.perturbed():
                backward(models[0], batches)
            optimizer.step()
        expected = whole.step(lambda: closure(whole, models[1], [DATA]))
        if loss is not None:  # Accelerate returns none
            torch.testing.assert_close(loss, expected)
    for param, value in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(param, value, rtol=1e-5, atol=1e-6)
        assert not torch.equal(param, torch.zeros_like(param))


if __name__ == "__main__":
    kill_runs(Path(sys.argv[1]))
