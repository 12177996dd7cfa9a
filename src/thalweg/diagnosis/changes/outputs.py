"""Changes of the model's output, of the targets and of the loss, so that they fit each other."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.diagnosis.changes.parts.batches import derived_batches, parts_of
from thalweg.diagnosis.changes.parts.change import Change
from thalweg.diagnosis.changes.parts.functions import rebuild_output
from thalweg.diagnosis.changes.parts.modules import assignment, module_of, path
from thalweg.diagnosis.changes.parts.output import (
    ACTIVATIONS,
    PROBABILITIES,
    class_dim,
    output_of,
    plain_output,
    text_of_output,
    uses_loss_fn,
)
from thalweg.tasks.training import Training

_EPS = 1e-12
_NO_LOSS_FN = "the step does not use loss_fn"


class LossOf:
    """A loss of changed outputs and targets.

    Args:
        loss_fn: The loss.
        change: Returns the output and the target to pass to it.
    """

    def __init__(self, loss_fn: Callable[..., Any], change: Callable[[Any, Any], tuple[Any, Any]]) -> None:
        self.loss_fn, self.change = loss_fn, change

    def __call__(self, output: Any, target: Any) -> Any:
        """Return the loss."""
        return self.loss_fn(*self.change(output, target))


def module_code(training: Training, where: str | None, names: frozenset[str], module: str) -> str | None:
    """Return the line that exchanges the module that makes the output; None if the text of ``forward`` does."""
    own = module_of(training.model, where) if where else None
    children = dict(training.model.named_modules())
    if own is not None and not list(own.children()) and type(own).__module__.startswith("torch.nn"):
        name = next(name for name, child in children.items() if child is own)
        return f"from torch import nn\n\n{assignment(name, module)}"
    kinds = {
        "softmax": nn.Softmax,
        "sigmoid": nn.Sigmoid,
        "relu": nn.ReLU,
        "tanh": nn.Tanh,
        "log_softmax": nn.LogSoftmax,
    }
    recorded = tuple(kind for name, kind in kinds.items() if name in names)
    last = list(children.items())[-1]
    return f"from torch import nn\n\n{assignment(last[0], module)}" if isinstance(last[1], recorded) else None


def blamed(training: Training, where: str | None, names: frozenset[str]) -> str | None:
    """Return the name of the module to blame if one of some functions makes its result, else None: the model."""
    return where if where and output_of(training, where, names) else None


@dataclass(frozen=True, kw_only=True)
class RemoveActivation(Change):
    """The activation at the output is left out, in training and in evaluation.

    Attributes:
        functions: The activations that it removes.
    """

    functions: frozenset[str] = ACTIVATIONS

    def why_not(self, training: Training, where: str | None) -> str:
        matches = output_of(training, blamed(training, where, self.functions), self.functions)
        return "" if matches else "no such activation makes the output"

    def alter(self, training: Training, where: str | None) -> None:
        module = module_of(training.model, blamed(training, where, self.functions))
        assert module is not None
        rebuild_output(module, self.functions, lambda function, args, kwargs: args[0])

    def lines(self, training: Training, where: str | None) -> str:
        where = blamed(training, where, self.functions)
        line = module_code(training, where, self.functions, "nn.Identity()")
        if line is not None:
            return line
        matches = output_of(training, where, self.functions)
        return CODE_BEFORE.format(
            module=path(where or ""), names=sorted({matches.function if matches else ""}), value="args[0]"
        )


# For activations that the text of a forward calls: the same by torch's own means.
CODE_BEFORE = """# Or leave the activation out of the last line of forward.
from torch.overrides import TorchFunctionMode


class WithoutActivation(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {{}}))
        if getattr(func, "__name__", "") in {names}:
            self.calls[id(result)] = (result, args, kwargs or {{}})
        return result


def enter(module, args):
    module.activations = WithoutActivation()
    module.activations.calls = {{}}
    module.activations.__enter__()


def leave(module, args, output):
    module.activations.__exit__(None, None, None)
    result, args, kwargs = module.activations.calls.get(id(output), (None, (output,), {{}}))
    return output if result is None else {value}


{module}.register_forward_pre_hook(enter)
{module}.register_forward_hook(leave, always_call=True)"""


@dataclass(frozen=True, kw_only=True)
class LossOfProbabilities(Change):
    """The loss gets the logits of the probabilities that the model returns: their logarithm or their logit."""

    def why_not(self, training: Training, where: str | None) -> str:
        if not uses_loss_fn(training):
            return _NO_LOSS_FN
        return "" if output_of(training, None, PROBABILITIES) else "the model returns no probabilities"

    def alter(self, training: Training, where: str | None) -> None:
        matches = output_of(training, None, PROBABILITIES)
        assert matches is not None
        inverse = _log if matches.function == "softmax" else _logit
        training.loss_fn = LossOf(training.loss_fn, lambda output, target: (_on_first(output, inverse), target))

    def lines(self, training: Training, where: str | None) -> str:
        matches = output_of(training, None, PROBABILITIES)
        template = f"({{}} + {_EPS}).log()" if matches is None or matches.function == "softmax" else "{}.logit(1e-6)"
        inverse = text_of_output(training, template)
        return f"logit_loss_fn = loss_fn\nloss_fn = lambda output, target: logit_loss_fn({inverse}, target)"


def _log(probabilities: Tensor) -> Tensor:
    return (probabilities + _EPS).log()


def _logit(probabilities: Tensor) -> Tensor:
    return probabilities.logit(1e-6)


def _on_first(output: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return an output with a function of its first tensor, if it is a tuple or a dict."""
    if isinstance(output, Tensor):
        return function(output)
    if isinstance(output, dict):
        first = next(iter(output))
        return {**output, first: function(output[first])}
    return type(output)((function(output[0]), *output[1:])) if isinstance(output, list | tuple) else output


@dataclass(frozen=True, kw_only=True)
class BinaryLoss(Change):
    """Binary cross-entropy of the single output, in the place of a cross-entropy over one class, which is always 0."""

    def why_not(self, training: Training, where: str | None) -> str:
        if not uses_loss_fn(training):
            return _NO_LOSS_FN
        matches = plain_output(training)
        if matches is None or matches[0].dim() < 2 or matches[0].shape[1] != 1:
            return "the model has not one output"
        loss_fn = training.loss_fn
        name = getattr(loss_fn, "__name__", type(loss_fn).__name__)
        return "" if name in ("CrossEntropyLoss", "cross_entropy") else "the loss is no cross-entropy over classes"

    def alter(self, training: Training, where: str | None) -> None:
        training.loss_fn = lambda output, target: functional.binary_cross_entropy_with_logits(
            output, target.reshape(output.shape).to(output.dtype)
        )

    def lines(self, training: Training, where: str | None) -> str:
        return (
            "from torch.nn import functional\n\n"
            "loss_fn = lambda output, target: functional.binary_cross_entropy_with_logits(\n"
            "    output, target.reshape(output.shape).to(output.dtype)\n)"
        )


@dataclass(frozen=True, kw_only=True)
class LogForNll(Change):
    """The negative log-likelihood gets logarithms of probabilities."""

    def why_not(self, training: Training, where: str | None) -> str:
        if not uses_loss_fn(training):
            return _NO_LOSS_FN
        return "" if plain_output(training) is not None else "the model needs more than the inputs"

    def _kind(self, training: Training) -> tuple[str, int]:
        matches = plain_output(training)
        assert matches is not None
        output, target = matches
        dim = class_dim(output, target)
        totals = output.float().sum(dim)
        is_probability = bool((output >= 0).all()) and bool(torch.allclose(totals, torch.ones_like(totals), atol=1e-3))
        return ("log" if is_probability else "log_softmax"), dim

    def alter(self, training: Training, where: str | None) -> None:
        kind, dim = self._kind(training)
        change = _log if kind == "log" else lambda output: functional.log_softmax(output, dim)
        training.loss_fn = LossOf(training.loss_fn, lambda output, target: (_on_first(output, change), target))

    def lines(self, training: Training, where: str | None) -> str:
        kind, dim = self._kind(training)
        line = (
            module_code(training, None, frozenset(("softmax",)), f"nn.LogSoftmax(dim={dim})") if kind == "log" else None
        )
        if line is not None:
            return line
        template = f"({{}} + {_EPS}).log()" if kind == "log" else f"{{}}.log_softmax({dim})"
        value = text_of_output(training, template)
        return f"nll_fn = loss_fn\nloss_fn = lambda output, target: nll_fn({value}, target)"


@dataclass(frozen=True, kw_only=True)
class ReshapeTargets(Change):
    """Targets in the shape of the outputs."""

    def why_not(self, training: Training, where: str | None) -> str:
        matches = plain_output(training)
        if matches is None or not isinstance(matches[1], Tensor):
            return "the model needs more than the inputs, or the target is no tensor"
        output, target = matches
        if output.shape == target.shape:
            return "outputs and targets have one shape"
        return "" if output.numel() == target.numel() else "outputs and targets differ in number"

    def alter(self, training: Training, where: str | None) -> None:
        matches = plain_output(training)
        assert matches is not None
        if uses_loss_fn(training):
            training.loss_fn = LossOf(training.loss_fn, lambda output, target: (output, target.reshape(output.shape)))
            return
        form = matches[0].shape[1:]
        training.batches = derived_batches(
            training.batches,
            lambda batches: ((*parts_of(batch)[:-1], parts_of(batch)[-1].reshape(-1, *form)) for batch in batches),
        )

    def lines(self, training: Training, where: str | None) -> str:
        if uses_loss_fn(training):
            return (
                "own_loss_fn = loss_fn\n"
                "loss_fn = lambda output, target: own_loss_fn(output, target.reshape(output.shape))"
            )
        matches = plain_output(training)
        form = ", ".join(str(size) for size in (-1, *(matches[0].shape[1:] if matches else ())))
        return f"batches = ((*inputs, target.reshape({form})) for *inputs, target in batches)"


@dataclass(frozen=True, kw_only=True)
class MeanLoss(Change):
    """The mean of the loss over the batch instead of its sum."""

    def why_not(self, training: Training, where: str | None) -> str:
        return "" if uses_loss_fn(training) else _NO_LOSS_FN

    def alter(self, training: Training, where: str | None) -> None:
        loss_fn = training.loss_fn
        if getattr(loss_fn, "reduction", None) == "sum":
            training.loss_fn = copy.copy(loss_fn)
            training.loss_fn.reduction = "mean"  # type: ignore[attr-defined]
        else:
            training.loss_fn = lambda output, target: loss_fn(output, target) / len(target)

    def lines(self, training: Training, where: str | None) -> str:
        if getattr(training.loss_fn, "reduction", None) == "sum":
            return 'loss_fn.reduction = "mean"'
        return "summed_loss_fn = loss_fn\nloss_fn = lambda output, target: summed_loss_fn(output, target) / len(target)"
