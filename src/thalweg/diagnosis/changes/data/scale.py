"""Changes of scale: inputs and targets with mean 0 and deviation 1."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.diagnosis.changes.parts.batches import (
    draw_code,
    drawn,
    parts_of,
    rows_of,
)
from thalweg.diagnosis.changes.parts.change import Change
from thalweg.diagnosis.changes.parts.functions import (
    is_float,
)
from thalweg.diagnosis.changes.parts.output import plain_output
from thalweg.tasks.training import Training

LOOKED_AT = 32  # batches from which statistics are taken


def statistics_of(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the deviation of each feature: a column, a channel of images, the last dimension of others.

    Features that do not vary get a deviation of 1.
    """
    kept = 1 if values.dim() in (2, 4, 5) else values.dim() - 1
    dims = [dim for dim in range(values.dim()) if dim != kept] if values.dim() > 1 else [0]
    values = values.double()
    mean, std = values.mean(dims, keepdim=True), values.std(dims, keepdim=True)
    return mean, torch.where(std > 1e-6 * std.max(), std, 1.0)


def _finite_rows(batches: list[Any], place: int) -> Tensor:
    values = torch.cat([parts_of(batch)[place] for batch in batches])
    return values[values.isfinite().reshape(len(values), -1).all(1)]


@dataclass(frozen=True, kw_only=True)
class NormalizeInputs(Change):
    """Inputs with mean 0 and deviation 1 for each feature, in training and in evaluation."""

    def why_not(self, training: Training, where: str | None) -> str:
        inputs = parts_of(drawn(training, 1)[0])[:-1]
        if not inputs or not is_float(inputs[0]):
            return "the inputs are no real numbers"
        return "" if inputs[0].dim() > 1 and rows_of(drawn(training, 1)[0]) else "the inputs are no batch of features"

    def alter(self, training: Training, where: str | None) -> None:
        values = _finite_rows(drawn(training, LOOKED_AT), 0)
        mean, std = (part.to(values.dtype) for part in statistics_of(values))

        def normalize(module: Any, args: Any) -> Any:
            if not args or not is_float(args[0]) or args[0].dim() != mean.dim():
                return None
            return ((args[0] - mean.to(args[0])) / std.to(args[0]), *args[1:])

        training.model.register_forward_pre_hook(normalize, prepend=True)

    def lines(self, training: Training, where: str | None) -> str:
        values = parts_of(drawn(training, 1)[0])[0]
        kept = 1 if values.dim() in (2, 4, 5) else values.dim() - 1
        dims = tuple(dim for dim in range(values.dim()) if dim != kept)
        return (
            draw_code(training, LOOKED_AT, "drawn")
            + "\nimport torch\n\n"
            + "inputs = torch.cat([batch[0] for batch in drawn])\n"
            + f"mean, std = inputs.mean({dims}, keepdim=True), inputs.std({dims}, keepdim=True)\n"
            + "std[std <= 1e-6 * std.max()] = 1.0\n"
            + "model.register_forward_pre_hook(lambda module, args: ((args[0] - mean) / std, *args[1:]))"
        )


@dataclass(frozen=True, kw_only=True)
class NormalizeTargets(Change):
    """A loss of targets with mean 0 and deviation 1; the model still returns values in their own units."""

    def why_not(self, training: Training, where: str | None) -> str:
        matches = plain_output(training)
        if matches is None or not is_float(matches[1]):
            return "the targets are no real numbers"
        if matches[0].shape != matches[1].shape and matches[0].numel() != matches[1].numel():
            return "outputs and targets differ in shape"
        return "" if float(_finite_rows(drawn(training, LOOKED_AT), -1).std()) > 0 else "the targets do not vary"

    def alter(self, training: Training, where: str | None) -> None:
        values = _finite_rows(drawn(training, LOOKED_AT), -1)
        mean, std = float(values.double().mean()), float(values.double().std())
        training.model.register_forward_hook(
            lambda module, args, output: output * std + mean if is_float(output) else output
        )
        loss_fn = training.loss_fn
        training.loss_fn = lambda output, target: loss_fn(
            (output - mean) / std if is_float(output) else output, (target - mean) / std
        )

    def lines(self, training: Training, where: str | None) -> str:
        values = _finite_rows(drawn(training, LOOKED_AT), -1)
        mean, std = float(values.double().mean()), float(values.double().std())
        return (
            f"mean, std = {mean:.6g}, {std:.6g}  # of the targets\n"
            "model.register_forward_hook(lambda module, args, output: output * std + mean)\n"
            "raw_loss_fn = loss_fn\n"
            "loss_fn = lambda output, target: raw_loss_fn((output - mean) / std, (target - mean) / std)"
        )
