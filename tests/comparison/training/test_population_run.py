"""A population on a device takes the steps of one on the CPU, bit by bit, as a graph that is captured once.

There is no GPU here: `EmulatedCapture` captures the operations of a step and replays them on the same memory.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thalweg
from cases.emulated_graphs import EmulatedCapture
from tests.comparison.training import small_task
from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training import timing
from thalweg.comparison.training.population_run import PopulationRun, why_not_population
from thalweg.comparison.training.pruning import Rungs
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.runs import SingleRun, Trial
from thalweg.comparison.training.trainer import follow
from thalweg.engine.graphs import GraphCache
from thalweg.engine.scalars.population import MAX_LOADED
from thalweg.tasks import BUILT_IN, Splits, Task, load, seeded

TRIALS = [Trial({"lr": lr}, seed) for lr, seed in ((0.01, 1), (0.03, 1), (0.1, 2), (0.003, 3), (1e30, 4), (0.02, 5))]
SCHEDULE = TrainingSchedule(steps=18, schedule="linear", num_evaluations=3)
RUNGS = Rungs("validation", {9: [], 14: []})  # of 6 members 2 continue, and then 1

small = partial(small_task.small, 74)  # batches of 16, 16 and 12 of its 44 examples


def outcomes(results: Sequence[TrainingResult]) -> list[str]:
    """Return results as texts, in which not a number equals itself, without the time."""
    return [
        repr(
            replace(
                result,
                seconds=0.0,
                evaluations=[replace(evaluation, seconds=0.0) for evaluation in result.evaluations],
            )
        )
        for result in results
    ]


def train(
    task: Task, contenders: Contender | Sequence[Contender], capture: EmulatedCapture | None, rungs: Rungs = RUNGS
) -> tuple[list[str], dict[str, Tensor]]:
    """Return the outcomes of a pruned population and the parameters that are left."""
    with seeded(7):
        run = PopulationRun(task, contenders, TRIALS, capture and GraphCache(capture))
        return outcomes(follow(run, SCHEDULE, rungs=rungs)), run.params


def assert_equal_to_the_cpu(task: Task, contenders: Contender | Sequence[Contender]) -> EmulatedCapture:
    capture = EmulatedCapture()
    expected, params = train(task, contenders, None)
    results, replayed = train(task, contenders, capture)
    assert results == expected
    assert all(torch.equal(replayed[name].nan_to_num(9), param.nan_to_num(9)) for name, param in params.items())
    return capture


def short(name: str) -> Task:
    """Return a built-in task with three batches a pass, the last of them shorter, and few examples to evaluate."""
    task = load(name)
    if task.splits.train is None:
        return task
    count = 11 if name == "characters" else 26
    splits = (task.splits.train, task.splits.validation, task.splits.test)
    train, validation, test = (tuple(tensor[:count] for tensor in split) for split in splits)
    return replace(task, data=Splits(train, validation, test), batch_size=4 if name == "characters" else 10)


# A model that changes its buffers trains one by one; the pilot sees that.
@pytest.mark.parametrize("name", [name for name in BUILT_IN if name != "digits-batchnorm"])
def test_replayed_steps_equal_the_steps_of_the_cpu_in_every_built_in_task(name: str) -> None:
    task, contender = short(name), parse("adam")
    assert why_not_population(task, contender, task.make_model(0)) is None
    capture = assert_equal_to_the_cpu(task, contender)
    # Steps of each size and evaluations of two splits are captured for 6, 2 and 1 members.
    assert capture.captured >= 3
    assert capture.replayed + capture.warmed >= 18 + 2 * 6 + 1
    assert capture.replayed > capture.warmed


@pytest.mark.parametrize("name", ["sgd", "nesterov", "lamb", "muon+adamw", "scion", "cautious(clip(adamw))", "gd"])
def test_replayed_steps_equal_the_steps_of_the_cpu_for_every_kind_of_rule(name: str) -> None:
    roles = {"0.weight": "hidden matrix", "2.weight": "head"} if "+" in name else {}
    bias = name != "scion"
    model = lambda: nn.Sequential(nn.Linear(3, 8, bias=bias), nn.Tanh(), nn.Linear(8, 1, bias=bias))  # noqa: E731
    assert_equal_to_the_cpu(small(model=model, roles=roles), parse(name))


def test_members_of_several_contenders_replay_together() -> None:
    contenders = [parse(name) for name in ("sgd", "sgd", "adam", "adam", "lion", "adam")]
    capture = assert_equal_to_the_cpu(small(), contenders)
    assert len(capture.written) == capture.captured > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_replayed_steps_equal_the_steps_of_the_cpu_in_other_precisions(dtype: torch.dtype) -> None:
    def convert(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda output, target: loss(output, target.to(dtype))

    def model() -> nn.Module:
        layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).to(dtype)
        layers.register_forward_pre_hook(lambda _, inputs: inputs[0].to(dtype))
        return layers

    assert_equal_to_the_cpu(small(model=model, loss=thalweg.supervised(convert(nn.functional.mse_loss))), parse("adam"))


def test_a_metric_of_another_dtype_than_the_loss_keeps_its_own() -> None:
    def metric(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (model(batch[0]) - batch[1]).double().abs().mean()

    assert_equal_to_the_cpu(small(metric=metric), parse("adam"))


def test_dropout_draws_new_numbers_in_every_replay() -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))

    capture = assert_equal_to_the_cpu(small(model=model), parse("sgd"))
    assert capture.replayed > 0


def test_a_graph_is_replayed_on_the_same_memory() -> None:
    capture = EmulatedCapture()
    run = PopulationRun(small(), parse("adam"), TRIALS[:3], GraphCache(capture))
    params = {name: param.data_ptr() for name, param in run.params.items()}
    run.advance([1.0] * 9)
    full, shorter = capture.written
    assert full == shorter >= set(params.values())
    assert {name: param.data_ptr() for name, param in run.params.items()} == params
    assert (capture.warmed, capture.captured, capture.replayed) == (2, 2, 7)
    run.keep([0, 2])
    run.advance([1.0] * 9)
    assert (capture.warmed, capture.captured, capture.replayed) == (4, 4, 14)
    assert capture.written[2] == capture.written[3] >= {param.data_ptr() for param in run.params.values()}


def test_one_call_of_many_steps_equals_many_calls_of_one() -> None:
    """Scalars are uploaded in chunks, and members that are pruned leave the ones behind them in order."""
    count = MAX_LOADED + 6
    factors = [1 - step / (2 * count) for step in range(count)]
    params = []
    for sizes in ([count], [1] * count, [5, MAX_LOADED, 1]):
        run = PopulationRun(small(), parse("nadam"), TRIALS[:3], GraphCache(EmulatedCapture()))
        for size in sizes:
            done = run.steps_done
            run.advance(factors[done : done + size])
        assert run.steps_done == count
        params.append(run.params)
    single = PopulationRun(small(), parse("nadam"), TRIALS[:3])
    for factor in factors:
        single.step(factor)
    for name, param in single.params.items():
        assert all(torch.equal(others[name], param) for others in params)


def test_an_evaluation_waits_once_for_all_splits_and_members(monkeypatch: pytest.MonkeyPatch) -> None:
    run = PopulationRun(small(), parse("adam"), TRIALS[:3], GraphCache(EmulatedCapture()))
    transfers = []
    to_host = Tensor.cpu
    monkeypatch.setattr(Tensor, "cpu", lambda tensor: transfers.append(tensor.shape) or to_host(tensor))
    for _ in range(3):
        train, validation = run.evaluate_all(("train", "validation"))
    assert transfers == [(2, 3)] * 3  # one group of each split
    assert len(train) == len(validation) == 3
    assert train == pytest.approx(PopulationRun(small(), parse("adam"), TRIALS[:3]).evaluate("train"), abs=0)


def test_a_step_that_cannot_be_captured_runs_eagerly_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    capture = EmulatedCapture()
    capture.error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nand more")
    expected, _ = train(small(), parse("adam"), None)
    with seeded(7), caplog.at_level(logging.WARNING, "thalweg"):
        run = PopulationRun(small(), parse("adam"), TRIALS, GraphCache(capture))
        assert run.execution == "replayed as a graph"
        assert outcomes(follow(run, SCHEDULE, rungs=RUNGS)) == expected
    reason = "capturing a graph failed (OutOfMemoryError: CUDA out of memory. Tried to allocate 20 GiB)"
    assert run.execution == f"eager, as {reason}"
    assert capture.replayed == 0
    assert [record.getMessage() for record in caplog.records] == [f"steps on the device start one by one, as {reason}"]


def test_a_loss_that_copies_from_the_host_in_every_step_runs_eagerly() -> None:
    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (torch.tensor([0.5]) * (model(batch[0]) - batch[1])).square().mean()

    expected, _ = train(small(loss=loss), parse("adam"), None)
    capture = EmulatedCapture()
    with seeded(7):
        run = PopulationRun(small(loss=loss), parse("adam"), TRIALS, GraphCache(capture))
        assert outcomes(follow(run, SCHEDULE, rungs=RUNGS)) == expected
    assert run.execution.startswith("eager, as capturing a graph failed (RuntimeError: operation not permitted")


def test_the_cpu_needs_no_words_about_graphs() -> None:
    run = PopulationRun(small(), parse("adam"), TRIALS)
    assert run.execution == SingleRun(small(), parse("adam"), TRIALS[0]).execution == ""


@pytest.mark.parametrize("error", [None, RuntimeError("no such kernel")])
def test_the_pilot_says_how_a_population_would_run(error: Exception | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(task: Task, contender: Contender, trials: Sequence[Trial]) -> PopulationRun:
        capture = EmulatedCapture()
        capture.error = error
        return PopulationRun(task, contender, trials, GraphCache(capture))

    def time_of_step(run: Any, *rest: object) -> float:  # not the load of this machine decides, but this gain
        run.advance([0.0] * 6)
        return 1.0 if run.members == 1 else run.members / 4

    monkeypatch.setattr(timing, "PopulationRun", start)
    monkeypatch.setattr(timing, "time_of_step", time_of_step)
    monkeypatch.setattr(timing, "time_of_training", lambda run, schedule, step_s, *rest: schedule.steps * step_s)
    mode = timing.measure_task(small(), parse("adam"), SCHEDULE, 0).mode
    how = "eager, as capturing a graph failed (RuntimeError: no such kernel)" if error else "replayed as a graph"
    assert mode.members == 32
    assert mode.reason == f"population of 32 under vmap, {how}: 4.0x as fast here"
