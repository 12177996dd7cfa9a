"""Declarations of hyperparameters: bounds, search ranges and the check of values."""

import math
from typing import Any

import pytest
import torch

from thalweg.errors import SettingError
from thalweg.rules import Range
from thalweg.rules.core.hyper import Bound, Hyper


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        (">= 0", [0.0, 1e9], [-1e-9, float("inf"), float("nan")]),
        ("> 0", [1e-9], [0.0]),
        ("[0, 1)", [0.0, 0.5], [1.0, -0.1]),
        ("(0, 1]", [1.0], [0.0]),
    ],
)
def test_a_bound_reads_as_it_is_written(text: str, inside: list[float], outside: list[float]) -> None:
    assert all(value in Bound(text) for value in inside)
    assert not any(value in Bound(text) for value in outside)


def test_a_bound_that_cannot_be_read_names_the_forms() -> None:
    with pytest.raises(SettingError, match=r"text must read like '> 0' or '\[0, 1\)', got 'below 1'"):
        assert 0.5 in Bound("below 1")


@pytest.mark.parametrize("scale", ["linear", "log", "log-to-one"])
def test_a_range_goes_from_low_to_high_and_back(scale: str) -> None:
    bounds = Range(0.5, 0.99, scale)
    assert (bounds.value_at(0), bounds.value_at(1)) == pytest.approx((0.5, 0.99))
    for position in (0.1, 0.5, 0.9):
        assert bounds.position(bounds.value_at(position)) == pytest.approx(position)
    assert bounds.position(0.4) < 0
    assert bounds.position(0.995) > 1
    assert [bounds.clamp(value) for value in (0.4, 0.7, 0.995)] == [0.5, 0.7, 0.99]


def test_the_middle_of_a_range_is_that_of_its_scale() -> None:
    assert Range(1e-4, 1.0, "log").value_at(0.5) == pytest.approx(1e-2)
    assert Range(0.9, 0.999, "log-to-one").value_at(0.5) == pytest.approx(0.99)
    assert Range(2.0, 4.0).value_at(0.5) == 3.0


NUMBER = Hyper(0.1, "", bound=Bound("[0, 1)"))
COUNT = Hyper(1, "", bound=Bound(">= 1"), kind="count")
SWITCH = Hyper(False, "", kind="switch")
CHOICE = Hyper("a", "", kind="choice", options=("a", "b"))


@pytest.mark.parametrize(
    ("declared", "value", "message"),
    [
        (NUMBER, 1.0, "must be in [0, 1), got 1.0. The default is 0.1."),
        (NUMBER, math.nan, "must be in [0, 1), got nan. The default is 0.1."),
        (NUMBER, "1", "must be a number in [0, 1), got '1'."),
        (NUMBER, True, "must be a number in [0, 1), got True."),
        (NUMBER, torch.zeros(2), "must be one number, got a tensor of shape (2,)."),
        (COUNT, 1.0, "must be a whole number >= 1, got 1.0."),
        (COUNT, 0, "must be >= 1, got 0. The default is 1."),
        (SWITCH, 2, "must be True or False, got 2."),
        (SWITCH, "no", "must be True or False, got 'no'."),
        (CHOICE, "c", "must be one of a, b, got 'c'."),
    ],
)
def test_a_wrong_value_is_named_with_its_requirement(declared: Hyper, value: Any, message: str) -> None:
    with pytest.raises(SettingError) as error:
        declared.parse("Rule: x", value)
    assert str(error.value) == f"Rule: x {message}"


@pytest.mark.parametrize(
    ("declared", "value"), [(NUMBER, 0), (NUMBER, torch.tensor(2.0)), (COUNT, 7), (SWITCH, True), (CHOICE, "b")]
)
def test_a_right_value_passes(declared: Hyper, value: Any) -> None:
    declared.parse("Rule: x", value)


def test_only_a_number_enters_the_formula_without_selecting_code() -> None:
    assert [declared.is_static for declared in (NUMBER, COUNT, SWITCH, CHOICE)] == [False, True, True, True]
