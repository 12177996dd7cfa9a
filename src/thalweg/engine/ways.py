"""Ways: which way a batch is run, and why.

    compiled    elementwise rules on the CPU, once their kernel is there: one call for all tensors
    flat        elementwise rules otherwise: stretches of long vectors, a bucket at a time
    batched     rules that look at whole tensors, where many are small and of one shape: these as one
    loop        everything else: tensor by tensor, those of a rule over the whole model together; and `sparse`
                gradients, of which it sees the rows that are there

The first two give the bits of the loop. So the default starts at once by `flat`, has the kernel compiled in the
background, and goes on by it from the step at which it is ready. `batched` gives all but the last digits.
"""

import logging
from array import array
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from thalweg.engine import batched, c_compiler, compiled, flat, loop, sparse
from thalweg.engine.batch import Batch, Step
from thalweg.engine.compiled import Kernel, Launch, UnavailableError
from thalweg.errors import SettingError

Way = Literal["loop", "flat", "compiled", "batched"]


class Choice(NamedTuple):
    """A way, and the reason in words."""

    way: Way
    why: str


class Runner:
    """A batch and the way it is run. The way changes at most once: when the kernel is ready."""

    def __init__(self, batch: Batch, asked: Way | None = None) -> None:
        self.batch, self._asked = batch, asked is not None
        self._kernel: Future[Kernel] | None = None
        self._to_compile = False
        self._launch: Launch | None = None
        self._without_kernel: Way = "flat" if flat.why_not(batch) is None else "loop"
        self.choice = self._choose(asked)
        if asked is not None and self.choice.way != asked:
            raise SettingError(f"{self._who}: way={asked!r} must be possible, but {self.choice.why}. Leave it out.")

    @property
    def _who(self) -> str:
        return self.batch.program.rule.name

    def _choose(self, asked: Way | None) -> Choice:
        if asked == "loop":
            return Choice("loop", "asked for")
        if asked == "batched" or (asked is None and self.batch.program.rule.scope != "elementwise"):
            reason = batched.why_not(self.batch, asked=asked is not None)
            why = "asked for" if asked else "small tensors of one shape, which step as one"
            return Choice("loop", reason) if reason else Choice("batched", why)
        no_kernel = "asked for" if asked == "flat" else compiled.why_not(self.batch)
        if no_kernel is None:
            self._kernel = compiled.found(self.batch)
            self._to_compile = self._kernel is None
            return self.settled(wait=asked == "compiled")
        reason = None if asked == "compiled" else flat.why_not(self.batch)
        return Choice(self._without_kernel, reason or no_kernel)

    def settled(self, *, wait: bool) -> Choice:
        """The choice as it stands now, or once the compiler has ended if that is waited for."""
        if self._to_compile and wait:
            self._compile()
        if self._to_compile or (self._kernel is not None and not wait and not self._kernel.done()):
            return Choice(self._without_kernel, "until its kernel, which is compiled in the background, is ready")
        if self._kernel is None:
            return self.choice
        try:
            self._launch = Launch(self._kernel.result(), self.batch)
            self.choice = Choice("compiled", "elementwise, on the CPU: one kernel for all such tensors")
        except UnavailableError as error:
            self.choice = Choice(self._without_kernel, str(error))
            _say_once(self.choice)
        self._kernel = None
        return self.choice

    def _compile(self) -> None:
        self._kernel = compiled.started(self.batch)
        self._to_compile = False

    def run(self, step: Step) -> None:
        """Take a step in place."""
        if self._kernel is not None:
            self.choice = self.settled(wait=False)
        if step.sparse:
            sparse.run(step)
        elif self._launch is not None:
            self._launch.run(step)
        elif self.choice.way == "flat":
            flat.run(step)
        elif self.choice.way == "batched":
            batched.run(step, asked=self._asked)
        else:
            loop.run([step])
        if self._to_compile:  # only now: the first step need not share the cores with a compiler
            self._compile()

    def run_stacks(self, stacks: Sequence[Tensor], rows: Sequence[Any]) -> None:
        """Take a step in place with gradients that are the slices of stacks, one stack after the other, a row a slice.

        A kernel needs no more of a slice than its address; to make them all would take as long as the step.
        """
        if self._kernel is not None:
            self.settled(wait=False)
        if self._launch is None:
            members = [member for stack in stacks for member in stack.unbind()]
            self.run(Step(self.batch, members, list(rows) * len(stacks)))
            return
        addresses = array("Q")
        for stack in stacks:
            start, stride = stack.data_ptr(), stack.stride(0) * stack.element_size()
            addresses.extend(start + k * stride for k in range(len(stack)))
        self._launch.start(addresses, rows, repeated=len(stacks))


def run(steps: Sequence[tuple[Runner, Step]]) -> None:
    """Take one step of all batches, each its own way."""
    with torch.no_grad():
        together = [step for runner, step in steps if runner.batch.program.rule.scope == "model"]
        if together:
            loop.run(together)
        for runner, step in steps:
            if runner.batch.program.rule.scope != "model":
                runner.run(step)


def _say_once(choice: Choice) -> None:
    if c_compiler.compiler() is None and "compiler" not in _SAID:
        _SAID.add("compiler")
        logging.getLogger("thalweg").warning("steps run the %s way, which is slower: %s", choice.way, choice.why)


_SAID: set[str] = set()
