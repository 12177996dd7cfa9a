"""Lightning: evaluation, saving, a kill and a resume end at the same bits; closures and accumulation."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.utils.data import DataLoader

from tests.integrations.models import (
    OPTIMIZERS,
    assert_same_bits,
    kill_this_process,
    make_model,
    make_words,
    run_until_killed,
    values_of,
)
from tests.integrations.page import from_the_page
from thalweg.errors import ParameterError

TRAIN, VALIDATION = make_words(16, seed=1), make_words(4, seed=2)
EvaluationValues: type[pl.Callback] = from_the_page("EvaluationValues")
SAMModule: type[pl.LightningModule] = from_the_page("SAMModule")

pytestmark = pytest.mark.filterwarnings(
    "ignore:The '.*_dataloader' does not have many workers",
    "ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning",
    "ignore:Checkpoint directory .* exists and is not empty",
)


class Module(pl.LightningModule):
    """A language model. Without dropout: Lightning does not restore random numbers."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.model = name, make_model(dropout=0.0)
        self.validation_losses: list[float] = []

    def configure_optimizers(self) -> Any:
        optimizer = OPTIMIZERS[self.name](self)
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0)]

    def loss(self, words: Tensor) -> Tensor:
        return self.model(input_ids=words, labels=words).loss

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.validation_losses.append(self.loss(batch).item())


class AccumulatingModule(SAMModule, Module):
    """The module on the page."""


class KillAt(pl.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            kill_this_process()


def fit(
    module: Module,
    folder: Path,
    *callbacks: pl.Callback,
    evaluates: bool = True,
    resume: bool = False,
    **settings: Any,
) -> Module:
    """Train with a validation and a checkpoint at the end of each epoch of four steps."""
    settings = {"max_epochs": 3, "enable_checkpointing": True} | settings
    checkpoints = (
        [ModelCheckpoint(folder, "last", save_on_train_epoch_end=False)] if settings["enable_checkpointing"] else []
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[*([EvaluationValues()] if evaluates else []), *callbacks, *checkpoints],
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(
        module,
        DataLoader(TRAIN, batch_size=4),
        DataLoader(VALIDATION, batch_size=4),
        ckpt_path=str(folder / "last.ckpt") if resume else None,
        weights_only=False if resume else None,
    )
    for optimizer in trainer.optimizers:
        optimizer.train()
    return module


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_with_validations_resumes_to_the_same_bits(name: str, tmp_path: Path) -> None:
    whole = fit(Module(name), tmp_path / "whole")
    run_until_killed(lambda: fit(Module(name), tmp_path / "killed", KillAt(10)))
    resumed = fit(Module(name), tmp_path / "killed", resume=True)
    assert_same_bits(resumed, whole)
    assert resumed.validation_losses[-1] == whole.validation_losses[-1]
    assert not any(map(torch.equal, values_of(whole), values_of(Module(name))))


def test_the_model_is_saved_at_the_values_for_evaluation_and_trains_as_without_the_callback(tmp_path: Path) -> None:
    evaluated = fit(Module("ScheduleFreeAdamW"), tmp_path / "evaluated", max_epochs=2)
    plain = fit(Module("ScheduleFreeAdamW"), tmp_path / "plain", max_epochs=2, evaluates=False)
    assert_same_bits(evaluated, plain)
    saved = Module("ScheduleFreeAdamW")
    saved.load_state_dict(torch.load(tmp_path / "evaluated" / "last.ckpt", weights_only=True)["state_dict"])
    assert saved.loss(VALIDATION).item() == evaluated.validation_losses[-1]
    assert not any(map(torch.equal, values_of(saved), values_of(evaluated)))


def test_the_optimizer_as_lightning_wraps_it_shares_its_mode() -> None:
    """`self.optimizers()` returns a wrapper that derives from our class and forwards attributes."""
    module = Module("ScheduleFreeAdamW")
    optimizer = OPTIMIZERS[module.name](module)
    wrapper = LightningOptimizer(optimizer)
    for _ in range(2):
        for batch in TRAIN.split(8):
            module.zero_grad()
            module.loss(batch).backward()
            optimizer.step()
        values = values_of(module)
        for first, second in ((wrapper, optimizer), (optimizer, wrapper)):
            first.eval()
            assert not any(map(torch.equal, values_of(module), values))
            with pytest.raises(ParameterError, match="got those of evaluation"):
                optimizer.step()
            second.train()
            assert all(map(torch.equal, values_of(module), values))


@pytest.mark.parametrize("settings", [{"gradient_clip_val": 0.1}, {"precision": "bf16-mixed"}], ids=str)
def test_sam_needs_nothing_without_accumulation(settings: dict[str, Any], tmp_path: Path) -> None:
    module = fit(Module("sam(sgd)"), tmp_path, enable_checkpointing=False, max_epochs=1, **settings)
    by_hand = Module("sam(sgd)")
    optimizer = OPTIMIZERS["sam(sgd)"](by_hand)
    for batch in TRAIN.split(4):

        def closure(batch: Tensor = batch) -> Tensor:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled="precision" in settings, cache_enabled=False):
                loss = by_hand.loss(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(by_hand.parameters(), settings.get("gradient_clip_val", torch.inf))
            return loss

        optimizer.step(closure)
    assert_same_bits(module, by_hand)


def test_sam_refuses_accumulated_gradients_beside_a_closure(tmp_path: Path) -> None:
    with pytest.raises(
        ParameterError, match=r"^SAM\(SGD\): all gradients must come from the closure, .* micro-batches"
    ):
        fit(Module("sam(sgd)"), tmp_path, enable_checkpointing=False, accumulate_grad_batches=2)


def test_the_module_on_the_page_accumulates_both_gradients(tmp_path: Path) -> None:
    accumulated = fit(AccumulatingModule("sam(sgd)"), tmp_path, enable_checkpointing=False, max_epochs=1)
    whole = fit(Module("sam(sgd)"), tmp_path, enable_checkpointing=False, max_epochs=1)
    for param, value in zip(values_of(accumulated), values_of(whole), strict=True):
        torch.testing.assert_close(param, value, rtol=1e-5, atol=1e-6)
