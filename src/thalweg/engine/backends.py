"""Ways: which way a batch is run, and why.

    compiled    on the CPU, all rules but those of matrices, once their kernel is there: one call for all tensors
    flat        elementwise rules otherwise: stretches of long vectors, a bucket at a time
    batched     rules that look at whole tensors, where many are small and of one shape: these as one
    loop        everything else: tensor by tensor, those of a rule over the whole model together; and `sparse`
                gradients, of which it sees the rows that are there

The first two give the bits of the loop. So the default starts at once by `flat`, has the kernel compiled in the
background, and goes on by it from the step at which it is ready. `batched` gives all but the last digits.
"""

import logging
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from thalweg.engine.core.batch import BatchStep, ParameterBatch
from thalweg.engine.eager import batched, flat, loop, sparse
from thalweg.engine.kernels import c_compiler, kernel, kernel_cache
from thalweg.engine.kernels.kernel import BoundKernel, Kernel, UnavailableError
from thalweg.errors import SettingError

Backend = Literal["loop", "flat", "compiled", "batched"]


class BackendChoice(NamedTuple):
    """A way, and the reason in words."""

    backend: Backend
    why: str


# Of a parameter that has a kernel, where others that ask for the same over the model have none.
SHARED_REDUCTION = BackendChoice("loop", "its sums are shared with parameters that have no kernel")


class BatchRunner:
    """A batch and the way it is run. The way changes at most once: when the kernel is ready."""

    def __init__(self, batch: ParameterBatch, asked: Backend | None = None) -> None:
        self.batch = batch
        self._kernel: Future[Kernel] | None = None
        self._to_compile = False
        self.bound_kernel: BoundKernel | None = None
        self.choice = self._choose(asked)
        if asked is not None and self.choice.backend != asked:
            raise SettingError(f"{self._who}: backend={asked!r} must be possible, but {self.choice.why}. Leave it out.")

    @property
    def _who(self) -> str:
        return self.batch.program.rule.name

    @property
    def _why_compiled(self) -> str:
        scope = self.batch.program.rule.traits.scope
        looks = {"elementwise": "elementwise", "tensor": "sums over tensors", "model": "sums over the model"}[scope]
        return f"{looks}, on the CPU: one kernel for all such tensors"

    def _choose(self, asked: Backend | None) -> BackendChoice:
        if asked == "loop":
            return BackendChoice("loop", "asked for")
        if asked in ("flat", "batched"):
            reason = flat.why_not(self.batch) if asked == "flat" else batched.why_not(self.batch, asked=True)
            return BackendChoice("loop", reason) if reason else BackendChoice(asked, "asked for")
        if reason := kernel.why_not(self.batch):
            return self._without(reason)
        self._kernel = kernel_cache.found(self.batch)
        self._to_compile = self._kernel is None
        return self.resolve(wait=asked == "compiled")

    def _without(self, why: str) -> BackendChoice:
        """The choice where there is no kernel, or none yet."""
        if self.batch.program.rule.traits.scope == "elementwise":
            return BackendChoice("loop" if flat.why_not(self.batch) else "flat", why)
        if reason := batched.why_not(self.batch, asked=False):
            return BackendChoice("loop", f"{why}, and {reason}")
        return BackendChoice("batched", f"{why}, and small ones of one shape step as one")

    def resolve(self, *, wait: bool) -> BackendChoice:
        """The choice as it stands now, or once the compiler has ended if that is waited for."""
        if self._to_compile and wait:
            self._compile()
        if self._to_compile or (self._kernel is not None and not wait and not self._kernel.done()):
            return self._without("until its kernel, which is compiled in the background, is ready")
        if self._kernel is None:
            return self.choice
        try:
            self.bound_kernel = BoundKernel(self._kernel.result(), self.batch)
            self.choice = BackendChoice("compiled", self._why_compiled)
        except UnavailableError as error:
            self.choice = self._without(str(error))
            _say_once(self.choice)
        self._kernel = None
        return self.choice

    def _compile(self) -> None:
        self._kernel = kernel_cache.started(self.batch)
        self._to_compile = False

    def run(self, step: BatchStep) -> None:
        """Take a step in place."""
        self.adopt_kernel()
        if step.sparse:
            sparse.run(step)
        elif self.bound_kernel is not None:
            self.bound_kernel.begin(step)
            kernel.run([self.bound_kernel])
        elif self.choice.backend == "flat":
            flat.run(step)
        elif self.choice.backend == "batched":
            batched.run(step, asked=self.choice.why == "asked for")
        else:
            loop.run([step])
        self.after_step()

    def adopt_kernel(self) -> None:
        """Go on by the kernel if it has become ready."""
        if self._kernel is not None:
            self.choice = self.resolve(wait=False)

    def after_step(self) -> None:
        """A step was taken: have the kernel compiled now, since the first step need not share the cores with that."""
        if self._to_compile:
            self._compile()

    def run_stacks(self, stacks: Sequence[Tensor], rows: Sequence[Any]) -> None:
        """Take a step in place with gradients that are the slices of stacks, one stack after the other, a row a slice.

        A kernel needs no more of a slice than its address; to make them all would take as long as the step.
        """
        self.adopt_kernel()
        if self.bound_kernel is None:
            members = [member for stack in stacks for member in stack.unbind()]
            self.run(BatchStep(self.batch, members, list(rows) * len(stacks)))
            return
        addresses = array("Q")
        for stack in stacks:
            start, stride = stack.data_ptr(), stack.stride(0) * stack.element_size()
            addresses.extend(start + k * stride for k in range(len(stack)))
        self.bound_kernel.begin_at(addresses, rows, repeated=len(stacks))
        kernel.run([self.bound_kernel])


def run(steps: Sequence[tuple[BatchRunner, BatchStep]], taken: Callable[[int], None]) -> None:
    """Take one step of all batches, each its own way; `taken(k)` is called when that of number k is taken."""
    with torch.no_grad(), ExitStack() as exact:
        for device in {runner.batch.device.type for runner, _ in steps}:
            if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
                exact.enter_context(torch.autocast(device, enabled=False))
        together = {k for k, (runner, _) in enumerate(steps) if runner.batch.program.rule.traits.scope == "model"}
        if together:
            _run_together([steps[k] for k in sorted(together)])
        for k, (runner, step) in enumerate(steps):
            if k not in together:
                runner.run(step)
            taken(k)


def bound_kernels(runners: Sequence[BatchRunner]) -> list[BoundKernel]:
    """The kernels of batches that ask for the same over the model, if they can go by them; none otherwise."""
    bound_kernels = [runner.bound_kernel for runner in runners if runner.bound_kernel is not None]
    return bound_kernels if len(bound_kernels) == len(runners) and kernel.agree(bound_kernels) else []


def _run_together(steps: Sequence[tuple[BatchRunner, BatchStep]]) -> None:
    """Take one step of batches that ask for the same over the model: by kernels if all have one, or by the loop."""
    for runner, _ in steps:
        runner.adopt_kernel()
    kernels = bound_kernels([runner for runner, _ in steps])
    if kernels and not any(step.sparse for _, step in steps):
        for bound_kernel, (_, step) in zip(kernels, steps, strict=True):
            bound_kernel.begin(step)
        kernel.run(kernels)
    else:
        loop.run([step for _, step in steps])
    for runner, _ in steps:
        runner.after_step()


def _say_once(choice: BackendChoice) -> None:
    if c_compiler.compiler() is None and "compiler" not in _SAID:
        _SAID.add("compiler")
        logging.getLogger("thalweg").warning("steps run on the slower %s backend: %s", choice.backend, choice.why)


_SAID: set[str] = set()
