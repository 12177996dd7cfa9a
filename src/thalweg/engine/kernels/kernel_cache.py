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
_NUM_SHARES = 3  # into which a kernel is divided when it is tried, as it is for threads
_COMPILER_LOCK = Lock()  # one compiler at a time

# --- pending kernels --------------------------------------------------------------------------------------------------


class PendingKernel:
    """A kernel that is there, or that is being compiled, or that will never be.

    It holds no lock: a fork would copy a lock that another thread holds, and nobody would release the copy.

    Args:
        build: Returns the kernel, or raises UnavailableError. It runs in a thread of its own.
        outcome: The kernel, or the reason why there is none, if it is known already.
    """

    def __init__(
        self, build: Callable[[], Kernel] | None = None, outcome: Kernel | UnavailableError | None = None
    ) -> None:
        self._outcome = outcome
        self._thread: Thread | None = None
        if build is not None:
            # Each build has a thread that ends with it. A thread that has computed may keep a team of OpenMP threads,
            # and with more of these than cores OpenMP stops spinning: all small operations of the process become ten
            # times slower. A script waits for the thread, which ends soon: `c_compiler` kills the compiler.
            self._thread = Thread(target=self._run, args=(build,), name="thalweg-compiler", daemon=False)
            self._thread.start()

    def _run(self, build: Callable[[], Kernel]) -> None:
        try:
            self._outcome = build()
        except UnavailableError as error:
            self._outcome = error
        except BaseException as error:  # a user's rule may do anything; another backend will run it, or show the error
            self._outcome = UnavailableError(f"{type(error).__name__}: {error}")

    def done(self) -> bool:
        """Return True if it is known what becomes of the kernel."""
        return self._outcome is not None

    @property
    def abandoned(self) -> bool:
        """True in a forked process if the thread that compiles the kernel has stayed with the parent."""
        ended = self._thread is not None and not self._thread.is_alive()  # first: its outcome is there before it ends
        return ended and self._outcome is None

    def result(self) -> Kernel:
        """Wait for the kernel and return it.

        Raises:
            UnavailableError: If there will be no kernel.
        """
        if self._outcome is None and self._thread is not None:
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
        kernel = _load_without_compiling(KernelSpec(batch))
        if kernel is None:
            return None
        _KERNELS[key] = kernel
    return _KERNELS[key]


def compile_in_background(batch: ParameterBatch) -> PendingKernel:
    """Return the kernel of a batch; start a compiler in the background unless the kernel exists."""
    kernel = lookup(batch)
    if kernel is None:
        try:
            spec = KernelSpec(batch)
            source = spec.print_source(c_source)  # in this thread: torch's modes belong to a thread
            kernel = PendingKernel(partial(_build, spec, source))
        except RuntimeError as error:  # the interpreter is shutting down
            kernel = PendingKernel(outcome=UnavailableError(str(error)))
        _KERNELS[_key(batch)] = kernel
    return kernel


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
        return PendingKernel(outcome=UnavailableError(f"kernels do not know {error}"))
    except Exception as error:  # a user's rule may do anything; another backend will run it, or show the error
        reason = f"the rule cannot be recorded: {type(error).__name__}: {error}"
        return PendingKernel(outcome=UnavailableError(reason))
    for parallel in (True, False):
        library = library_cache.read(c_compiler.library_name(source, parallel=parallel))
        if library is not None:
            with suppress(OSError, UnavailableError):  # it is compiled again
                return PendingKernel(outcome=_load(spec, library))
    if c_compiler.compiler() is None:
        reason = "no C compiler was found (cc, gcc, clang, or the command in CC)"
        return PendingKernel(outcome=UnavailableError(reason))
    return None


def _build(spec: KernelSpec, source: str) -> Kernel:
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
            except (c_compiler.CompilerError, OSError, UnavailableError) as error:
                failure = failure or error
    raise UnavailableError(str(failure))


def _load(spec: KernelSpec, library: bytes) -> Kernel:
    """Load a kernel, and try it against the loop."""
    try:
        loaded = Kernel(library_cache.load(library), spec.passes)
        _try_against_loop(spec, loaded)
        return loaded
    except (OSError, UnavailableError):
        raise
    except Exception as error:  # a user's rule may do anything with parameters that are not the user's
        raise UnavailableError(f"the kernel cannot be tried: {type(error).__name__}: {error}") from error


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
            bound_kernel = BoundKernel(candidate, stepped, shares=_NUM_SHARES)
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
    # The last shape has a block for each share. With fewer elements, neither torch nor the kernel uses other threads.
    largest = MIN_NUMEL_FOR_THREADS - 1
    if spec.elementwise:
        return [(n,) for n in (1, 40, 0, 7, largest)]
    if spec.num_dims == 1:
        return [(1,), (40,), (7,), (largest,)]
    batch, rows = [2] * (spec.num_dims - 2), 131
    shapes = [(1, 1), (5, 8), (7, 1), (rows, largest // (rows * math.prod(batch)))]
    return [(*batch, *sides) for sides in shapes]


def _tensors(batch: ParameterBatch) -> list[Tensor]:
    return list(chain(batch.params, *batch.columns.values()))


def _are_equal(left: Tensor, right: Tensor) -> bool:
    return bool(((left == right) | (left.isnan() & right.isnan())).all())
