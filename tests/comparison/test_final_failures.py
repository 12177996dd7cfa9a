"""An error that any repetition repeats is final; a passing fault is tried again by the same call."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import thalweg
from thalweg.comparison.failures import failures_of, is_tried_again
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.results.storage.trials import trial_of_values, values_of_trial
from thalweg.comparison.training.result import TrainingResult, fails_again
from thalweg.errors import (
    KeywordError,
    ParameterError,
    ParameterTypeError,
    RoutingError,
    SettingError,
    StoreError,
    TaskError,
    UnknownNameError,
)
from thalweg.tasks import TrainingFunction


class Counted:
    """A training of a sparse embedding that writes its calls to a file.

    It fails as if data were gone for those optimizers whose name a second file holds.
    """

    def __init__(self, folder: Path) -> None:
        self.file, self.gone = folder / "calls", folder / "gone"
        self.path = folder / "store.sqlite"

    @property
    def calls(self) -> int:
        return len(self.file.read_text())

    def train(self, make_optimizer, report):
        with self.file.open("a") as file:
            file.write(".")
        model = nn.Embedding(10, 2, sparse=True)
        optimizer = make_optimizer(model.parameters())
        if self.gone.exists() and self.gone.read_text() in type(optimizer).__name__.casefold():
            raise FileNotFoundError("data.npy")
        for _ in range(5):
            optimizer.zero_grad()
            loss = (model(torch.tensor([1, 2])) - 1).square().mean()
            loss.backward()
            optimizer.step()
        report(loss.item())

    def compare(self, *contenders: str) -> thalweg.Comparison:
        function = TrainingFunction(train=self.train, name="sparse", source="sparse")
        return thalweg.compare(function, contenders, store=self.path, budget="6trials", workers=1, quiet=True)


@pytest.fixture
def counted(tmp_path: Path) -> Counted:
    return Counted(tmp_path)


@pytest.mark.parametrize(
    ("contender", "error"),
    [("lion", "ParameterError: Lion"), ("torch.optim:NAdam", "RuntimeError: NAdam does not support sparse gradients")],
)
def test_a_refusal_of_an_optimizer_is_not_tried_again(
    counted: Counted, tmp_path: Path, contender: str, error: str
) -> None:
    first = counted.compare("sgd", contender)
    assert first.record.finished is not None
    (failure,) = first.failures
    assert failure.error.startswith(error)
    assert failure.is_final
    assert failure.note.endswith("A repetition fails alike, so the same command does not try them again.") or (
        failure.count == 1 and failure.note.endswith("the same command does not try it again.")
    )
    calls = counted.calls
    again = counted.compare("sgd", contender)
    assert counted.calls == calls
    assert again.failures == first.failures
    assert again.record.finished == first.record.finished
    assert failure.note in first.report(tmp_path / "page.html").read_text().replace("&#39;", "'")
    assert first.to_json()["failures"][0]["is_final"] is True


def test_a_passing_fault_is_tried_again_beside_a_final_one(counted: Counted) -> None:
    counted.gone.write_text("adagrad")
    first = counted.compare("sgd", "lion", "adagrad")
    kinds = {failure.error.partition(":")[0]: failure for failure in first.failures}
    assert not kinds["FileNotFoundError"].is_final
    assert kinds["FileNotFoundError"].note.endswith(" again.")
    assert "A repetition" not in kinds["FileNotFoundError"].note
    num_final, calls = kinds["ParameterError"].count, counted.calls
    counted.gone.unlink()
    again = counted.compare("sgd", "lion", "adagrad")
    assert counted.calls > calls
    assert [failure.error.partition(":")[0] for failure in again.failures] == ["ParameterError"]
    assert again.failures[0].count >= num_final


def test_if_all_fail_for_good_the_error_says_so_and_nothing_is_trained_again(counted: Counted) -> None:
    message = "all [0-9]+ failed.* A repetition fails alike: choose other contenders, or change the code."
    with pytest.raises(TaskError, match=message):
        counted.compare("lion", "torch.optim:NAdam")
    calls = counted.calls
    with pytest.raises(TaskError, match=message):
        counted.compare("lion", "torch.optim:NAdam")
    assert counted.calls == calls


def raised_by(call: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception) as caught:
        call()
    return caught.value


def sparse_step() -> None:
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.zeros(2).to_sparse()
    torch.optim.NAdam([weight]).step()


def step_without_memory() -> None:
    """An operator fails inside of the optimizer, in the place of a device without memory."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))])
    optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
    optimizer.register_step_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("CUDA error: out of memory")))
    optimizer.step()


def test_the_errors_that_are_final() -> None:
    refused = [kind("refused") for kind in (SettingError, KeywordError, ParameterError, ParameterTypeError)]
    refused += [RoutingError("refused"), UnknownNameError("refused")]
    refused += [raised_by(lambda: torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=-1.0)), raised_by(sparse_step)]
    assert all(map(fails_again, refused))
    passing = [OSError(), MemoryError(), ConnectionError(), TaskError("OSError"), StoreError("full")]
    passing += [ValueError("a file is empty"), RuntimeError("CUDA error"), KeyboardInterrupt()]
    passing += [raised_by(step_without_memory), raised_by(lambda: int("a"))]
    assert not any(map(fails_again, passing))


def test_a_store_keeps_it_and_an_older_one_has_none() -> None:
    result = TrainingResult("failed", message="ParameterError: refused", is_final=True)
    trial = TrialRecord("lion", "search", 0, 0, 0, {}, result)
    row = values_of_trial(trial)
    assert trial_of_values(row).result.is_final
    assert not is_tried_again(trial_of_values(row))
    assert is_tried_again(trial_of_values({**row, "reported": None}))
    both = [trial, replace(trial, seed=1, result=replace(result, is_final=False))]
    assert sorted(failure.is_final for failure in failures_of(both)) == [False, True]
