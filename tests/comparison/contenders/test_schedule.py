"""Schedules: what is trained is what the line to paste does."""

import pytest
import torch
from torch import nn

from thalweg.comparison.contenders.schedule import SCHEDULES, TrainingSchedule, check_schedule
from thalweg.errors import SettingError


@pytest.mark.parametrize("steps", [2, 7, 100])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_line_to_paste_gives_the_learning_rates_that_were_trained(schedule: str, steps: int) -> None:
    trained = TrainingSchedule(steps, schedule)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    line = trained.line_of_code()
    scope: dict[str, object] = {"torch": torch, "optimizer": optimizer}
    if line is not None:
        exec(line, scope)
    for step in range(steps):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * trained.lr_factor(step), abs=1e-12)
        optimizer.step()
        if line is not None:
            scope["scheduler"].step()  # type: ignore[attr-defined]


def test_a_warm_up_rises_from_small_to_whole_and_then_decays() -> None:
    factors = [TrainingSchedule(100, "warm-up-linear").lr_factor(step) for step in range(100)]
    assert factors[:6] == [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    assert factors[5:] == sorted(factors[5:], reverse=True)
    assert 0 < factors[-1] < 0.02


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(SettingError, match="got 'cosin'. Did you mean cosine"):
        check_schedule("cosin")


def test_a_training_is_looked_at_from_start_to_end() -> None:
    assert TrainingSchedule(steps=8, schedule="linear", num_evaluations=4).evaluation_steps() == [0, 2, 4, 6, 8]
    assert TrainingSchedule(steps=2, schedule="linear", num_evaluations=16).evaluation_steps() == [0, 1, 2]
