"""The trainings on which a diagnosis is judged."""

import math

import pytest
import torch
from torch import Tensor, nn

from benchmarks.doctor.judging.verify import verify
from benchmarks.doctor.trainings.architectures import ARCHITECTURES, explained
from benchmarks.doctor.trainings.cases import Case
from benchmarks.doctor.trainings.data import digits, split, tokens
from benchmarks.doctor.trainings.faults import CASES
from benchmarks.doctor.trainings.models import Perceptron, Shape
from benchmarks.doctor.trainings.run import Run, endless, evaluated, measured, plain_step, train
from thalweg.diagnosis.kinds import KINDS
from thalweg.tasks import Training

CAUSES = {case.kind for case in CASES.values()} - {"healthy"}


def test_there_are_enough_kinds_and_both_halves_have_most_of_them() -> None:
    assert len(CAUSES) >= 40
    judging = {case.kind for case in CASES.values() if case.held_out} - {"healthy"}
    setting = {case.kind for case in CASES.values() if not case.held_out} - {"healthy"}
    assert len(judging) >= 30
    assert len(setting) >= 30
    healthy = [case for case in CASES.values() if case.kind == "healthy"]
    assert len(healthy) >= 50
    assert sum(case.held_out for case in healthy) >= 15


@pytest.mark.filterwarnings("ignore:Using a target size")  # torch's own, of a fault that it knows
@pytest.mark.parametrize("name", CASES)
def test_a_case_takes_a_step_and_names_a_module_that_it_has(name: str) -> None:
    case = CASES[name]
    run = case.make(0)
    losses = train(run, 1)
    assert len(losses) == 1
    modules = dict(run.training.model.named_modules())
    assert case.kind == "unregistered_parameters" or all(name in modules for name in case.where)
    assert case.kind == "healthy" or case.kind in KINDS
    assert (case.cure is None) == (case.kind == "healthy")


@pytest.mark.parametrize("name", ["stale_optimizer/table", "lr_too_low/autoencoder", "healthy/table-zero-head"])
def test_cases_are_what_they_say(name: str) -> None:
    assert verify(CASES[name], 0)["as_said"]


def test_a_case_that_is_not_what_it_says_is_seen() -> None:
    table = ARCHITECTURES["table"]
    assert not verify(Case("lr_too_low", "works", table.run, table.run), 0)["as_said"]
    sick = CASES["stale_optimizer/table"].make
    assert not verify(Case("healthy", "fails", sick), 0)["as_said"]
    assert not verify(Case("stale_optimizer", "no-cure", sick, sick), 0)["as_said"]


def test_equal_seeds_give_equal_trainings_and_others_differ() -> None:
    first, second = train(ARCHITECTURES["mlp"].run(3), 3), train(ARCHITECTURES["mlp"].run(3), 3)
    assert first == second
    assert train(ARCHITECTURES["mlp"].run(4), 3) != first


def test_held_out_examples_are_no_training_examples() -> None:
    parts = split(torch.arange(100.0), torch.arange(100.0), 0)
    assert len(parts.x) == 75
    assert sorted([*parts.x.tolist(), *parts.held_out_x.tolist()]) == list(range(100))
    assert torch.equal(parts.x, parts.y)
    examples = tokens(0)
    assert torch.equal(examples.y[:, 1:], examples.x[:, :-1])
    assert digits(0).x.mean(0).abs().max() < 0.2


def test_the_metric_is_measured_in_evaluation_mode_and_the_mode_comes_back() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 1))
    seen: list[bool] = []

    def metric(model: nn.Module) -> float:
        seen.append(model.training)
        return math.nan

    training = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), [], nn.MSELoss(), metric=evaluated(metric))
    assert measured(Run(training, 0.0, 1)) == -math.inf
    assert seen == [False]
    assert model.training


def test_the_explained_share_by_hand() -> None:
    class Given(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    y = torch.tensor([[0.0], [2.0]])
    assert explained(Given(), torch.tensor([[0.5], [2.0]]), y) == pytest.approx(1 - 0.125 / 1.0)


def test_a_step_is_that_of_the_plain_loop() -> None:
    torch.manual_seed(0)
    model = Perceptron(2, 1, Shape(width=3, depth=1))
    weight = model.head.weight.detach().clone()
    x, y = torch.randn(4, 2), torch.randn(4, 1)
    training = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), [], nn.MSELoss())
    (gradient,) = torch.autograd.grad(nn.functional.mse_loss(model(x), y), [model.head.weight])
    model.head.weight.grad = torch.full_like(weight, 7.0)  # of an earlier step
    plain_step(training, x, y)
    assert torch.allclose(model.head.weight, weight - 0.1 * gradient)


def test_batches_begin_again_at_their_end() -> None:
    batches = endless([1, 2])
    assert [next(batches) for _ in range(5)] == [1, 2, 1, 2, 1]
    assert list(endless(iter([1, 2]))) == [1, 2]
