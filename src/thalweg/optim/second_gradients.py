"""Second gradients: gradients at perturbed parameters (SAM), and closures that are called repeatedly."""

import inspect
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.core.plain_tensors import address
from thalweg.engine.eager import loop
from thalweg.errors import ParameterError
from thalweg.optim.evaluation_mode import EvaluationMode, write_count
from thalweg.optim.state_entries import as_engine_tensor

Closure = Callable[[], Any]

# The closure that `step` takes.
_CLOSURE = "a function that zeroes the gradients, computes the loss, calls backward() and returns the loss"
# An attribute of the memory of gradients that a step has used: the version of each, by its address. The tensors
# themselves are made anew by FSDP.
_USED = "_thalweg_used"
# The frames between a step and a scaler or an optimizer of Accelerate that calls it: decorators, hooks, schedulers.
_MAX_FRAMES = 16
_REPEATING = ("second gradient", "closure")
_WITH_SCALER = defaultdict(
    lambda: "Call scaler.scale(loss).backward(), then scaler.step(optimizer).",
    {
        "second gradient": "Call scaler.scale(loss).backward(), compute the second gradient in the same way in "
        "`with optimizer.perturbed():`, then call scaler.step(optimizer).",
        "closure": "Train in bfloat16 or float32, which need no scaler.",
    },
)


class SecondGradients(EvaluationMode):
    """The half of `RuleOptimizer` that gets gradients at other parameters than those of the model."""

    @contextmanager
    def perturbed(self) -> Iterator[None]:
        """Return a context in which the parameters are those at which the second gradient is to be computed (SAM).

        It is the alternative to a closure: it works with gradient accumulation, `GradScaler` and trainers. On entry
        the parameters must have their gradients: of one batch, or accumulated over several. They are used for the
        perturbation and cleared. Inside, compute the gradients of the same batches again. Then call ``step()``.

        Raises:
            ParameterError: If the rule needs no second gradient, if no parameter has a gradient, or if the parameters
                are those of evaluation or perturbed already.

        Example:
            >>> import torch
            >>> from thalweg import optim
            >>> model = torch.nn.Linear(4, 1)
            >>> optimizer = optim.optimizer_for("sam(sgd)")(model.parameters(), lr=0.1)
            >>> batches = torch.ones(2, 8, 4)
            >>> for batch in batches:
            ...     (model(batch).square().mean() / len(batches)).backward()
            >>> with optimizer.perturbed():
            ...     for batch in batches:
            ...         (model(batch).square().mean() / len(batches)).backward()
            >>> optimizer.step()
            >>> optimizer.zero_grad()
        """
        if self.rule.traits.needs != "second gradient":
            raise ParameterError(
                f"{self._who}: the rule must need a second gradient, and it does not. Remove the call."
            )
        self._check_training("be perturbed")
        if all(param.grad is None for param in self._params()):
            raise ParameterError(
                f"{self._who}: parameters must have gradients to be perturbed, got none. Call loss.backward() first."
            )
        swap = self._perturb()
        try:
            yield
        finally:
            self._mode.perturbed = False
            self._drop_gathered_copies()
            swap.restore(self._who)
        self._mode.has_second_gradients = True

    @torch.no_grad()
    def _perturb(self) -> "ParameterSwap":
        """Move the parameters to where the second gradient is computed, and clear their gradients."""
        items = [item for binding, step in self._prepare_steps() for item in binding.items(step)]
        self._drop_gathered_copies()
        swap = ParameterSwap([item.param for item in items], loop.perturbed_parameters(items))
        self._mode.perturbed, self._mode.has_second_gradients = True, False
        self.zero_grad()
        return swap

    def _compute_second_gradients(self, closure: Closure | None) -> Any:
        """Make sure that the gradients are those at the perturbed parameters; return the loss of the closure."""
        if self._mode.has_second_gradients:
            self._mode.has_second_gradients = False
            return self._call_beside_gradients(closure) if closure else None
        if closure is None:
            if not self._has_zero_gradients():
                self._required(closure, "a second gradient")
            return None
        if self._with_other_gradients():
            raise self._other_gradients_error()
        loss = self._call(closure)
        swap = self._perturb()
        try:
            self._call(closure)
        finally:
            self._mode.perturbed = False
            self._drop_gathered_copies()
            swap.restore(self._who)
        self._mark_gradients()
        return loss

    def _call_beside_gradients(self, closure: Closure) -> Any:
        """Call a closure that computes no gradients, such as the one that Lightning passes to every step."""
        grads = [param.grad for param in self._params()]
        with torch.enable_grad():
            loss = closure()
        if not all(param.grad is grad for param, grad in zip(self._params(), grads, strict=True)):
            raise ParameterError(
                f"{self._who}: gradients must come from a closure or from `with optimizer.perturbed():`, got both. "
                "Remove one of the two."
            )
        return loss

    def _call(self, closure: Closure) -> Any:
        self.zero_grad()
        with torch.enable_grad():
            return closure()

    def _required(self, closure: Closure | None, reason: str) -> Closure:
        if closure is None:
            remedy = f"Call optimizer.step(closure) with {_CLOSURE}"
            if self.rule.traits.needs == "second gradient":
                remedy += ", or compute the second gradient in `with optimizer.perturbed():`"
            raise ParameterError(f"{self._who}: a step needs {reason}, got no closure. {remedy}.")
        return closure

    def _check_caller(self) -> None:
        """Raise ParameterError if a closure is called in a way that gives other gradients than those of the loss."""
        frame = inspect.currentframe()
        for _ in range(_MAX_FRAMES):
            if frame is None:
                return
            match frame.f_globals.get("__name__"), frame.f_code.co_name:
                case "torch.amp.grad_scaler", "_maybe_opt_step":
                    raise ParameterError(
                        f"{self._who}: a scaler must step without a closure, whose gradients stay scaled, got one. "
                        f"{_WITH_SCALER[self.rule.traits.needs]}"
                    )
                case "accelerate.optimizer", "step" if self.rule.traits.needs in _REPEATING:
                    if frame.f_locals["self"].gradient_state.num_steps > 1:
                        raise ParameterError(
                            f"{self._who}: a closure must compute the gradients of all micro-batches, got one under "
                            "an Accelerator with gradient accumulation, which calls it for the last one only. Make the "
                            f"Accelerator without gradient_accumulation_steps. {self._accumulation_remedy}"
                        )
            frame = frame.f_back

    def _other_gradients_error(self) -> ParameterError:
        """Return the error for gradients from before the step, which a closure cannot repeat."""
        return ParameterError(
            f"{self._who}: all gradients must come from the closure, which is called more than once, got some from "
            f"before the step, such as those of earlier micro-batches. {self._accumulation_remedy} If the "
            "gradients do not belong to this step, call optimizer.zero_grad() before it."
        )

    @property
    def _accumulation_remedy(self) -> str:
        remedy = "Let the closure loop over all micro-batches"
        if self.rule.traits.needs == "second gradient":
            remedy += ", or use `with optimizer.perturbed():` in place of a closure"
        return f"{remedy}."

    def _repeatable(self, closure: Closure) -> Closure:
        """Return a closure that can be called repeatedly, whether or not it zeroes the gradients.

        Gradients from before the step are the user's to zero: torch.optim.LBFGS is often called with those of the
        optimizer before it. If the closure adds to them, they are an error.
        """
        calls = 0

        def repeatable() -> Any:
            nonlocal calls
            calls += 1
            params = self._with_other_gradients() if calls == 1 else []
            if not params:
                return self._call(closure)
            # A gradient that is not a number stays one if the closure adds to it.
            probe = min(filter(Tensor.numel, params), key=Tensor.numel)
            grad, probe.grad = probe.grad, torch.full_like(probe, math.nan)
            placeholder, write_count_before = probe.grad, write_count(probe.grad)
            with torch.enable_grad():
                loss = closure()
            if probe.grad is placeholder and write_count(placeholder) == write_count_before:
                probe.grad = grad  # the closure computes no gradients
            elif probe.grad is placeholder and bool(as_engine_tensor(placeholder).isnan().any()):
                probe.grad = grad
                raise self._other_gradients_error()
            return loss

        return repeatable

    def _params(self) -> Iterator[Tensor]:
        return (param for group in self.param_groups for param in group["params"])

    def _with_other_gradients(self) -> list[Tensor]:
        """Return the parameters with a gradient from after the last step; none if all of these are zero."""
        params = [param for param in self._params() if param.grad is not None and not _is_used(param.grad)]
        return params if _is_any([param.grad for param in params if param.grad is not None]) else []

    def _mark_gradients(self) -> None:
        """Mark the gradients as used by a step."""
        for param in self._params():
            if param.grad is not None:
                _mark_as_used(param.grad)

    def _has_zero_gradients(self) -> bool:
        """Return True if all gradients are zero, and so those at the perturbed parameters, which are the same."""
        grads = [param.grad for param in self._params() if param.grad is not None]
        return bool(grads) and not _is_any(grads)


class ParameterSwap:
    """Parameters that hold other values until these are restored.

    Args:
        params: The parameters.
        values: Their values for the time being.
    """

    @torch.no_grad()
    def __init__(self, params: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        self._saved = [(param, param.detach().clone()) for param in params]  # before the first is written
        for param, value in zip(params, values, strict=True):
            param.copy_(value)
        self._write_counts = [write_count(param) for param in params]

    @torch.no_grad()
    def restore(self, who: str) -> None:
        """Write the saved values back.

        Args:
            who: The name of the optimizer, for the error message.

        Raises:
            ParameterError: If other code has written to the parameters. Its changes are undone.
        """
        written = self._write_counts != [write_count(param) for param, _ in self._saved]
        for param, value in self._saved:
            param.copy_(value)
        if written and sys.exception() is None:
            raise ParameterError(
                f"{who}: parameters must not be written to while the second gradient is computed, got some that were. "
                "The values from before the step are back. Write to them after the step."
            )


def _is_any(grads: Sequence[Tensor]) -> bool:
    """Return True if an element of a gradient is not zero. Each device is waited for once.

    Gradients without memory, such as fake ones, count as zero.
    """
    by_device: dict[torch.device, list[Tensor]] = {}
    for grad in grads:
        if not grad.is_sparse and not address(as_engine_tensor(grad)):
            continue
        values = grad.coalesce().values() if grad.is_sparse else as_engine_tensor(grad)
        by_device.setdefault(values.device, []).append(values.any())
    return any(bool(torch.stack(results).any()) for results in by_device.values())


def _memory_of(grad: Tensor) -> Any:
    """Return the object that lives as long as the memory of a gradient."""
    try:
        return as_engine_tensor(grad).untyped_storage()
    except NotImplementedError:  # a sparse gradient has several
        return grad


def _mark_as_used(grad: Tensor) -> None:
    memory = _memory_of(grad)
    marks = getattr(memory, _USED, {})
    marks[address(as_engine_tensor(grad))] = write_count(grad)
    setattr(memory, _USED, marks)


def _is_used(grad: Tensor) -> bool:
    """Return True if a step has used a gradient, and nothing has written to it since."""
    marks = getattr(_memory_of(grad), _USED, {})
    return bool(marks.get(address(as_engine_tensor(grad))) == write_count(grad))
