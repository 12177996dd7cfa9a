"""Compiled: a whole step of many tensors as one call of a C kernel that was made from the rule itself.

The rule is recorded (`recording`), printed as C (`c_source`), compiled (`c_compiler`) and tried against the loop before
it is used. It equals the loop to the last bit, so it does not matter when it takes over: compiling goes on in the
background, and until a kernel is there the other ways run.
"""

import ctypes
import os
from array import array
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, repeat
from numbers import Real
from operator import is_
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from thalweg.engine import c_compiler, loop
from thalweg.engine.batch import Batch, Step, is_dense
from thalweg.engine.c_source import UnknownOperationError, c_source
from thalweg.engine.look import Look
from thalweg.engine.program import Program
from thalweg.engine.recording import record

# Fewer elements are stepped by one thread before a second one has woken up.
_WORTH_THREADS = 1 << 15

_TRIED = (1, 40, 0, 7, _WORTH_THREADS)  # lengths of the tensors that a new kernel is tried on


class UnavailableError(Exception):
    """A program has no kernel, and will have none."""


class Kernel:
    """The compiled step of one program, for parameters of one dtype."""

    def __init__(self, path: str) -> None:
        self.look = Look(path)
        self._step = ctypes.CDLL(path).step
        self._step.restype = None
        self._step.argtypes = [ctypes.c_int64, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 2]

    def __call__(
        self, sizes: "array[int]", addresses: "array[int]", rows: "array[float]", row_stride: int, threads: int
    ) -> None:
        """Step tensors of these sizes; `c_source` tells the order of the addresses and of the rows of scalars."""
        pointers = (values.buffer_info()[0] for values in (sizes, addresses, rows))
        self._step(len(sizes), *pointers, row_stride, threads)


class Launch:
    """A kernel, bound to a batch."""

    def __init__(self, kernel: Kernel, batch: Batch) -> None:
        self.kernel, self.batch = kernel, batch
        batch.look = kernel.look
        self.sizes = array("q", [param.numel() for param in batch.params])
        count = len(batch.params)
        self._addresses = batch.bound_at[:count] + array("Q", bytes(8 * count)) + batch.bound_at[count:]

    def run(self, step: Step) -> None:
        """Take a step in place: the batch must be unchanged, and gradients lie as their parameters do."""
        addresses = step.grads_at or array("Q", map(Tensor.data_ptr, step.grads))
        if 0 in addresses and any(not one and size for one, size in zip(addresses, self.sizes, strict=True)):
            # Zeros for which torch has made no memory.
            made = [torch.empty_like(one).copy_(grad) for one, grad in zip(self.batch.params, step.grads, strict=True)]
            addresses = array("Q", map(Tensor.data_ptr, made))
        self.start(addresses, step.rows)

    def start(self, grads: "array[int]", rows: Sequence[Any], repeated: int = 1) -> None:
        """The same, with gradients by their addresses, and rows that come again and again."""
        batch, count = self.batch, len(self.batch.params)
        self._addresses[count : 2 * count] = grads
        shared = all(map(is_, rows, repeat(rows[0])))
        numbers = array("d", rows[0] if shared else chain.from_iterable(rows)) * (1 if shared else repeated)
        threads = torch.get_num_threads() if batch.num_elements >= _WORTH_THREADS else 1
        self.kernel(self.sizes, self._addresses, numbers, 0 if shared else len(rows[0]), threads)
        if not torch.is_inference_mode_enabled():
            # Autograd is told, as of every other change in place: a backward pass that needs the old values fails.
            torch.autograd.graph.increment_version(batch.params)


def why_not(batch: Batch) -> str | None:
    """Why no kernel could run a batch, as far as can be told without making one; None if one could."""
    rule = batch.program.rule
    if rule.scope != "elementwise":
        return f"{rule.name} looks at whole tensors (scope {rule.scope})"
    if batch.device.type != "cpu":
        return f"kernels are for the CPU, not for {batch.device.type}"
    for param in batch.params:
        if not is_dense(param):
            return "a parameter has gaps in memory"
        if batch.program.needs_index and not param.is_contiguous():
            return "stochastic rounding numbers the elements of contiguous parameters"
    return batch.why_not_raw()


# --- making kernels ---------------------------------------------------------------------------------------------------

_FUTURES: dict[Hashable, "Future[Kernel]"] = {}
builds: list[str] = []  # what this process has compiled, for those who count


_TURN = Lock()  # one compiler at a time


def _in_background(program: Program, dtype: torch.dtype, source: str) -> "Future[Kernel]":
    # A thread for each build, that ends with it: a thread that has computed keeps a team of OpenMP threads, and with
    # more of these than cores OpenMP stops spinning: all small operations of the process become ten times slower.
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="thalweg-compiler")
    future = thread.submit(_build, program, dtype, source)
    thread.shutdown(wait=False)
    return future


def found(batch: Batch) -> "Future[Kernel] | None":
    """The kernel of a batch, if nothing has to be compiled for it; its future may be one that is being compiled.

    The future raises UnavailableError where there will be no kernel.
    """
    key = _key(batch)
    if key not in _FUTURES:
        made = _without_compiling(batch.program, batch.dtype)
        if made is None:
            return None
        _FUTURES[key] = made
    return _FUTURES[key]


def started(batch: Batch) -> "Future[Kernel]":
    """The kernel of a batch, for which a compiler is started in the background unless it is there."""
    future = found(batch)
    if future is None:
        try:
            source = _source(batch.program, batch.dtype)
            future = _in_background(batch.program, batch.dtype, source)
        except RuntimeError as error:  # the interpreter is shutting down
            future = Future()
            future.set_exception(UnavailableError(str(error)))
        _FUTURES[_key(batch)] = future
    return future


def _source(program: Program, dtype: torch.dtype) -> str:
    with torch.inference_mode(False):
        source = c_source(record(program, dtype))
        if c_source(record(_at_other_numbers(program), dtype)) != source:
            raise UnknownOperationError("a number that the rule reads off itself, where it should come by coefficients")
    return source


def _at_other_numbers(program: Program) -> Program:
    """The program with every number of its rule a little smaller, or larger; it must have the same code."""
    rule, numbers = program.rule, {}
    for name, value in rule.settings().items():
        declared = rule.hypers()[name]
        if not declared.is_switch and isinstance(value, Real):
            smaller = 0.999 * float(value)
            numbers[name] = smaller if declared.bound is None or smaller in declared.bound else 1.001 * float(value)
    return replace(program, rule=rule.with_(**numbers))


def _after_fork() -> None:
    """The compiler's thread stays with the parent: what it was making will not come."""
    global _TURN
    _TURN = Lock()
    for key, future in list(_FUTURES.items()):
        if not future.done():
            del _FUTURES[key]
            future.set_exception(UnavailableError("the process was forked while the kernel was compiled"))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _key(batch: Batch) -> Hashable:
    return batch.program.key(batch.params[0].shape, batch.dtype)


def _without_compiling(program: Program, dtype: torch.dtype) -> "Future[Kernel] | None":
    made: Future[Kernel] = Future()
    try:
        source = _source(program, dtype)
    except UnknownOperationError as error:
        made.set_exception(UnavailableError(f"kernels do not know {error}"))
        return made
    except Exception as error:  # a rule of the user's may do anything; the other ways will run it, or show the error
        made.set_exception(UnavailableError(f"the rule cannot be recorded: {type(error).__name__}: {error}"))
        return made
    for parallel in (True, False):
        path = c_compiler.library(source, parallel=parallel)
        if path is not None:
            try:
                made.set_result(_tried(program, dtype, str(path)))
            except (OSError, UnavailableError):
                continue  # it is built anew
            return made
    if c_compiler.compiler() is None:
        made.set_exception(UnavailableError("no C compiler was found (cc, gcc, clang, or the one named by CC)"))
        return made
    return None


def _build(program: Program, dtype: torch.dtype, source: str) -> Kernel:
    failure: Exception | None = None
    with _TURN:
        for parallel in (True, False):
            try:
                path = c_compiler.build(source, parallel=parallel)
                builds.append(str(path))
                return _tried(program, dtype, str(path))
            except (c_compiler.CompilerError, OSError, UnavailableError) as error:
                failure = failure or error
    raise UnavailableError(str(failure))


def _tried(program: Program, dtype: torch.dtype, path: str) -> Kernel:
    """A kernel from a file, if it takes the steps that the loop takes."""
    made = Kernel(path)
    batches = [_example(program, dtype) for _ in range(2)]
    for count in range(1, 4):
        rows = [program.coefficients(count + k, position=k) for k in range(len(_TRIED))]
        grads = [torch.sin(1.7 * torch.arange(n, device="cpu") + count).to(dtype) for n in _TRIED]
        with torch.inference_mode(False), torch.no_grad():
            loop.run([Step(batches[0], grads, rows)])
            Launch(made, batches[1]).run(Step(batches[1], grads, rows))
    for one, other in zip(*map(_tensors, batches), strict=True):
        if not ((one == other) | (one.isnan() & other.isnan())).all():
            raise UnavailableError("the compiled kernel and the loop disagree on this machine")
    return made


def _example(program: Program, dtype: torch.dtype) -> Batch:
    params = [torch.cos(torch.arange(n, device="cpu")).to(dtype) for n in _TRIED]
    states = [program.init(param) for param in params]
    columns: dict[str, list[Any]] = {name: [getattr(state, name) for state in states] for name in states[0]._fields}
    return Batch(program, params, columns)


def _tensors(batch: Batch) -> list[Tensor]:
    return list(chain(batch.params, *batch.columns.values()))
