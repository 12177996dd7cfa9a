"""Hugging Face's Trainer: evaluation, saving, an interruption and a resume end at the same bits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from tests.integrations.models import (
    OPTIMIZERS,
    Interruption,
    assert_same_bits,
    code_on_the_page,
    from_the_page,
    make_model,
    make_words,
    values_of,
)
from thalweg import optim

TRAIN, VALIDATION = ([{"input_ids": text, "labels": text} for text in make_words(24, seed)] for seed in (1, 2))
ARGUMENTS: dict[str, Any] = dict(
    max_steps=6,
    eval_strategy="steps",
    eval_steps=2,
    save_steps=4,
    per_device_train_batch_size=2,
    gradient_accumulation_steps=2,
    lr_scheduler_type="constant",
    use_cpu=True,
    disable_tqdm=True,
    report_to=[],
    logging_strategy="no",
    dataloader_pin_memory=False,
)
SAMTrainer: type[Trainer] = from_the_page("SAMTrainer")


class InterruptAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise Interruption


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
    interrupted = make_trainer(name, tmp_path / "interrupted")
    interrupted.add_callback(InterruptAt(5))
    with pytest.raises(Interruption):
        interrupted.train()
    resumed = make_trainer(name, tmp_path / "interrupted")
    resumed.train(resume_from_checkpoint=True)
    assert_same_bits(resumed.model, whole.model)
