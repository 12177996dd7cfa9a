"""Checks of ``eval()`` and ``train()`` of optimizers that evaluate other parameters than they train."""

import copy
from typing import Any

from torch import Tensor

from thalweg.testing.fixtures import SkippedError, Subject, assert_identical, clone_params

_SWITCHES = ("train", "eval train", "eval train train", "eval eval train", "train train eval train")
_MAX_ERROR = 1e-5  # an exchange that rounds, as x + (y - x), is allowed


def switches_modes_any_number_of_times(subject: Subject) -> None:
    """``eval()`` and ``train()`` may be called in any order and number. Trainers call ``train()`` before each step."""
    expected = _train_with_switches(subject, [])
    for switches in _SWITCHES:
        actual = _train_with_switches(subject, switches.split())
        _assert_close(actual, expected, subject, f"{switches} between two steps, against none")


def saves_while_evaluating(subject: Subject) -> None:
    """A checkpoint that is written while evaluating continues as if it had not been, since trainers save there."""
    expected = _train_with_switches(subject, [])
    params = subject.params()
    optimizer = _optimizer_with_modes(subject, params)
    subject.train(optimizer, params, range(5))
    optimizer.eval()
    saved_params, saved = clone_params(params), copy.deepcopy(optimizer.state_dict())
    evaluated = clone_params(params)
    optimizer.train()
    subject.train(optimizer, params, range(5, 10))
    _assert_close(params, expected, subject, "saving while evaluating changed the steps after it")
    resumed = _optimizer_with_modes(subject, saved_params)
    resumed.load_state_dict(saved)
    resumed.eval()
    _assert_close(saved_params, evaluated, subject, "the parameters of an evaluation after resuming")
    resumed.train()
    subject.train(resumed, saved_params, range(5, 10))
    _assert_close(saved_params, expected, subject, "resumed from what was saved while evaluating")


def _optimizer_with_modes(subject: Subject, params: list[Tensor]) -> Any:
    optimizer = subject.optimizer(params)
    if not callable(getattr(optimizer, "eval", None)) or not callable(getattr(optimizer, "train", None)):
        raise SkippedError("it has no eval() and train()")
    return optimizer


def _train_with_switches(subject: Subject, switches: list[str]) -> list[Tensor]:
    params = subject.params()
    optimizer = _optimizer_with_modes(subject, params)
    subject.train(optimizer, params, range(5))
    for switch in switches:
        getattr(optimizer, switch)()
    subject.train(optimizer, params, range(5, 10))
    return params


def _assert_close(actual: list[Tensor], expected: list[Tensor], subject: Subject, description: str) -> None:
    for param, expected_param, start in zip(actual, expected, subject.params(), strict=True):
        change = (expected_param - start).norm()
        if not change:
            assert_identical([param], [expected_param], description)
            continue
        error = float(((param - expected_param).norm() / change).detach())
        assert error < _MAX_ERROR, f"{description}: off by {error:.3g} of the change"
