"""The trace: the operation, the module and the line that made the first value that is not finite."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thalweg.diagnosis.monitoring import NonFinite, Record, TraceAt, trace_nonfinite, traced_clues

X, Y = torch.ones(3, 2), torch.zeros(3, 1)


class Body(nn.Module):
    """A function between two layers, in a module of its own."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def model_with(function: Callable[[Tensor], Tensor]) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), Body(function), nn.Linear(4, 1))


ZERO = torch.zeros(4)


@pytest.mark.parametrize(
    ("function", "kind", "operation", "backward"),
    [
        (lambda h: (h * ZERO).sqrt(), "nan_from_sqrt", "SqrtBackward0", True),
        (lambda h: (h * ZERO).abs() ** 0.5, "nan_from_sqrt", "PowBackward0", True),
        (lambda h: (h * ZERO).abs().log(), "nan_from_log", "log", False),
        (lambda h: torch.log1p((h * ZERO) - 1), "nan_from_log", "log1p", False),
        (lambda h: h / (h * ZERO), "nan_from_division", "div", False),
        (lambda h: (h * ZERO).reciprocal(), "nan_from_division", "reciprocal", False),
        (lambda h: (h * 1e30).exp(), "", "exp", False),
    ],
)
def test_the_operation_is_found_in_the_model(
    function: Callable[[Tensor], Tensor], kind: str, operation: str, backward: bool
) -> None:
    origin = trace_nonfinite(model_with(function), nn.functional.mse_loss, (X, Y))
    assert origin is not None
    assert (origin.kind, origin.operation, origin.backward) == (kind, operation, backward)
    assert origin.source == "operation"
    assert origin.where == (None if backward else "1")
    assert origin.line.startswith("test_trace.py:")


def test_the_line_is_that_of_the_user() -> None:
    def loss_fn(output: Tensor, target: Tensor) -> Tensor:
        shifted = output - output.detach()
        return shifted.square().sum(1).sqrt().mean()

    origin = trace_nonfinite(nn.Linear(2, 1), loss_fn, (X, Y))
    assert origin is not None
    assert origin.line == f"test_trace.py:{inspect.getsourcelines(loss_fn)[1] + 2}"
    assert origin.kind == "nan_from_sqrt"


def test_what_came_in_is_told_from_what_was_made() -> None:
    bad = X.clone()
    bad[1, 1] = math.nan
    data = trace_nonfinite(nn.Linear(2, 1), nn.functional.mse_loss, (bad, Y))
    assert data is not None
    assert (data.kind, data.source, data.where) == ("nan_in_data", "input", None)
    targets = trace_nonfinite(nn.Linear(2, 1), nn.functional.mse_loss, (X, Y / 0))
    assert targets is not None
    assert targets.kind == "nan_in_data"
    model = model_with(torch.relu)
    with torch.no_grad():
        model[2].weight[0, 1] = math.inf
    weight = trace_nonfinite(model, nn.functional.mse_loss, (X, Y))
    assert weight is not None
    assert (weight.kind, weight.source, weight.where) == ("", "parameter", "2.weight")


def test_half_precision_overflows() -> None:
    model = model_with(lambda h: (h + 20).exp()).half()
    origin = trace_nonfinite(model, lambda output, target: output.float().mean(), (X.half(), Y))
    assert origin is not None
    assert (origin.kind, origin.operation, origin.where, origin.dtype) == ("fp16_overflow", "exp", "1", "float16")
    model = nn.BatchNorm1d(2)
    model.register_buffer("big", torch.tensor(1e10))
    model.forward = lambda x: x * model.big
    origin = trace_nonfinite(model.half(), lambda output, target: output.mean(), (X.half().requires_grad_(), Y))
    assert origin is not None
    assert (origin.kind, origin.source, origin.where) == ("fp16_overflow", "buffer", "big")


def test_a_mask_of_minus_infinity_is_no_fault() -> None:
    def attend(h: Tensor) -> Tensor:
        scores = h @ h.T
        shares = scores.masked_fill(torch.ones(3, 3, dtype=torch.bool).triu(1), -math.inf).softmax(-1)
        return shares @ h

    def gate(h: Tensor) -> Tensor:
        return torch.where(h > 0, h, torch.tensor(-math.inf)).exp() + torch.full((), -math.inf).exp()

    assert trace_nonfinite(model_with(attend), nn.functional.mse_loss, (X, Y)) is None
    assert trace_nonfinite(model_with(gate), nn.functional.mse_loss, (X, Y)) is None
    later = trace_nonfinite(model_with(lambda h: attend(h) / ZERO), nn.functional.mse_loss, (X, Y))
    assert later is not None
    assert later.operation == "div"


def test_a_trace_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    model[0].weight.grad = torch.ones(4, 2)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    rng = torch.random.get_rng_state()
    assert trace_nonfinite(model, nn.functional.mse_loss, (torch.randn(3, 2), Y)) is None
    torch.random.set_rng_state(rng)
    origin = trace_nonfinite(model, lambda output, target: output.sum() / 0, (X, Y))
    assert origin is not None
    assert torch.equal(torch.random.get_rng_state(), rng)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(model[0].weight.grad, torch.ones(4, 2))
    assert model[3].weight.grad is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not torch.is_anomaly_enabled()


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_a_step_of_a_loop_is_traced_with_the_gradient_of_the_step_before(optimizer: Any) -> None:
    model = nn.Linear(2, 1)
    steps = optimizer(model.parameters(), lr=0.1)
    losses = []
    with TraceAt(model, 3) as trace:
        for number in range(6):
            steps.zero_grad()
            distance = (model(X) - (model(X).detach() if number == 2 else 5.0)).square().sum()
            loss = distance.sqrt()
            loss.backward()
            steps.step()
            losses.append(loss.item())
            trace.step(loss)
    assert [math.isfinite(loss) for loss in losses] == [True] * 3 + [False] * 3
    assert trace.origin is not None
    assert (trace.origin.kind, trace.origin.backward) == ("nan_from_sqrt", True)


def test_the_clue_of_a_trace_is_certain_unless_the_training_had_exploded() -> None:
    origin = trace_nonfinite(model_with(lambda h: (h * ZERO).abs().log()), nn.functional.mse_loss, (X, Y))
    assert origin is not None
    record = Record(losses=[1.0] * 30 + [math.nan], non_finite=NonFinite(30, None, "loss"))
    (clue,) = traced_clues(record, origin)
    assert (clue.kind, clue.certainty, clue.where, clue.since) == ("nan_from_log", "certain", "1", 30)
    record.losses[20:30] = [1e9] * 10
    (clue,) = traced_clues(record, origin)
    assert clue.certainty == "possible"
    assert traced_clues(record, None) == []
    assert traced_clues(Record(), origin) == []


def test_a_row_that_is_masked_whole_is_due_to_its_mask_and_no_overflow() -> None:
    model = model_with(lambda h: h.masked_fill(torch.ones(4, dtype=torch.bool), -math.inf).softmax(-1)).half()
    origin = trace_nonfinite(model, lambda output, target: output.float().mean(), (X.half(), Y))
    assert origin is not None
    assert (origin.kind, origin.source, origin.operation) == ("", "constant", "masked_fill")
