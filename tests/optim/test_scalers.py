"""Gradient scalers of mixed precision, with second gradients and with closures."""

import pytest
import torch

from tests.optim.perturbation import backward, make, make_model, sam_by_definition, values_of
from thalweg.errors import ParameterError
from thalweg.optim import optimizer_for

# --- scalers ----------------------------------------------------------------------------------------------------------


def test_a_scaler_works_with_the_block_and_skips_steps_that_overflow() -> None:
    model = make_model(torch.float32)
    optimizer = make("sam(sgd)", model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)
    for step in range(4):
        before = values_of(model)
        overflow = torch.inf if step == 2 else 1.0
        backward(model, scale=float(scaler.get_scale()))
        scaler.scale(torch.zeros((), requires_grad=True)).backward()
        with optimizer.perturbed():
            backward(model, scale=float(scaler.get_scale()) * overflow)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert torch.equal(values_of(model), before) == (step == 2)
    assert scaler.get_scale() == 2.0**13
    torch.testing.assert_close(values_of(model).double(), sam_by_definition(3), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        (
            "sam(sgd)",
            r"Call scaler.scale\(loss\).backward\(\), compute the second gradient .* `with optimizer.perturbed",
        ),
        ("sgd", r"Call scaler.scale\(loss\).backward\(\), then scaler.step\(optimizer\)\."),
        ("lbfgs", "Train in bfloat16 or float32"),
    ],
)
@pytest.mark.parametrize("zeroed", [True, False])
def test_a_scaler_with_a_closure_is_refused(name: str, remedy: str, zeroed: bool) -> None:
    model = make_model(torch.float32)
    optimizer = optimizer_for(name)(model.parameters(), lr=0.1)
    torch.optim.lr_scheduler.ConstantLR(optimizer)  # it wraps `step`
    scaler = torch.amp.GradScaler("cpu")
    before = values_of(model)
    backward(model, scale=0.0 if zeroed else scaler.get_scale())
    scaler.scale(torch.ones(())).item()

    def closure() -> float:
        optimizer.zero_grad()
        return backward(model, scale=scaler.get_scale())

    with pytest.raises(ParameterError, match=rf"a scaler must step without a closure, .* got one\. {remedy}"):
        scaler.step(optimizer, closure)
    assert torch.equal(values_of(model), before)


def test_a_scaler_that_is_disabled_passes_a_closure_on() -> None:
    model = make_model()
    optimizer = make("sam(sgd)", model)

    def closure() -> float:
        optimizer.zero_grad()
        return backward(model)

    torch.amp.GradScaler("cpu", enabled=False).step(optimizer, closure)
    torch.testing.assert_close(values_of(model), sam_by_definition(1), rtol=1e-9, atol=1e-12)


def test_a_scaler_must_unscale_after_the_block() -> None:
    model = make_model(torch.float32)
    optimizer = make("sam(sgd)", model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    backward(model, scale=1024.0)
    scaler.scale(torch.ones(()))  # which creates its scale
    scaler.unscale_(optimizer)  # as to clip the first gradient
    with optimizer.perturbed():
        backward(model, scale=1024.0)
    before = values_of(model)
    with pytest.raises(ParameterError, match="a scaler must unscale the second gradients"):
        scaler.step(optimizer)
    assert torch.equal(values_of(model), before)
