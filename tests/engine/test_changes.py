"""Changes between steps that a kernel must follow: gradients, parameters, state, groups."""

from collections import defaultdict
from typing import Any

import pytest
import torch

from tests.engine.stepping import take_steps
from thalweg import optim
from thalweg.engine.eager import loop
from thalweg.engine.kernels import c_compiler
from thalweg.errors import ParameterError, SettingError


def prepare(*shape: int, **settings: Any) -> tuple[torch.Tensor, optim.RuleOptimizer]:
    param = torch.ones(shape, requires_grad=True)
    optimizer = optim.Adam([param], **settings)
    optimizer.prepare()
    take_steps(optimizer, param)
    return param, optimizer


def replace_gradient(param: torch.Tensor, grad: torch.Tensor) -> None:
    param.grad = torch.ones_like(param)
    param.grad.data = grad


@pytest.mark.parametrize(
    ("grad", "message"),
    [
        (torch.ones(2, 3, dtype=torch.complex64), "the dtype of its parameter, torch.float32, got torch.complex64"),
        (torch.ones(2, 3, dtype=torch.int32), "the dtype of its parameter, torch.float32, got torch.int32"),
        (torch.ones(2, 2), "the shape of its parameter, (2, 3), got (2, 2)"),
        (torch.ones(3, 2), "the shape of its parameter, (2, 3), got (3, 2)"),
        (torch.ones(6), "the shape of its parameter, (2, 3), got (6,)"),
    ],
    ids=str,
)
def test_a_wrong_gradient_gets_an_error_and_changes_nothing(grad: torch.Tensor, message: str) -> None:
    param, optimizer = prepare(2, 3)
    second = torch.ones(4, requires_grad=True)
    optimizer.add_param_group({"params": [second]})
    before = param.detach().clone()
    second.grad = torch.ones(4)
    replace_gradient(param, grad)
    with pytest.raises(ParameterError) as error:
        optimizer.step()
    assert message in str(error.value)
    assert torch.equal(param, before)
    assert torch.equal(second, torch.ones(4))


def test_a_gradient_on_another_device_gets_an_error() -> None:
    param, optimizer = prepare(2, 3)
    param.grad = None
    param.grad = torch.ones(2, 3)
    meta_grad = torch.empty(2, 3, device="meta")
    optimizer._bindings  # noqa: B018
    binding, _ = optimizer._prepare_steps()[0]
    batch = binding.batch
    assert batch.gradient_addresses([meta_grad]) is None
    with pytest.raises(ParameterError, match="the device of its parameter, cpu, got meta"):
        binding.step(optimizer._program_for(0)(torch.float32), [meta_grad], 0)


def test_gradients_in_another_order_or_negated_are_read_right() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 2, generator=generator)
    negated = torch.complex(torch.zeros(2, 3), -values.t()).conj().imag
    assert negated.is_neg()
    ends = []
    for grad in (values.t().contiguous(), values.t(), negated, values.t()[None].expand(1, 2, 3)[0]):
        param, optimizer = prepare(2, 3)
        param.grad = grad
        optimizer.step()
        ends.append(param.detach())
    assert all(torch.equal(end, ends[0]) for end in ends)


def test_a_parameter_whose_memory_is_replaced_is_followed() -> None:
    param, optimizer = prepare(2, 3)
    old = param.data
    copy = old.clone()
    for new in (torch.full((2, 3), 5.0), torch.full((3, 2), 5.0).t()):
        param.data = new
        take_steps(optimizer, param)
        assert torch.allclose(new, torch.full((2, 3), 5.0 - 1e-3))
    assert torch.equal(old, copy)


def test_state_that_the_user_replaces_is_used() -> None:
    param, optimizer = prepare(3)
    twin = torch.ones(3, requires_grad=True)
    reference = optim.Adam([twin])
    take_steps(reference, twin)
    optimizer.state[param]["exp_avg"] = torch.full((3,), 0.5)
    reference.state[twin]["exp_avg"].fill_(0.5)
    take_steps(optimizer, param)
    take_steps(reference, twin)
    assert torch.equal(param, twin)
    optimizer.state[param]["step"] = torch.tensor(0.0)
    reference.state[twin]["step"].zero_()
    take_steps(optimizer, param)
    take_steps(reference, twin)
    assert torch.equal(param, twin)
    optimizer.state.clear()  # begin again
    take_steps(optimizer, param)
    assert optimizer.state[param]["step"] == 1
    moved = optimizer.state[param]["exp_avg"]
    moved.data = moved.data.clone()  # as code does that offloads state and loads it back
    take_steps(optimizer, param)
    assert torch.allclose(optimizer.state[param]["exp_avg"], torch.full((3,), 0.19))


def test_autograd_is_told_of_the_change() -> None:
    param, optimizer = prepare(3)
    loss = (param * param).sum()
    param.grad = torch.ones(3)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_libraries_are_not_shared_by_different_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = c_compiler.library_name("source", parallel=True)
    monkeypatch.setattr(c_compiler, "_processor", lambda: "another")
    assert c_compiler.library_name("source", parallel=True) != digest


def test_a_checkpoint_of_another_shape_is_refused() -> None:
    small, large = torch.ones(4, 4, requires_grad=True), torch.ones(4096, 4, requires_grad=True)
    begun, resumed = optim.Adam([small]), optim.Adam([large])
    take_steps(begun, small)
    with pytest.raises(ParameterError, match=r"must have shape \(4096, 4\), got \(4, 4\)"):
        resumed.load_state_dict(begun.state_dict())
    param, optimizer = prepare(3)
    optimizer.state[param]["exp_avg"] = torch.zeros(7)
    with pytest.raises(ParameterError, match=r"must have shape \(3,\), got \(7,\)"):
        take_steps(optimizer, param)


@pytest.mark.parametrize(
    ("before", "after"), [(slice(1000), slice(10)), (slice(10), slice(1000))], ids=["less", "more"]
)
def test_a_parameter_that_changes_its_size_in_place_is_followed(before: slice, after: slice) -> None:
    memory = torch.ones(1000)
    param = torch.nn.Parameter(memory[before])
    optimizer = optim.SGD([param], lr=0.25, backend="compiled")
    take_steps(optimizer, param)
    memory.fill_(1.0)
    param.grad = None
    param.data = memory[after]
    take_steps(optimizer, param)
    assert torch.equal(memory[after], torch.full_like(memory[after], 0.75))
    assert memory.sum() == 1000 - 0.25 * len(memory[after])


def test_a_parameter_that_changes_its_dtype_in_place_is_followed() -> None:
    memory = torch.ones(64)
    param = torch.nn.Parameter(memory)
    optimizer = optim.SGD([param], lr=0.5, backend="compiled")
    take_steps(optimizer, param)
    param.grad = None
    param.data = memory.view(torch.bfloat16)[:16].fill_(1.0)
    take_steps(optimizer, param)
    assert torch.equal(param, torch.full((16,), 0.5, dtype=torch.bfloat16))


def test_zeros_without_memory_are_gradients() -> None:
    param, empty = torch.ones(3, requires_grad=True), torch.zeros(0, requires_grad=True)
    optimizer = optim.SGD([param, empty], lr=0.5, weight_decay=1.0, backend="compiled")
    param.grad, empty.grad = torch._efficientzerotensor((3,)), torch.zeros(0)
    optimizer.step()
    assert torch.equal(param, torch.full((3,), 0.5))


def test_a_tensor_subclass_is_left_to_the_loop() -> None:
    class Subclass(torch.Tensor):
        pass

    param = torch.ones(3).as_subclass(Subclass).requires_grad_()
    assert str(optim.SGD([param]).plan).startswith("loop: a parameter is of a tensor subclass")


def test_a_view_that_is_yet_to_be_negated_is_refused() -> None:
    param = torch._neg_view(torch.ones(3)).requires_grad_()
    param.grad = torch.ones(3)
    with pytest.raises(ParameterError, match=r"must not be a lazy conjugate or negative view, got one of shape \(3,\)"):
        optim.SGD([param]).step()


def test_another_state_put_in_place_of_ours_is_used() -> None:
    param, optimizer = prepare(3)
    optimizer.state = defaultdict(dict)
    take_steps(optimizer, param)
    assert optimizer.state[param]["step"] == 1
    assert len(optimizer.state_dict()["state"]) == 1


def test_parameters_that_are_replaced_or_reordered_in_a_group_keep_their_state() -> None:
    ends = []
    for kind in (torch.optim.Adam, optim.Adam):
        first, second = (torch.ones(2, requires_grad=True) for _ in range(2))
        optimizer = kind([first, second], lr=0.1)
        take_steps(optimizer, first, num_steps=3)
        optimizer.param_groups[0]["params"].reverse()
        first.grad = second.grad = torch.ones(2)
        optimizer.step()
        grown = torch.ones(3, requires_grad=True)  # as Gaussian splatting does
        entries = optimizer.state.pop(first)
        for key in ("exp_avg", "exp_avg_sq"):
            entries[key] = torch.cat([entries[key], torch.zeros(1)])
        optimizer.state[grown] = entries
        optimizer.param_groups[0]["params"][1] = grown
        take_steps(optimizer, grown, second)
        ends.append([first.detach(), second.detach(), grown.detach()])
    for expected, actual in zip(*ends, strict=True):
        torch.testing.assert_close(actual, expected)


def test_a_note_of_the_users_in_the_state_is_no_step() -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = optim.Adam([param])
    optimizer.state[param]["name"] = "w"
    take_steps(optimizer, param)
    assert optimizer.state[param]["step"] == 1


def test_state_in_another_order_in_memory_is_taken() -> None:
    param, optimizer = prepare(2, 3, 4, 4)
    twin, reference = prepare(2, 3, 4, 4)
    entry = optimizer.state[param]["exp_avg"]
    optimizer.state[param]["exp_avg"] = entry.to(memory_format=torch.channels_last)
    take_steps(optimizer, param)
    take_steps(reference, twin)
    assert torch.equal(param, twin)


def test_a_sparse_gradient_of_a_transposed_parameter_is_read_right() -> None:
    param = torch.zeros(4, 3).t().requires_grad_()
    param.grad = torch.sparse_coo_tensor([[1]], [[1.0, 2.0, 3.0, 4.0]], (3, 4), check_invariants=True)
    optim.SGD([param], lr=1.0, momentum=0.9).step()
    assert param.tolist() == [[0.0] * 4, [-1.0, -2.0, -3.0, -4.0], [0.0] * 4]


def test_a_rounding_written_into_a_group_is_checked() -> None:
    param, optimizer = prepare(3)
    optimizer.param_groups[0]["rounding"] = "kahn"
    with pytest.raises(SettingError, match="rounding must be one of nearest, kahan, stochastic, got 'kahn'"):
        take_steps(optimizer, param)
    half = torch.ones(3, dtype=torch.float16, requires_grad=True)
    resumed = optim.SGD([half])
    brains = optim.SGD([torch.ones(3, dtype=torch.bfloat16)], rounding="stochastic")
    resumed.load_state_dict(brains.state_dict())
    with pytest.raises(ParameterError, match="stochastic rounding is for bfloat16"):
        take_steps(resumed, half)


@pytest.mark.parametrize("how", ["shared", "copied"])
@pytest.mark.parametrize("kind", [optim.Adam, optim.NAdam, optim.ScheduleFreeSGD])
def test_numbers_whose_memory_is_moved_are_still_those_of_the_steps(kind: type, how: str) -> None:
    (param, moved), (twin, left) = ((param, kind([param])) for param in (torch.ones(3), torch.ones(3)))
    for optimizer, tensor in ((moved, param), (left, twin)):
        tensor.requires_grad_()
        take_steps(optimizer, tensor)
    for entry in moved.state[param].values():
        if how == "shared":
            entry.share_memory_()
        else:
            entry.data = entry.data.clone()
    for optimizer, tensor in ((moved, param), (left, twin)):
        take_steps(optimizer, tensor, num_steps=4)
    assert moved.state[param]["step"] == 5
    for key, entry in left.state[twin].items():
        assert torch.equal(moved.state[param][key], entry), key
    moved.state[param]["step"].data = torch.tensor(100.0)
    take_steps(moved, param)
    assert moved.state[param]["step"] == 101


def test_a_removed_entry_starts_again() -> None:
    param, optimizer = prepare(3)
    optimizer.state[param].clear()
    take_steps(optimizer, param)
    assert optimizer.state[param]["step"] == 1
    optimizer.state[param].pop("exp_avg")
    take_steps(optimizer, param)
    assert optimizer.state[param]["step"] == 2
    torch.testing.assert_close(optimizer.state[param]["exp_avg"], torch.full((3,), 0.1))


def test_a_complex_parameter_that_is_transposed_in_place_is_followed() -> None:
    moved, stays = (torch.ones(2, 3, dtype=torch.complex64, requires_grad=True) for _ in range(2))
    optimizers = [optim.SGD([param], lr=0.1) for param in (moved, stays)]
    grad = torch.arange(6.0).view(2, 3).to(torch.complex64)
    for optimizer, param in zip(optimizers, (moved, stays), strict=True):
        param.grad = grad.clone()
        optimizer.step()
        param.grad = None
    moved.data = moved.data.t()
    moved.grad, stays.grad = grad.t().clone(), grad.clone()
    for optimizer in optimizers:
        optimizer.step()
    assert torch.equal(moved.t(), stays)


def test_a_step_that_fails_midway_is_counted_for_the_parameters_that_stepped(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = torch.ones(3, requires_grad=True), torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer = optim.Adam([first, second], backend="loop")
    first.grad, second.grad = torch.ones_like(first), torch.ones_like(second)
    run = loop.run

    def until_float64(steps: Any) -> None:
        if steps[0].batch.dtype == torch.float64:
            raise MemoryError
        run(steps)

    monkeypatch.setattr(loop, "run", until_float64)
    with pytest.raises(MemoryError):
        optimizer.step()
    assert (optimizer.state[first]["step"], optimizer.state[second]["step"]) == (1, 0)
    assert (first < 1).all()
    assert (second == 1).all()


def test_the_plan_follows_parameters_that_are_removed_from_a_group() -> None:
    params = [torch.ones(3), torch.ones(3, dtype=torch.bfloat16), torch.ones(6)[::2]]
    for param in params:
        param.requires_grad_()
    optimizer = optim.Adam(params)
    optimizer.prepare()
    take_steps(optimizer, *params)
    del optimizer.param_groups[0]["params"][0]
    take_steps(optimizer, *params[1:])
    assert [planned.choice.backend for planned in optimizer.plan.parameters] == ["compiled", "loop"]


def test_many_groups_are_bound_once() -> None:
    params = [torch.ones(3, requires_grad=True) for _ in range(100)]
    optimizer = optim.SGD([{"params": [param]} for param in params])
    take_steps(optimizer, *params)
    bound = [binding for group in optimizer._bindings._bindings.values() for binding, _ in group]
    take_steps(optimizer, *params)
    assert [binding for group in optimizer._bindings._bindings.values() for binding, _ in group] == bound
