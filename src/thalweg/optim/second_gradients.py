"""Second gradients: gradients at perturbed parameters (SAM), and closures that are called repeatedly."""

import inspect
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from traceback import walk_stack
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.core.plain_tensors import address, write_count
from thalweg.engine.eager import loop
from thalweg.errors import ParameterError
from thalweg.optim.evaluation_mode import EvaluationMode
from thalweg.optim.state.state_entries import as_engine_tensor

Closure = Callable[[], Any]

# The closure that `step` takes.
_CLOSURE = "a function that zeroes the gradients, computes the loss, calls backward() and returns the loss"
# Attributes of the memory of gradients: of those that a step has used, and of second ones. Each holds the version of
# each gradient, by its address. The tensors themselves are made anew by FSDP.
_USED = "_thalweg_used"
_SECOND = "_thalweg_second"
# The frames between a step and a scaler or an optimizer of Accelerate that calls it: decorators, hooks, schedulers.
_MAX_FRAMES = 16
_SCALER_STEP = ("torch.amp.grad_scaler", "_maybe_opt_step")
_ACCELERATE_STEP = ("accelerate.optimizer", "step")
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
        self._mode.size_of_second_gradients = _size_of(self._grads())
        for grad in self._grads():
            _mark(grad, _SECOND)

    @property
    def has_second_gradients(self) -> bool:
        """True if the next step has its second gradients, from ``perturbed()``, and needs no closure."""
        return self._mode.has_second_gradients

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients, as torch does. A second gradient that was computed for them is forgotten, too."""
        super().zero_grad(set_to_none)
        self._mode.has_second_gradients = False

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
        # Gradients that were computed since then lie in other memory.
        if self._mode.has_second_gradients and any(_version_at(grad, _SECOND) is not None for grad in self._grads()):
            self._mode.has_second_gradients = False
            self._check_unscaled()
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
        self._mode.has_second_gradients = False
        for param in self._params():
            param.grad = None
        with torch.enable_grad():
            return closure()

    def _required(self, closure: Closure | None, reason: str) -> Closure:
        if closure is None:
            remedy = f"Call optimizer.step(closure) with {_CLOSURE}"
            if self.rule.traits.needs == "second gradient":
                remedy += ", or compute the second gradient in `with optimizer.perturbed():`"
            raise ParameterError(f"{self._who}: a step needs {reason}, got no closure. {remedy}.")
        return closure

    def _check_caller(self, *, scaled: bool = False) -> None:
        """Raise ParameterError if a closure is called in a way that gives other gradients than those of the loss.

        Args:
            scaled: True if a scaler is known to take the step.
        """
        for name, frame in _callers():
            if scaled or name == _SCALER_STEP:
                raise ParameterError(
                    f"{self._who}: a scaler must step without a closure, whose gradients stay scaled, got one. "
                    f"{_WITH_SCALER[self.rule.traits.needs]}"
                )
            accumulates = name == _ACCELERATE_STEP and frame.f_locals["self"].gradient_state.num_steps > 1
            if accumulates and self.rule.traits.needs in _REPEATING:
                raise ParameterError(
                    f"{self._who}: a closure must compute the gradients of all micro-batches, got one under an "
                    "Accelerator with gradient accumulation, which calls it for the last one only. Make the "
                    f"Accelerator without gradient_accumulation_steps. {self._accumulation_remedy}"
                )

    def _check_unscaled(self) -> None:
        """Raise ParameterError if a scaler takes the step and has not unscaled the second gradients."""
        scaler = next((frame.f_locals["self"] for name, frame in _callers() if name == _SCALER_STEP), None)
        if scaler is None or scaler.get_scale() == 1:
            return
        size = _size_of(self._grads())
        if size != 0 and size == self._mode.size_of_second_gradients:
            raise ParameterError(
                f"{self._who}: a scaler must unscale the second gradients, got a step with scaled ones. Call "
                "scaler.unscale_(optimizer) after `with optimizer.perturbed():` only, or not at all."
            )

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

    def _grads(self) -> Iterator[Tensor]:
        return (param.grad for param in self._params() if param.grad is not None)

    def _params(self) -> Iterator[Tensor]:
        return (param for group in self.param_groups for param in group["params"])

    def _with_other_gradients(self) -> list[Tensor]:
        """Return the parameters with a gradient from after the last step; none if all of these are zero."""
        params = [param for param in self._params() if param.grad is not None and not _is_unchanged(param.grad, _USED)]
        return params if _is_any([param.grad for param in params if param.grad is not None]) else []

    def _mark_gradients(self) -> None:
        """Mark the gradients as used by a step."""
        for grad in self._grads():
            _mark(grad, _USED)

    def _has_zero_gradients(self) -> bool:
        """Return True if all gradients are zero, and so those at the perturbed parameters, which are the same."""
        grads = list(self._grads())
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


def _size_of(grads: Iterable[Tensor]) -> Tensor:
    """Return the sum of the absolute values of gradients."""
    sums = [
        (grad.coalesce().values() if grad.is_sparse else as_engine_tensor(grad)).abs().float().sum() for grad in grads
    ]
    return torch.stack([value.to(sums[0].device) for value in sums]).sum() if sums else torch.zeros(())


def _callers() -> Iterator[tuple[tuple[Any, str], FrameType]]:
    """Yield the module and the function of each frame that may be that of a trainer, from the inside."""
    for frame, _ in islice(walk_stack(inspect.currentframe()), _MAX_FRAMES):
        yield (frame.f_globals.get("__name__"), frame.f_code.co_name), frame


def _memory_of(grad: Tensor) -> Any:
    """Return the object that lives as long as the memory of a gradient."""
    try:
        return as_engine_tensor(grad).untyped_storage()
    except NotImplementedError:  # a sparse gradient has several
        return grad


def _mark(grad: Tensor, attribute: str) -> None:
    memory = _memory_of(grad)
    versions = getattr(memory, attribute, {})
    versions[address(as_engine_tensor(grad))] = write_count(grad)
    setattr(memory, attribute, versions)


def _version_at(grad: Tensor, attribute: str) -> int | None:
    """Return the version that a gradient had when it was marked; None if it was not."""
    versions: dict[int, int] = getattr(_memory_of(grad), attribute, {})
    return versions.get(address(as_engine_tensor(grad)))


def _is_unchanged(grad: Tensor, attribute: str) -> bool:
    """Return True if a gradient was marked, and nothing has written to it since."""
    return _version_at(grad, attribute) == write_count(grad)
