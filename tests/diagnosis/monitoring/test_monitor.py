"""The monitor: whatever trains, it changes nothing, waits for nothing and leaves nothing."""

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from tests.diagnosis.monitoring.training import batches, hooks_of, perceptron, step_on_sum, train
from thalweg.diagnosis.monitoring import Record, watch
from thalweg.errors import DiagnosisError


@pytest.mark.parametrize("every", [1, 3, None])
@pytest.mark.parametrize("make", [lambda p: torch.optim.SGD(p, 0.05, 0.9), lambda p: torch.optim.Adam(p, 0.01)])
def test_a_watched_training_is_bit_identical_and_no_hook_stays(every: int | None, make: Callable[..., Any]) -> None:
    results = []
    for watched in (False, True):
        model = nn.Sequential(perceptron(), nn.Dropout(0.5), nn.BatchNorm1d(2))
        optimizer = make(model.parameters())
        if watched:
            with watch(model, optimizer, every=every) as monitor:
                losses = train(model, optimizer, monitor)
            assert monitor.record.losses == losses
            assert hooks_of(model, optimizer) == 0
        else:
            losses = train(model, optimizer, None)
        results.append((losses, [*model.state_dict().values()], torch.random.get_rng_state()))
    (losses, state, rng), (other_losses, other_state, other_rng) = results
    assert losses == other_losses
    assert all(torch.equal(a, b) for a, b in zip(state, other_state, strict=True))
    assert torch.equal(rng, other_rng)


def test_hooks_are_gone_after_an_error_too() -> None:
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ZeroDivisionError), watch(model, optimizer, every=1) as monitor:
        train(model, optimizer, monitor, count=2)
        raise ZeroDivisionError
    assert hooks_of(model, optimizer) == 0
    assert monitor.record.steps == [0, 1]


@pytest.mark.parametrize(("every", "gap"), [(5, 5), (6, 6), (4, 8), (3, 9), (1, 8)])
def test_a_module_has_a_hook_during_full_measurements_only(every: int, gap: int) -> None:
    """At every fifth step or more rarely all measurements are full, else those that are eight steps apart."""
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    with watch(model, optimizer, every=every) as monitor:
        for x, _ in batches(2 * gap):
            seen.append(hooks_of(model) > 0)
            monitor.step(step_on_sum(model, optimizer, x))
    assert seen == [True, *[False] * (gap - 1)] * 2


def test_no_step_waits_for_the_device() -> None:
    class Reads(TorchFunctionMode):
        count = 0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            waits = ("tolist", "item", "__float__", "__bool__", "__int__", "cpu", "numpy", "equal", "nonzero")
            self.count += getattr(func, "__name__", "") in waits
            return func(*args, **(kwargs or {}))

    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=True)
    with watch(model, optimizer, every=1) as monitor, Reads() as reads:
        for x, _ in batches(30):
            monitor.step(step_on_sum(model, optimizer, x))
        assert reads.count == 0
        assert len(monitor.record.steps) == 30
        assert reads.count > 0


class Scalars:
    def __init__(self) -> None:
        self.rows: list[tuple[str, float, int]] = []

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.rows.append((tag, scalar_value, global_step))


def test_writers_get_every_monitored_step_once() -> None:
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    board, calls = Scalars(), []
    for writer in (board, lambda step, values: calls.append((step, values))):
        with watch(model, optimizer, every=50, writer=writer) as monitor:
            losses = train(model, optimizer, monitor, count=130)
    assert [step for step, _ in calls] == [0, 50, 100]
    assert [values["loss"] for _, values in calls] == [losses[0], losses[50], losses[100]]
    assert [step for tag, _, step in board.rows if tag == "gradient_norms/0.weight"] == [0, 50, 100]
    assert ("lr/0", 0.01, 50) in board.rows


def test_the_summary_fits_a_terminal() -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU())) for _ in range(40)))
    model.add_module("a_name_that_is_far_too_long_for_a_table_of_eighty_columns", nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e3)
    with watch(model, optimizer) as monitor:
        train(model, optimizer, monitor)
    text = monitor.summary()
    assert max(map(len, text.splitlines())) <= 80
    assert "... 17 more ..." in text
    assert "0.0.0" in text
    assert all(f"{finding.severity}: {finding.kind}" in text for finding in monitor.findings)


def test_an_empty_loop_has_an_empty_record() -> None:
    model = perceptron()
    with watch(model, torch.optim.SGD(model.parameters(), lr=0.1)) as monitor:
        pass
    assert (monitor.record.losses, monitor.record.steps, monitor.findings) == ([], [], [])
    assert monitor.summary().startswith("0 steps")


def test_a_loop_whose_optimizer_never_steps_still_has_losses() -> None:
    model = perceptron()
    other = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, torch.optim.SGD(model.parameters(), lr=0.1)) as monitor:
        losses = train(model, other, monitor)
    assert monitor.record.losses == losses
    assert monitor.record.optimizer_steps == 0


MODEL = nn.Linear(2, 2)


OPTIMIZER = torch.optim.SGD(MODEL.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: watch(3, OPTIMIZER), r"watch: the model must be a torch.nn.Module, .* got 3\."),
        (lambda: watch([], OPTIMIZER), r"the model must be"),
        (lambda: watch(MODEL, None), r"watch: the optimizer must have a method step, got None\."),
        (lambda: watch(MODEL, []), r"there must be an optimizer, got none"),
        (lambda: watch(MODEL, OPTIMIZER, every=0), r"every must be a whole number from 1, got 0\."),
        (lambda: watch(MODEL, OPTIMIZER, every=True), r"every must be a whole number"),
        (lambda: watch(MODEL, OPTIMIZER, writer="log"), r"the writer must have a method add_scalar, .* got 'log'\."),
        (lambda: watch(MODEL, OPTIMIZER).step(1.0), r"step must be called inside of the with block"),
    ],
)
def test_bad_arguments_are_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(DiagnosisError, match=message):
        make()


@pytest.mark.parametrize(
    ("loss", "message"),
    [(torch.ones(3), r"a tensor of one element, got shape \(3,\)"), ("low", r"got 'low'"), (True, r"got True")],
)
def test_a_loss_is_a_scalar(loss: Any, message: str) -> None:
    with watch(MODEL, OPTIMIZER) as monitor, pytest.raises(DiagnosisError, match=message):
        monitor.step(loss)
    with watch(MODEL, OPTIMIZER) as monitor, pytest.raises(DiagnosisError, match="once at a time"), monitor:
        pass


def test_a_record_is_plain_numbers() -> None:
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer) as monitor:
        train(model, optimizer, monitor)
    twin: Record = pickle.loads(pickle.dumps(monitor.record))
    assert twin.losses == monitor.record.losses
