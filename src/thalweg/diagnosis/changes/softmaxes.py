"""Changes of a softmax that runs over the wrong dimension, over a single unit, or before a loss of logits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_leaves, tree_map

from thalweg.diagnosis.changes.outputs import CODE_BEFORE, RemoveActivation, blamed, module_code
from thalweg.diagnosis.changes.parts.change import Change
from thalweg.diagnosis.changes.parts.functions import is_float, rebuild_output, replace_functions
from thalweg.diagnosis.changes.parts.modules import module_of, path
from thalweg.diagnosis.changes.parts.output import Output, class_dim, first_batch, output_of, run_model, uses_loss_fn
from thalweg.tasks.training import Training

SOFTMAXES = frozenset(("softmax", "log_softmax"))
_OF_LOGITS = "the loss takes logits"
_TOLERANCE = 1e-4  # relative, in float32


def takes_logits(training: Training) -> bool:
    """Return True if the loss takes any numbers and normalizes them itself, as the cross-entropy of logits does.

    Its value stays the same if all classes of an example get the same number added. With a single unit, it is enough
    that it takes numbers that are no probabilities.
    """
    if not uses_loss_fn(training):
        return False
    inputs, target = first_batch(training)
    generator = torch.Generator().manual_seed(0)
    try:
        output = run_model(training.model, lambda: training.model(*inputs))

        def loss(size: float) -> float:
            """Return the loss of crafted outputs, whose examples are shifted by so much."""

            def craft(leaf: Any) -> Any:
                if not is_float(leaf):
                    return leaf
                dim = class_dim(leaf, target)
                generator.manual_seed(0)
                values = 3 * torch.randn(leaf.shape, generator=generator)
                shift = size * torch.rand(values.select(dim, 0).shape, generator=generator).unsqueeze(dim)
                return (values + shift).to(leaf)

            with torch.no_grad():
                return float(training.loss_fn(tree_map(craft, output), target))

        first = next(leaf for leaf in tree_leaves(output) if is_float(leaf))
        classes = first.shape[class_dim(first, target)] if isinstance(target, Tensor) and first.dim() > 1 else 1
        if classes == 1 or (isinstance(target, Tensor) and first.shape == target.shape):
            return abs(loss(1.0)) < float("inf")
        return abs(loss(1.0) - loss(0.0)) <= _TOLERANCE * (1 + abs(loss(0.0)))
    except Exception:  # of the user's loss or model
        return False


@dataclass(frozen=True, kw_only=True)
class WithoutSoftmax(RemoveActivation):
    """No softmax at all, as the loss takes logits."""

    functions: frozenset[str] = SOFTMAXES

    def why_not(self, training: Training, where: str | None) -> str:
        reason = super().why_not(training, where)
        return reason or ("" if takes_logits(training) else "the loss takes probabilities")


@dataclass(frozen=True, kw_only=True)
class MendSoftmaxDim(Change):
    """A softmax runs over the dimension of the classes."""

    def why_not(self, training: Training, where: str | None) -> str:
        matches = self._softmax_at(training, where)
        if matches is None and where and module_of(training.model, where) is not training.model:
            return ""  # inside a module, such as attention: all its softmaxes run over the last dimension
        if matches is None:
            return "no softmax makes the output"
        if takes_logits(training):
            return _OF_LOGITS
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
        line = module_code(training, where, SOFTMAXES, f"nn.{kind}(dim={dim})")
        if line is not None:
            return line
        value = f"args[0].{matches.function}({dim})"
        return CODE_BEFORE.format(module=path(where or ""), names=[matches.function], value=value).replace(
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
        if matches.before.shape[-1] != 1:
            return "the output has more than one unit"
        return _OF_LOGITS if takes_logits(training) else ""

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
        line = module_code(training, where, SOFTMAXES, module)
        return line or "import torch\n\n" + CODE_BEFORE.format(
            module=path(where or ""), names=[name], value=f"{function}(args[0])"
        )
