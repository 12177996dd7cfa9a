"""L-BFGS steps a model as one vector. It goes where it goes parameter by parameter, whatever happens on the way."""

import copy
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cases.closure_problems import WOLFE, Training, least_squares, network
from thalweg import optim
from thalweg.engine import flat_model
from thalweg.engine.flat_model import FlatModel, _PairProducts

SETTINGS: list[dict[str, Any]] = [
    {"history_size": 4, "max_iter": 6, "lr": 0.3},
    {"history_size": 4, "max_iter": 6} | WOLFE,
    {"history_size": 50, "max_iter": 9} | WOLFE,
]


def vector_of(training: Training) -> FlatModel:
    flat = training.optimizer._closure_steps._flat
    assert flat is not None
    return flat.model


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_goes_where_it_goes_parameter_by_parameter(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    joined = Training(optim.LBFGS, network(), **settings)
    ends = joined.steps(4)
    assert vector_of(joined).params
    monkeypatch.setattr(flat_model, "unsupported_reason", lambda items: "tested")
    separate = Training(optim.LBFGS, network(), **settings)
    for end, expected in zip(ends, separate.steps(4), strict=True):
        torch.testing.assert_close(end, expected, rtol=1e-9, atol=1e-12)
    assert separate.optimizer._closure_steps._flat is None
    for param, other in zip(joined.params, separate.params, strict=True):
        states = joined.optimizer.state[param], separate.optimizer.state[other]
        assert states[0].keys() == states[1].keys()
        for key, entry in states[0].items():
            assert entry.shape == states[1][key].shape
            torch.testing.assert_close(entry, states[1][key], rtol=1e-6, atol=1e-12)


def test_products_that_were_kept_have_the_bits_of_new_ones() -> None:
    training = Training(optim.LBFGS, network(), history_size=5, max_iter=7, **WOLFE)
    training.steps(3)
    model = vector_of(training)
    ((first, second), kept) = next(iter(model._products.items()))
    num_pairs = int(training.optimizer.state[training.params[0]]["num_pairs"])
    assert num_pairs > 10  # the history has been filled twice
    stacks = model._stacks[first], model._stacks[second]
    oldest = num_pairs % 5
    fresh = _PairProducts(*stacks).of(5, num_pairs)
    order = [(oldest + k) % 5 for k in range(5)]
    upper = [(order[i], order[j]) for i in range(5) for j in range(i, 5)]
    assert all(kept.of(5, num_pairs)[place] == fresh[place] for place in upper)
    newest = order[-1]
    expected = stacks[0].vectors[newest] @ stacks[1].vectors[newest]
    assert float(fresh[newest, newest]) == pytest.approx(float(expected), rel=1e-12)


def test_state_that_a_user_writes_counts() -> None:
    """Inner products that were kept are computed again. A copy of the optimizer has kept none."""
    training = Training(optim.LBFGS, network(), history_size=5, max_iter=1, lr=0.01)
    training.steps(8)
    for k, param in enumerate(training.params):
        training.optimizer.state[param]["param_changes"].mul_(2 + k)
    copied = copy.deepcopy(training.optimizer)
    params = copied.param_groups[0]["params"]

    def closure() -> torch.Tensor:
        copied.zero_grad()
        loss = training.loss(params)
        loss.backward()
        return loss

    copied.step(closure)
    (end,) = training.steps(1)
    assert torch.equal(end, torch.cat([param.detach().flatten() for param in params]))


def test_a_checkpoint_of_an_earlier_version_goes_on() -> None:
    """It had the newest pair at the end, and no number of pairs."""
    settings = {"history_size": 4, "max_iter": 3} | WOLFE
    training, resumed = (Training(optim.LBFGS, network(), **settings) for _ in range(2))
    training.steps(3)
    checkpoint = copy.deepcopy(training.optimizer.state_dict())
    num_pairs = int(checkpoint["state"][0]["num_pairs"])
    assert num_pairs % 4  # so the order differs
    for record in checkpoint["state"].values():
        del record["num_pairs"]
        for key in ("param_changes", "grad_changes"):
            record[key] = record[key].roll(-(num_pairs % 4), 0)
    with torch.no_grad():
        for param, trained in zip(resumed.params, training.params, strict=True):
            param.copy_(trained)
    resumed.optimizer.load_state_dict(checkpoint)
    for end, expected in zip(resumed.steps(3), training.steps(3), strict=True):
        torch.testing.assert_close(end, expected, rtol=1e-9, atol=1e-12)


def test_pairs_that_a_parameter_missed_are_zero_for_it() -> None:
    start, loss = least_squares()
    training = Training(optim.LBFGS, (start, loss), history_size=3, max_iter=1, lr=0.05)
    training.steps(5)
    training.loss = lambda params: loss([params[0], params[1].detach()])
    training.steps(1)
    first, second = (training.optimizer.state[param] for param in training.params)
    assert int(first["num_pairs"]) == int(second["num_pairs"]) + 1 == 5
    training.loss = loss
    training.steps(1)
    first, second = (training.optimizer.state[param] for param in training.params)
    assert int(first["num_pairs"]) == int(second["num_pairs"]) == 6
    assert not second["param_changes"][4 % 3].any()  # the pair of the step that it missed
    assert first["param_changes"][4 % 3].all()
    assert second["param_changes"][3 % 3].all()


@pytest.mark.parametrize("joined", [True, False])
def test_autocast_around_a_step_loses_no_digit(*, joined: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not joined:  # then there are products of matrices
        monkeypatch.setattr(flat_model, "unsupported_reason", lambda items: "tested")

    def ends(*, cast: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        params = [torch.randn(12, 8, requires_grad=True), torch.randn(12, requires_grad=True)]
        optimizer = optim.LBFGS(params, history_size=4, max_iter=8, **WOLFE)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = ((params[0] ** 2).sum(1) * params[1] ** 2).sum() + params[1].cosh().sum()
            loss.backward()
            return loss

        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cast):
            for _ in range(2):
                optimizer.step(closure)
        return params

    assert all(map(torch.equal, ends(cast=True), ends(cast=False)))


class Counter(TorchDispatchMode):
    """Counts operations on tensors, beside those of backward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **kwargs or {})


def test_an_iteration_takes_as_many_operations_whatever_the_history_and_the_parameters() -> None:
    """Torch takes some seven operations for each pair, and some for each parameter."""

    def operations(history_size: int, num_params: int) -> int:
        torch.manual_seed(0)
        params = [torch.randn(40, dtype=torch.float64, requires_grad=True) for _ in range(num_params)]
        optimizer = optim.LBFGS(params, history_size=history_size, max_iter=1, lr=0.05, tolerance_change=0.0)
        counter = Counter()

        def closure() -> float:
            for k, param in enumerate(params):
                param.grad = (1 + k + torch.arange(40)) * param.detach() + 0.1 * param.detach() ** 3
            return 1.0

        for _ in range(history_size + 2):
            optimizer.step(closure)
        grads = [(1 + k + torch.arange(40)) * param.detach() for k, param in enumerate(params)]

        def prepared() -> float:
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad
            return 1.0

        with counter:
            optimizer.step(prepared)
        return counter.count

    few, many = operations(5, 2), operations(45, 2)
    assert many == few
    assert few < 90
    assert operations(5, 12) - few < 10 * 12
