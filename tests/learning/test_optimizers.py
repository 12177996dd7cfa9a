"""The optimizers, gradients and mistakes of the lesson, beside thalweg, autograd and numbers worked out by hand."""

import math
from types import ModuleType

import linear_regression
import logistic_regression
import numpy as np
import pytest
import small_network
import torch
from lesson import minima, mistakes
from lesson.numpy_optimizers import SGD, AdaGrad, Adam, Momentum, RMSprop, descend, full_batches, random_batches
from lesson.side_by_side import (
    LEARNING_RATES,
    SIX,
    largest_difference,
    numpy_path,
    steps_to_settle,
    thalweg_path,
)

from thalweg import optim, rules

EXAMPLES = [linear_regression, logistic_regression, small_network]


@pytest.mark.parametrize("name", SIX)
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.__name__)
def test_numpy_and_thalweg_agree_to_twelve_digits_at_every_step(example: ModuleType, name: str) -> None:
    by_numpy = numpy_path(example.PROBLEM, name, example.BEST_LR[name])
    by_thalweg = thalweg_path(example.PROBLEM, name, example.BEST_LR[name])
    assert len(by_numpy) == len(by_thalweg) == example.PROBLEM.steps + 1 >= 251
    assert largest_difference(by_numpy, by_thalweg) < 1e-12
    # The two have moved: agreement at the start would prove nothing.
    assert largest_difference(by_numpy, np.tile(by_numpy[0], (len(by_numpy), 1))) > 0.1


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.__name__)
def test_the_gradient_is_that_of_autograd(example: ModuleType) -> None:
    problem, random = example.PROBLEM, np.random.default_rng(1)
    theta = problem.start + 0.3 * random.standard_normal(len(problem.start))
    batch = random.permutation(problem.count)[:30]
    model = problem.make_model()
    torch.nn.utils.vector_to_parameters(torch.from_numpy(theta), model.parameters())
    problem.torch_loss(model, torch.from_numpy(batch)).backward()
    autograd = np.concatenate([param.grad.numpy().ravel() for param in model.parameters()])
    assert np.abs(problem.gradient(theta, batch) - autograd).max() < 1e-14 * max(1, np.abs(autograd).max())
    assert abs(example.loss(theta, batch) - problem.torch_loss(model, torch.from_numpy(batch)).item()) < 1e-14


@pytest.mark.parametrize("example", [linear_regression, logistic_regression], ids=lambda example: example.__name__)
def test_the_exact_solution_has_no_gradient(example: ModuleType) -> None:
    best = example.least_squares() if example is linear_regression else example.newton()
    assert np.abs(example.gradient(best)).max() < 1e-13
    assert np.abs(example.excess(best[None])).max() < 1e-13
    path = best + np.array([[0.0], [0.1]])
    assert example.excess(path)[1] == pytest.approx(example.loss(path[1]) / example.loss(best) - 1, rel=1e-12)


@pytest.mark.parametrize("example", EXAMPLES[:2], ids=lambda example: example.__name__)
@pytest.mark.parametrize("name", SIX)
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_the_best_learning_rate_settles_first(example: ModuleType, name: str) -> None:
    best = example.BEST_LR[name]
    place = LEARNING_RATES.index(best)
    assert 0 < place < len(LEARNING_RATES) - 1, "the best learning rate lies at the end of the range: extend it"
    settled = {
        lr: steps_to_settle(example.excess(numpy_path(example.PROBLEM, name, lr)))
        for lr in LEARNING_RATES[place - 1 : place + 2]
    }
    assert settled[best] == min(count for count in settled.values() if count)


TWO = np.array([1.0, -2.0])  # θ
SLOPE = np.array([4.0, -0.5])  # g


@pytest.mark.parametrize(
    ("optimizer", "first", "second"),
    [
        (SGD(0.1), [0.6, -1.95], [0.2, -1.9]),
        (Momentum(0.1, momentum=0.5), [0.6, -1.95], [0.0, -1.875]),
        (AdaGrad(0.1, eps=0), [0.9, -1.9], [0.9 - 0.1 / 2**0.5, -1.9 + 0.1 / 2**0.5]),
        (RMSprop(0.1, alpha=0.75, eps=0), [0.8, -1.8], [0.8 - 0.1 / 0.4375**0.5, -1.8 + 0.1 / 0.4375**0.5]),
        (Adam(0.1, betas=(0.5, 0.75), eps=0), [0.9, -1.9], [0.8, -1.8]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_two_steps_of_a_constant_gradient_by_hand(optimizer, first: list[float], second: list[float]) -> None:
    theta = optimizer.step(TWO, SLOPE)
    assert theta == pytest.approx(first, abs=1e-15)
    assert optimizer.step(theta, SLOPE) == pytest.approx(second, abs=1e-15)
    assert TWO.tolist() == [1, -2], "a step returns a new θ and leaves the old one alone"


def test_every_pass_of_random_batches_has_every_example_once() -> None:
    batches = random_batches(100, 20, 12)
    assert [len(batch) for batch in batches] == [20] * 12
    for start in (0, 5):
        assert sorted(np.concatenate(batches[start : start + 5])) == list(range(100))
    assert not np.array_equal(batches[0], batches[5])
    assert [len(batch) for batch in full_batches(7, 3)] == [7, 7, 7]


def test_settled_means_until_the_end() -> None:
    assert steps_to_settle(np.array([1.0, 0.02, 0.005, 0.02, *[0.01] * 20])) == 4
    assert steps_to_settle(np.array([1.0, 0.005, *[0.02] * 20])) is None
    assert steps_to_settle(np.array([*[1.0] * 95, *[0.0] * 5])) is None, "inside in the last tenth alone"
    assert steps_to_settle(np.array([*[1.0] * 90, *[0.0] * 10])) == 90
    assert steps_to_settle(np.array([0.0, math.nan])) is None
    assert steps_to_settle(np.zeros(5)) == 0


@pytest.mark.parametrize("beta", [0.9, 0.999])
def test_one_decay_rate_is_adam_with_equal_rates(beta: float) -> None:
    wrong = mistakes.train(mistakes.AdamWithOneRate(0.05, beta=beta), 50)
    assert wrong == pytest.approx(mistakes.train(Adam(0.05, betas=(beta, beta)), 50), abs=1e-13)
    assert np.abs(wrong - mistakes.train(Adam(0.05), 50)).max() > 1e-3


def test_momentum_without_memory_is_gradient_descent() -> None:
    wrong = mistakes.train(mistakes.MomentumWithoutMemory(0.05), 500)
    assert np.array_equal(wrong, mistakes.train(SGD(0.05), 500))


def test_adam_without_correction_takes_the_steps_of_the_formula() -> None:
    constant = np.array([3.0, -3.0])
    path = descend(mistakes.AdamWithoutCorrection(0.01, eps=0), lambda theta, batch: constant, TWO, [None] * 200)
    lengths = np.abs(np.diff(path[:, 0])) / 0.01
    assert lengths == pytest.approx([mistakes.step_length_without_correction(t) for t in range(1, 201)], rel=1e-9)
    assert lengths.argmax() == 11


def test_an_argument_too_many_is_an_error_of_python() -> None:
    assert mistakes.call_with_step_number() == "Adam.step() takes 3 positional arguments but 4 were given"


def test_rmsprop_amplifies_rounding_near_the_minimum() -> None:
    problem, lr = logistic_regression.PROBLEM, logistic_regression.BEST_LR["RMSprop"]
    longer = type(problem)(**{**vars(problem), "steps": 299})
    path, twin = numpy_path(longer, "RMSprop", lr), thalweg_path(longer, "RMSprop", lr)
    difference = np.abs(path - twin).max(axis=1)
    assert difference[299] > 1000 * difference[220]
    assert logistic_regression.excess(path)[299] < 1e-4


def test_one_optimizer_then_another_is_the_wrapper_then_of_thalweg() -> None:
    coarse = descend(RMSprop(0.05), linear_regression.gradient, linear_regression.START, full_batches(100, 100))
    fine = descend(SGD(0.5), linear_regression.gradient, coarse[-1], full_batches(100, 60))
    by_numpy = np.concatenate([coarse[:-1], fine])
    rule = rules.Switched((rules.RMSprop(lr=0.05), rules.SGD()), switch_at=100, lr_ratio=10)
    model = linear_regression.make_model()
    optimizer = optim.optimizer_for(rule)(model.parameters())
    for theta in by_numpy[1:]:
        optimizer.zero_grad()
        linear_regression.torch_loss(model, slice(None)).backward()
        optimizer.step()
        assert [model.weight.item(), model.bias.item()] == pytest.approx(theta, abs=1e-12)


def test_minima_are_where_the_slope_is_zero() -> None:
    for x in (minima.GOOD, minima.POOR, minima.BARRIER):
        assert abs(minima.slope(x)) < 1e-12
    assert minima.height(minima.GOOD) < minima.height(minima.POOR) < minima.height(minima.BARRIER)
    h = 1e-6
    assert minima.slope(0.7) == pytest.approx((minima.height(0.7 + h) - minima.height(0.7 - h)) / (2 * h), abs=1e-8)
    shares = minima.share_in_good_minimum(np.array([minima.GOOD, minima.POOR, minima.BARRIER + 1e-9, -5]))
    assert shares == 0.5
