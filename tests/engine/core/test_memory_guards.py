"""How tensors lie in memory: which gradients and states a kernel may read directly, and which parameters overlap."""

import pytest
import torch

from tests.engine.stepping import take_steps
from thalweg import optim
from thalweg.engine.core import precision
from thalweg.engine.core.batch import ParameterBatch
from thalweg.engine.core.program import Program
from thalweg.engine.population import PopulationStepper
from thalweg.rules import NAdam, Prodigy, Rule


def batch_of(*params: torch.Tensor, columns: dict[str, list[torch.Tensor]] | None = None) -> ParameterBatch:
    return ParameterBatch(Program(optim.SGD([torch.ones(1)]).rule), params, columns or {})


def test_neighbours_in_memory_do_not_overlap_and_a_shared_number_does() -> None:
    whole = torch.arange(10.0)
    assert not batch_of(whole[:5], whole[5:]).overlaps()
    assert not batch_of(whole[5:], whole[:5]).overlaps()
    assert batch_of(whole[:6], whole[5:]).overlaps()
    assert batch_of(whole, whole[3:4]).overlaps()
    params = [whole[:5].clone().requires_grad_(), whole[5:].clone().requires_grad_()]
    assert str(optim.SGD(params, backend="compiled").prepare()).startswith("compiled")


def test_a_gradient_in_another_order_steps_as_one_in_the_order_of_its_parameter() -> None:
    values = torch.arange(12.0).view(3, 4)
    ends = []
    for grad in (values, values.t().contiguous().t()):
        param = torch.zeros(3, 4, requires_grad=True)
        optimizer = optim.Adam([param], lr=0.1, backend="compiled")
        for _ in range(2):
            param.grad = grad
            optimizer.step()
        ends.append(param.detach())
    assert torch.equal(*ends)


def test_addresses_are_given_for_gradients_that_lie_as_their_parameters_do_and_for_no_others() -> None:
    params = [torch.zeros(3, 4), torch.zeros(5)]
    batch = batch_of(*params)
    fitting = [torch.ones(3, 4), torch.ones(5)]
    addresses = batch.gradient_addresses(fitting)
    assert addresses is not None
    assert list(addresses) == [grad.data_ptr() for grad in fitting]
    for other in (torch.ones(4, 3).t(), torch.ones(3, 4, dtype=torch.float64), torch.ones(3, 4).to_sparse()):
        assert batch_of(*params).gradient_addresses([other, torch.ones(5)]) is None


def test_state_with_gaps_is_not_read_directly() -> None:
    param = torch.zeros(3, 4)
    assert batch_of(param, columns={"rows": [torch.zeros(3, 1)]}).direct_access_problem() is None
    gaps = torch.zeros(3, 2)[:, :1]
    assert (
        batch_of(param, columns={"rows": [gaps]}).direct_access_problem()
        == "parameter and state have different strides"
    )
    transposed = torch.zeros(4, 3).t()
    assert (
        batch_of(param, columns={"m": [transposed]}).direct_access_problem()
        == "parameter and state have different strides"
    )


def test_stochastic_rounding_leaves_what_is_not_finite() -> None:
    values = torch.tensor([torch.inf, -torch.inf, torch.nan, 1.0, -2.0, 0.0])
    rounded = precision._round_stochastically(values, torch.full((6,), 0xFFFF, dtype=torch.int32))
    assert torch.equal(rounded[:2], values[:2])
    assert rounded[2].isnan()
    assert torch.equal(rounded[3:], values[3:])  # exact already, so no noise moves them
    between = torch.tensor([1.0 + 2**-9, -1.0 - 2**-9])  # half way to the next in bfloat16
    down = precision._round_stochastically(between, torch.zeros(2, dtype=torch.int32))
    up = precision._round_stochastically(between, torch.full((2,), 0xFFFF, dtype=torch.int32))
    assert down.tolist() == [1.0, -1.0]
    assert up.tolist() == [1.0 + 2**-7, -1.0 - 2**-7]


@pytest.mark.parametrize("rule", [NAdam(lr=0.01), Prodigy()], ids=lambda rule: rule.name)
def test_members_that_stay_go_on_with_their_own_numbers_and_memory(rule: Rule) -> None:
    """NAdam has scalars that go from step to step; the last two of three members stay, each at its own."""
    members = [rule.with_(lr=rule.settings()["lr"] * (k + 1)) for k in range(3)]
    start = torch.linspace(-1, 1, 6)
    alone = [start.clone().requires_grad_() for _ in members]
    optimizers = [
        optim.optimizer_for(member)([param], backend="loop") for member, param in zip(members, alone, strict=True)
    ]
    stacks = {"a": torch.stack([start] * 3)}
    stepper = PopulationStepper(members, stacks)
    remaining = [0, 1, 2]
    for count in range(1, 7):
        if count == 4:
            remaining = [1, 2]
            stacks = {"a": stacks["a"][1:].clone()}
            stepper.keep(remaining, stacks)
        grads = [torch.sin(count + 3 * alone[k].detach()) for k in remaining]
        stepper.step([members[k] for k in remaining], {"a": torch.stack(grads)}, count)
        for k, grad in zip(remaining, grads, strict=True):
            alone[k].grad = grad
            optimizers[k].step()
    for row, k in zip(stacks["a"], remaining, strict=True):
        torch.testing.assert_close(row, alone[k].detach(), rtol=1e-6, atol=0)


def test_parameters_of_one_shape_at_other_numbers_do_not_step_as_one() -> None:
    params = [torch.ones(8, 8, requires_grad=True) for _ in range(8)]
    groups = [{"params": params[:4], "lr": 0.5}, {"params": params[4:], "lr": 0.25}]
    optimizer = optim.LAMB(groups, weight_decay=0.0, eps=0.0, backend="batched")
    take_steps(optimizer, *params)
    for param, lr in [(param, 0.5) for param in params[:4]] + [(param, 0.25) for param in params[4:]]:
        torch.testing.assert_close(param.detach(), torch.full((8, 8), 1 - lr))
