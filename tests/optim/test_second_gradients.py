"""Second gradients (SAM) with closures and without, and closures with gradient accumulation."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.optim.perturbation import BATCHES, RHO, backward, loss_of, make, make_model, sam_by_definition, values_of
from thalweg import optim
from thalweg.errors import ParameterError
from thalweg.optim import RuleOptimizer

NAMES = ["sam(sgd)", "asam(adamw)", "clip(sam(sgd))", "moving_average(sam(sgd))", "sam(muon+adamw)"]


def by_closure(optimizer: RuleOptimizer, model: nn.Module, *, zeroes: bool = True) -> Any:
    def closure() -> float:
        if zeroes:
            optimizer.zero_grad()
        return backward(model)

    return optimizer.step(closure)


def by_block(optimizer: RuleOptimizer, model: nn.Module) -> None:
    optimizer.zero_grad()
    backward(model)
    with optimizer.perturbed():
        backward(model)
    optimizer.step()
    optimizer.zero_grad()


def by_block_of_other_batches(optimizer: RuleOptimizer, model: nn.Module) -> None:
    backward(model, BATCHES.flatten(0, 1).view(8, 4, 4))
    with optimizer.perturbed():
        backward(model, BATCHES.flatten(0, 1).view(2, 16, 4))
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize(
    "take_step",
    [
        by_closure,
        lambda optimizer, model: by_closure(optimizer, model, zeroes=False),
        by_block,
        by_block_of_other_batches,
    ],
    ids=["closure", "closure that does not zero", "block", "block, other micro-batches"],
)
def test_accumulated_gradients_give_the_step_of_the_whole_batch(
    take_step: Callable[[RuleOptimizer, nn.Module], Any],
) -> None:
    model = make_model()
    optimizer = make("sam(sgd)", model)
    for _ in range(3):
        take_step(optimizer, model)
    torch.testing.assert_close(values_of(model), sam_by_definition(3), rtol=1e-9, atol=1e-12)
    assert (values_of(model) - make_plain(3)).abs().max() > 1e-3


def make_plain(steps: int) -> Tensor:
    model = make_model()
    optimizer = optim.SGD(model.parameters(), lr=0.1, backend="loop")
    for _ in range(steps):
        optimizer.zero_grad()
        backward(model)
        optimizer.step()
    return values_of(model)


@pytest.mark.parametrize("name", NAMES)
def test_both_ways_give_the_same_bits_and_may_alternate(name: str) -> None:
    ends = []
    for ways in ((by_closure, by_closure), (by_block, by_block), (by_closure, by_block), (by_block, by_closure)):
        model = make_model()
        optimizer = make(name, model)
        for way in ways:
            way(optimizer, model)
        ends.append(values_of(model))
    assert all(torch.equal(end, ends[0]) for end in ends)


def test_the_loss_of_the_first_call_is_returned() -> None:
    model = make_model()
    expected = loss_of(model, BATCHES.flatten(0, 1)).item()
    assert by_closure(make("sam(sgd)", model), model) == pytest.approx(expected)


# --- gradients that a closure cannot repeat ---------------------------------------------------------------------------


@pytest.mark.parametrize("zeroes", [True, False])
def test_gradients_of_earlier_micro_batches_beside_a_closure_are_refused(zeroes: bool) -> None:
    model = make_model()
    optimizer = make("sam(sgd)", model)
    by_closure(optimizer, model)  # the gradients that it leaves are no error at the next step
    by_closure(optimizer, model)
    before = values_of(model)
    optimizer.zero_grad()
    backward(model, BATCHES[:3])

    def closure() -> float:
        if zeroes:
            optimizer.zero_grad()
        return backward(model, BATCHES[3:])

    with pytest.raises(
        ParameterError, match=r"all gradients must come from the closure.*loop over all micro-batches, or use"
    ):
        optimizer.step(closure)
    assert torch.equal(values_of(model), before)
    optimizer.zero_grad(set_to_none=False)
    by_closure(optimizer, model)
    expected = make_model()
    reference = make("sam(sgd)", expected)
    for _ in range(3):
        by_closure(reference, expected)
    assert torch.equal(values_of(model), values_of(expected))


def test_gradients_added_to_those_of_the_last_step_are_refused() -> None:
    model = make_model()
    optimizer = make("sam(sgd)", model)
    by_closure(optimizer, model)
    backward(model, BATCHES[:1])
    with pytest.raises(ParameterError, match="all gradients must come from the closure"):
        by_closure(optimizer, model)


def test_a_step_needs_the_second_gradient_once_each() -> None:
    model = make_model()
    optimizer = make("sam(sgd)", model)
    by_block(optimizer, model)
    backward(model)
    with pytest.raises(
        ParameterError, match=r"needs a second gradient, got no closure.*`with optimizer.perturbed\(\):`"
    ):
        optimizer.step()


def test_gradients_of_zero_need_no_second_ones() -> None:
    """The parameters are not perturbed by them. torch.distributed.checkpoint takes such a step to make the state."""
    model = make_model()
    optimizer = make("sam(sgd)", model)
    before = values_of(model)
    with pytest.raises(ParameterError, match="needs a second gradient"):
        optimizer.step()
    for param in model.parameters():
        param.grad = torch.zeros_like(param)
    optimizer.step()
    assert torch.equal(values_of(model), before)
    assert float(optimizer.state[model[0].weight]["step"]) == 1.0


def test_a_closure_that_computes_nothing_may_follow_the_block() -> None:
    """Lightning passes one to each step."""
    model = make_model()
    optimizer = make("sam(sgd)", model)
    backward(model)
    with optimizer.perturbed():
        backward(model)
    assert optimizer.step(lambda: 7.0) == 7.0
    torch.testing.assert_close(values_of(model), sam_by_definition(1), rtol=1e-9, atol=1e-12)
    backward(model)
    with optimizer.perturbed():
        backward(model)
    with pytest.raises(ParameterError, match="gradients must come from a closure or from .*, got both"):
        by_closure(optimizer, model)


# --- the block --------------------------------------------------------------------------------------------------------


def test_the_block_perturbs_by_rho_and_restores_the_parameters_if_it_fails() -> None:
    model = make_model()
    optimizer = make("sam(sgd)", model)
    before = values_of(model)
    backward(model)
    with pytest.raises(KeyError), optimizer.perturbed():
        assert float((values_of(model) - before).norm()) == pytest.approx(RHO)
        assert all(param.grad is None for param in model.parameters())
        assert torch.is_grad_enabled()
        raise KeyError
    assert torch.equal(values_of(model), before)
    backward(model)
    with pytest.raises(ParameterError, match="needs a second gradient"):
        optimizer.step()


def test_the_block_is_for_training_and_not_nested() -> None:
    model = make_model()
    optimizer = make("moving_average(sam(sgd))", model)
    by_closure(optimizer, model)
    with optimizer.perturbed():
        backward(model)
        for method in (optimizer.step, optimizer.eval, optimizer.perturbed().__enter__):
            with pytest.raises(ParameterError, match=r"got perturbed ones\. End the block `with optimizer.perturbed"):
                method()
    backward(model)
    optimizer.eval()
    with pytest.raises(ParameterError, match="those of training to be perturbed, got those of evaluation"):
        optimizer.perturbed().__enter__()
    optimizer.train()
    optimizer.zero_grad()
    with (
        pytest.raises(ParameterError, match=r"must have gradients to be perturbed, got none\. Call loss.backward"),
        optimizer.perturbed(),
    ):
        pass
    with (
        pytest.raises(ParameterError, match="the rule must need a second gradient, and it does not"),
        optim.SGD(model.parameters()).perturbed(),
    ):
        pass


@pytest.mark.parametrize("way", ["closure", "block"])
def test_parameters_that_other_code_writes_to_are_restored_and_said(way: str) -> None:
    model = make_model()
    optimizer = make("sam(sgd)", model)
    before, calls = values_of(model), []

    def closure() -> float:
        optimizer.zero_grad()
        calls.append(backward(model))
        if len(calls) == 2:
            with torch.no_grad():
                model[0].bias.clamp_(-0.1, 0.1)
        return calls[-1]

    with pytest.raises(ParameterError, match="must not be written to while the second gradient is computed"):
        if way == "closure":
            optimizer.step(closure)
        else:
            closure()
            with optimizer.perturbed():
                closure()
    assert torch.equal(values_of(model), before)


# --- L-BFGS -----------------------------------------------------------------------------------------------------------


def lbfgs(model: nn.Module) -> RuleOptimizer:
    return optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)


def reference_lbfgs(steps: int) -> Tensor:
    model = make_model()
    optimizer = lbfgs(model)
    for _ in range(steps):
        by_closure(optimizer, model)
    return values_of(model)


@pytest.mark.parametrize("first", ["none", "gradients of the optimizer before it", "zeros"])
@pytest.mark.parametrize("zeroes", [True, False, "in place"])
def test_lbfgs_takes_closures_that_zero_in_any_way(first: str, zeroes: bool | str) -> None:
    model = make_model()
    optimizer = lbfgs(model)
    if first != "none":
        backward(model, scale=3.0)
    if first == "zeros":
        optimizer.zero_grad(set_to_none=False)

    def closure() -> float:
        if zeroes:
            optimizer.zero_grad(set_to_none=zeroes is True)
        return backward(model)

    if first == "gradients of the optimizer before it" and not zeroes:
        with pytest.raises(ParameterError, match="^LBFGS: all gradients must come from the closure"):
            optimizer.step(closure)
        return
    for _ in range(2):
        optimizer.step(closure)
    assert torch.equal(values_of(model), reference_lbfgs(2))


@pytest.mark.parametrize("by", ["optimizer", "model"])
def test_a_block_whose_step_was_left_out_is_forgotten(by: str) -> None:
    model = make_model()
    optimizer = make("sam(sgd)", model)
    by_block_without_step(optimizer, model)
    (optimizer if by == "optimizer" else model).zero_grad()
    backward(model)
    with pytest.raises(ParameterError, match="a step needs a second gradient"):
        optimizer.step()
    optimizer.zero_grad()
    by_closure(optimizer, model)
    torch.testing.assert_close(values_of(model), sam_by_definition(1), rtol=1e-12, atol=0)


def by_block_without_step(optimizer: RuleOptimizer, model: nn.Module) -> None:
    backward(model)
    with optimizer.perturbed():
        backward(model)
