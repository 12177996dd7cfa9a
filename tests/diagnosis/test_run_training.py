"""Runs of a training: batches, steps, errors with the user's line, limits, and what a run leaves behind."""

import contextlib
import random
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from thalweg.diagnosis.run_record import RunRecord
from thalweg.diagnosis.run_training import MAX_NON_FINITE, TrainingRun, evaluating, fresh_run
from thalweg.diagnosis.time_limit import TimeLimitExceeded, time_limit
from thalweg.diagnosis.training_source import BatchStream, TrainingSource
from thalweg.errors import DiagnosisError
from thalweg.tasks import Training

HERE = __file__


def line_fit(seed: int, **changes: Any) -> Training:
    """A linear model that fits a plane."""
    x = torch.randn(32, 3)
    model = nn.Linear(3, 1)
    parts: dict[str, Any] = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "batches": [(x, x.sum(1, keepdim=True))],
        "loss_fn": nn.functional.mse_loss,
    }
    return Training(**(parts | changes))


def run(function: Callable[[int], Training], steps: int = 5, **options: Any) -> RunRecord:
    source = TrainingSource(function, 60.0)
    with fresh_run(source, 0) as training:
        return TrainingRun(source, training, 0, 60.0).run("as it is", 0, steps, **options)


def error_of(function: Callable[[int], Any], steps: int = 5) -> str:
    with pytest.raises(DiagnosisError) as caught:
        run(function, steps)
    return str(caught.value)


def test_the_plain_step_is_what_a_plain_loop_does() -> None:
    record = run(line_fit, 4)

    torch.manual_seed(0)
    training = line_fit(0)
    expected = []
    for _ in range(4):
        training.optimizer.zero_grad()
        ((x, y),) = training.batches
        loss = training.loss_fn(training.model(x), y)
        loss.backward()
        training.optimizer.step()
        expected.append(loss.item())

    assert record.losses == tuple(expected)
    assert record.ending == "complete"


def test_a_step_of_the_users_gets_the_training_and_the_whole_batch() -> None:
    seen: list[Any] = []

    def step(training: Training, *batch: Any) -> float:
        seen.append((training, len(batch)))
        return 2.5

    record = run(lambda seed: line_fit(seed, batches=[("a", "b", "c")], step=step), 2)

    assert record.losses == (2.5, 2.5)
    assert [count for _, count in seen] == [3, 3]
    assert isinstance(seen[0][0], Training)


def test_an_iterable_is_begun_again_and_an_iterator_is_used_as_it_is() -> None:
    source = TrainingSource(line_fit, 60.0)
    again = BatchStream([(1, 2), (3, 4)], source)
    once = BatchStream(iter([(1, 2), (3, 4)]), source)

    assert [again.next() for _ in range(3)] == [(1, 2), (3, 4), (1, 2)]
    assert [once.next() for _ in range(3)] == [(1, 2), (3, 4), None]


def test_an_iterator_that_ends_ends_the_run() -> None:
    batch = (torch.zeros(2, 3), torch.zeros(2, 1))
    assert len(run(lambda seed: line_fit(seed, batches=iter([batch] * 3)), 10).losses) == 3


def test_held_back_batches_reach_no_step() -> None:
    seen: list[float] = []

    def step(training: Training, x: float, y: float) -> float:
        seen.append(x)
        return 0.0

    source = TrainingSource(lambda seed: line_fit(seed, batches=iter([(k, 0) for k in range(6)]), step=step), 60.0)
    with fresh_run(source, 0) as training:
        training_run = TrainingRun(source, training, 2, 60.0)
        training_run.run("as it is", 0, 10)

    assert training_run.held_back == [(0, 0), (1, 0)]
    assert seen == [2, 3, 4, 5]


@pytest.mark.parametrize("count", [MAX_NON_FINITE - 1, MAX_NON_FINITE])
def test_losses_that_stay_not_finite_end_a_run(count: int) -> None:
    losses = iter([1.0, *[float("nan")] * count, *[1.0] * 5])
    record = run(lambda seed: line_fit(seed, step=lambda training, *batch: next(losses)), 6)
    if count < MAX_NON_FINITE:
        assert (record.ending, len(record.losses)) == ("complete", 6)
    else:
        assert (record.ending, len(record.losses)) == ("diverged", 1 + MAX_NON_FINITE)


def test_a_loss_without_a_graph_takes_no_step() -> None:
    def frozen(seed: int) -> Training:
        training = line_fit(seed)
        training.model.requires_grad_(False)
        return training

    losses = run(frozen, 3).losses
    assert losses[0] == losses[2]


def test_scores_come_when_they_are_due_and_may_end_the_run() -> None:
    class Count:
        def score(self, training: Training) -> float:
            return 7.0

        def blind_score(self, training: Training) -> float:
            return 1.0

    record = run(line_fit, 8, scorer=Count(), score_at=[0, 2, 4, 8], stop=lambda record: record.scores[-1][0] == 4)

    assert record.scores == ((0, 7.0), (2, 7.0), (4, 7.0))
    assert (record.ending, len(record.losses), record.blind_start, record.blind_end) == ("stopped", 4, 1.0, None)


def raises(seed: int) -> Training:
    raise KeyError("no such file")


def test_a_function_that_raises() -> None:
    text = error_of(raises)
    assert text.startswith("raises: the function must return a training, got KeyError: 'no such file' (at ")
    assert f"{HERE}:{raises.__code__.co_firstlineno + 1})" in text


def test_a_function_that_returns_something_else() -> None:
    text = error_of(lambda seed: nn.Linear(2, 2))
    assert text.startswith("training: the function must return a thalweg.Training, got Linear (at ")
    assert "Return thalweg.Training(...)" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": lambda x: x}, "model must be an nn.Module, got function"),
        (
            {"model": nn.ReLU(), "optimizer": torch.optim.SGD([{"params": []}])},
            "the model must have parameters, got none",
        ),
        ({"optimizer": 3}, "optimizer must have the method step, got int"),
        ({"loss_fn": None}, "loss_fn must be a function of output and target, got NoneType"),
        ({"step": 3}, "step must be a function or None, got int"),
        ({"metric": 3}, "metric must be a function or None, got int"),
        ({"batches": 3}, "batches must be an iterable of tuples (inputs..., target), got int"),
        ({"batches": []}, "batches must contain a batch, got none"),
        ({"batches": iter([])}, "batches must contain a batch, got none"),
        ({"batches": [torch.zeros(4)]}, "a batch must be a tuple (inputs..., target), got Tensor"),
        ({"loss_fn": lambda output, target: output}, "loss_fn must return a scalar, got a tensor of shape (32, 1)"),
        ({"step": lambda training, *batch: None}, "step must return the loss, a scalar, got NoneType"),
    ],
)
def test_parts_that_do_not_do(changes: dict[str, Any], message: str) -> None:
    text = error_of(lambda seed: line_fit(seed, **changes))
    assert text.startswith(f"training: {message} (at ")
    assert text.endswith(".")


def test_an_error_in_a_step_names_the_line_and_the_remedy() -> None:
    def labels(seed: int) -> Training:
        return line_fit(seed, loss_fn=nn.functional.cross_entropy, batches=[(torch.zeros(2, 3), torch.zeros(2))])

    text = error_of(labels)
    assert "labels: the plain step (zero_grad, forward, loss, backward, step) must run, got " in text
    assert text.endswith("Class labels must have dtype int64: pass labels.long().")


def test_models_that_share_parameters_between_seeds() -> None:
    shared = nn.Linear(3, 1)
    source = TrainingSource(lambda seed: line_fit(seed, model=shared), 60.0)
    source.make(0)
    with pytest.raises(DiagnosisError, match="each call must make a model of its own, got the same parameters twice"):
        source.make(1)


def test_frozen_parts_may_be_shared() -> None:
    body = nn.Linear(3, 3).requires_grad_(False)
    source = TrainingSource(lambda seed: line_fit(seed, model=nn.Sequential(body, nn.Linear(3, 1))), 60.0)
    assert source.make(0).model[0] is source.make(1).model[0]


def test_an_object_that_is_no_function() -> None:
    with pytest.raises(DiagnosisError, match="a training must be a function of a seed .*, got an object of type int"):
        TrainingSource(3, 60.0)  # type: ignore[arg-type]


def ring_and_hang() -> None:
    """Ring the alarm instead of waiting for it, then hang."""
    assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 60.0
    signal.raise_signal(signal.SIGALRM)
    while True:
        pass


def test_a_function_that_hangs() -> None:
    def hanging(seed: int) -> Any:
        with contextlib.suppress(Exception):  # does not stop the limit
            ring_and_hang()

    text = error_of(hanging)
    assert text.startswith("hanging: the function must return a training, got no return within 60 s (at ")
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0.0


def test_batches_that_hang() -> None:
    def endless() -> Iterator[Any]:
        yield torch.zeros(2, 3), torch.zeros(2, 1)
        ring_and_hang()

    text = error_of(lambda seed: line_fit(seed, batches=endless()))
    assert text.startswith("training: batches must yield the next batch, got no end within 60 s (at ")


def test_later_steps_are_limited_by_the_first_ones() -> None:
    def step(training: Training, *batch: Any) -> float:
        limits.append(signal.getitimer(signal.ITIMER_REAL)[0])
        return 0.0

    limits: list[float] = []
    run(lambda seed: line_fit(seed, step=step), 8)
    assert all(50.0 < limit <= 60.0 for limit in limits[:5])
    assert all(9.0 < limit <= 10.0 for limit in limits[5:])


def test_a_limit_holds_in_another_thread() -> None:
    ended: list[str] = []

    def work() -> None:
        try:
            with time_limit(0.01):
                while True:
                    pass
        except TimeLimitExceeded:
            ended.append("limit")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60.0)
    assert ended == ["limit"]


def test_a_run_leaves_the_process_as_it_was() -> None:
    def unclean(seed: int) -> Training:
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(99)
        random.seed(99)
        np.random.seed(99)
        nn.modules.module.register_module_forward_hook(lambda *_: None)
        return line_fit(seed)

    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    run(unclean)

    assert torch.get_default_dtype() == torch.float32
    assert torch.get_rng_state().equal(before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]
    assert not nn.modules.module._global_forward_hooks


def test_scoring_leaves_modes_and_random_numbers_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.BatchNorm1d(3))
    model[2].eval()
    training = line_fit(0, model=model)
    torch.manual_seed(5)
    expected = torch.rand(1)

    torch.manual_seed(5)
    with evaluating(training):
        assert not model[1].training
        assert not torch.is_grad_enabled()
        torch.rand(7)

    assert torch.rand(1).equal(expected)
    assert [module.training for module in model.modules()] == [True, True, True, False]
