"""Backends: which backend runs a batch, and why.

    compiled    all rules but matrix rules, on the CPU and on CUDA, once their kernel is ready: one call for all tensors
    flat        other elementwise rules: stretches of long vectors, a bucket at a time
    batched     other rules that look at whole tensors, if many are small and of one shape: these are stacked; on
                accelerators also rules that request operations on matrices, which are answered in batches
    loop        all other batches: tensor by tensor; the tensors of a rule over the whole model step in lockstep

A kernel is made from the rule itself, in C or CUDA. `compiled` and `flat` get the same bits as the reference `loop`. So
by default an elementwise rule starts at once on the eager backend `flat`, its kernel is compiled in the background, and
`compiled` takes over at the step at which the kernel is ready. `batched` agrees with the loop up to the last digits.
Sparse gradients are stepped row by row (`eager.sparse`), and gradients of another dtype than their parameters on an
eager backend, whatever the backend of the batch.

A user may request a backend for an optimizer. A request that is not possible raises SettingError.
"""

import logging
from array import array
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from thalweg.engine.core import threads
from thalweg.engine.core.batch import BatchStep, ParameterBatch
from thalweg.engine.eager import batched, flat, loop, sparse
from thalweg.engine.kernels import kernel, kernel_cache
from thalweg.engine.kernels.kernel import BoundKernel
from thalweg.engine.kernels.kernel_cache import PendingKernel
from thalweg.engine.kernels.kernel_spec import MissingToolError, UnavailableError
from thalweg.errors import SettingError

Backend = Literal["loop", "flat", "compiled", "batched"]


class BackendChoice(NamedTuple):
    """The backend of a batch.

    Attributes:
        backend: The backend.
        why: The reason, in words.
    """

    backend: Backend
    why: str


# The choice for a parameter with a kernel, if other parameters of the same reductions over the model have none.
SHARED_REDUCTION = BackendChoice("loop", "its sums over the model include parameters that have no kernel")


class BatchRunner:
    """Runs a batch on its backend. The backend changes at most once: when the kernel is ready.

    Args:
        batch: The parameters.
        requested: The backend that the user requests. None chooses the fastest one.

    Attributes:
        batch: The parameters.
        choice: The backend of the last step, or of the first one if there was none.
        bound_kernel: The kernel, bound to the batch; None on other backends.
        answers_in_batches: True if the batch's operations on matrices are answered together with those of others.

    Raises:
        SettingError: If the requested backend cannot run the batch.
    """

    def __init__(self, batch: ParameterBatch, requested: Backend | None = None) -> None:
        self.batch = batch
        self.bound_kernel: BoundKernel | None = None
        self._requested = requested
        self._kernel: PendingKernel | None = None
        self._must_compile = False
        self.choice = self._choose()
        if requested is not None and self.choice.backend != requested:
            raise SettingError(
                f"{batch.program.rule.name}: backend={requested!r} must be possible, but {self.choice.why}. "
                "Omit backend to get the fastest one."
            )
        # Such rules have no kernel, so this choice is final.
        self.answers_in_batches = self.choice.backend == "batched" and batch.program.rule.traits.requests_operations

    @property
    def requests_batched(self) -> bool:
        """True if the user requests the backend ``batched``."""
        return self._requested == "batched"

    @property
    def requests_loop(self) -> bool:
        """True if the user requests the backend ``loop``."""
        return self._requested == "loop"

    def _choose(self) -> BackendChoice:
        if self._requested == "loop":
            return BackendChoice("loop", "requested")
        if self._requested == "flat":
            reason = flat.unsupported_reason(self.batch)
            return BackendChoice("loop", reason) if reason else BackendChoice("flat", "requested")
        if self._requested == "batched":
            reason = batched.unsupported_reason(self.batch, requested=True)
            return BackendChoice("loop", reason) if reason else BackendChoice("batched", "requested")
        if reason := kernel_cache.unsupported_reason(self.batch):
            return self._choose_eager(reason)
        self._kernel = kernel_cache.lookup(self.batch)
        self._must_compile = self._kernel is None
        return self.resolve(wait=self._requested == "compiled")

    def _choose_eager(self, why: str) -> BackendChoice:
        """Return the choice if there is no kernel, or none yet."""
        if self.batch.program.rule.traits.scope == "elementwise":
            return BackendChoice("loop" if flat.unsupported_reason(self.batch) else "flat", why)
        if reason := batched.unsupported_reason(self.batch, requested=False):
            return BackendChoice("loop", f"{why}, and {reason}")
        return BackendChoice("batched", f"{why}, and {batched.gain(self.batch)}")

    def _why_compiled(self) -> str:
        scope = self.batch.program.rule.traits.scope
        work = {"elementwise": "elementwise", "tensor": "sums over tensors", "model": "sums over the model"}[scope]
        return f"{work}, {kernel_cache.target_of(self.batch).where}: one kernel for all such tensors"

    def resolve(self, *, wait: bool) -> BackendChoice:
        """Return the choice as it stands.

        Args:
            wait: If true, wait until the kernel is compiled.
        """
        if self._kernel is not None and self._kernel.abandoned:
            self._kernel, self._must_compile = None, True
        if self._must_compile and wait:
            self._compile()
        if self._must_compile or (self._kernel is not None and not wait and not self._kernel.done()):
            return self._choose_eager("until its kernel has been compiled in the background")
        if self._kernel is None:
            return self.choice
        if _is_capturing(self.batch):  # to bind a kernel uploads tables, which a graph cannot hold
            return self._choose_eager("a graph was being captured when its kernel was ready")
        try:
            self.bound_kernel = self._kernel.result().bind(self.batch)
            self.choice = BackendChoice("compiled", self._why_compiled())
        except UnavailableError as error:
            self.choice = self._choose_eager(str(error))
            if isinstance(error, MissingToolError):
                _warn_once(self.choice)
        self._kernel = None
        return self.choice

    def _compile(self) -> None:
        self._kernel = kernel_cache.compile_in_background(self.batch)
        self._must_compile = False

    def run(self, step: BatchStep) -> None:
        """Take a step in place."""
        self.adopt_kernel()
        if step.sparse:
            sparse.run(step)
        elif self.bound_kernel is not None and not step.mixed_dtypes:
            self.bound_kernel.begin(step)
            kernel.run([self.bound_kernel])
        elif self.choice.backend == "flat" or (step.mixed_dtypes and flat.unsupported_reason(self.batch) is None):
            flat.run(step)
        elif self.choice.backend == "batched":
            batched.run([(step, self.requests_batched)])
        else:
            loop.run([step])
        self.after_step()

    def adopt_kernel(self) -> None:
        """Continue on the kernel if it is ready."""
        if self._kernel is not None:
            self.choice = self.resolve(wait=False)

    def after_step(self) -> None:
        """Start the compiler after the first step, so that this step need not share the cores with it."""
        if self._must_compile:
            self._compile()

    def run_stacks(self, stacks: Sequence[Tensor], coefficients: Sequence[Any]) -> None:
        """Take a step in place with gradients that are slices of stacks, one stack after the other.

        A kernel needs only the addresses of the slices; to create them all as tensors would take as long as the step.

        Args:
            stacks: Gradients, of shape ``(members, *shape)``.
            coefficients: The scalars of each member.
        """
        self.adopt_kernel()
        if self.bound_kernel is None:
            slices = [member for stack in stacks for member in stack.unbind()]
            self.run(BatchStep(self.batch, slices, list(coefficients) * len(stacks)))
            return
        addresses = array("Q")
        for stack in stacks:
            start, stride = stack.data_ptr(), stack.stride(0) * stack.element_size()
            addresses.extend(start + k * stride for k in range(len(stack)))
        self.bound_kernel.begin_at(addresses, coefficients, repeated=len(stacks))
        kernel.run([self.bound_kernel])


def run(steps: Sequence[tuple[BatchRunner, BatchStep]], after_batch: Callable[[int], None]) -> None:
    """Take one step of all batches, each on its backend.

    Args:
        steps: The runner and the step of each batch.
        after_batch: Called with the number of a batch when its step is taken.
    """
    with torch.no_grad(), ExitStack() as contexts:
        if threads.inherited_team:
            contexts.enter_context(threads.one_thread())
        for device in {runner.batch.device.type for runner, _ in steps}:
            if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
                contexts.enter_context(torch.autocast(device, enabled=False))
        joint = {k for k, (runner, _) in enumerate(steps) if runner.batch.program.rule.traits.scope == "model"}
        if joint:
            _run_shared([steps[k] for k in sorted(joint)])
        with_operations = [k for k, (runner, _) in enumerate(steps) if runner.answers_in_batches]
        if len(with_operations) > 1:
            joint.update(with_operations)
            batched.run([(steps[k][1], steps[k][0].requests_batched) for k in with_operations])
        for k, (runner, step) in enumerate(steps):
            if k not in joint:
                runner.run(step)
            after_batch(k)


def bound_kernels(runners: Sequence[BatchRunner]) -> list[BoundKernel]:
    """Return the kernels of batches with reductions over the model; an empty list unless they can step together."""
    kernels = [runner.bound_kernel for runner in runners if runner.bound_kernel is not None]
    return kernels if len(kernels) == len(runners) and kernel.have_same_reductions(kernels) else []


def _run_shared(steps: Sequence[tuple[BatchRunner, BatchStep]]) -> None:
    """Take one step of batches with reductions over the model: on kernels if all have one, else on the loop."""
    for runner, _ in steps:
        runner.adopt_kernel()
    kernels = bound_kernels([runner for runner, _ in steps])
    if kernels and not any(step.sparse or step.mixed_dtypes for _, step in steps):
        for bound_kernel, (_, step) in zip(kernels, steps, strict=True):
            bound_kernel.begin(step)
        kernel.run(kernels)
    else:
        # On a CPU each tensor keeps the bits that it has without a reduction over the model.
        in_batches = all(runner.batch.device.type != "cpu" and not runner.requests_loop for runner, _ in steps)
        loop.run([step for _, step in steps], together=in_batches)
    for runner, _ in steps:
        runner.after_step()


def _is_capturing(batch: ParameterBatch) -> bool:
    return batch.device.type == "cuda" and torch.cuda.is_current_stream_capturing()


_WARNINGS: set[str] = set()  # those that this process has logged


def _warn_once(choice: BackendChoice) -> None:
    if choice.why not in _WARNINGS:
        _WARNINGS.add(choice.why)
        logging.getLogger("thalweg").warning("steps run on the slower %s backend: %s", choice.backend, choice.why)
