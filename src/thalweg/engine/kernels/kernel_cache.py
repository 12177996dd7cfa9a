"""Kernel cache: find the kernel of a batch, compile it in the background, and try it against the loop.

The rule is recorded (`recording`), cut into passes (`passes`), printed and compiled for a target, and tried
against the loop on the CPU before it is used. A kernel equals the loop to the last bit, so the step at which it takes
over does not matter: until it is ready, other backends run the batch.
"""

import math
import os
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import partial
from itertools import chain
from threading import Lock, Thread
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.core.batch import BatchStep, ParameterBatch, is_dense
from thalweg.engine.core.threads import MIN_NUMEL_FOR_THREADS
from thalweg.engine.eager import loop
from thalweg.engine.kernels import c_compiler, kernel, library_cache
from thalweg.engine.kernels.c_kernel import CTarget
from thalweg.engine.kernels.cuda import target as cuda_target
from thalweg.engine.kernels.kernel import Kernel, Target, Variant
from thalweg.engine.kernels.kernel_spec import KernelSpec, MissingToolError, UnavailableError
from thalweg.engine.kernels.recording import UnknownOperationError

_KERNELS: dict[Hashable, "PendingKernel"] = {}
builds: list[str] = []  # the names of the libraries that this process has compiled
_COMPILER_LOCK = Lock()  # one compiler at a time

# --- targets --------------------------------------------------------------------------------------------------------

_CPU = CTarget()


def target_of(batch: ParameterBatch) -> Target:
    """Return the target that makes kernels for a batch for which ``unsupported_reason`` has found no reason."""
    return cuda_target.target_of(batch.device, len(batch.params)) or _CPU


def unsupported_reason(batch: ParameterBatch) -> str | None:
    """Return the reason why no kernel can run a batch; None if a kernel may.

    The kernel itself may still be unavailable; that is known once its program is recorded.
    """
    rule = batch.program.rule
    if rule.traits.needs_whole_matrices:
        return f"{rule.name} multiplies whole matrices"
    if batch.device.type not in ("cpu", "cuda"):
        return f"kernels run on the CPU and on CUDA, not on {batch.device.type}"
    if rule.traits.scope != "elementwise" and batch.dtype == torch.float64:
        # Kernels sum in another order; in float32, sums are made in double precision, where the order does not show.
        return f"{rule.name} makes sums, and in float64 they depend on their order"
    if rule.traits.scope != "elementwise" and any(batch.shards):
        return f"{rule.name} makes sums over tensors that are split over processes"
    for param in batch.params:
        if not is_dense(param):
            return "a parameter has gaps in memory"
        if batch.program.needs_index and not param.is_contiguous():
            return "stochastic rounding needs contiguous parameters"
    return batch.direct_access_problem()


# --- pending kernels --------------------------------------------------------------------------------------------------


class PendingKernel:
    """A kernel that is there, or that is being compiled, or that will never be.

    It holds no lock: a fork would copy a lock that another thread holds, and nobody would release the copy.

    Args:
        build: Returns the kernel, or raises UnavailableError. It runs in a thread of its own.
        failure: The reason why there will be no kernel, if there is nothing to build.
    """

    def __init__(self, build: Callable[[], Kernel] | None = None, failure: UnavailableError | None = None) -> None:
        self._outcome: Kernel | UnavailableError | None = failure
        # Each build has a thread that ends with it. A thread that has computed keeps a team of OpenMP threads, and with
        # more of these than cores OpenMP stops spinning: all small operations of the process become ten times slower.
        # A script that ends waits for the thread, but not for the compiler, which is killed.
        self._thread = Thread(target=self._run, args=(build,), name="thalweg-compiler", daemon=False)
        if build is not None:
            try:
                self._thread.start()
            except RuntimeError as error:  # the interpreter is shutting down, or the system has no more threads
                self._outcome = UnavailableError(str(error))

    def _run(self, build: Callable[[], Kernel]) -> None:
        try:
            self._outcome = build()
        except UnavailableError as error:
            self._outcome = error
        except BaseException as error:  # a user's rule may do anything; another backend will run it, or show the error
            self._outcome = UnavailableError(f"the kernel cannot be tried: {type(error).__name__}: {error}")

    def done(self) -> bool:
        """Return True if it is known what becomes of the kernel."""
        return self._outcome is not None

    @property
    def abandoned(self) -> bool:
        """True in a forked process if the thread that builds the kernel has stayed with the parent."""
        is_alive = self._thread.is_alive()  # before the outcome, which is there when the thread ends
        return self._outcome is None and not is_alive

    def result(self) -> Kernel:
        """Wait for the kernel and return it.

        Raises:
            UnavailableError: If there will be no kernel.
        """
        if self._thread.is_alive():
            self._thread.join()
        if isinstance(self._outcome, Kernel):
            return self._outcome
        raise self._outcome or UnavailableError("the process was forked while the kernel was compiled")


def lookup(batch: ParameterBatch) -> PendingKernel | None:
    """Return the kernel of a batch if nothing must be compiled for it.

    Args:
        batch: The parameters.

    Returns:
        The kernel, which may be one that is being compiled. None if a compiler must be started.
    """
    target = target_of(batch)
    key = _key(target, batch)
    if key not in _KERNELS or _KERNELS[key].abandoned:
        pending = _load_without_compiling(target, KernelSpec(batch))
        if pending is None:
            return None
        _KERNELS[key] = pending
    return _KERNELS[key]


def compile_in_background(batch: ParameterBatch) -> PendingKernel:
    """Return the kernel of a batch; start a compiler in the background unless the kernel exists."""
    pending = lookup(batch)
    if pending is None:
        spec, target = KernelSpec(batch), target_of(batch)
        source = spec.print_source(target.source)  # in this thread: torch's modes belong to a thread
        pending = _KERNELS[_key(target, batch)] = PendingKernel(partial(_build, target, spec, source))
    return pending


def _key(target: Target, batch: ParameterBatch) -> Hashable:
    return target.key, batch.program.key(batch.params[0].shape, batch.dtype)


def _after_fork() -> None:
    global _COMPILER_LOCK
    _COMPILER_LOCK = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

# --- libraries --------------------------------------------------------------------------------------------------------


def _load_without_compiling(target: Target, spec: KernelSpec) -> PendingKernel | None:
    """Return the kernel from an earlier process, or the reason why there is none; None if it must be compiled."""
    try:
        source = spec.print_source(target.source)
    except UnknownOperationError as error:
        return PendingKernel(failure=UnavailableError(f"kernels do not know {error}"))
    except Exception as error:  # a user's rule may do anything; another backend will run it, or show the error
        return PendingKernel(failure=UnavailableError(f"the rule cannot be recorded: {type(error).__name__}: {error}"))
    for variant in target.variants(source):
        library = library_cache.read(variant.name)
        if library is not None:
            pending = PendingKernel(partial(_load, target, spec, library))
            with suppress(UnavailableError):  # it is compiled again
                pending.result()
                return pending
    if reason := target.missing():
        return PendingKernel(failure=MissingToolError(reason))
    return None


def _build(target: Target, spec: KernelSpec, source: str) -> Kernel:
    """Compile a kernel, and keep its library."""
    failure: Exception | None = None
    with _COMPILER_LOCK:
        deadline = monotonic() + c_compiler.TIME_LIMIT_S
        for variant in target.variants(source):
            try:
                return _build_variant(target, spec, variant, deadline)
            except UnavailableError as error:
                failure = failure or error
    raise failure or UnavailableError("there is no way to compile it")


def _build_variant(target: Target, spec: KernelSpec, variant: Variant, deadline: float) -> Kernel:
    library = variant.build(deadline)
    builds.append(variant.name)
    loaded = _load(target, spec, library)
    library_cache.keep(variant.name, library)
    return loaded


def _load(target: Target, spec: KernelSpec, library: bytes) -> Kernel:
    """Load a kernel, and try it against the loop."""
    with target.trial():
        loaded = target.load(library, spec.passes)
        _try_against_loop(spec, loaded, target)
    return loaded


# --- trials -----------------------------------------------------------------------------------------------------------


def _try_against_loop(spec: KernelSpec, candidate: Kernel, target: Target) -> None:
    """Raise UnavailableError unless a kernel takes the same steps as the loop on the CPU."""
    looped, stepped = _example_batch(spec, torch.device("cpu")), _example_batch(spec, target.device)
    shapes = [param.shape for param in looped.params]
    for count in range(1, 4):
        # The last step has the same scalars for all parameters.
        steps = [count + k if count < 3 else count for k in range(len(shapes))]
        coefficients = [spec.program.coefficients(step, position=k) for k, step in enumerate(steps)]
        waves = [torch.sin(1.7 * torch.arange(shape.numel(), device="cpu") + count).view(shape) for shape in shapes]
        grads = [wave.to(spec.dtype) for wave in waves]
        with torch.inference_mode(False), torch.no_grad():
            loop.run([BatchStep(looped, grads, coefficients)])
            bound_kernel = candidate.bind(stepped)
            bound_kernel.begin(BatchStep(stepped, [grad.to(target.device) for grad in grads], coefficients))
            kernel.run([bound_kernel])
    pairs = zip(_tensors(stepped), _tensors(looped), strict=True)
    if not all(_are_equal(stepped_tensor.cpu(), expected, target.tolerance) for stepped_tensor, expected in pairs):
        raise UnavailableError("the compiled kernel and the loop disagree on this machine")


def _example_batch(spec: KernelSpec, device: torch.device) -> ParameterBatch:
    shapes = _example_shapes(spec)
    params = [torch.cos(torch.arange(math.prod(shape), device="cpu")).to(spec.dtype).view(shape) for shape in shapes]
    states = [spec.program.init(param) for param in params]
    columns: dict[str, list[Any]] = {
        name: [getattr(state, name).to(device) for state in states] for name in states[0]._fields
    }
    return ParameterBatch(spec.program, [param.to(device) for param in params], columns)


def _example_shapes(spec: KernelSpec) -> list[tuple[int, ...]]:
    if spec.elementwise:
        return [(n,) for n in (1, 40, 0, 7, MIN_NUMEL_FOR_THREADS)]
    if spec.num_dims == 1:
        return [(1,), (40,), (7,), (MIN_NUMEL_FOR_THREADS + 5,)]
    # The last shape has several blocks, for several threads.
    return [(*[2] * (spec.num_dims - 2), *sides) for sides in ((1, 1), (5, 8), (7, 1), (300, 131))]


def _tensors(batch: ParameterBatch) -> list[Tensor]:
    return list(chain(batch.params, *batch.columns.values()))


def _are_equal(actual: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Return True if tensors are equal up to some units in the last place of their largest element."""
    equal = (actual == expected) | (actual.isnan() & expected.isnan())
    if tolerance and expected.is_floating_point() and expected.numel():
        finite = expected.double().nan_to_num(0.0, 0.0, 0.0)
        unit = torch.finfo(expected.dtype).eps * finite.abs().amax()
        equal |= (actual.double() - expected.double()).abs() <= tolerance * unit
    return bool(equal.all())
