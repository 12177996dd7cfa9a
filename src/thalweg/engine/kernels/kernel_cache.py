"""Compiled: a whole step of many tensors as one call of a C kernel that was made from the rule itself.

The rule is recorded (`recording`), cut into passes where it asks for reductions (`passes`), printed as C (`c_source`),
compiled (`c_compiler`) and tried against the loop before it is used. It equals the loop to the last bit, so it does
not matter when it takes over: compiling goes on in the background, and until a kernel is there the other ways run.
"""

import math
import os
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain
from numbers import Real
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.core.batch import BatchStep, ParameterBatch
from thalweg.engine.core.program import Program
from thalweg.engine.eager import loop
from thalweg.engine.kernels import c_compiler, kernel
from thalweg.engine.kernels.c_source import c_source
from thalweg.engine.kernels.kernel import _WORTH_THREADS, BoundKernel, Kernel, UnavailableError
from thalweg.engine.kernels.passes import Passes
from thalweg.engine.kernels.recording import UnknownOperationError, record
from thalweg.errors import SettingError

# --- making kernels ---------------------------------------------------------------------------------------------------

_FUTURES: dict[Hashable, "Future[Kernel]"] = {}
builds: list[str] = []  # what this process has compiled, for those who count


_TURN = Lock()  # one compiler at a time


def _in_background(build: Callable[[], Kernel]) -> "Future[Kernel]":
    # A thread for each build, that ends with it: a thread that has computed keeps a team of OpenMP threads, and with
    # more of these than cores OpenMP stops spinning: all small operations of the process become ten times slower.
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="thalweg-compiler")
    future = thread.submit(build)
    thread.shutdown(wait=False)
    return future


def found(batch: ParameterBatch) -> "Future[Kernel] | None":
    """The kernel of a batch, if nothing has to be compiled for it; its future may be one that is being compiled.

    The future raises UnavailableError where there will be no kernel.
    """
    key = _key(batch)
    if key not in _FUTURES:
        made = _without_compiling(KernelSpec(batch))
        if made is None:
            return None
        _FUTURES[key] = made
    return _FUTURES[key]


def started(batch: ParameterBatch) -> "Future[Kernel]":
    """The kernel of a batch, for which a compiler is started in the background unless it is there."""
    future = found(batch)
    if future is None:
        try:
            wanted = KernelSpec(batch)
            _ = wanted.source  # here, not there: torch's modes belong to a thread
            future = _in_background(partial(_build, wanted))
        except RuntimeError as error:  # the interpreter is shutting down
            future = Future()
            future.set_exception(UnavailableError(str(error)))
        _FUTURES[_key(batch)] = future
    return future


class KernelSpec:
    """What a kernel is made for: a program, for parameters of one dtype and, where it matters, number of dimensions."""

    def __init__(self, batch: ParameterBatch) -> None:
        self.program, self.dtype = batch.program, batch.dtype
        self.elementwise = batch.program.rule.traits.scope == "elementwise"
        self.num_dims = 1 if self.elementwise else max(1, batch.params[0].dim())

    @cached_property
    def passes(self) -> Passes:
        with torch.inference_mode(False):
            return Passes(record(self.program, self.dtype, self.num_dims))

    @cached_property
    def source(self) -> str:
        source = c_source(self.passes)
        with torch.inference_mode(False):
            others = [record(_at_other_numbers(self.program), self.dtype, self.num_dims)]
            others.append(record(self.program, self.dtype, self.num_dims, larger=1))
        if any(c_source(Passes(other)) != source for other in others):
            raise UnknownOperationError("a number that the rule reads off itself, where it should come by coefficients")
        return source

    def example(self) -> ParameterBatch:
        """Parameters that a new kernel is tried on."""
        params = [torch.cos(torch.arange(n, device="cpu")).to(self.dtype).view(shape) for n, shape in self._shapes()]
        states = [self.program.init(param) for param in params]
        columns: dict[str, list[Any]] = {name: [getattr(state, name) for state in states] for name in states[0]._fields}
        return ParameterBatch(self.program, params, columns)

    def _shapes(self) -> list[tuple[int, tuple[int, ...]]]:
        if self.elementwise:
            shapes: list[tuple[int, ...]] = [(n,) for n in (1, 40, 0, 7, _WORTH_THREADS)]
        elif self.num_dims == 1:
            shapes = [(1,), (40,), (7,), (_WORTH_THREADS + 5,)]
        else:  # the last one is of several blocks, for several threads
            shapes = [(*[2] * (self.num_dims - 2), *sides) for sides in ((1, 1), (5, 8), (7, 1), (300, 131))]
        return [(math.prod(shape), shape) for shape in shapes]


def _at_other_numbers(program: Program) -> Program:
    """The program with every number of its rule a little smaller, or larger; it must have the same code."""
    for name, value in program.rule.settings().items():
        declared = program.rule.hypers()[name]
        if declared.is_static or not isinstance(value, Real):
            continue
        for other in (0.999 * float(value), 1.001 * float(value)) if value else (1e-3,):
            if declared.bound is None or other in declared.bound:
                program = _changed(program, name, other)
                break
    return program


def _changed(program: Program, name: str, value: float) -> Program:
    """The program at another number, unless that makes it another one: 0 may be a switch, and others may forbid it."""
    try:
        changed = replace(program, rule=program.rule.with_(**{name: value}))
    except SettingError:
        return program
    shape = torch.Size([2, 3])
    alike = (changed.rule.code_key, list(changed.layout(shape))) == (program.rule.code_key, list(program.layout(shape)))
    return changed if alike else program


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


def _key(batch: ParameterBatch) -> Hashable:
    return batch.program.key(batch.params[0].shape, batch.dtype)


def _without_compiling(wanted: KernelSpec) -> "Future[Kernel] | None":
    made: Future[Kernel] = Future()
    try:
        source = wanted.source
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
                made.set_result(_tried(wanted, str(path)))
            except (OSError, UnavailableError):
                continue  # it is built anew
            return made
    if c_compiler.compiler() is None:
        made.set_exception(UnavailableError("no C compiler was found (cc, gcc, clang, or the one named by CC)"))
        return made
    return None


def _build(wanted: KernelSpec) -> Kernel:
    failure: Exception | None = None
    with _TURN:
        for parallel in (True, False):
            try:
                path = c_compiler.build(wanted.source, parallel=parallel)
                builds.append(str(path))
                return _tried(wanted, str(path))
            except (c_compiler.CompilerError, OSError, UnavailableError) as error:
                failure = failure or error
    raise UnavailableError(str(failure))


def _tried(wanted: KernelSpec, path: str) -> Kernel:
    """A kernel from a file, if it takes the steps that the loop takes."""
    try:
        return _compared(wanted, path)
    except (OSError, UnavailableError):
        raise
    except Exception as error:  # a rule of the user's may do anything with parameters that are not theirs
        raise UnavailableError(f"the kernel cannot be tried: {type(error).__name__}: {error}") from error


def _compared(wanted: KernelSpec, path: str) -> Kernel:
    made = Kernel(path, wanted.passes)
    batches = [wanted.example() for _ in range(2)]
    shapes = [param.shape for param in batches[0].params]
    for count in range(1, 4):
        rows = [wanted.program.coefficients(count + k, position=k) for k in range(len(shapes))]
        waves = [torch.sin(1.7 * torch.arange(shape.numel(), device="cpu") + count).view(shape) for shape in shapes]
        grads = [wave.to(wanted.dtype) for wave in waves]
        with torch.inference_mode(False), torch.no_grad():
            loop.run([BatchStep(batches[0], grads, rows)])
            launch = BoundKernel(made, batches[1])
            launch.begin(BatchStep(batches[1], grads, rows))
            kernel.run([launch])
    for one, other in zip(*map(_tensors, batches), strict=True):
        if not _same(one, other):
            raise UnavailableError("the compiled kernel and the loop disagree on this machine")
    return made


def _same(one: Tensor, other: Tensor) -> bool:
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def _tensors(batch: ParameterBatch) -> list[Tensor]:
    return list(chain(batch.params, *batch.columns.values()))
