"""Changes of the data: their scale, order, classes and augmentation."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from cases.trainings import accuracy, blobs, classes, paste, repeat, score, tokens, train, values
from tests.diagnosis.changes.by_name import BY_NAME
from thalweg.tasks import Training


def test_inputs_are_normalized_in_training_and_in_the_metric() -> None:
    def make() -> Training:
        training = classes(lr=0.2)
        x, y = blobs()
        training.batches = repeat(300 * x + 5000, y)
        training.metric = accuracy(300 * blobs(seed=1)[0] + 5000, blobs(seed=1)[1])
        return training

    change = BY_NAME["inputs normalized"]
    sick, cured = make(), change.apply(make(), None)
    train(sick, 60)
    losses = train(cured, 100)
    assert score(sick) < 0.7
    assert score(cured) > 0.95
    again = paste(make(), change.code(make(), None))
    assert train(again, 100) == pytest.approx(losses, rel=1e-2)
    assert "no real numbers" in change.why_not(tokens(), None)


def test_targets_are_normalized_and_outputs_keep_their_units() -> None:
    def make() -> Training:
        training = values(lr=1e-2)
        x, y = next(repeat(*[part.clone() for part in next(iter(values().batches))], size=64))
        training.batches = repeat(x, 1000 + 40 * y)
        return training

    change = BY_NAME["targets normalized"]
    cured, sick = change.apply(make(), None), make()
    losses = train(cured, 150)
    train(sick, 150)
    x, y = next(iter(make().batches))
    error = ((cured.model(x) - y).square().mean() / y.var()).item()
    assert error < 0.5
    assert ((sick.model(x) - y).square().mean() / y.var()).item() > 10
    assert train(paste(make(), change.code(make(), None)), 150) == pytest.approx(losses, rel=1e-2)
    assert change.why_not(classes(), None) == "the targets are no real numbers"


def sorted_batches(endless: bool) -> Any:
    x, y = blobs(count=96)
    order = y.argsort(stable=True)
    batches = [(x[order][k : k + 16], y[order][k : k + 16]) for k in range(0, 96, 16)]
    return (batch for _ in range(100) for batch in batches) if endless else batches


@pytest.mark.parametrize("endless", [True, False])
def test_sorted_batches_are_shuffled(endless: bool) -> None:
    training = classes()
    training.batches = sorted_batches(endless)
    BY_NAME["shuffled batches"].apply(training, None)
    batches = [batch for batch, _ in zip(iter(training.batches), range(6), strict=False)]
    assert all(len(batch[1].unique()) == 3 for batch in batches)
    if not endless:
        labels = Counter(torch.cat([batch[1] for batch in batches]).tolist())
        assert labels == Counter(blobs(count=96)[1].tolist())
        x, y = blobs(count=96)
        for row, label in zip(*batches[0], strict=True):
            assert y[(x == row).all(1)].item() == label
    again = classes()
    again.batches = sorted_batches(endless)
    again = paste(again, BY_NAME["shuffled batches"].code(again, None))
    assert torch.equal(next(iter(again.batches))[0], batches[0][0])


def test_a_loader_is_shuffled_by_its_own_option() -> None:
    training = classes()
    training.batches = DataLoader(TensorDataset(*blobs()), batch_size=16)
    code = BY_NAME["shuffled batches"].code(training, None)
    assert "shuffle=True" in code
    assert len(list(paste(training, code).batches)) == 8


@pytest.mark.parametrize("name", ["classes balanced", "classes weighted"])
def test_rare_classes_count_as_much_as_frequent_ones(name: str) -> None:
    x, y = blobs(count=600)
    kept = (y == 0) | (torch.rand(600, generator=torch.Generator().manual_seed(0)) < 0.05)

    def make() -> Training:
        training = classes(lr=0.05)
        training.batches = repeat(x[kept], y[kept], size=32)
        return training

    training = BY_NAME[name].apply(make(), None)
    if name == "classes balanced":
        counts = torch.cat([next(iter(training.batches))[1] for _ in range(30)]).bincount()
        assert counts.min() > 0.25 * counts.sum()
    else:
        weights = training.loss_fn.weight
        shares = torch.cat([batch[1] for batch in [next(make().batches) for _ in range(1)]]).bincount(minlength=3)
        assert weights[shares.argmax()] == weights.min() < 0.5
    sick = make()
    train(sick, 60)
    train(training, 100)
    assert score(sick) < 0.6
    assert score(training) > 0.8
    assert "equally" in BY_NAME[name].why_not(_even(), None)


def _even() -> Training:
    training = classes()
    x = torch.randn(9, 4)
    training.batches = [(x, torch.arange(9) % 3)]
    return training


def test_small_batches_are_joined() -> None:
    change = BY_NAME["larger batches"]
    x, y = blobs()
    training = classes()
    training.batches = [(x[k : k + 5], y[k : k + 5]) for k in range(0, 35, 5)]
    change.apply(training, None)
    assert torch.equal(next(iter(training.batches))[0], x[:35])
    training.batches = repeat(x, y, size=32)
    assert change.why_not(training, None) == "batches have 32 examples or more"


def augmented() -> Any:
    x, y = blobs()
    generator = torch.Generator().manual_seed(0)
    while True:
        rows = torch.randint(len(x), (16,), generator=generator)
        mirrored = -x[rows] if torch.rand(1, generator=generator) < 0.5 else x[rows]
        rolled = mirrored.roll(int(torch.randint(4, (1,), generator=generator)), 1)
        yield rolled + 3 * torch.randn(rolled.shape, generator=generator), y[rows]


class Pictures(Dataset[Any]):
    """A data set with a transform."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> Any:
        x = torch.full((4,), float(index))
        return (self.transform(x) if self.transform else x), index % 3


class RandomNoise:
    """A random transform."""

    def __call__(self, x: Tensor) -> Tensor:
        return x + torch.randn(4)


class Compose:
    """Transforms one after the other."""

    def __init__(self, transforms: list[Any]) -> None:
        self.transforms = transforms

    def __call__(self, x: Tensor) -> Tensor:
        for transform in self.transforms:
            x = transform(x)
        return x


def test_augmentation_in_a_generator_is_made_neutral() -> None:
    training = classes()
    training.batches = augmented()
    change = BY_NAME["no augmentation"]
    code = change.code(training, None)
    assert "torch.randn(rolled.shape" in code
    assert change.why_not(training, None) == ""
    change.apply(training, None)
    x, y = blobs()
    batches = [next(iter(training.batches)) for _ in range(6)]
    for row, label in zip(*batches[-1], strict=True):
        assert y[(x == row).all(1)].item() == label
    assert change.why_not(classes(), None)


def test_random_transforms_of_a_data_set_are_taken_out() -> None:
    change = BY_NAME["no augmentation"]
    double = lambda x: 2 * x  # noqa: E731
    for transform in (RandomNoise(), Compose([RandomNoise(), double])):
        training = classes()
        training.batches = DataLoader(Pictures(transform), batch_size=8)
        change.apply(training, None)
        factor = 2 if isinstance(transform, Compose) else 1
        assert torch.equal(next(iter(training.batches))[0][:, 0], factor * torch.arange(8.0))
