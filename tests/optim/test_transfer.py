"""A learning rate is transferred from one rule to another: steps of one size, measured by running the optimizers."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cases.references.wrapping import set_gradients
from thalweg import optim, rules
from thalweg.errors import ParameterError, SettingError, UnknownNameError
from thalweg.optim import transfer

SHAPES = ((48, 16), (16,))
GRADS = [
    [0.01 * torch.randn(shape, generator=torch.Generator().manual_seed(3 * step + k)) for k, shape in enumerate(SHAPES)]
    for step in range(30)
]
PARAMS = [torch.randn(shape, generator=torch.Generator().manual_seed(7)) for shape in SHAPES]
ADAMW = rules.AdamW(lr=3e-4, weight_decay=0.1)


def size_of_steps(rule: rules.Rule, params: list[Tensor], grads: list[list[Tensor]]) -> float:
    """Return the root mean square step of the second half, by the optimizer itself, without its weight decay."""
    params = [param.clone() for param in params]
    optimizer = optim.optimizer_for(rule.with_(weight_decay=0.0))(params)
    squares = []
    for step in grads:
        before = torch.cat([param.flatten() for param in params])
        set_gradients(params, step)
        optimizer.step()
        squares.append((torch.cat([param.flatten() for param in params]) - before).square().mean())
    return float(torch.stack(squares[len(squares) // 2 :]).mean().sqrt())


@pytest.mark.parametrize(
    "target",
    [rules.Lion(), rules.SGD(momentum=0.9), rules.Signum(), rules.RMSprop(), rules.LAMB(), rules.NAdam()],
    ids=lambda rule: rule.name,
)
def test_both_rules_take_steps_of_one_size(target: rules.Rule) -> None:
    transferred = transfer(ADAMW, target, PARAMS, GRADS)
    expected = size_of_steps(ADAMW, PARAMS, GRADS)
    assert transferred.step_size == pytest.approx(expected, rel=1e-3)
    assert size_of_steps(transferred.rule, PARAMS, GRADS) == pytest.approx(expected, rel=1e-2)


def test_there_and_back_is_where_it_began() -> None:
    back = transfer(transfer(ADAMW, "lion").rule, "adamw").rule
    assert back.settings()["lr"] == pytest.approx(3e-4)
    assert back.settings()["weight_decay"] == pytest.approx(0.1)


def test_decoupled_decay_takes_off_as_much_in_a_step_and_coupled_decay_is_left() -> None:
    lion = transfer(ADAMW, "lion").rule.settings()
    assert lion["lr"] * lion["weight_decay"] == pytest.approx(3e-4 * 0.1)
    assert 2 < 3e-4 / lion["lr"] < 10  # Lion's authors say 3 to 10
    assert transfer(ADAMW, rules.Adam(weight_decay=0.01)).rule.settings()["weight_decay"] == 0.01


def test_muon_scaled_for_adamw_needs_nearly_adamws_rate() -> None:
    muon = transfer(ADAMW, rules.Muon(adjust_lr_fn="match_rms_adamw"), [torch.zeros(64, 256)]).rule
    assert 0.5 < muon.settings()["lr"] / 3e-4 < 2
    assert (
        str(transfer("adamw", "lion")) == "Lion: lr=0.00024, weight_decay=0.042 (steps of 0.00024 in root mean square)"
    )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: transfer("adamw", "sgd"), SettingError, "the steps of SGD scale with the gradients"),
        (lambda: transfer("adamw", "muon"), SettingError, "Muon looks at whole tensors, so params must be given"),
        (lambda: transfer("adamw", "prodigy"), SettingError, "got Prodigy, whose lr is a factor of a step size"),
        (lambda: transfer("sam(sgd)", "adamw"), SettingError, "needs gradients alone, got SAM"),
        (lambda: transfer("muon+adamw", "adamw"), SettingError, "got Muon.AdamW. Use its parts"),
        (lambda: transfer("adamw", "lioness"), UnknownNameError, "Did you mean lion"),
        (lambda: transfer("adamw", "lion", PARAMS, GRADS[:1]), ParameterError, "of two steps or more, .* got 1 steps"),
        (lambda: transfer("adamw", "lion", PARAMS[:1], GRADS), ParameterError, "one for each parameter"),
        (lambda: transfer(rules.AdamW(lr=0.0), "lion"), ParameterError, "AdamW must move parameters"),
    ],
)
def test_a_learning_rate_that_cannot_be_transferred_is_an_error(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("gradients", [torch.ones(()), torch.ones(3), [torch.ones(3), torch.ones(3)]], ids=str)
def test_gradients_that_are_no_lists_of_steps_are_refused(gradients: Any) -> None:
    with pytest.raises(ParameterError, match="gradients must be a list for each step"):
        transfer(rules.AdamW(), "sgd", gradients=gradients)
