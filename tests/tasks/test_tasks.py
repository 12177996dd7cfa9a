"""The built-in tasks, the tasks of a user's file, and invalid tasks."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import thalweg
from thalweg.errors import KeywordError, SettingError, TaskError, UnknownNameError
from thalweg.tasks import BUILT_IN, Splits, Task, TrainingFunction, as_task, load, split_at_random
from thalweg.tasks.catalogue import load_training
from thalweg.tasks.data import epochs_of_indices


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_task_has_a_finite_loss_on_every_split(name: str) -> None:
    task = load(name)
    assert isinstance(task, Task)
    assert task.name == name
    assert task.about
    model = task.make_model(0)
    for split in ("train", "validation", "test"):
        batch = task.split(split)
        loss = task.measure(split)(model, () if batch is None else batch)
        assert loss.dim() == 0
        assert loss.isfinite()


def test_linear_regression_is_the_stated_data_and_knows_its_optimum() -> None:
    task = load("linear-regression")
    np.random.seed(0)
    x = np.random.rand(100, 1)
    y = 3 * x + np.random.rand(100, 1)
    assert np.allclose(task.splits.train[0].numpy(), x)
    assert np.allclose(task.splits.train[1].numpy(), y)
    slope, intercept = np.polyfit(x[:, 0], y[:, 0], 1)
    assert task.optimum == pytest.approx(np.mean((slope * x + intercept - y) ** 2), rel=1e-6)
    model = task.make_model(0)
    with torch.no_grad():
        model.weight.fill_(slope)
        model.bias.fill_(intercept)
        assert float(task.loss(model, task.splits.train)) == pytest.approx(task.optimum, rel=1e-5)


def test_the_condition_number_of_the_quadratic_is_a_setting() -> None:
    task = load("quadratic:condition=50,dimensions=7")
    eigenvalues = torch.linalg.eigvalsh(task.make_model(0).curvature.double())
    assert len(eigenvalues) == 7
    assert float(eigenvalues[-1] / eigenvalues[0]) == pytest.approx(50, rel=1e-3)
    assert float(eigenvalues[-1]) == pytest.approx(1, rel=1e-5)


def test_the_minimum_of_rosenbrock_is_at_one_one() -> None:
    model = load("rosenbrock").make_model(0)
    with torch.no_grad():
        model.point.copy_(torch.ones(2))
    loss = model()
    (gradient,) = torch.autograd.grad(loss, model.point)
    assert float(loss.detach()) == 0
    assert torch.equal(gradient, torch.zeros(2))


def test_standardized_features_use_the_training_split_alone() -> None:
    train, _ = load("logistic-regression").splits.train
    assert torch.allclose(train.mean(0), torch.zeros(30), atol=1e-5)
    assert torch.allclose(train.std(0), torch.ones(30), atol=1e-5)


def test_a_random_split_loses_nothing_and_mixes_nothing() -> None:
    x = torch.arange(10)
    splits = split_at_random((x, -x))
    assert [len(part[0]) for part in (splits.train, splits.validation, splits.test)] == [6, 2, 2]
    assert sorted(torch.cat([splits.train[0], splits.validation[0], splits.test[0]]).tolist()) == list(range(10))
    assert torch.equal(splits.test[0], -splits.test[1])


def test_the_order_of_batches_follows_from_the_seed_and_covers_a_pass() -> None:
    def first_pass(seed: int) -> list[torch.Tensor]:
        indices = epochs_of_indices(10, 3, [7, seed])  # a row does not depend on the rows beside it
        return [next(indices)[1] for _ in range(4)]

    assert all(torch.equal(a, b) for a, b in zip(first_pass(1), first_pass(1), strict=True))
    assert [len(batch) for batch in first_pass(1)] == [3, 3, 3, 1]
    assert len({int(index) for batch in first_pass(1) for index in batch}) == 10
    assert not all(torch.equal(a, b) for a, b in zip(first_pass(1), first_pass(2), strict=True))


def test_a_model_is_the_same_for_the_same_seed_and_torchs_own_state_is_left_alone() -> None:
    task = load("digits")
    before = torch.get_rng_state()
    first, second, different = (task.make_model(seed)[0].weight for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, second)
    assert not torch.equal(first, different)


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.py"
    path.write_text(text)
    return path


def test_a_task_and_a_function_are_found_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("from torch import nn\nmodel = lambda: nn.Linear(1, 1)\n")
    path = write(
        tmp_path,
        "import thalweg, torch, neighbour\n"
        "task = thalweg.Task(model=neighbour.model, loss=lambda m, b: m(b[0]).mean(), data=(torch.ones(9, 1),))\n"
        "def train(make_optimizer, report):\n    '''Does nothing.'''\n",
    )
    task, function = load(f"{path}:task"), load(f"{path}:train")
    assert isinstance(task, Task)
    assert isinstance(function, TrainingFunction)
    assert (task.name, function.name, function.about) == ("mine:task", "mine:train", "Does nothing.")
    assert task.source == path.read_text()


def test_unknown_tasks_and_settings_name_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"got 'digit'. Did you mean digits"):
        load("digit")
    with pytest.raises(KeywordError, match=r"'conditon' is not a setting of this task. Did you mean condition\?"):
        load("quadratic:conditon=3")
    with pytest.raises(KeywordError, match="It has no settings"):
        load("digits:width=3")
    with pytest.raises(SettingError, match="condition must be a number, got 'big'"):
        load("quadratic:condition=big")
    with pytest.raises(SettingError, match="condition must be a number >= 1, got 0.5"):
        load("quadratic:condition=0.5")


def test_a_file_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"nowhere.py: the file must exist, got no such file"):
        load(f"{tmp_path}/nowhere.py:task")
    with pytest.raises(TaskError, match=r"mine.py: the file must exist"):
        load("mine.py")
    broken = write(tmp_path, "import no_such_module_at_all")
    with pytest.raises(TaskError, match="the file must import, got ModuleNotFoundError: No module named 'no_such"):
        load(f"{broken}:task")
    leaving = write(tmp_path, "import sys\nsys.exit(3)")
    with pytest.raises(TaskError, match="the file must import, got SystemExit: 3"):
        load(f"{leaving}:task")
    plain = write(tmp_path, "def training(make_optimizer, report): ...\nnumber = 3\ndef odd(a): ...\n")
    with pytest.raises(TaskError, match=r"must define 'trainin', and does not. Did you mean training\?"):
        load(f"{plain}:trainin")
    with pytest.raises(TaskError, match=r"mine:number: a task must be a thalweg.Task or a function"):
        load(f"{plain}:number")
    with pytest.raises(TaskError, match=r"must take \(make_optimizer, report\), or also device, got \(a\)"):
        load(f"{plain}:odd")


def test_a_file_without_a_name_is_answered_with_the_names_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "def train(make_optimizer, report): ...\ndef training(seed): ...\ndef other(a): ...\n")
    with pytest.raises(
        TaskError, match=r"mine.py: a task in a file is written .*, got no name. Write mine.py:train\.$"
    ):
        load("mine.py")
    with pytest.raises(TaskError, match=r"a training in a file .*, got no name. Write mine.py:training\.$"):
        load_training("mine.py")
    with pytest.raises(UnknownNameError, match=r"got 'mine:train'. Did you mean mine.py:train\?"):
        load("mine:train")
    write(tmp_path, "number = 3\n")
    with pytest.raises(TaskError, match=r"got no name. Add the name, say :task\.$"):
        load("mine.py")


def test_an_error_in_the_users_file_names_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, "\n\nraise RuntimeError('boom.')\n")
    with pytest.raises(TaskError) as error:
        load(f"{path}:task")
    assert str(error.value) == f"{path}: the file must import, got RuntimeError: boom (at {path}:3)."
    wrong = write(tmp_path, "import thalweg\ntask = thalweg.Task(model=None, loss=None)\n")
    with pytest.raises(TaskError) as error:
        load(f"{wrong}:task")
    cause = "TaskError: task: model must be a function, got None"
    assert str(error.value) == f"{wrong}: the file must import, got {cause} (at {wrong}:2)."
    broken = write(tmp_path, "x = 1\ndef broken(:\n")
    with pytest.raises(TaskError, match=r"the file must import, got SyntaxError: .*\(.*\.py, line 2\)"):
        load(f"{broken}:task")


def test_a_training_function_may_have_settings_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path, "def train(make_optimizer, report, epochs=3): ...\n")
    assert isinstance(load(f"{path}:train"), TrainingFunction)


def test_a_metric_has_the_name_of_its_function() -> None:
    def error_rate(model, batch):
        return batch[0].mean()

    assert make_task(metric=error_rate).measured_as("test") == "test error_rate"
    assert make_task(metric=lambda model, batch: 0.0).measured_as("test") == "test metric"
    assert make_task(metric=error_rate, metric_name="error").measured_as("train") == "training loss"
    assert make_task().measured_as("validation") == "validation loss"


def make_task(**changes: object) -> Task:
    parts = {"model": lambda: nn.Linear(1, 1), "loss": lambda model, batch: model(batch[0]).mean()}
    return Task(**{**parts, "data": (torch.ones(10, 1),), **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": nn.Linear(1, 1).weight}, "task: model must be a function, got Parameter"),
        ({"loss": None}, "task: loss must be a function, got None"),
        ({"model": nn.Linear(1, 1)}, "model must be a function that makes a fresh model, got a Linear. Each training"),
        ({"loss": nn.functional.mse_loss}, "loss must take (model, batch), got mse_loss, which takes (output, target)"),
        ({"loss": nn.MSELoss()}, "got MSELoss(), which takes (output, target). Wrap it: thalweg.supervised"),
        ({"data": (torch.ones(3, 1),)}, "at least 5 examples are needed to split 60/20/20, got 3"),
        ({"batch_size": 0}, "task: batch_size must be a whole number, 1 or more, got 0"),
        ({"passes": 1.5}, "task: passes must be a whole number, 1 or more, got 1.5"),
        ({"data": 3}, "task: data must be a tuple of tensors, a dataset or Splits, got int"),
        ({"data": (torch.ones(3), torch.ones(4))}, "must have one length, at least 1, got lengths [3, 4]"),
        ({"data": (1, 2)}, "task: the whole split must be a tuple of tensors or a DataLoader, got a tuple of int, int"),
        ({"data": Splits((torch.ones(0, 1),), None, None)}, "the train split must have one length, at least 1"),
        ({"model": lambda: 3}, "task: model must return an nn.Module, got int"),
        ({"model": nn.ReLU}, "task: the model must have a parameter to train, got none"),
    ],
)
def test_an_invalid_task_raises(changes: dict, message: str) -> None:
    with pytest.raises(TaskError) as error:
        task = make_task(**changes)
        task.splits  # noqa: B018
        task.make_model(0)
    text, line = re.subn(rf" \(at {re.escape(__file__)}:\d+\)", "", str(error.value))
    assert message in text
    assert line == 1


def test_another_value_than_a_task_raises() -> None:
    with pytest.raises(TaskError, match="got int"):
        as_task(3)
    with pytest.raises(TaskError, match="got int"):
        thalweg.compare(3, ["sgd"])
