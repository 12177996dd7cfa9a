"""Compiled: a whole step of many tensors as one call of a C kernel that was made from the rule itself.

The rule is recorded (`recording`), cut into passes where it asks for reductions (`passes`), printed as C (`c_source`),
compiled (`c_compiler`) and tried against the loop before it is used. It equals the loop to the last bit, so it does
not matter when it takes over: compiling goes on in the background, and until a kernel is there the other ways run.
"""

import ctypes
import math
import os
from array import array
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from itertools import accumulate, chain
from numbers import Real
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from thalweg.engine import c_compiler, loop
from thalweg.engine.batch import Batch, Step, is_dense
from thalweg.engine.c_source import c_source
from thalweg.engine.look import Look
from thalweg.engine.passes import Passes
from thalweg.engine.program import Program
from thalweg.engine.recording import UnknownOperationError, record
from thalweg.errors import SettingError
from thalweg.rules import Max, Mean
from thalweg.rules.base.reductions import Reduction

# Fewer elements are stepped by one thread before a second one has woken up.
_WORTH_THREADS = 1 << 15

# What a kernel may keep beside the state, for sums: bytes. Rows and columns of 3x3 filters would take more than these.
_MOST_ROOM = 64_000_000


class UnavailableError(Exception):
    """A program has no kernel, and will have none."""


class Kernel:
    """The compiled step of one program, for parameters of one dtype."""

    def __init__(self, path: str, passes: Passes) -> None:
        self.look = Look(path)
        self.passes = passes
        self._step = ctypes.CDLL(path).step
        self._step.restype = None
        self._step.argtypes = [*[ctypes.c_int64] * 3, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 2, ctypes.c_void_p]

    def __call__(
        self,
        which: range,
        sizes: "array[int]",
        addresses: "array[int]",
        rows: "array[float]",
        row_stride: int,
        threads: int,
        model: "array[float]",
    ) -> None:
        """Run some passes over tensors of these sizes; `c_source` tells the order of the arguments."""
        pointers = (values.buffer_info()[0] for values in (sizes, addresses, rows))
        count = len(sizes) // 4
        self._step(which[0], which[-1], count, *pointers, row_stride, threads, model.buffer_info()[0])


class Launch:
    """A kernel, bound to a batch."""

    def __init__(self, kernel: Kernel, batch: Batch) -> None:
        _check(kernel.passes, batch)
        self.kernel, self.batch = kernel, batch
        batch.look = kernel.look
        passes = kernel.passes
        sizes = [passes.sizes(param.shape or (1,)) for param in batch.params]
        self._sizes = array("q", chain.from_iterable(sizes))
        # Room for answers, and for what blocks make for them: columns of addresses into one vector.
        room = [
            [length(answer, each) for each in sizes]
            for answer in passes.answers
            for length in (passes.num_results, passes.num_partial)
        ]
        lengths = list(chain.from_iterable(room))
        if 8 * sum(lengths) > _MOST_ROOM:
            raise UnavailableError(f"its sums would take {8e-6 * sum(lengths):.0f} MB")
        self._room = torch.empty(sum(lengths), dtype=torch.float64, device="cpu")
        ends = accumulate(lengths, initial=0)
        answers_at = array("Q", (self._room.data_ptr() + 8 * end for end, _ in zip(ends, lengths, strict=False)))
        count = len(batch.params)
        self._addresses = batch.bound_at[:count] + array("Q", bytes(8 * count)) + batch.bound_at[count:] + answers_at
        self._made: list[Tensor] = []

    def begin(self, step: Step) -> None:
        """Make a step ready: the batch must be unchanged, and gradients lie as their parameters do."""
        addresses = step.grads_at or array("Q", map(Tensor.data_ptr, step.grads))
        if 0 in addresses and any(not one and size for one, size in zip(addresses, self._sizes[3::4], strict=True)):
            # Zeros for which torch has made no memory.
            each = zip(self.batch.params, step.grads, strict=True)
            self._made = [torch.empty_like(one).copy_(grad) for one, grad in each]
            addresses = array("Q", map(Tensor.data_ptr, self._made))
        self.begin_at(addresses, step.rows)

    def begin_at(self, grads: "array[int]", rows: Sequence[Any], repeated: int = 1) -> None:
        """The same, with gradients by their addresses, and rows that come again and again."""
        count = len(self.batch.params)
        self._addresses[count : 2 * count] = grads
        shared = rows.count(rows[0]) == len(rows)
        self._rows = array("d", rows[0] if shared else chain.from_iterable(rows)) * (1 if shared else repeated)
        self._row_stride = 0 if shared else len(rows[0])

    def run(self, which: range, model: "array[float]") -> None:
        """Run some passes of the step that has begun; `model` has the answers over the model, and takes new ones."""
        threads = torch.get_num_threads() if self.batch.num_elements >= _WORTH_THREADS else 1
        self.kernel(which, self._sizes, self._addresses, self._rows, self._row_stride, threads, model)

    def end(self) -> None:
        """Let go of what was made for the step, and say that parameters were written."""
        self._made = []
        if not torch.is_inference_mode_enabled():
            # Autograd is told, as of every other change in place: a backward pass that needs the old values fails.
            torch.autograd.graph.increment_version(self.batch.params)


def run(launches: Sequence[Launch]) -> None:
    """Take the steps that have begun in place. They share their answers over the model."""
    passes = launches[0].kernel.passes
    model = array("d", bytes(8 * len(passes.shared)))
    for number in range(len(passes.calls)):
        made = []
        for launch in launches:
            made.append(array("d", model))
            launch.run(launch.kernel.passes.calls[number], made[-1])
        for k, (asked_in, kind) in enumerate(passes.shared):
            if asked_in == number:
                model[k] = _over_all(kind, [one[k] for one in made], launches)
    for launch in launches:
        launch.end()


def _over_all(kind: type[Reduction], made: Sequence[float], launches: Sequence[Launch]) -> float:
    if kind is Max:
        return math.nan if any(map(math.isnan, made)) else max(made)
    total = sum(made)
    return total / sum(launch.batch.num_elements for launch in launches) if kind is Mean else total


def agree(launches: Sequence[Launch]) -> bool:
    """Whether kernels ask for the same over the model, in the same order."""
    first, *others = (launch.kernel.passes for launch in launches)
    return all((one.shared, len(one.calls)) == (first.shared, len(first.calls)) for one in others)


def _check(passes: Passes, batch: Batch) -> None:
    """Raise UnavailableError unless all that lies in memory is what the recording took it for."""
    leaves = passes.recording.state
    for param in batch.params:
        if passes.axes != "m" and not param.is_contiguous():
            raise UnavailableError("sums along dimensions need contiguous parameters")
        if not param.numel() and any(answer.kind is Max for answer in passes.answers):
            raise UnavailableError("a parameter without elements has no largest one")
        layout, sizes = batch.program.layout(param.shape), passes.sizes(param.shape or (1,))
        if list(layout) != list(leaves) or any(
            layout[name].shape(param.shape).numel() != passes.numel(value, sizes) for name, value in leaves.items()
        ):
            raise UnavailableError("what is remembered depends on the sizes of a parameter")
    for name, column in batch.columns.items():
        if any(entry.dtype != leaves[name].dtype for entry in column):
            raise UnavailableError(f"{name} is remembered in a dtype of its own")


def why_not(batch: Batch) -> str | None:
    """Why no kernel could run a batch, as far as can be told without making one; None if one could."""
    rule = batch.program.rule
    if rule.takes_matrices:
        return f"{rule.name} multiplies whole matrices"
    if batch.device.type != "cpu":
        return f"kernels are for the CPU, not for {batch.device.type}"
    if rule.scope != "elementwise" and batch.dtype == torch.float64:
        # Which order kernels choose; in float32 sums are made in double precision, where it does not show.
        return f"{rule.name} makes sums, which in float64 depend on their order"
    if rule.scope != "elementwise" and any(batch.shards):
        return f"{rule.name} makes sums over tensors that are spread over processes"
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


def _in_background(build: Callable[[], Kernel]) -> "Future[Kernel]":
    # A thread for each build, that ends with it: a thread that has computed keeps a team of OpenMP threads, and with
    # more of these than cores OpenMP stops spinning: all small operations of the process become ten times slower.
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="thalweg-compiler")
    future = thread.submit(build)
    thread.shutdown(wait=False)
    return future


def found(batch: Batch) -> "Future[Kernel] | None":
    """The kernel of a batch, if nothing has to be compiled for it; its future may be one that is being compiled.

    The future raises UnavailableError where there will be no kernel.
    """
    key = _key(batch)
    if key not in _FUTURES:
        made = _without_compiling(Wanted(batch))
        if made is None:
            return None
        _FUTURES[key] = made
    return _FUTURES[key]


def started(batch: Batch) -> "Future[Kernel]":
    """The kernel of a batch, for which a compiler is started in the background unless it is there."""
    future = found(batch)
    if future is None:
        try:
            wanted = Wanted(batch)
            _ = wanted.source  # here, not there: torch's modes belong to a thread
            future = _in_background(partial(_build, wanted))
        except RuntimeError as error:  # the interpreter is shutting down
            future = Future()
            future.set_exception(UnavailableError(str(error)))
        _FUTURES[_key(batch)] = future
    return future


class Wanted:
    """What a kernel is made for: a program, for parameters of one dtype and, where it matters, number of dimensions."""

    def __init__(self, batch: Batch) -> None:
        self.program, self.dtype = batch.program, batch.dtype
        self.elementwise = batch.program.rule.scope == "elementwise"
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

    def example(self) -> Batch:
        """Parameters that a new kernel is tried on."""
        params = [torch.cos(torch.arange(n, device="cpu")).to(self.dtype).view(shape) for n, shape in self._shapes()]
        states = [self.program.init(param) for param in params]
        columns: dict[str, list[Any]] = {name: [getattr(state, name) for state in states] for name in states[0]._fields}
        return Batch(self.program, params, columns)

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
        if declared.is_switch or not isinstance(value, Real):
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
    alike = (changed.rule.form, list(changed.layout(shape))) == (program.rule.form, list(program.layout(shape)))
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


def _key(batch: Batch) -> Hashable:
    return batch.program.key(batch.params[0].shape, batch.dtype)


def _without_compiling(wanted: Wanted) -> "Future[Kernel] | None":
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


def _build(wanted: Wanted) -> Kernel:
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


def _tried(wanted: Wanted, path: str) -> Kernel:
    """A kernel from a file, if it takes the steps that the loop takes."""
    try:
        return _compared(wanted, path)
    except (OSError, UnavailableError):
        raise
    except Exception as error:  # a rule of the user's may do anything with parameters that are not theirs
        raise UnavailableError(f"the kernel cannot be tried: {type(error).__name__}: {error}") from error


def _compared(wanted: Wanted, path: str) -> Kernel:
    made = Kernel(path, wanted.passes)
    batches = [wanted.example() for _ in range(2)]
    shapes = [param.shape for param in batches[0].params]
    for count in range(1, 4):
        rows = [wanted.program.coefficients(count + k, position=k) for k in range(len(shapes))]
        waves = [torch.sin(1.7 * torch.arange(shape.numel(), device="cpu") + count).view(shape) for shape in shapes]
        grads = [wave.to(wanted.dtype) for wave in waves]
        with torch.inference_mode(False), torch.no_grad():
            loop.run([Step(batches[0], grads, rows)])
            launch = Launch(made, batches[1])
            launch.begin(Step(batches[1], grads, rows))
            run([launch])
    for one, other in zip(*map(_tensors, batches), strict=True):
        if not _same(one, other):
            raise UnavailableError("the compiled kernel and the loop disagree on this machine")
    return made


def _same(one: Tensor, other: Tensor) -> bool:
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def _tensors(batch: Batch) -> list[Tensor]:
    return list(chain(batch.params, *batch.columns.values()))
