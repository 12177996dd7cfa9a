"""Numbers of a task that are tuned: their declarations, their ranges, and the task at values of them."""

import copy
import pickle
from collections import Counter

import pytest
import torch
from torch import nn

import thalweg
from thalweg.errors import SettingError, TaskError
from thalweg.rules import Range
from thalweg.tasks import Splits, Task, TrainingFunction
from thalweg.tasks.tuning import code_of_tunables, task_at, tunables_of_task
from thalweg.tasks.tuning.tunable import Tunable, fix, tunable_of, tunables_of


def make_model(width: int = thalweg.choice(4, 8), dropout: float = thalweg.range(0.0, 0.5)) -> nn.Module:
    return nn.Sequential(nn.Linear(2, width), nn.Dropout(dropout), nn.Linear(width, 1))


def task(**parts: object) -> Task:
    data = (torch.ones(50, 2), torch.ones(50, 1))
    given: dict[str, object] = {"model": make_model, "loss": thalweg.supervised(nn.functional.mse_loss), "data": data}
    return Task(**(given | parts))  # type: ignore[arg-type]


def test_a_declaration_is_a_number() -> None:
    batch_size, clip, layers = thalweg.choice(64, 32), thalweg.log_range(0.1, 10.0), thalweg.range(1, 4)
    assert (batch_size, clip, layers) == (64, 1.0, 2)
    assert [type(number).__mro__[1] for number in (batch_size, clip, layers)] == [int, float, int]
    assert batch_size + 1 == 65
    assert len(range(layers)) == 2


def test_a_declaration_knows_its_range() -> None:
    def train(make_optimizer, report, size=thalweg.choice(64, 16, 32), clip=thalweg.log_range(0.1, 10.0), other=3): ...

    found = tunables_of(train)
    assert list(found) == ["size", "clip"]
    assert found["size"].search == Range(16, 64, values=(16, 32, 64))
    assert found["size"].default == 64
    assert found["clip"].search == Range(0.1, 10.0, "log")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda number: pickle.loads(pickle.dumps(number))])
@pytest.mark.parametrize(
    "number", [thalweg.choice(1, 2), thalweg.range(0.0, 0.5), thalweg.choice("a", "b"), thalweg.choice(True, False)]
)
def test_a_copy_is_the_same_declaration(copied, number) -> None:
    assert copied(number) == number
    assert tunable_of(copied(number)) == tunable_of(number) is not None


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: thalweg.choice(32), r"two or more different values, .* got \(32,\)"),
        (lambda: thalweg.choice(32, 32), "two or more different values"),
        (lambda: thalweg.choice(32, 64, default=16), "the default among them, .* with the default 16"),
        (
            lambda: thalweg.choice(nn.ReLU, nn.GELU),
            "must be finite numbers, texts, True, .*ReLU.* Give each object a name",
        ),
        (lambda: thalweg.choice(1.0, float("nan")), "must be finite numbers, .* got nan"),
        (lambda: thalweg.choice(True, 1), r"two or more different values"),
        (lambda: thalweg.choice("relu", "gelu", default="tanh"), "the default among them"),
        (lambda: thalweg.range(1.0, 1.0), "low must be below high"),
        (lambda: thalweg.range(0.0, float("inf")), "both finite numbers"),
        (lambda: thalweg.log_range(0.0, 1.0), r"low must be > 0, .* Use thalweg\.range"),
        (lambda: thalweg.range(0, 1), r"hold 3 or more, got 0 to 1. Write thalweg\.choice\(0, 1\), or 0\.0 and 1\.0"),
        (lambda: thalweg.range(0.0, 1.0, default=2.0), "the default must lie in the range, 0.0 to 1.0, got 2.0"),
        (lambda: thalweg.range(1, 5, default=2.5), "the default must be a whole number in the range, 1 to 5, got 2.5"),
        (lambda: thalweg.range(True, 5), "low must be below high, both finite numbers, got True and 5"),
        (lambda: thalweg.choice([1, 2]), "the values must be arguments of their own, got "),
        (lambda: thalweg.choice(1, 2, default="1"), "with the default '1'"),
    ],
)
def test_a_wrong_declaration_is_refused(declare, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        declare()


def test_choices_and_whole_numbers_have_equal_shares_of_the_positions() -> None:
    sizes, layers = Range(32, 128, values=(32, 64, 128)), Range(1, 4, whole=True)
    places = [(k + 0.5) / 1200 for k in range(1200)]
    assert Counter(map(sizes.value_at, places)) == {32: 400, 64: 400, 128: 400}
    assert Counter(map(layers.value_at, places)) == {1: 300, 2: 300, 3: 300, 4: 300}
    for bounds in (sizes, layers, Range(16, 256, "log", whole=True)):
        assert bounds.value_at(0.0) == bounds.low
        assert bounds.value_at(1.0) == bounds.high
        for value in (bounds.low, bounds.high, bounds.clamp(70)):
            assert bounds.value_at(bounds.position(value)) == value


def test_the_end_of_a_choice_is_its_first_or_last_of_three_or_more() -> None:
    three, two, whole = Range(1, 3, values=(1, 2, 3)), Range(1, 2, values=(1, 2)), Range(1, 4, whole=True)
    assert [three.end_near(value, 0.05) for value in (1, 2, 3)] == ["lower", None, "upper"]
    assert [two.end_near(value, 0.05) for value in (1, 2)] == [None, None]
    assert [whole.end_near(value, 0.05) for value in (1, 2, 3, 4)] == ["lower", None, None, "upper"]
    assert [Range(0.0, 1.0).end_near(value, 0.05) for value in (0.04, 0.06, 0.96)] == ["lower", None, "upper"]


def test_ranges_survive_a_store_and_old_ranges_keep_their_form() -> None:
    unordered = Range(0, 2, values=("gelu", None, True))
    for bounds in (Range(1, 4, whole=True), Range(1, 3, values=(1, 3)), Range(0.1, 1.0, "log"), unordered):
        assert Range.from_json(bounds.to_json()) == bounds
    assert Range(0.1, 1.0, "log").to_json() == {"low": 0.1, "high": 1.0, "scale": "log"}


def test_texts_booleans_and_none_are_choices_without_an_order() -> None:
    name, bias, clip = thalweg.choice("relu", "gelu"), thalweg.choice(False, True), thalweg.choice(None, 0.5, 1.0)
    assert (f"{name}!", {"relu": 1}[name], str(bias), bool(bias), clip + 1) == ("relu!", 1, "False", False, 1.5)
    searched = [tunable_of(value).search for value in (name, bias, clip)]  # type: ignore[union-attr]
    assert [bounds.values for bounds in searched] == [("relu", "gelu"), (False, True), (None, 0.5, 1.0)]
    assert [bounds.is_ordered for bounds in searched] == [False, False, False]
    assert Range(1, 3, values=(1, 3)).is_ordered
    for bounds in searched:
        for value in bounds.values:
            assert bounds.value_at(bounds.position(value)) is value
            assert bounds.end_near(value, 0.5) is None
        with pytest.raises(ValueError, match="'tanh' is none of"):
            bounds.clamp("tanh")


@pytest.mark.parametrize(
    ("value", "fixed"),
    [("gelu", "gelu"), ("GELU", "gelu"), ("none", None), ("True", True), (None, None), (True, True), ("0.5", 0.5)],
)
def test_a_choice_is_fixed_at_one_of_its_values(value: object, fixed: object) -> None:
    tunables = tunables_of(lambda kind=thalweg.choice("gelu", None, True, 0.5): kind)
    assert fix(tunables, {"kind": value}, "mine")["kind"] == Tunable(fixed, None)  # type: ignore[dict-item]
    assert fix(tunables, {}, "mine") == tunables


@pytest.mark.parametrize("value", ["relu", 1, 1.0, False])  # 1 is not True
def test_a_value_that_is_no_choice_is_refused(value: object) -> None:
    tunables = tunables_of(lambda kind=thalweg.choice("gelu", None, True, 0.5): kind)
    with pytest.raises(SettingError, match=r"mine: kind must be one of 'gelu', None, True, 0.5, got"):
        fix(tunables, {"kind": value}, "mine")  # type: ignore[dict-item]


@pytest.mark.parametrize("value", ["12", 12, "7.5", 8.5, "big", True, None])
def test_a_number_that_is_no_choice_is_refused(value: object) -> None:
    tunables = tunables_of(lambda size=thalweg.choice(8, 16): size)
    shown = {"12": "12", "7.5": "7.5", "big": "'big'"}.get(value, repr(value))  # type: ignore[call-overload]
    with pytest.raises(SettingError, match=rf"mine: size must be one of 8, 16, got {shown}\. Take one of them"):
        fix(tunables, {"size": value}, "mine")  # type: ignore[dict-item]
    fixed = fix(tunables, {"size": "16.0"}, "mine")["size"].default
    assert (fixed, type(fixed)) == (16, int)


RANGES = tunables_of(
    lambda depth=thalweg.range(1, 4), width=thalweg.log_range(16, 256), drop=thalweg.range(0.1, 0.5): None
)


def test_a_fixed_number_may_lie_beyond_its_range_which_says_what_is_searched() -> None:
    fixed = fix(RANGES, {"depth": "8", "width": 8, "drop": "0"}, "mine")
    assert [(each.default, each.search) for each in fixed.values()] == [(8, None), (8, None), (0.0, None)]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("depth", "2.5", "must be a whole number, as its range is, got 2.5"),
        ("width", 20.5, "must be a whole number, as its range is, got 20.5"),
        ("width", "0", "must be > 0, since its logarithm is searched, got 0"),
        ("width", -16, "must be > 0, since its logarithm is searched, got -16"),
        ("drop", "much", "must be a finite number, got 'much'"),
        ("drop", True, "must be a finite number, got True"),
        ("drop", None, "must be a finite number, got None"),
        ("drop", "inf", "must be a finite number, got inf"),
        ("depth", "inf", "must be a finite number, got inf"),
    ],
)
def test_a_number_of_another_kind_than_its_range_is_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(SettingError, match=f"mine: {name} {message}"):
        fix(RANGES, {name: value}, "mine")  # type: ignore[dict-item]


def test_a_search_starts_within_a_range() -> None:
    drop = RANGES["drop"]
    for value in (0.1, 0.3, 0.5):
        drop.check_start(value, "sgd: drop")
    for value in (0.09, 0.51):
        message = f"sgd: drop must lie in its range, 0.1 to 0.5, to start a search, got {value:g}. Widen the range"
        with pytest.raises(SettingError, match=message):
            drop.check_start(value, "sgd: drop")
    with pytest.raises(SettingError, match="must be a whole number"):
        RANGES["depth"].check_start(2.5, "sgd: depth")


def test_the_numbers_of_a_task_itself_are_no_texts() -> None:
    with pytest.raises(TaskError, match="batch_size must be a whole number, got the choices 8, None"):
        tunables_of_task(task(batch_size=thalweg.choice(8, None)))


def test_a_task_declares_arguments_of_its_model_and_its_own_numbers() -> None:
    declared = task(batch_size=thalweg.choice(8, 16), passes=thalweg.range(2, 6))
    assert list(tunables_of_task(declared)) == ["width", "dropout", "batch_size", "passes"]
    at = task_at(declared, {"width": 8, "dropout": 0.25, "batch_size": 16, "passes": 3})
    model = at.make_model(0)
    assert model[0].out_features == 8
    assert model[1].p == 0.25
    assert (at.batch_size, at.passes, at.batches_per_pass()) == (16, 3, 2)
    assert at.splits is declared.splits
    assert task_at(declared, {}) is declared


def test_a_training_function_gets_the_values() -> None:
    got = []

    def train(make_optimizer, report, size=thalweg.choice(8, 16), clip=thalweg.range(0.0, 1.0)):
        got.append((size, clip))

    function = TrainingFunction(train=train)
    task_at(function, {"size": 16, "clip": 0.25}).run(print, print)
    function.run(print, print)
    assert got == [(16, 0.25), (8, 0.5)]


def test_names_that_mean_two_things_are_refused() -> None:
    with pytest.raises(TaskError, match="must not have the name of the task's own number, got 'passes'"):
        tunables_of_task(task(model=lambda passes=thalweg.choice(1, 2): nn.Linear(2, 1)))


def test_the_batch_size_of_a_loader_cannot_be_tuned() -> None:
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(8, 2), torch.ones(8, 1)))
    with pytest.raises(TaskError, match="batch_size can be tuned for data in memory, got a DataLoader"):
        tunables_of_task(task(data=Splits(loader, loader, loader), batch_size=thalweg.choice(8, 16)))


def test_the_code_says_where_each_value_goes() -> None:
    def train(make_optimizer, report, size=thalweg.choice(8, 16), device="cpu", clip=thalweg.range(0.0, 1.0)): ...

    assert code_of_tunables(TrainingFunction(train=train)) == [
        "train(make_optimizer, report, size={size}, clip={clip})"
    ]
    assert code_of_tunables(task(batch_size=thalweg.choice(8, 16))) == [
        "model = make_model(width={width}, dropout={dropout})",
        "batch_size = {batch_size}",
    ]
    assert code_of_tunables(task(model=lambda: nn.Linear(2, 1))) == []


def test_a_fixed_number_is_not_searched_and_keeps_its_kind() -> None:
    declared = tunables_of(make_model)
    fixed = fix(declared, {"width": 8.0}, "mine")
    assert (fixed["width"].default, fixed["width"].search) == (8, None)
    assert isinstance(fixed["width"].default, int)
    assert fixed["dropout"] == declared["dropout"]
    with pytest.raises(
        SettingError, match=r"mine: 'widht' must be an argument that the task tunes.*Did you mean width"
    ):
        fix(declared, {"widht": 16.0}, "mine")
    with pytest.raises(SettingError, match=r"it tunes none. Write batch_size=thalweg.choice"):
        fix({}, {"width": 16.0}, "mine")


def test_an_argument_that_cannot_be_named_cannot_be_tuned() -> None:
    def positional(width=thalweg.choice(1, 2), /): ...

    with pytest.raises(
        SettingError, match="positional: a tuned argument must be passed by name, got 'width' before the /"
    ):
        tunables_of(positional)
