"""Clues about data: values that are not finite, scales, constants, order, classes, pairs."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cases.small_trainings import CLASSES, FEATURES, answers, classes, inspected, named, network, training, values

MSE = nn.MSELoss()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_inputs_that_are_not_finite(value: float) -> None:
    batches = classes()
    batches[5][0][3, 2] = value
    (clue,) = inspected(training(network(), batches))
    assert (clue.kind, clue.certainty) == ("nan_in_data", "certain")
    assert (clue.evidence["in"], clue.evidence["batches"]) == ("input 0", 1)


def test_targets_that_are_not_finite() -> None:
    batches = values()
    batches[0][1][3] = float("nan")
    (clue,) = inspected(training(network(1), batches, MSE))
    assert (clue.kind, clue.evidence["in"]) == ("nan_in_data", "the target")


def test_missing_targets_that_the_loss_leaves_out_give_no_clue() -> None:
    batches = values()
    batches[0][1][3] = float("nan")

    def masked(output: Tensor, y: Tensor) -> Tensor:
        return torch.where(y.isnan(), torch.zeros(()), output - y.nan_to_num()).square().mean()

    assert named(training(network(1), batches, masked)) == []


class Filled(nn.Module):
    """A model that fills in missing values itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.nan_to_num())


def test_missing_inputs_that_the_model_fills_in_give_no_clue() -> None:
    batches = classes()
    batches[5][0][3, 2] = float("nan")
    assert named(training(Filled(), batches)) == []


@pytest.mark.parametrize("kind", ["floats", "tokens", "batches"])
def test_constant_inputs(kind: str) -> None:
    model: nn.Module = network()
    batches = classes()
    if kind == "tokens":
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(5, 16), nn.Tanh(), nn.Flatten(), nn.Linear(48, CLASSES))
        batches = [(torch.full((32, 3), 2), y) for _, y in batches]
    elif kind == "batches":  # each batch is one example again and again
        batches = [(x[:1].expand(32, -1), y) for x, y in batches]
    else:
        batches = [(torch.full_like(x, 0.1), y) for x, y in batches]
    assert ("inputs_constant", "certain", None) in named(training(model, batches))


def test_constant_columns_and_constant_second_inputs_give_no_clue() -> None:
    batches = classes()
    for x, _ in batches:
        x[:, 2:4] = 0.0
    assert named(training(network(), batches)) == []

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.net(x * mask)

    assert named(training(Masked(), [(x, torch.ones(32, 8), y) for x, y in classes()])) == []


def test_inputs_in_raw_units() -> None:
    raw = [(50 * x + 150, y) for x, y in classes()]
    (clue,) = inspected(training(network(), raw))
    assert (clue.kind, clue.certainty) == ("inputs_not_normalised", "likely")
    assert clue.evidence["mean by deviation"] == pytest.approx(3, rel=0.2)
    assert clue.evidence["root mean square"] == pytest.approx(158, rel=0.1)


def test_images_from_0_to_255() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3))
    images = [(torch.randint(256, (32, 1, 8, 8)).float(), y) for _, y in classes()]
    assert ("inputs_not_normalised", "likely", None) in named(training(model, images))

    class Scaled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / 128 - 1

    assert "inputs_not_normalised" not in [
        kind for kind, *_ in named(training(nn.Sequential(Scaled(), *model), images))
    ]
    normalized = nn.Sequential(nn.BatchNorm2d(1), *model)
    assert "inputs_not_normalised" not in [kind for kind, *_ in named(training(normalized, images))]


def test_inputs_times_hundred_are_possibly_a_fault_only() -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    large = [(30 * x, y) for x, y in classes()]
    assert named(training(model, large, optimizer=optimizer)) == [("inputs_not_normalised", "possible", None)]


def test_columns_of_unequal_scale_matter_to_an_optimizer_that_follows_the_gradient() -> None:
    scales = torch.logspace(-1.5, 1.5, FEATURES)
    unequal = [(x * scales, y) for x, y in classes()]
    kinds = named(training(network(), unequal))
    assert kinds[0] == ("sgd_on_badly_scaled", "likely", None)
    model = network()
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    assert "sgd_on_badly_scaled" not in [kind for kind, *_ in named(training(model, unequal, optimizer=adam))]


def test_targets_in_raw_units() -> None:
    raw = [(x, 40 * y + 1000) for x, y in values()]
    assert named(training(network(1), raw, MSE))[0] == ("targets_not_normalised", "likely", None)
    assert named(training(network(1), raw, lambda o, y: (o - y).square().mean()))[0] == (
        "targets_not_normalised",
        "likely",
        None,
    )
    model = network(1)
    with torch.no_grad():
        model[4].bias.fill_(1000.0)
    near = [(x, y + 1000) for x, y in values()]
    assert named(training(model, near, MSE)) == []


def sorted_by_target(batches: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    x, y = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
    order = y.flatten().argsort(stable=True)
    return list(zip(x[order].split(32), y[order].split(32), strict=True))


def test_sorted_batches() -> None:
    assert named(training(network(), sorted_by_target(classes()))) == [("batches_sorted", "certain", None)]
    assert ("batches_sorted", "certain", None) in named(training(network(1), sorted_by_target(values()), MSE))
    one_class = [(x, torch.zeros_like(y)) for x, y in classes()]
    assert ("batches_sorted", "likely", None) in named(training(network(), one_class))


def test_batches_of_one_class_each_in_any_order() -> None:
    blocks = sorted_by_target(classes(12))
    assert named(training(network(), blocks[::3] + blocks[1::3] + blocks[2::3])) == [("batches_sorted", "likely", None)]


def test_examples_that_are_sorted_within_each_batch_give_no_clue() -> None:
    within = [(x[y.argsort()], y.sort().values) for x, y in classes()]
    assert named(training(network(), within)) == []


def imbalanced() -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    answers_ = [(torch.rand(64, 1) < 0.05).float() for _ in range(6)]
    return [(torch.randn(64, FEATURES) + 3 * y, y) for y in answers_]


def test_a_rare_class() -> None:
    (clue,) = inspected(training(network(1), imbalanced(), nn.BCEWithLogitsLoss()))
    assert (clue.kind, clue.evidence["class"]) == ("class_imbalance", 1)
    assert clue.evidence["its share of the examples"] == pytest.approx(0.05, abs=0.03)


def test_a_rare_class_with_a_weight_gives_no_clue() -> None:
    weighted = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([19.0]))
    assert named(training(network(1), imbalanced(), weighted)) == []
    ints = [(x, y[:, 0].long()) for x, y in imbalanced()]
    assert [kind for kind, *_ in named(training(network(2), ints))] == ["class_imbalance"]
    assert named(training(network(2), ints, nn.CrossEntropyLoss(weight=torch.tensor([1.0, 19.0])))) == []


def test_labels_of_other_examples_are_possibly_a_fault() -> None:
    batches = classes(8)
    kinds = [("labels_misaligned", "possible", None), ("augmentation_too_strong", "possible", None)]
    assert named(training(network(), batches)) == []
    shuffled = [
        (x, y[torch.randperm(32, generator=torch.Generator().manual_seed(n))]) for n, (x, y) in enumerate(batches)
    ]
    assert named(training(network(), shuffled)) == kinds
    numbers = [(x, y.flip(0)) for x, y in values(8)]
    assert named(training(network(1), numbers, MSE)) == kinds
    assert named(training(network(1), values(8), MSE)) == []


def test_token_inputs_and_targets_give_no_clue() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 16), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 7))
    tokens = [(x := torch.randint(7, (16, 5)), x.roll(1, 1)) for _ in range(6)]

    def loss_fn(output: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(output.flatten(0, 1), y.flatten())

    assert named(training(model, tokens, loss_fn)) == []


def test_binary_answers_give_no_clue() -> None:
    assert named(training(network(1), answers(), nn.BCEWithLogitsLoss())) == []
