"""Each built-in task is reproducible and can be learnt; its optimum is the lowest loss; its data are as described."""

import hashlib

import pytest
import torch
from torch.func import functional_call, grad, stack_module_state, vmap

from thalweg.errors import SettingError, TaskError
from thalweg.tasks import BUILT_IN, Task, load
from thalweg.tasks.built_in.algebra import _MODULUS
from thalweg.tasks.built_in.text import _SHA256, pinned_text

WITH_OPTIMUM = [name for name in BUILT_IN if load(name).optimum is not None]
STANDARDIZED = ["breast-cancer", "diabetes", "patches", "elevation"]


def first_examples(task: Task, count: int) -> tuple[torch.Tensor, ...]:
    train = task.splits.train
    return () if train is None else tuple(tensor[:count] for tensor in train)


def trained(task: Task, batch: tuple[torch.Tensor, ...], steps: int) -> list[float]:
    """Return the loss on a batch before each step of Adam on this batch, and after the last step."""
    model = task.make_model(0)
    # At 0.01 the deep network falls from its plateau to a worse one.
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002 if task.name == "digits-deep" else 0.01)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = task.loss(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return [*losses, task.loss(model, batch).item()]


@pytest.mark.parametrize("name", BUILT_IN)
def test_40_steps_lower_the_training_loss(name: str) -> None:
    task = load(name)
    losses = trained(task, first_examples(task, 128), 40)
    assert losses[-1] < (0.9 if name == "ackley" else 0.8) * losses[0]  # Ackley's ripples are shallow


@pytest.mark.parametrize("name", BUILT_IN)
def test_data_and_model_are_the_same_each_time(name: str) -> None:
    tasks = load(name), load(name)
    for split in ("train", "validation", "test"):
        for first, second in zip(*(task.split(split) or () for task in tasks), strict=True):
            assert torch.equal(first, second)
    states = [task.make_model(3).state_dict() for task in tasks]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", [name for name in BUILT_IN if name != "digits-batchnorm"])
def test_a_population_under_vmap_has_the_gradients_of_its_members(name: str) -> None:
    task = load(name)
    models = [task.make_model(seed) for seed in range(2)]
    batch = first_examples(task, 8)
    params, buffers = stack_module_state(models)

    class Objective(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = models[0]

        def forward(self, batch):
            return task.loss(self.model, batch)

    def loss(params, buffers):
        weights = {f"model.{key}": value for key, value in (params | buffers).items()}
        return functional_call(Objective(), weights, (batch,))

    stacked_grads = vmap(grad(loss))({key: value.detach() for key, value in params.items()}, buffers)
    for member, model in enumerate(models):
        task.loss(model, batch).backward()
        for key, param in model.named_parameters():
            assert torch.allclose(stacked_grads[key][member], param.grad, rtol=1e-3, atol=1e-6), key


def test_batch_normalization_keeps_averages_as_it_trains() -> None:
    task = load("digits-batchnorm")
    model = task.make_model(0)
    before = {key: buffer.clone() for key, buffer in model.named_buffers()}
    task.loss(model, first_examples(task, 32))
    assert before
    assert not any(torch.equal(before[key], buffer) for key, buffer in model.named_buffers())


@pytest.mark.parametrize("name", WITH_OPTIMUM)
def test_no_training_gets_below_the_optimum(name: str) -> None:
    task = load(name)
    model = task.make_model(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        loss = task.loss(model, task.splits.train or ())
        loss.backward()
        optimizer.step()
        assert loss.item() >= task.optimum - 1e-6
    if name != "ackley":  # its ripples hold every training that starts far from 0
        assert loss.item() < 0.5 * task.loss(task.make_model(0), task.splits.train or ()).item()


@pytest.mark.parametrize(("name", "poor"), [("rastrigin", 0.994959), ("ackley", 2.579928)])
def test_surfaces_with_many_minima_have_the_lowest_at_0(name: str, poor: float) -> None:
    task = load(name)
    for start, expected in ((0.2, 0.0), (0.8, poor)):  # the next minimum along one axis; its value is in the literature
        model = task.make_model(0)
        with torch.no_grad():
            model.point.copy_(torch.tensor([start, 0.1]))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.98)
        for _ in range(500):
            optimizer.zero_grad()
            loss = task.loss(model, ())
            loss.backward()
            optimizer.step()
            schedule.step()
        assert loss.item() == pytest.approx(expected, abs=1e-3)
    with pytest.raises(SettingError, match="whole number"):
        load(f"{name}:dimensions=1.5")


@pytest.mark.parametrize("name", ["quadratic", "noisy-quadratic", "noisy-quadratic:condition=7,noise=3"])
def test_the_least_value_of_a_bowl_is_at_its_minimum_over_all_examples(name: str) -> None:
    task = load(name)
    model = task.make_model(0)
    with torch.no_grad():
        model.point.copy_(model.minimum)
    loss = task.loss(model, task.splits.train or ())
    (gradient,) = torch.autograd.grad(loss, model.point)
    assert loss.item() == task.optimum
    assert torch.allclose(gradient, torch.zeros(20), atol=1e-6)


def test_the_noise_of_the_quadratic_has_the_curvature_as_its_covariance() -> None:
    task = load("noisy-quadratic:condition=100,noise=2")
    (pulls,) = task.splits.train
    curvature = task.make_model(0).curvature
    assert float((pulls.T @ pulls / len(pulls) - 4 * curvature).norm() / (4 * curvature).norm()) < 0.3
    whitened = pulls @ torch.linalg.inv(torch.linalg.cholesky(4 * curvature)).T
    assert float(whitened.square().mean()) == pytest.approx(1, abs=0.05)
    assert task.name == "noisy-quadratic:condition=100,noise=2"


def test_invalid_settings_of_the_noisy_quadratic_raise() -> None:
    with pytest.raises(SettingError, match="noisy-quadratic: condition must be a number >= 1, got 0.5"):
        load("noisy-quadratic:condition=0.5")
    with pytest.raises(SettingError, match="noisy-quadratic: noise must be a number >= 0, got -1.0"):
        load("noisy-quadratic:noise=-1")


def test_the_factors_of_the_matrix_exist() -> None:
    model = load("matrix-factorization").make_model(0)
    u, sizes, vt = torch.linalg.svd(model.target)
    assert float(sizes[3]) > 1
    assert float(sizes[4]) < 1e-4
    with torch.no_grad():
        model.left.copy_(u[:, :4] * sizes[:4])
        model.right.copy_(vt[:4].T)
    assert model().item() < 1e-10


@pytest.mark.parametrize("name", STANDARDIZED)
def test_scaling_is_decided_by_the_training_split_alone(name: str) -> None:
    splits = load(name).splits
    for part in splits.train if name in ("diabetes", "elevation") else splits.train[:1]:
        assert torch.allclose(part.mean(0), torch.zeros(part.shape[1:]), atol=1e-4)
        assert torch.allclose(part.std(0), torch.ones(part.shape[1:]), atol=1e-4)
    assert not torch.allclose(splits.test[0].mean(0), torch.zeros(splits.test[0].shape[1:]), atol=1e-4)


@pytest.mark.parametrize(("name", "count"), [("patches", 4000), ("elevation", 8686), ("modular-addition", _MODULUS**2)])
def test_a_task_has_the_stated_number_of_different_examples(name: str, count: int) -> None:
    splits = load(name).splits
    inputs = torch.cat([splits.train[0], splits.validation[0], splits.test[0]])
    assert len(inputs) == count
    assert name == "patches" or len(inputs.unique(dim=0)) == count


def test_modular_addition_adds() -> None:
    splits = load("modular-addition").splits
    for pairs, sums in (splits.train, splits.validation, splits.test):
        assert torch.equal((pairs[:, 0] + pairs[:, 1] - sums) % _MODULUS, torch.zeros_like(sums))
        assert int(sums.max()) < _MODULUS


def test_the_text_is_the_pinned_one() -> None:
    text = pinned_text()
    assert len(text) == 39_231
    assert hashlib.sha256(text.encode()).hexdigest() == _SHA256
    assert text.startswith("Comparisons yield boolean values")


def test_another_text_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    from pydoc_data.topics import topics

    monkeypatch.setitem(topics, "calls", topics["calls"].replace("trailing comma", "final comma"))
    with pytest.raises(TaskError, match=r"characters: Python's help texts must be those of .* Run this task on one"):
        load("characters").splits  # noqa: B018


def test_a_character_is_predicted_from_the_characters_before_it() -> None:
    task = load("characters")
    inputs, targets = (tensor[:4] for tensor in task.splits.train)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    model = task.make_model(0)
    changed = inputs.clone()
    changed[:, 20] = (changed[:, 20] + 1) % 128
    differs = (model(inputs) - model(changed)).abs().amax((0, 2)) > 1e-6
    assert differs.tolist() == [False] * 20 + [True] * 12
