"""Readings: values reach the right place of their columns, whatever is measured at which step."""

import math

import pytest
import torch

from thalweg.diagnosis.monitoring import Record, watch
from thalweg.diagnosis.monitoring.probes.readings import Readings

NAN = math.nan


def same(column: list[float], expected: list[float]) -> bool:
    return column == pytest.approx(expected, nan_ok=True)


def test_values_at_regular_and_irregular_steps_lie_at_their_indices() -> None:
    readings = Readings()
    columns: list[list[float]] = [[], []]
    regular, irregular, single, late = list[float](), list[float](), list[float](), list[float]()
    for index in range(7):
        readings.add_vector(index, columns, torch.tensor([float(index), -float(index)]))
        if index % 3 == 0:
            readings.add(index, regular, torch.tensor(10.0 + index), 0.5)
        if index in (0, 1, 5):
            readings.add(index, irregular, torch.tensor(index + 1))
        readings.end_step()
    readings.add(2, single, torch.tensor(True))
    readings.add(7, late, torch.tensor(1.0))
    readings.read(7)
    assert columns == [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [-0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0]]
    assert same(regular, [5.0, NAN, NAN, 6.5, NAN, NAN, 8.0])
    assert same(irregular, [1.0, 2.0, NAN, NAN, NAN, 6.0, NAN])
    assert same(single, [NAN, NAN, 1.0, NAN, NAN, NAN, NAN])
    assert late == []
    readings.read(8)
    assert same(late, [NAN] * 7 + [1.0])


def test_a_value_for_a_step_that_was_read_takes_its_place() -> None:
    readings, column = Readings(), list[float]()
    readings.add(0, column, torch.tensor(1.0))
    readings.read(3)
    readings.add(1, column, torch.tensor(2.0))
    readings.read(4)
    assert same(column, [1.0, 2.0, NAN, NAN])


def test_factors_count_in_double_precision_and_belong_to_their_vector() -> None:
    readings, columns = Readings(), [list[float]()]
    for index, factor in enumerate((0.1, 1e200)):
        readings.add_vector(index, columns, torch.tensor([3.0]), [factor])
    readings.read(2)
    assert columns[0] == [3.0 * 0.1, 3e200]
    assert readings.all_finite


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_becomes_infinite_and_is_noted(bad: float) -> None:
    readings, columns = Readings(), [list[float](), list[float]()]
    readings.add_vector(0, columns, torch.tensor([1.0, bad]))
    readings.read(1)
    assert columns == [[1.0], [math.inf]]
    assert not readings.all_finite


def test_readings_do_not_depend_on_the_default_device() -> None:
    readings, column = Readings(), list[float]()
    readings.add(0, column, torch.tensor(2.0), 3.0)
    with torch.device("meta"):
        readings.read(1)
    assert column == [6.0]


def test_parameters_that_are_added_later_have_no_values_before() -> None:
    torch.manual_seed(0)
    model = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    with watch(model, optimizer, every=1) as monitor:
        for step in range(10):
            if step == 3:
                optimizer.add_param_group({"params": list(model[1].parameters())})
                _ = monitor.record  # it was read before the group came
            optimizer.zero_grad()
            loss = model[1](model[0](torch.ones(3, 2))).square().mean()
            loss.backward()
            optimizer.step()
            monitor.step(loss)
    record: Record = monitor.record
    assert [math.isfinite(value) for value in record.gradient_norms["1.bias"]] == [False] * 3 + [True] * 7
    # Its size is measured at the eighth step.
    assert [math.isfinite(value) for value in record.update_ratios["1.bias"]] == [False] * 8 + [True] * 2
    assert all(math.isfinite(value) for value in record.update_ratios["0.weight"])
