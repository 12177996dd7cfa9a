"""Kernel cache: find the kernel of a batch, compile it in the background, and try it against the loop.

The rule is recorded (`recording`), cut into passes (`passes`), printed as C (`c_source`), compiled (`c_compiler`), and
tried against the loop before it is used. A kernel equals the loop to the last bit, so the step at which it takes over
does not matter: until it is ready, other backends run the batch.
"""

import math
import os
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.core.batch import BatchStep, ParameterBatch
from thalweg.engine.eager import loop
from thalweg.engine.kernels import c_compiler, kernel
from thalweg.engine.kernels.c_source import c_source
from thalweg.engine.kernels.kernel import MIN_NUMEL_FOR_THREADS, BoundKernel, Kernel
from thalweg.engine.kernels.kernel_spec import KernelSpec, UnavailableError
from thalweg.engine.kernels.recording import UnknownOperationError

_FUTURES: dict[Hashable, "Future[Kernel]"] = {}
builds: list[str] = []  # the libraries that this process has compiled
_COMPILER_LOCK = Lock()  # one compiler at a time

# --- futures ----------------------------------------------------------------------------------------------------------


def lookup(batch: ParameterBatch) -> "Future[Kernel] | None":
    """Return the kernel of a batch if nothing must be compiled for it.

    Args:
        batch: The parameters.

    Returns:
        The future kernel, which may be one that is being compiled; it raises UnavailableError if there will be no
        kernel. None if a compiler must be started.
    """
    key = _key(batch)
    if key not in _FUTURES:
        future = _load_without_compiling(KernelSpec(batch))
        if future is None:
            return None
        _FUTURES[key] = future
    return _FUTURES[key]


def compile_in_background(batch: ParameterBatch) -> "Future[Kernel]":
    """Return the future kernel of a batch; start a compiler in the background unless the kernel exists."""
    future = lookup(batch)
    if future is None:
        try:
            spec = KernelSpec(batch)
            source = spec.print_source(c_source)  # in this thread: torch's modes belong to a thread
            future = _submit(partial(_build, spec, source))
        except RuntimeError as error:  # the interpreter is shutting down
            future = Future()
            future.set_exception(UnavailableError(str(error)))
        _FUTURES[_key(batch)] = future
    return future


def _key(batch: ParameterBatch) -> Hashable:
    return batch.program.key(batch.params[0].shape, batch.dtype)


def _submit(build: Callable[[], Kernel]) -> "Future[Kernel]":
    # Each build has a thread that ends with it. A thread that has computed keeps a team of OpenMP threads, and with
    # more of these than cores OpenMP stops spinning: all small operations of the process become ten times slower.
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="thalweg-compiler")
    future = executor.submit(build)
    executor.shutdown(wait=False)
    return future


def _after_fork() -> None:
    """Give up unfinished kernels in a forked process: the thread that compiles them stays with the parent."""
    global _COMPILER_LOCK
    _COMPILER_LOCK = Lock()
    for key, future in list(_FUTURES.items()):
        if not future.done():
            del _FUTURES[key]
            future.set_exception(UnavailableError("the process was forked while the kernel was compiled"))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

# --- libraries --------------------------------------------------------------------------------------------------------


def _load_without_compiling(spec: KernelSpec) -> "Future[Kernel] | None":
    """Return a future with the kernel from an earlier process, or with an error; None if it must be compiled."""
    future: Future[Kernel] = Future()
    try:
        source = spec.print_source(c_source)
    except UnknownOperationError as error:
        future.set_exception(UnavailableError(f"kernels do not know {error}"))
        return future
    except Exception as error:  # a user's rule may do anything; another backend will run it, or show the error
        future.set_exception(UnavailableError(f"the rule cannot be recorded: {type(error).__name__}: {error}"))
        return future
    for parallel in (True, False):
        path = c_compiler.library(source, parallel=parallel)
        if path is not None:
            try:
                future.set_result(_load(spec, str(path)))
            except (OSError, UnavailableError):
                continue  # it is compiled again
            return future
    if c_compiler.compiler() is None:
        future.set_exception(UnavailableError("no C compiler was found (cc, gcc, clang, or the command in CC)"))
        return future
    return None


def _build(spec: KernelSpec, source: str) -> Kernel:
    failure: Exception | None = None
    with _COMPILER_LOCK:
        for parallel in (True, False):
            try:
                path = c_compiler.build(source, parallel=parallel)
                builds.append(str(path))
                return _load(spec, str(path))
            except (c_compiler.CompilerError, OSError, UnavailableError) as error:
                failure = failure or error
    raise UnavailableError(str(failure))


def _load(spec: KernelSpec, path: str) -> Kernel:
    """Load a kernel, and try it against the loop."""
    try:
        loaded = Kernel(path, spec.passes)
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
