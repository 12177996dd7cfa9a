"""Optimizers on a stub of a CUDA device: everything of the path to a GPU but the GPU."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import lr_scheduler

from cases.cuda_stub import StubDevice, installed
from cases.rules import ELEMENTWISE, REDUCING, SHAPES, Case
from tests.engine.kernels.cuda.stepped import filled, on_loop, train
from tests.engine.stepping import ALL_SHAPES, assert_same_bits, run_case, take_steps
from thalweg import optim, rules
from thalweg.engine import backends
from thalweg.engine.core.batch import ParameterBatch
from thalweg.engine.core.program import Program
from thalweg.engine.eager import loop
from thalweg.engine.kernels import kernel, kernel_cache
from thalweg.engine.kernels.cuda.kernel import BoundCudaKernel

WHOLE_SHAPES = (*SHAPES, (2, 3, 4), (70, 131), (33, 5))


@pytest.mark.parametrize("case", [case for case in ELEMENTWISE + REDUCING if case.has_kernel], ids=str)
def test_every_rule_takes_the_steps_of_the_loop(case: Case) -> None:
    """One parameter joins late, one skips a step, and gradients have new addresses at each step."""
    is_elementwise = case.rule.traits.scope == "elementwise"
    shapes = [shape for shape in (ALL_SHAPES if is_elementwise else WHOLE_SHAPES) if len(shape) <= case.kernel_dims]
    with installed() as device:
        actual = run_case(case, "compiled", torch.float32, shapes=shapes, num_steps=6)
    assert device.num_launches > 0
    assert_same_bits(actual, run_case(case, "loop", torch.float32, shapes=shapes, num_steps=6))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_other_dtypes_take_the_steps_of_the_loop(device: StubDevice, dtype: torch.dtype) -> None:
    case = next(case for case in ELEMENTWISE if case.optimizer is optim.AdamW)
    actual = run_case(case, "compiled", dtype)
    assert device.num_launches > 0
    assert_same_bits(actual, run_case(case, "loop", dtype))


def test_scalars_that_differ_between_parameters_are_copied(device: StubDevice) -> None:
    case = next(case for case in ELEMENTWISE if case.optimizer is optim.SGD)
    options: dict[str, Any] = {"transposed": False, "rounding": "stochastic", "seed": 5}
    actual = run_case(case, "compiled", torch.bfloat16, **options)
    assert device.num_uploads >= 8  # one a step, and those of the trial
    assert_same_bits(actual, run_case(case, "loop", torch.bfloat16, **options))
    device.num_uploads = 0
    run_case(case, "compiled", torch.float32, shapes=((4,), (3,), (2,)), num_steps=7)
    assert device.num_uploads == 0  # by value


@pytest.mark.parametrize(
    ("parameter_bytes", "count", "num_launches"), [(32_764, 4_200, 2), (4_096, 1_000, 3), (32_764, 449, 1)]
)
def test_more_tensors_than_a_launch_takes(parameter_bytes: int, count: int, num_launches: int) -> None:
    shapes = [(1 + k % 3,) for k in range(count)]
    params = filled(shapes)
    with installed(StubDevice(parameter_bytes)) as device:
        optimizer = optim.Adam(params, backend="compiled")
        train(optimizer, params, 1)
        before = device.num_launches
        train(optimizer, params, 1, first=1)
        assert device.num_launches - before == num_launches
    assert all(map(torch.equal, params, on_loop(optim.Adam, shapes, 2)))


def test_sums_over_more_tensors_than_a_launch_takes() -> None:
    shapes = [(1 + k % 3,) for k in range(600)]

    def make(params: list[Tensor], **settings: Any) -> torch.optim.Optimizer:
        return optim.optimizer_for(rules.Clip(rules.LAMB(), max_norm=0.5))(params, **settings)

    params = filled(shapes)
    with installed(StubDevice(4_096)):
        train(make(params, backend="compiled"), params)
    assert all(map(torch.equal, params, on_loop(make, shapes)))


@pytest.mark.parametrize("rule", [rules.Clip(rules.Adafactor()), rules.Prodigy(), rules.Clip(rules.LAMB())], ids=str)
def test_kernels_share_their_sums_over_the_model(rule: rules.Rule, device: StubDevice, no_loop: None) -> None:
    """Matrices, vectors and numbers have kernels of their own, and two groups batches of their own."""
    shapes = [(30, 20), (7,), (2, 3, 4), (65, 5), (), (9,)]

    def make(params: list[Tensor], **settings: Any) -> torch.optim.Optimizer:
        return optim.optimizer_for(rule)([{"params": params[:3]}, {"params": params[3:]}], **settings)

    params = filled(shapes)
    optimizer = make(params, backend="compiled")
    train(optimizer, params)
    for param in params[1:]:  # the first one alone has a gradient: another set of kernels, and back
        param.grad = None
    optimizer.step()
    train(optimizer, params, 2)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "run", _RUN)
        looped = filled(shapes)
        reference = make(looped, backend="loop")
        train(reference, looped)
        for param in looped[1:]:
            param.grad = None
        reference.step()
        train(reference, looped, 2)
    assert all(map(torch.equal, params, looped))


_RUN = loop.run


@pytest.fixture
def no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse steps of the loop, except in trials of kernels."""

    def refuse(steps: Any) -> None:
        assert all(param.grad is None for step in steps for param in step.batch.params), "a kernel was to run"
        _RUN(steps)

    monkeypatch.setattr(loop, "run", refuse)


def test_memory_that_moves_is_bound_anew(device: StubDevice) -> None:
    params = filled([(5, 3), (7,)])
    optimizer = optim.AdamW(params, backend="compiled")
    train(optimizer, params, 2)
    params[0].data = params[0].detach().clone()
    train(optimizer, params, 1, first=2)
    optimizer.state[params[1]]["exp_avg"] = optimizer.state[params[1]]["exp_avg"].clone()
    train(optimizer, params, 1, first=3)
    assert all(map(torch.equal, params, on_loop(optim.AdamW, [(5, 3), (7,)], 4)))


def test_views_and_unaligned_addresses(device: StubDevice) -> None:
    memory, reference = torch.linspace(-1, 1, 40), torch.linspace(-1, 1, 40)

    def views(of: Tensor) -> list[Tensor]:
        return [of[1:12].requires_grad_(), of[13:33].view(4, 5).t().requires_grad_(), of[35].requires_grad_()]

    for source, backend in ((memory, "compiled"), (reference, "loop")):
        params = views(source)
        optimizer = optim.Adam(params, lr=0.1, backend=backend)  # type: ignore[arg-type]
        gradients = torch.linspace(1, 2, 50)
        for step in range(3):
            params[0].grad = gradients[1 + step : 12 + step]
            params[1].grad = gradients[20 + step : 40 + step].view(4, 5).t()
            params[2].grad = gradients[45 + step]
            optimizer.step()
    assert device.num_launches > 0
    assert torch.equal(memory, reference)
    assert float(memory[0]) == -1.0
    assert float(memory[12]) == float(torch.linspace(-1, 1, 40)[12])


def test_groups_schedulers_and_checkpoints(device: StubDevice) -> None:
    shapes = [(3, 4), (5,), (2,), (6,)]

    def run(backend: Any) -> list[Tensor]:
        params = filled(shapes[:3]) + filled(shapes[3:], torch.bfloat16)
        groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.3, "weight_decay": 0.0}]
        optimizer = optim.AdamW(groups, lr=0.1, backend=backend)
        schedule = lr_scheduler.OneCycleLR(optimizer, max_lr=[0.1, 0.3], total_steps=20)
        for step in range(3):
            train(optimizer, params, 1, first=step)
            schedule.step()
        resumed = optim.AdamW(groups, lr=0.1, backend=backend)
        resumed.load_state_dict(optimizer.state_dict())
        train(resumed, params, 3, first=3)
        return params + [entry for param in params for entry in resumed.state[param].values()]

    before = len(kernel_cache.builds)
    actual = run("compiled")
    assert len(kernel_cache.builds) - before <= 2  # one for each dtype, whatever the settings
    assert device.num_launches > 0
    assert all(map(torch.equal, actual, run("loop")))


def test_the_plan_names_the_gpu(device: StubDevice, no_kernels: None) -> None:
    params = filled([(3,), (4, 2)])
    assert str(optim.LAMB(params).prepare()).startswith("compiled: sums over tensors, on the GPU: one kernel for all")
    assert str(optim.Muon(params[1:]).plan).startswith("loop: Muon multiplies whole matrices")


def test_kernels_of_two_devices_share_no_sums(device: StubDevice) -> None:
    params = filled([(3, 2), (4,)])
    optimizer = optim.optimizer_for(rules.Clip(rules.SGD()))(params, backend="compiled")
    train(optimizer, params, 1)
    bound = [runner.bound_kernel for runner in optimizer._bindings.runners().values()]
    assert None not in bound
    first, second = bound[0], BoundCudaKernel(bound[0].kernel, bound[0].batch, device)  # type: ignore[union-attr,arg-type]
    assert kernel.have_same_reductions([first, second])  # type: ignore[list-item]
    second.batch = type("Batch", (), {"device": torch.device("cuda", 1)})()  # type: ignore[assignment]
    assert not kernel.have_same_reductions([first, second])  # type: ignore[list-item]


def test_tables_are_held_for_every_stream_that_reads_them(device: StubDevice) -> None:
    params = filled([(3,)])
    optimizer = optim.Adam(params, backend="compiled")
    train(optimizer, params, 2)
    assert device.held == []
    device.current_stream = 7
    train(optimizer, params, 2)
    assert len(device.held) == 5  # tables, reductions, and so on, once


def test_a_kernel_that_is_bound_in_inference_mode_steps_in_other_modes(
    device: StubDevice, no_kernels: None, fresh_machine: object
) -> None:
    def run(backend: Any) -> list[Tensor]:
        params = filled([(9,), (4,)], torch.bfloat16)
        optimizer = optim.SGD(params, lr=0.1, rounding="stochastic", seed=3, backend=backend)
        take_steps(optimizer, *params)
        for thread in threading.enumerate():
            if thread.name.startswith("thalweg-compiler"):
                thread.join(timeout=600)
        with torch.inference_mode():
            optimizer.step()  # its kernel is ready now
        take_steps(optimizer, *params)
        return [param.detach() for param in params]

    actual = run(None)
    assert device.num_uploads > 0
    assert all(map(torch.equal, actual, run("loop")))


def test_slices_of_stacks_are_stepped_by_their_addresses(device: StubDevice) -> None:
    """As a population has them: a gradient is a slice, and each member has scalars of its own."""
    stacks = [torch.sin(torch.arange(12.0)).view(3, 4), torch.cos(torch.arange(6.0)).view(3, 2)]
    ends = []
    for backend in ("compiled", "loop"):
        params = [row for stack in stacks for row in torch.ones_like(stack).unbind()]
        program = Program(rules.SGD(lr=0.5))
        batch = ParameterBatch(program, params, {})
        runner = backends.BatchRunner(batch, backend)  # type: ignore[arg-type]
        before = device.num_launches
        coefficients = [Program(rules.SGD(lr=lr)).coefficients(1) for lr in (0.1, 0.2, 0.3)]
        with torch.no_grad():
            runner.run_stacks(stacks, coefficients)
        ends.append(params)
        assert device.num_launches - before == (backend == "compiled")
    assert all(map(torch.equal, *ends))
