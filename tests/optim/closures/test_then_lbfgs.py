"""A rule of gradients, then L-BFGS: each phase is that of its rule alone."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cases.closure_problems import WOLFE, Training, network
from thalweg import optim, rules
from thalweg.errors import ParameterError, SettingError
from thalweg.registry import rule_from_name
from thalweg.rules import wrappers

SWITCH = 6
SETTINGS: dict[str, Any] = {"lr": 0.02, "switch_at": SWITCH, "lbfgs_history_size": 4, "lbfgs_max_iter": 5}
THEN = optim.optimizer_for(rule_from_name("then(adam,lbfgs)"))


def then(params: Any, **settings: Any) -> Any:
    return THEN(params, **SETTINGS | {"lbfgs_line_search_fn": "strong_wolfe"} | settings)


def test_each_phase_is_that_of_its_rule_alone() -> None:
    both = Training(then, network())
    adam = Training(optim.Adam, network(), lr=0.02)
    assert all(map(torch.equal, both.steps(SWITCH), adam.steps(SWITCH)))
    assert len(both.evaluations) == SWITCH  # one for each step
    lbfgs = Training(
        optim.LBFGS, (both.params, both.loss), history_size=4, max_iter=5, lr=THEN.rule.settings()["lbfgs_lr"], **WOLFE
    )
    assert all(map(torch.equal, both.steps(3), lbfgs.steps(3)))
    assert len(both.evaluations) - SWITCH == len(lbfgs.evaluations) > 3
    assert both.evaluations[-1][1] < 0.3 * both.evaluations[SWITCH][1]


def test_the_learning_rates_are_two() -> None:
    """One of Adam's would be a thousandth of Newton's step; a schedule acts on Adam's alone."""
    settings = rule_from_name("then(adam,lbfgs)").settings()
    assert (settings["lr"], settings["lbfgs_lr"]) == (0.001, 1.0)
    assert "lr_ratio" not in settings
    assert "lr_ratio" in rule_from_name("then(adam,sgd)").settings()
    ends = []
    for lr in (1e-6, 0.0):  # of the second phase
        training = Training(then, network())
        training.steps(SWITCH)
        training.optimizer.param_groups[0]["lr"] = lr
        ends.append(training.steps(1)[0])
    assert torch.equal(*ends)
    training = Training(then, network(), lbfgs_lr=0.5)
    training.steps(SWITCH)
    assert not torch.equal(training.steps(1)[0], ends[0])


@pytest.mark.parametrize("steps", [3, SWITCH, SWITCH + 2])
def test_goes_on_exactly_from_a_checkpoint_of_either_phase(steps: int) -> None:
    training, resumed = (Training(then, network()) for _ in range(2))
    training.steps(steps)
    file = io.BytesIO()
    torch.save(training.optimizer.state_dict(), file)
    file.seek(0)
    resumed.optimizer.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        for param, trained in zip(resumed.params, training.params, strict=True):
            param.copy_(trained)
    count = SWITCH + 3 - steps
    assert all(map(torch.equal, training.steps(count), resumed.steps(count)))


def test_every_step_needs_the_closure() -> None:
    training = Training(then, network())
    assert training.optimizer.next_step_needs == "gradient"
    with pytest.raises(
        ParameterError, match=r"Adam then LBFGS: a step needs several losses and gradients, got no clos"
    ):
        training.optimizer.step()
    training.steps(SWITCH)
    assert training.optimizer.next_step_needs == "closure"


def test_groups_may_differ_in_the_first_rule_alone() -> None:
    start = [torch.ones(2, requires_grad=True) for _ in range(2)]
    then([{"params": start[:1]}, {"params": start[1:], "lr": 0.1}])
    with pytest.raises(SettingError, match=r"all groups must have the same history_size, got 4 and 3\. Put"):
        then([{"params": start[:1]}, {"params": start[1:], "lbfgs_history_size": 3}])


def composites() -> list[Callable[[], Any]]:
    both = rule_from_name("then(adam,lbfgs)")
    return [
        lambda: rules.Switched((rules.LBFGS(), rules.Adam())),
        lambda: rules.Switched((rules.Adam(), rules.SAM(rules.SGD()))),
        lambda: rules.Routed((both, rules.AdamW())),
        lambda: wrappers.Clip(both),
    ]


@pytest.mark.parametrize("make", composites())
def test_other_combinations_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(SettingError):
        make()


def test_sums_over_shards_are_refused_from_the_start() -> None:
    """Before the switch the step of Adam could be taken; the one after it could not."""
    traits = rule_from_name("then(adam,lbfgs)").traits
    assert not traits.supports_shards
    assert traits.needs == "closure"
    assert rule_from_name("then(adam,sgd)").traits.supports_shards


def test_parameters_of_the_first_phase_keep_its_state() -> None:
    training = Training(then, network())
    training.steps(SWITCH + 1)
    entries: dict[str, Tensor] = training.optimizer.state[training.params[0]]
    assert {"exp_avg", "exp_avg_sq", "lbfgs_param_changes", "lbfgs_num_pairs"} <= entries.keys()
    assert int(entries["step"]) == SWITCH + 5  # an iteration counts as a step
