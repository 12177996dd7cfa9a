"""Optimizers on a stub of a CUDA device: everything of the path to a GPU but the GPU."""

import ctypes
import logging
import threading
from array import array
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import lr_scheduler

from cases.cuda_stub import StubDevice, installed
from cases.rules import ELEMENTWISE, REDUCING, SHAPES, Case
from tests.engine.stepping import ALL_SHAPES, assert_same_bits, run_case, take_steps
from thalweg import optim, rules
from thalweg.engine import backends
from thalweg.engine.core import memory_probe
from thalweg.engine.core.batch import ParameterBatch
from thalweg.engine.core.memory_probe import MemoryProbe
from thalweg.engine.core.program import Program
from thalweg.engine.eager import loop
from thalweg.engine.kernels import kernel, kernel_cache
from thalweg.engine.kernels.c_kernel import separate_memory_probe
from thalweg.engine.kernels.cuda.kernel import BoundCudaKernel
from thalweg.engine.kernels.kernel_spec import MissingToolError, UnavailableError

WHOLE_SHAPES = (*SHAPES, (2, 3, 4), (70, 131), (33, 5))


@pytest.fixture
def device() -> Iterator[StubDevice]:
    """A stub that runs the steps of parameters on the CPU."""
    with installed() as stub:
        yield stub


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has no kernel yet."""
    monkeypatch.setattr(kernel_cache, "_KERNELS", {})
    monkeypatch.setattr(backends, "_WARNINGS", set())


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


def filled(shapes: list[tuple[int, ...]], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Return parameters of these shapes, with other values at each place."""
    return [
        (torch.cos(torch.arange(torch.Size(shape).numel()) + k).view(shape).to(dtype)).requires_grad_()
        for k, shape in enumerate(shapes)
    ]


def train(optimizer: torch.optim.Optimizer, params: list[Tensor], num_steps: int = 3, first: int = 0) -> None:
    """Take steps with gradients at new addresses."""
    for step in range(first, first + num_steps):
        for param in params:
            param.grad = torch.sin(3 * param.detach() + step)
        optimizer.step()


def on_loop(make: Any, shapes: list[tuple[int, ...]], num_steps: int = 3) -> list[Tensor]:
    """Return the parameters after steps on the loop."""
    params = filled(shapes)
    train(make(params, backend="loop"), params, num_steps)
    return params


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


def test_steps_run_on_an_eager_backend_until_the_kernel_is_ready(no_kernels: None, fresh_machine: object) -> None:
    params = filled([(3,)])
    with installed():
        optimizer = optim.Adam(params)
        train(optimizer, params, 1)
        assert "until its kernel has been compiled" in str(optimizer.plan) or "compiled" in str(optimizer.plan)
        optimizer.prepare()
        train(optimizer, params, 2, first=1)
        assert str(optimizer.plan).startswith("compiled: elementwise, on the GPU")
    assert torch.equal(params[0], on_loop(optim.Adam, [(3,)])[0])


class Failing(StubDevice):
    """A device on which one operation fails.

    Args:
        operation: Its name.
        error: The error.
    """

    def __init__(self, operation: str, error: Exception) -> None:
        super().__init__()
        self.architecture = f"failing {operation}"

        def fail(*_: Any) -> Any:
            raise error

        setattr(self, operation, fail)

    def image_name(self, source: str) -> str:
        """Return a name that no cache knows."""
        return f"{self.architecture}{len(source)}"


@pytest.mark.parametrize(
    ("operation", "error", "expected", "num_logged"),
    [
        ("compile", UnavailableError("nvrtc failed: line 3"), "nvrtc failed: line 3", 0),
        ("load", MissingToolError("the driver (CUDA 11.8) cannot load compiled kernels"), "the driver (CUDA 11.8)", 1),
        ("launch", RuntimeError("CUDA_ERROR_LAUNCH_FAILED"), "the kernel cannot be tried: RuntimeError: CUDA_ERROR", 0),
    ],
)
def test_a_device_that_fails_leaves_steps_to_eager_backends(
    operation: str,
    error: Exception,
    expected: str,
    num_logged: int,
    no_kernels: None,
    fresh_machine: object,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with installed(Failing(operation, error)), caplog.at_level(logging.WARNING, "thalweg"):
        for make in (optim.Adam, optim.SGD):
            params = filled([(3,)])
            optimizer = make(params)
            optimizer.prepare()
            train(optimizer, params)
            assert str(optimizer.plan).startswith(f"flat: {expected}")
            assert torch.equal(params[0], on_loop(make, [(3,)])[0])
    assert len(caplog.records) == num_logged


def test_a_device_without_memory_for_tables(device: StubDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    params = filled([(3,)])
    optim.Adam(params).prepare()  # the kernel is there

    def refuse(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(BoundCudaKernel, "_create_tables", refuse)
    optimizer = optim.Adam(params)
    train(optimizer, params)
    assert str(optimizer.plan).startswith("flat: cpu has no memory left for the tables of its kernel")
    assert torch.equal(params[0], on_loop(optim.Adam, [(3,)])[0])


def test_a_kernel_that_disagrees_with_the_loop_is_never_used(no_kernels: None, fresh_machine: object) -> None:
    class Wrong(StubDevice):
        architecture = "wrong"

        def launch(self, launches: Any, num_threads: int, stream: int) -> None:
            super().launch(launches[:0], num_threads, stream)

    with installed(Wrong()):
        plan = optim.SGD(filled([(3,)])).prepare()
    assert str(plan).startswith("flat: the compiled kernel and the loop disagree on this machine")


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


def test_another_device_is_another_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `param.data = param.data.cuda(1)`. The answers of torch are replaced: there is no such device."""
    probe = separate_memory_probe()
    assert probe is not None
    param, place = torch.ones(2), {"type": 0, "index": -1}
    query = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int32))

    def answer(key: str) -> Any:
        def write(_: int, target: Any) -> int:
            target[0] = place[key]
            return 0

        return query(write)

    callbacks = {2: answer("type"), 7: answer("index")}
    functions = memory_probe._functions()
    assert functions is not None
    addresses = [
        ctypes.cast(callbacks[k], ctypes.c_void_p).value if k in callbacks else function
        for k, function in enumerate(functions)
    ]
    monkeypatch.setattr(memory_probe, "_functions", lambda: (ctypes.c_void_p * len(addresses))(*addresses))
    fingerprints = []
    for kind, index in ((0, -1), (1, 0), (1, 1)):  # the CPU, and two CUDA devices
        place.update(type=kind, index=index)
        fingerprint, read = probe(array("Q", [id(param)]), 1)
        assert list(read) == [param.data_ptr()]
        fingerprints.append(fingerprint)
    assert len(set(fingerprints)) == 3
    assert 0 not in fingerprints
    place.update(type=13, index=0)  # MPS, whose tensors have no address that a kernel may use
    assert probe(array("Q", [id(param)]), 1)[0] == 0


def test_the_memory_probe_is_a_library_by_itself(device: StubDevice) -> None:
    probe = separate_memory_probe()
    assert isinstance(probe, MemoryProbe)
    params = filled([(3,), (2, 2)])
    optimizer = optim.Adam(params, backend="compiled")
    train(optimizer, params, 1)
    (binding, *_) = {id(runner): runner for runner in optimizer._bindings.runners().values()}.values()
    assert binding.batch.memory_probe is probe
