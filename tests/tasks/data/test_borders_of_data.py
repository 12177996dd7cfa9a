"""The data, models and losses that people bring: each trains as tensors do, or the error names a line and a remedy."""

import functools
import math
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import thalweg
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.training.computation.batches import batches
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.task_fingerprint import fingerprint_of_task
from thalweg.comparison.training.workload import as_workload
from thalweg.errors import TaskError
from thalweg.tasks import Splits, Task
from thalweg.tasks.data import loaders
from thalweg.tasks.supervised import supervised

COUNT = 40
INPUTS = torch.randn(COUNT, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(COUNT) % 3
ARRAY = INPUTS.double().numpy()  # the same numbers as float64
CROSS_ENTROPY = supervised(functional.cross_entropy)
NLL = supervised(nn.NLLLoss())


def classifier() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def train(task: Task) -> TrainingResult:
    """Return the result of two passes, after the checks that a comparison begins with."""
    fingerprint_of_task(task)
    workload = as_workload(task)
    contender = parse("adamw")
    (result,) = workload.train(contender, [Trial({"lr": 0.01}, 1)], workload.training_schedule(contender, "linear"))
    return result


def make_task(data: Any, model: Callable[[], nn.Module] = classifier, loss: Any = CROSS_ENTROPY, **parts: Any) -> Task:
    return Task(**{"model": model, "loss": loss, "data": data, "batch_size": 8, "passes": 2, **parts})


@functools.cache
def reference() -> TrainingResult:
    return train(make_task((INPUTS, LABELS)))


class Rows(Dataset):
    """A dataset of the user's: examples are tuples of a tensor and a number."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return INPUTS[index], int(LABELS[index])


class WithLogits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = classifier()

    def forward(self, inputs: torch.Tensor) -> Any:
        return type("Output", (), {"logits": self.inner(inputs), "hidden": inputs})()


class WithDict(WithLogits):
    def forward(self, inputs: torch.Tensor) -> Any:
        return {"hidden": inputs, "logits": self.inner(inputs)}


class WithTuple(WithLogits):
    def forward(self, inputs: torch.Tensor) -> Any:
        return self.inner(inputs), ("a state", inputs)


class WithList(WithLogits):
    def forward(self, inputs: torch.Tensor) -> Any:
        return [self.inner(inputs)]


def lazy_classifier() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))


def with_unused_parameters() -> nn.Module:
    model = classifier()
    model.register_parameter("unused", nn.Parameter(torch.ones(3)))
    return model


@pytest.mark.parametrize(
    ("data", "model"),
    [
        ((ARRAY, LABELS.numpy()), classifier),
        ([ARRAY, LABELS.numpy()], classifier),
        ((ARRAY.astype(">f8"), LABELS.numpy().astype("int32")), classifier),
        ((INPUTS.tolist(), LABELS.tolist()), classifier),
        ((np.asfortranarray(ARRAY)[::-1][::-1], LABELS.float()), classifier),
        ((INPUTS, LABELS.double().numpy()), classifier),
        ((INPUTS, LABELS.to(torch.uint8)), classifier),
        (TensorDataset(INPUTS, LABELS), classifier),
        (Subset(TensorDataset(INPUTS, LABELS), range(COUNT)), classifier),
        (lambda: (ARRAY, LABELS), classifier),
        ((INPUTS, LABELS), WithLogits),
        ((INPUTS, LABELS), WithDict),
        ((INPUTS, LABELS), WithTuple),
        ((INPUTS, LABELS), WithList),
        ((ARRAY.astype(np.longdouble), LABELS.numpy().astype("uint16")), classifier),
        ((INPUTS.clone().requires_grad_() * 1.0, LABELS), classifier),
        ((INPUTS, LABELS), lazy_classifier),
        ((INPUTS, LABELS), with_unused_parameters),
    ],
    ids=map(str, range(18)),
)
def test_it_trains_as_tensors_do(data: Any, model: Callable[[], nn.Module]) -> None:
    result, expected = train(make_task(data, model)), reference()
    assert (result.status, result.message) == ("ok", "")
    assert result.test == pytest.approx(expected.test, rel=1e-6)
    assert result.train == pytest.approx(expected.train, rel=1e-6)


def test_real_numbers_of_arrays_get_the_dtype_of_the_model_and_tensors_keep_theirs() -> None:
    double = make_task((ARRAY, LABELS), lambda: classifier().double())
    assert double.splits.train[0].dtype == torch.float64
    assert train(double).status == "ok"
    for kind in ("float16", "float32", "float64"):
        assert make_task((ARRAY.astype(kind), LABELS)).splits.train[0].dtype == torch.float32
    assert make_task((INPUTS.double(), LABELS)).splits.train[0].dtype == torch.float64


def test_frozen_parameters_stay_as_they_are() -> None:
    def frozen() -> nn.Module:
        model = classifier()
        model[0].requires_grad_(False)
        return model

    assert train(make_task((INPUTS, LABELS), frozen)).train > reference().train


def test_targets_of_whole_numbers_get_the_dtype_of_the_output() -> None:
    def trained(targets: torch.Tensor) -> float:
        return train(make_task((INPUTS, targets[:, None]), lambda: nn.Linear(4, 1), supervised(nn.MSELoss()))).test

    assert trained(LABELS) == trained(LABELS.double()) == trained(LABELS.float())


def test_one_hot_labels_are_probabilities_whatever_their_dtype() -> None:
    one_hot = functional.one_hot(LABELS)
    trained = [train(make_task((INPUTS, labels))).test for labels in (one_hot, one_hot.float(), one_hot.bool())]
    assert trained == [pytest.approx(reference().test, rel=1e-6)] * 3


@pytest.mark.parametrize("form", ["whole", "splits", "computed"])
def test_a_loss_may_differentiate_by_data_that_require_gradients(form: str) -> None:
    def slope(model: nn.Module, batch: Any) -> torch.Tensor:
        (points,) = batch
        (slopes,) = torch.autograd.grad(model(points).sum(), points, create_graph=True)
        return (slopes - 1.0).square().mean()

    points = INPUTS.clone().requires_grad_()
    shifted = points + 1.0
    data: Any = {"whole": (points,), "splits": Splits((points,), (points,)), "computed": Splits((shifted,))}[form]
    task = make_task(data, lambda: nn.Sequential(nn.Linear(4, 1), nn.Tanh()), slope)
    result = train(task)
    assert result.status == "ok", result.message
    assert points.grad is None


class Stream(IterableDataset):
    """A stream that ends, without a length."""

    def __iter__(self) -> Iterator[Any]:
        yield from zip(INPUTS, LABELS, strict=True)


class EndlessStream(IterableDataset):
    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from zip(INPUTS, LABELS, strict=True)


class DeclaredStream(EndlessStream):
    def __len__(self) -> int:
        return COUNT


class ExhaustedStream(IterableDataset):
    """A stream that yields its examples once."""

    def __init__(self) -> None:
        self._examples = zip(INPUTS, LABELS, strict=True)

    def __iter__(self) -> Iterator[Any]:
        return self._examples


def thrice(split: Any) -> Splits:
    return Splits(split, split, split)


BATCHES = list(zip(INPUTS.split(8), LABELS.split(8), strict=True))


@pytest.mark.parametrize(
    "split",
    [
        DataLoader(Stream(), batch_size=8),
        Stream(),
        DataLoader(DeclaredStream(), batch_size=8),
        DeclaredStream(),
        DataLoader(TensorDataset(INPUTS, LABELS), batch_size=8),
        BATCHES,
        [(inputs.double().numpy(), labels.numpy()) for inputs, labels in BATCHES],
    ],
    ids=lambda split: f"{type(split).__name__} {type(getattr(split, 'dataset', '')).__name__}",
)
def test_loaders_and_streams_give_the_same_batches(split: Any) -> None:
    task = make_task(thrice(split))
    assert task.batches_per_pass() == 5
    result = train(task)
    expected = train(make_task(thrice(DataLoader(TensorDataset(INPUTS, LABELS), batch_size=8))))
    assert (result.status, result.test) == ("ok", expected.test)
    stream = batches(task, 0, full_batch=False)
    seen = torch.cat([next(stream)[1] for _ in range(10)])
    assert torch.equal(seen, torch.cat([LABELS, LABELS]))


@pytest.mark.parametrize(
    "data",
    [
        {"inputs": ARRAY, "labels": LABELS.numpy()},
        thrice({"inputs": INPUTS, "labels": LABELS}),
    ],
    ids=["whole", "splits"],
)
def test_a_dict_of_arrays_gives_dict_batches_in_an_order_that_follows_from_the_seed(data: Any) -> None:
    task = make_task(data, loss=lambda model, batch: functional.cross_entropy(model(batch["inputs"]), batch["labels"]))
    first, second, different = (train_labels(task, seed) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, different)
    assert sorted(first.tolist()) == sorted(task.splits.train._loader._tensors["labels"].tolist())
    assert train(task).status == "ok"
    copied = pickle.loads(pickle.dumps(task.splits.train))
    assert [len(batch["inputs"]) for batch in copied] == [len(batch["inputs"]) for batch in task.splits.train]


def train_labels(task: Task, seed: int) -> torch.Tensor:
    from thalweg.comparison.training.computation.batches import reseed_loaders

    reseed_loaders(task, seed)
    stream = batches(task, seed, full_batch=False)
    return torch.cat([next(stream)["labels"] for _ in range(task.batches_per_pass())])


@pytest.mark.parametrize(
    "data",
    [Rows(), [(INPUTS[k], int(LABELS[k])) for k in range(COUNT)], None],
    ids=["dataset", "list of examples", "three datasets"],
)
def test_datasets_are_shuffled_by_the_seed_for_training_alone(data: Any) -> None:
    whole = isinstance(data, Rows)
    task = make_task(data if whole else thrice(Rows() if data is None else data))
    assert train(task).test == train(task).test
    assert train(task).status == "ok"
    validation = torch.cat([labels for _, labels in task.splits.validation])
    assert len(validation) == (COUNT // 5 if whole else COUNT)
    assert whole or torch.equal(validation, LABELS)
    assert not torch.equal(torch.cat([labels for _, labels in task.splits.train])[: COUNT // 2], LABELS[: COUNT // 2])


def test_three_loaders_in_a_tuple_or_a_dict_are_splits() -> None:
    loader = DataLoader(TensorDataset(INPUTS, LABELS), batch_size=8)
    for data in ((loader, loader, loader), {"train": loader, "validation": loader, "test": loader}):
        assert len(make_task(data).splits.test) == 5


def batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


def of_two_tensors() -> nn.Module:
    class Two(WithLogits):
        def forward(self, inputs: torch.Tensor) -> Any:
            return self.inner(inputs), inputs

    return Two()


class NeedsWidth(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()


def loss_of_own(model: nn.Module, batch: Any) -> torch.Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


MSE = supervised(nn.MSELoss())
LOADER = DataLoader(TensorDataset(INPUTS, LABELS), batch_size=8)


@pytest.mark.parametrize(
    ("parts", "message", "remedy"),
    [
        ({"data": (INPUTS, LABELS + 0.5)}, r"class labels must be whole numbers, got .\.5 in a target", "dtype int64"),
        ({"data": (INPUTS, LABELS.float()), "loss": loss_of_own}, "got RuntimeError: expected", "pass labels.long()"),
        ({"data": (INPUTS, LABELS[:, None])}, r"one dimension less than the output .*\(24, 1\)", "labels.squeeze(1)"),
        ({"data": (INPUTS, LABELS + 1)}, "IndexError: Target 3 is out of bounds", "between 0 and the number"),
        (
            {"data": (INPUTS, LABELS), "loss": MSE, "model": lambda: nn.Linear(4, 1)},
            r"must have one shape for MSELoss, got \(24, 1\) and \(24,\)",
            "target.unsqueeze(1)",
        ),
        ({"data": (INPUTS.double(), LABELS)}, "got Double and Float", "pass data.float()"),
        ({"data": (INPUTS, LABELS), "model": lambda: classifier().double()}, "got Float and Double", "data.double()"),
        ({"data": (INPUTS.to(torch.uint8), LABELS)}, "got Byte and Float", "inputs.float() / 255"),
        ({"data": (INPUTS, INPUTS, LABELS)}, "takes 2 positional arguments but 3", "Write the loss as a function"),
        ({"data": {"x": INPUTS, "y": LABELS}}, "got a dict with the keys 'x', 'y'", "cross_entropy(model(batch['x'])"),
        ({"data": INPUTS}, "must hold inputs and a target, got 1 tensor", "model(batch[0]), batch[0])"),
        ({"model": of_two_tensors}, "a tensor, or an object with logits, got tuple with 2", "model(batch[0])[0]"),
        (
            {"model": of_two_tensors, "loss": loss_of_own},
            "argument 'input' .* must be Tensor, not tuple",
            "or model(batch[0])[0]",
        ),
        ({"model": NeedsWidth}, r"__init__\(\) missing 1 required", "lambda: Model(...)"),
        ({"data": (INPUTS[:55], LABELS[:55]), "model": batch_norm, "batch_size": 23}, "has 1 of 24 ex", "batch_size"),
        (
            {"data": thrice(DataLoader(TensorDataset(INPUTS, LABELS), batch_size=39)), "model": batch_norm},
            "which has 1 of 40 examples",
            "drop_last=True",
        ),
        ({"data": thrice(DataLoader(EndlessStream(), batch_size=8))}, "more than 50 batches", "method __len__"),
        ({"data": thrice(DataLoader(ExhaustedStream(), batch_size=8))}, "batches in each pass", "must begin anew"),
        ({"data": thrice(iter(BATCHES))}, "list_iterator, which can be read once", "Pass list"),
        ({"data": thrice(DataLoader(Rows(), batch_size=64, drop_last=True))}, "of length 0", "smaller batch_size"),
        ({"data": thrice([])}, "at least 1 batch, got list of length 0", "Pass more data"),
        ({"data": thrice(TensorDataset(INPUTS[:0], LABELS[:0]))}, r"got lengths \[0, 0\]", ""),
        ({"data": thrice([INPUTS, INPUTS])}, "a list of tensors, which may be either", "Pass a tuple"),
        ({"data": LOADER}, "got one DataLoader", "thalweg.Splits(train, validation, test)"),
        ({"data": (LOADER, LOADER)}, "got a tuple of DataLoader, DataLoader", "with None for a test set"),
        ({"data": None}, "hold inputs and a target, got a task without data", "Pass data to the task"),
        ({"data": (np.array([["a"]] * COUNT), LABELS)}, "part 0 of the whole split .* no numbers", "Encode text"),
        ({"data": ([[1.0], [1.0, 2.0]] * 20, LABELS)}, "rows of different lengths", "pad sequences"),
        ({"data": thrice([1.0, 2.0])}, "a loader must yield batches, .* got float", "DataLoader makes batches"),
        ({"data": lambda: 1 / 0}, "data must be readable, got ZeroDivisionError", ""),
        ({"loss": lambda model, batch: loss_of_own(model, batch).item()}, "0-d tensor, got float", "loss itself"),
        ({"loss": lambda model, batch: model(batch[0])}, r"0-d tensor, got shape \(24, 3\)", "Take the mean"),
        ({"metric": lambda model, batch: "0.3"}, "a metric must be a number or a 0-d tensor, got str", "the mean over"),
        ({"data": (INPUTS.half(), LABELS)}, "got Half and Float", "pass data.float()"),
        ({"data": (INPUTS.to(torch.complex64), LABELS)}, "got Complex", "torch.view_as_real(data)"),
        ({"data": (INPUTS.to_sparse(), LABELS)}, "data must be readable", "pass data.to_dense()"),
        ({"data": (INPUTS.short(), LABELS)}, "got Short and Float", "pass data.float()"),
        (
            {"data": (INPUTS, functional.one_hot(LABELS)), "loss": NLL},
            "multi-target not supported",
            "labels.argmax(1)",
        ),
    ],
    ids=map(str, range(36)),
)
def test_a_border_that_cannot_be_crossed_names_the_line_and_the_remedy(
    parts: dict[str, Any], message: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaders, "MAX_COUNTED_BATCHES", 50)
    parts = {"data": (INPUTS, LABELS)} | parts

    def fail() -> None:
        result = train(make_task(**parts))
        assert result.status == "failed"
        raise TaskError(result.message)

    with pytest.raises(TaskError, match=message) as error:
        fail()
    text = str(error.value)
    assert remedy in text
    assert len(re.findall(rf"\(at {re.escape(__file__)}:\d+\)", text)) == 1


def test_the_line_is_that_of_the_part_at_fault() -> None:
    def wrong(model: nn.Module, batch: Any) -> torch.Tensor:
        return model(batch[0])

    task = make_task((INPUTS, LABELS), loss=wrong)
    line = wrong.__code__.co_firstlineno
    assert task.line_of("loss") == f"{__file__}:{line}"
    assert task.line_of("model") == f"{__file__}:{classifier.__code__.co_firstlineno}"
    assert task.line_of("data") == task.made_at
    assert make_task(None).made_at == f"{__file__}:{make_task.__code__.co_firstlineno + 1}"
    assert task.on("cpu").made_at == task.made_at  # where it was made, not where it was moved
    by_class = make_task(None, NeedsWidth)
    assert by_class.line_of("model").startswith(f"{__file__}:")


def test_a_task_is_described_without_its_tensors() -> None:
    text = repr(make_task((INPUTS, LABELS), name="mine"))
    assert text == (
        "Task('mine', model=classifier, loss=supervised(cross_entropy), data=(tensor (40, 4) float32, "
        "tensor (40,) int64), batch_size=8, passes=2)"
    )
    calls: list[int] = []
    lazy = make_task(lambda: calls.append(1), metric=loss_of_own, optimum=0.5, device="cpu")
    assert re.search(r"metric=loss_of_own, data=<lambda at .*:\d+>\(\), .*optimum=0.5, device='cpu'\)$", repr(lazy))
    assert not calls
    assert "data=BatchLoader" not in repr(make_task(thrice(LOADER)))
    assert "data=DataLoader of length 5 / DataLoader" in repr(make_task(thrice(LOADER)))
    function = thalweg.tasks.TrainingFunction(train=wrong_function, name="mine")
    assert repr(function) == f"TrainingFunction('mine', {__file__}:{wrong_function.__code__.co_firstlineno})"


def wrong_function(make_optimizer: Any, report: Any) -> None:
    report(math.nan)


def test_a_model_whose_shapes_follow_from_a_batch_is_as_new_and_depends_on_its_seed_alone() -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.Dropout(0.5), nn.LazyLinear(3))

    task = make_task((INPUTS, LABELS), model)
    state = torch.get_rng_state()
    first, second, different = task.make_model(1), task.make_model(1), task.make_model(2)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.training
    assert [tuple(param.shape) for param in first.parameters()] == [(8, 4), (8,), (8,), (8,), (3, 8), (3,)]
    assert torch.equal(first[1].running_mean, torch.zeros(8))
    assert torch.equal(first[3].weight, second[3].weight)
    assert not torch.equal(first[3].weight, different[3].weight)
