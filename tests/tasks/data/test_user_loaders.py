"""Loaders, streams and datasets that people bring: each gives the same batches, shuffled by the seed alone."""

import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from tests.tasks.data.user_data import (
    ARRAY,
    BATCHES,
    COUNT,
    INPUTS,
    LABELS,
    EndlessStream,
    Rows,
    make_task,
    thrice,
    train,
)
from thalweg.comparison.training.computation.batches import batches
from thalweg.tasks import Task


class Stream(IterableDataset):
    """A stream that ends, without a length."""

    def __iter__(self) -> Iterator[Any]:
        yield from zip(INPUTS, LABELS, strict=True)


class DeclaredStream(EndlessStream):
    def __len__(self) -> int:
        return COUNT


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
