"""Hugging Face's Trainer: evaluation, saving, a kill and a resume end at the same bits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

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
from thalweg import optim

TRAIN, VALIDATION = ([{"input_ids": text, "labels": text} for text in make_words(24, seed)] for seed in (1, 2))
ARGUMENTS: dict[str, Any] = {
    "max_steps": 6,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_steps": 4,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "lr_scheduler_type": "constant",
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": [],
    "logging_strategy": "no",
    "dataloader_pin_memory": False,
}
SAMTrainer: type[Trainer] = from_the_page("SAMTrainer")


class KillAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            kill_this_process()


def make_trainer(name: str, folder: Path, *, model: GPT2LMHeadModel | None = None, **arguments: Any) -> Trainer:
    model = model or make_model()
    kind = SAMTrainer if name == "sam(sgd)" else Trainer
    return kind(
        model,
        TrainingArguments(str(folder), **ARGUMENTS | arguments),
        train_dataset=TRAIN,
        eval_dataset=VALIDATION[:4],
        optimizers=(OPTIMIZERS[name](model), None),
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_with_evaluations_resumes_to_the_same_bits(name: str, tmp_path: Path) -> None:
    whole = make_trainer(name, tmp_path / "whole")
    start = values_of(whole.model)
    whole.train()
    assert not any(map(torch.equal, values_of(whole.model), start))
    killed = make_trainer(name, tmp_path / "killed")
    killed.add_callback(KillAt(5))
    run_until_killed(killed.train)
    resumed = make_trainer(name, tmp_path / "killed")
    resumed.train(resume_from_checkpoint=True)
    assert_same_bits(resumed.model, whole.model)


def test_evaluations_change_no_bit_of_a_training_and_save_the_values_for_evaluation(tmp_path: Path) -> None:
    """`evaluate` may be called before, in and after a training, and in a row. The model is saved as evaluated."""
    evaluated = make_trainer("ScheduleFreeAdamW", tmp_path / "evaluated", model=make_model(dropout=0.0))
    plain = make_trainer("ScheduleFreeAdamW", tmp_path / "plain", model=make_model(dropout=0.0), eval_strategy="no")
    evaluated.evaluate()
    evaluated.evaluate()
    evaluated.train()
    plain.train()
    losses = [evaluated.evaluate()["eval_loss"] for _ in range(2)]
    averages = values_of(evaluated.model)
    evaluated.save_model(str(tmp_path / "saved"))
    evaluated.optimizer.train()
    assert_same_bits(evaluated.model, plain.model)
    assert losses[0] == losses[1]
    saved = GPT2LMHeadModel.from_pretrained(tmp_path / "saved")
    assert all(map(torch.equal, values_of(saved), averages))
    assert not any(map(torch.equal, averages, values_of(plain.model)))


def test_the_best_model_is_loaded_and_training_can_go_on_with_a_new_optimizer(tmp_path: Path) -> None:
    trainer = make_trainer(
        "ScheduleFreeAdamW", tmp_path, save_steps=2, load_best_model_at_end=True, metric_for_best_model="loss"
    )
    trainer.train()
    best = min(entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best, rel=1e-6)


def test_the_trainer_makes_an_optimizer_from_its_class_and_settings(tmp_path: Path) -> None:
    trainer = Trainer(
        make_model(),
        TrainingArguments(str(tmp_path), **ARGUMENTS | {"save_strategy": "no"}),
        train_dataset=TRAIN,
        eval_dataset=VALIDATION[:4],
        optimizer_cls_and_kwargs=(optim.optimizer_for("moving_average(adamw)"), {"lr": 1e-2, "average_decay": 0.5}),
    )
    trainer.train()
    assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [0.0, 0.0]
    assert len(trainer.optimizer.state) == len(values_of(trainer.model))


def test_sam_takes_both_gradients_of_all_micro_batches(tmp_path: Path) -> None:
    """The trainer on the page, with accumulation and clipping, against a loop over the same batches."""
    trainer = make_trainer(
        "sam(sgd)", tmp_path, model=make_model(dropout=0.0), eval_strategy="no", save_strategy="no", max_steps=2
    )
    seen: list[torch.Tensor] = []
    trainer.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].clone()), with_kwargs=True
    )
    trainer.train()
    assert len(seen) == 2 * 2 * 2
    model = make_model(dropout=0.0)
    optimizer = OPTIMIZERS["sam(sgd)"](model)
    for k in (0, 4):
        assert torch.equal(torch.cat(seen[k : k + 2]), torch.cat(seen[k + 2 : k + 4]))
        whole = torch.cat(seen[k : k + 2])

        def closure(whole: torch.Tensor = whole) -> torch.Tensor:
            optimizer.zero_grad()
            loss = model(input_ids=whole, labels=whole).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # the trainer's default
            return loss

        optimizer.step(closure)
    for value, expected in zip(values_of(trainer.model), values_of(model), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
