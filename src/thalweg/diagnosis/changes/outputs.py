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
from thalweg.diagnosis.changes.parts.functions import rebuild_output, replace_functions
from thalweg.diagnosis.changes.parts.modules import assignment, module_of, path
from thalweg.diagnosis.changes.parts.output import (
    ACTIVATIONS,
    PROBABILITIES,
    Output,
    class_dim,
    first_batch,
    output_of,
    plain_output,
    text_of_output,
    uses_loss_fn,
)
from thalweg.tasks.training import Training

_EPS = 1e-12
SOFTMAXES = frozenset(("softmax", "log_softmax"))
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


def _module_code(training: Training, where: str | None, names: frozenset[str], module: str) -> str | None:
    """Return the line that exchanges the module which makes the output; None if the text of ``forward`` does."""
    own = module_of(training.model, where) if where else None
    children = dict(training.model.named_modules())
    if own is not None and not list(own.children()) and type(own).__module__.startswith("torch.nn"):
        name = next(name for name, each in children.items() if each is own)
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
        line = _module_code(training, where, self.functions, "nn.Identity()")
        if line is not None:
            return line
        matches = output_of(training, where, self.functions)
        return _BEFORE.format(
            module=path(where or ""), names=sorted({matches.function if matches else ""}), value="args[0]"
        )


# For activations that the text of a forward calls: the same by torch's own means.
_BEFORE = """# Or leave the activation out of the last line of forward.
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
class MendSoftmaxDim(Change):
    """A softmax runs over the dimension of the classes."""

    def why_not(self, training: Training, where: str | None) -> str:
        matches = self._softmax_at(training, where)
        if matches is None and where and module_of(training.model, where) is not training.model:
            return ""  # inside a module, such as attention: all its softmaxes run over the last dimension
        if matches is None:
            return "no softmax makes the output"
        return "" if matches.before.dim() > 1 else "the output has one dimension"

    def _softmax_at(self, training: Training, where: str | None) -> Output | None:
        return output_of(training, where, SOFTMAXES)

    def alter(self, training: Training, where: str | None) -> None:
        module = module_of(training.model, where)
        assert module is not None
        matches = self._softmax_at(training, where)
        if matches is None:
            replacement = _over(-1)
            replace_functions(training, {"softmax": replacement, "log_softmax": replacement}, module)
            return
        dim = class_dim(matches.before, first_batch(training)[1])
        rebuild_output(module, SOFTMAXES, _over(dim))

    def lines(self, training: Training, where: str | None) -> str:
        matches = self._softmax_at(training, where)
        if matches is None:
            return f"# In {path(where or '')}: softmax(dim=-1), over the last dimension."
        dim = class_dim(matches.before, first_batch(training)[1])
        kind = "LogSoftmax" if matches.function == "log_softmax" else "Softmax"
        line = _module_code(training, where, SOFTMAXES, f"nn.{kind}(dim={dim})")
        if line is not None:
            return line
        value = f"args[0].{matches.function}({dim})"
        return _BEFORE.format(module=path(where or ""), names=[matches.function], value=value).replace(
            "leave the activation out of", f"write dim={dim} in"
        )


def _over(dim: int) -> Callable[..., Any]:
    def replacement(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        log = getattr(function, "__name__", "") == "log_softmax"
        return functional.log_softmax(args[0], dim) if log else functional.softmax(args[0], dim)

    return replacement


@dataclass(frozen=True, kw_only=True)
class SigmoidForOneUnit(Change):
    """A sigmoid in the place of the softmax of a single output."""

    def why_not(self, training: Training, where: str | None) -> str:
        matches = output_of(training, blamed(training, where, SOFTMAXES), SOFTMAXES)
        if matches is None:
            return "no softmax makes the output"
        return "" if matches.before.shape[-1] == 1 else "the output has more than one unit"

    def alter(self, training: Training, where: str | None) -> None:
        module = module_of(training.model, blamed(training, where, SOFTMAXES))
        assert module is not None

        def sigmoid(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
            log = getattr(function, "__name__", "") == "log_softmax"
            return functional.logsigmoid(args[0]) if log else torch.sigmoid(args[0])

        rebuild_output(module, SOFTMAXES, sigmoid)

    def lines(self, training: Training, where: str | None) -> str:
        where = blamed(training, where, SOFTMAXES)
        matches = output_of(training, where, SOFTMAXES)
        name = matches.function if matches else "softmax"
        module = "nn.LogSigmoid()" if name == "log_softmax" else "nn.Sigmoid()"
        function = "torch.nn.functional.logsigmoid" if name == "log_softmax" else "torch.sigmoid"
        line = _module_code(training, where, SOFTMAXES, module)
        return line or "import torch\n\n" + _BEFORE.format(
            module=path(where or ""), names=[name], value=f"{function}(args[0])"
        )


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
            _module_code(training, None, frozenset(("softmax",)), f"nn.LogSoftmax(dim={dim})")
            if kind == "log"
            else None
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
