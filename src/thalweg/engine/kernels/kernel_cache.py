"""Kernel cache: find the kernel of a batch, compile it in the background, and try it against the loop.

The rule is recorded (`recording`), cut into passes (`passes`), printed as C (`c_source`), compiled (`c_compiler`), and
tried against the loop before it is used. A kernel equals the loop to the last bit, so the step at which it takes over
does not matter: until it is ready, other backends run the batch.
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

from thalweg.engine.core.batch import BatchStep, ParameterBatch
from thalweg.engine.core.threads import MIN_NUMEL_FOR_THREADS
from thalweg.engine.eager import loop
from thalweg.engine.kernels import c_compiler, kernel, library_cache
from thalweg.engine.kernels.c_source import c_source
from thalweg.engine.kernels.kernel import BoundKernel, Kernel
from thalweg.engine.kernels.kernel_spec import KernelSpec, UnavailableError
from thalweg.engine.kernels.recording import UnknownOperationError

_KERNELS: dict[Hashable, "PendingKernel"] = {}
builds: list[str] = []  # the names of the libraries that this process has compiled
_COMPILER_LOCK = Lock()  # one compiler at a time

# --- pending kernels --------------------------------------------------------------------------------------------------


class PendingKernel:
    """A kernel that is there, or that is being compiled, or that will never be.

    It holds no lock: a fork would copy a lock that another thread holds, and nobody would release the copy.

    Args:
        build: Returns the kernel, or raises UnavailableError. It runs in a thread of its own.
        reason: The reason why there will be no kernel, if there is nothing to build.
    """

    def __init__(self, build: Callable[[], Kernel] | None = None, reason: str = "") -> None:
        self._outcome: Kernel | UnavailableError | None = UnavailableError(reason) if build is None else None
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
    key = _key(batch)
    if key not in _KERNELS or _KERNELS[key].abandoned:
        pending = _load_without_compiling(KernelSpec(batch))
        if pending is None:
            return None
        _KERNELS[key] = pending
    return _KERNELS[key]


def compile_in_background(batch: ParameterBatch) -> PendingKernel:
    """Return the kernel of a batch; start a compiler in the background unless the kernel exists."""
    pending = lookup(batch)
    if pending is None:
        spec = KernelSpec(batch)
        source = spec.print_source(c_source)  # in this thread: torch's modes belong to a thread
        pending = _KERNELS[_key(batch)] = PendingKernel(partial(_build, spec, source))
    return pending


def _key(batch: ParameterBatch) -> Hashable:
    return batch.program.key(batch.params[0].shape, batch.dtype)


def _after_fork() -> None:
    global _COMPILER_LOCK
    _COMPILER_LOCK = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

# --- libraries --------------------------------------------------------------------------------------------------------


def _load_without_compiling(spec: KernelSpec) -> PendingKernel | None:
    """Return the kernel from an earlier process, or the reason why there is none; None if it must be compiled."""
    try:
        source = spec.print_source(c_source)
    except UnknownOperationError as error:
        return PendingKernel(reason=f"kernels do not know {error}")
    except Exception as error:  # a user's rule may do anything; another backend will run it, or show the error
        return PendingKernel(reason=f"the rule cannot be recorded: {type(error).__name__}: {error}")
    for parallel in (True, False):
        library = library_cache.read(c_compiler.library_name(source, parallel=parallel))
        if library is not None:
            pending = PendingKernel(partial(_load, spec, library))
            with suppress(UnavailableError):  # it is compiled again
                pending.result()
                return pending
    if c_compiler.compiler() is None:
        return PendingKernel(reason="no C compiler was found (cc, gcc, clang, or the command in CC)")
    return None


def _build(spec: KernelSpec, source: str) -> Kernel:
    """Compile a kernel, and keep its library."""
    failure: Exception | None = None
    with _COMPILER_LOCK:
        deadline = monotonic() + c_compiler.TIME_LIMIT_S
        for parallel in (True, False):
            try:
                library = c_compiler.build(source, parallel=parallel, deadline=deadline)
                name = c_compiler.library_name(source, parallel=parallel)
                builds.append(name)
                loaded = _load(spec, library)
                library_cache.keep(name, library)
                return loaded
            except (c_compiler.CompilerError, UnavailableError) as error:
                failure = failure or error
    raise UnavailableError(str(failure))


def _load(spec: KernelSpec, library: bytes) -> Kernel:
    """Load a kernel, and try it against the loop."""
    try:
        loaded = Kernel(library_cache.load(library), spec.passes)
    except (OSError, AttributeError) as error:
        raise UnavailableError(f"the kernel cannot be loaded: {error}") from error
    _try_against_loop(spec, loaded)
    return loaded


# --- trials -----------------------------------------------------------------------------------------------------------


def _try_against_loop(spec: KernelSpec, candidate: Kernel) -> None:
    """Raise UnavailableError unless a kernel takes the same steps as the loop."""
    looped, stepped = (_example_batch(spec) for _ in range(2))
    shapes = [param.shape for param in looped.params]
    for count in range(1, 4):
        coefficients = [spec.program.coefficients(count + k, position=k) for k in range(len(shapes))]
        waves = [torch.sin(1.7 * torch.arange(shape.numel(), device="cpu") + count).view(shape) for shape in shapes]
        grads = [wave.to(spec.dtype) for wave in waves]
        with torch.inference_mode(False), torch.no_grad():
            loop.run([BatchStep(looped, grads, coefficients)])
            bound_kernel = BoundKernel(candidate, stepped)
            bound_kernel.begin(BatchStep(stepped, grads, coefficients))
            kernel.run([bound_kernel])
    if not all(map(_are_equal, _tensors(stepped), _tensors(looped))):
        raise UnavailableError("the compiled kernel and the loop disagree on this machine")


def _example_batch(spec: KernelSpec) -> ParameterBatch:
    shapes = _example_shapes(spec)
    params = [torch.cos(torch.arange(math.prod(shape), device="cpu")).to(spec.dtype).view(shape) for shape in shapes]
    states = [spec.program.init(param) for param in params]
    columns: dict[str, list[Any]] = {name: [getattr(state, name) for state in states] for name in states[0]._fields}
    return ParameterBatch(spec.program, params, columns)


def _example_shapes(spec: KernelSpec) -> list[tuple[int, ...]]:
    if spec.elementwise:
        return [(n,) for n in (1, 40, 0, 7, MIN_NUMEL_FOR_THREADS)]
    if spec.num_dims == 1:
        return [(1,), (40,), (7,), (MIN_NUMEL_FOR_THREADS + 5,)]
    # The last shape has several blocks, for several threads.
    return [(*[2] * (spec.num_dims - 2), *sides) for sides in ((1, 1), (5, 8), (7, 1), (300, 131))]


def _tensors(batch: ParameterBatch) -> list[Tensor]:
    return list(chain(batch.params, *batch.columns.values()))


def _are_equal(left: Tensor, right: Tensor) -> bool:
    return bool(((left == right) | (left.isnan() & right.isnan())).all())
