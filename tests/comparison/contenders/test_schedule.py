"""Schedules: what is trained is what the line to paste does."""

import pytest
import torch
from torch import nn

from thalweg.comparison.contenders.parsing import resolve
from thalweg.comparison.contenders.schedule import SCHEDULES, TrainingSchedule, check_schedule
from thalweg.errors import SettingError


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
@pytest.mark.parametrize("schedule", [*SCHEDULES, "step", "step:0.25", "step:0.1:0.5"])
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


def test_one_cycle_is_that_of_torch_without_its_momentum() -> None:
    param = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([param], lr=0.5, momentum=0.8)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=50)
    trained, rates = TrainingSchedule(50, "onecycle"), []
    for step in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        assert rates[-1] == pytest.approx(0.5 * trained.lr_factor(step), rel=1e-12)
        optimizer.step()
        if step < 49:
            cycle.step()
    assert (rates[0], max(rates), rates[-1]) == pytest.approx((0.02, 0.5, 2e-6))
    assert optimizer.param_groups[0]["momentum"] != 0.8  # torch's would cycle it
    assert "cycle_momentum=False" in str(trained.line_of_code())


def test_steps_drop_the_learning_rate_at_shares_of_the_training() -> None:
    factors = [TrainingSchedule(20, "step:0.3:0.1").lr_factor(step) for step in range(20)]
    assert factors == pytest.approx([1.0] * 6 + [0.1] * 6 + [0.01] * 6 + [0.001] * 2)
    assert TrainingSchedule(20, "step").lr_factor(6) == TrainingSchedule(20, "step:0.3").lr_factor(6)
    line = str(TrainingSchedule(20, "step:0.3:0.1").line_of_code())
    assert line.endswith("StepLR(optimizer, step_size=6, gamma=0.1)")


@pytest.mark.parametrize("name", ["step:", "step:0", "step:1", "step:2:0.1", "step:0.3:1", "step:x", "step:0.3:0.1:9"])
def test_steps_need_two_shares(name: str) -> None:
    with pytest.raises(SettingError, match=rf"must read step:SHARE:FACTOR, both between 0 and 1, got '{name}'"):
        check_schedule(name)


def test_a_contender_may_have_a_schedule_of_steps() -> None:
    first, second = resolve("adam:lr=0.1,schedule=step:0.5:0.2,sgd")
    assert (first.schedule, first.rule.settings()["lr"], second.name) == ("step:0.5:0.2", 0.1, "sgd")
