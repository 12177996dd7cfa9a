"""Buffers: copies of an optimizer's parameters and gradients, each in one vector, with a view for each parameter."""

from collections.abc import Mapping, Sequence
from operator import is_
from typing import Any

import torch
from torch import Tensor

from thalweg.diagnosis.monitoring.probes.columns import Columns
from thalweg.diagnosis.monitoring.probes.readings import Column

HALF = (torch.float16, torch.bfloat16)
_EMPTY = torch.empty(0)


class Buffers:
    """The measured parameters of an optimizer, and copies of them and of their gradients in single precision at least.

    Args:
        columns: Where values go.
        fallback: Begin of the names of parameters that belong to no module.

    Attributes:
        params: The parameters: dense, real and on one device.
        place_of: Their places by id.
        dtype: The dtype of the copies.
        updates: The parameters before the step; after it, minus the update.
        gradients: The gradients of the monitored step.
        new_gradients: The gradients of the next step.
        has_update: True if ``updates`` holds that of the last step.
        halves: Places of parameters in half precision.
    """

    def __init__(self, columns: Columns, fallback: str) -> None:
        self._columns, self._fallback = columns, fallback
        self._chosen: list[Tensor] = []  # also those that are not measured
        self._kind: tuple[torch.dtype, torch.device] | None = None  # of the first
        self._allocate([])

    def choose(self, groups: Sequence[Mapping[str, Any]], *, in_full: bool) -> None:
        """Choose the parameters in groups, and allocate buffers if they are others than before.

        Args:
            groups: The parameter groups.
            in_full: False to compare only how many parameters there are.
        """
        if not in_full and sum([len(group["params"]) for group in groups]) == len(self._chosen):
            return
        params = [param for group in groups for param in group["params"]]
        kind = (params[0].dtype, params[0].device) if params else None
        if len(params) == len(self._chosen) and all(map(is_, params, self._chosen)) and kind == self._kind:
            return
        self._chosen, self._kind = params, kind
        self._allocate([param for param in {id(param): param for param in params}.values() if _is_plain(param)])

    def _allocate(self, params: list[Tensor]) -> None:
        self.params = [param for param in params if param.device == params[0].device]
        self._places = list(range(len(self.params)))
        self.place_of = {id(param): place for place, param in enumerate(self.params)}
        self.dtype = torch.float64 if any(param.dtype == torch.float64 for param in self.params) else torch.float32
        self.updates, self.update_views = self._vector()
        self.gradients, self.gradient_views = self._vector()
        self.new_gradients, self._new_views = self._vector()
        self.has_update = False
        self._needs_dtype = any(param.dtype is not self.dtype for param in self.params)
        self._partial: tuple[list[int], list[Column]] = ([], [])
        self.halves = [place for place, param in enumerate(self.params) if param.dtype in HALF]
        names = self._columns.names() if params else {}
        labels = [names.get(id(param), f"{self._fallback}.{place}") for place, param in enumerate(self.params)]
        if labels:
            self._columns.parameters_of[self._fallback] = labels
        self._gradient_columns = self._of("gradient_norms", labels)
        self.parameter_columns = self._of("parameter_norms", labels)
        self.update_columns = self._of("update_norms", labels)
        self.moment_columns = self._of("second_moments", labels)
        self.half_columns = self._of("unchanged", [labels[place] for place in self.halves])

    def _of(self, table: str, labels: list[str]) -> list[Column]:
        return [self._columns.column(table, label) for label in labels]

    def _vector(self) -> tuple[Tensor, list[Tensor]]:
        """Return a vector of zeros for all parameters, and views of it in their shapes."""
        if not self.params:
            return _EMPTY, []
        sizes = [param.numel() for param in self.params]
        vector = torch.zeros(sum(sizes), dtype=self.dtype, device=self.params[0].device)
        views = [part.view(param.shape) for part, param in zip(torch.split(vector, sizes), self.params, strict=True)]
        return vector, views

    def copy_parameters(self) -> None:
        """Copy the parameters."""
        if self.params:
            torch._foreach_copy_(self.update_views, self.params)

    def gradient_norms(self, optimizer: Any) -> tuple[list[Column], Tensor] | None:
        """Return the columns and the norms of the gradients that exist; None if there are none."""
        places, gradients = self._existing_gradients()
        if not gradients:
            return None
        norms = torch.stack(
            torch._foreach_norm(gradients, 2, dtype=self.dtype) if self._needs_dtype else torch._foreach_norm(gradients)
        )
        scale = _scale(optimizer)
        return self.gradient_columns(places), norms if scale is None else norms / scale

    def _existing_gradients(self) -> tuple[list[int], list[Tensor]]:
        """Return the places of the parameters with a gradient, and the gradients, dense."""
        grads = [param.grad for param in self.params]
        gradients = [grad for grad in grads if grad is not None]
        is_complete = len(gradients) == len(grads)
        if any(grad.is_sparse for grad in gradients):
            gradients = [grad.to_dense() if grad.is_sparse else grad for grad in gradients]
        return self._places if is_complete else [n for n, grad in enumerate(grads) if grad is not None], gradients

    def copy_gradients(self, optimizer: Any) -> list[int]:
        """Copy the gradients; those of parameters without one are zero. Return the places of the others."""
        places, gradients = self._existing_gradients()
        views = self._new_views
        if len(places) < len(views):
            self.new_gradients.zero_()
            views = [views[place] for place in places]
        if views:
            torch._foreach_copy_(views, gradients)
        scale = _scale(optimizer)
        if scale is not None:
            self.new_gradients.div_(scale)
        return places

    def keep_gradients(self) -> None:
        """Make the new gradients those of the monitored step."""
        self.gradients, self.new_gradients = self.new_gradients, self.gradients
        self.gradient_views, self._new_views = self._new_views, self.gradient_views

    def gradient_columns(self, places: list[int]) -> list[Column]:
        """Return the columns of the gradient norms of parameters: the same object for the same places."""
        if len(places) == len(self.params):
            return self._gradient_columns
        if places != self._partial[0]:
            self._partial = (places, [self._gradient_columns[place] for place in places])
        return self._partial[1]


def _scale(optimizer: Any) -> Tensor | None:
    """Return the scale of the gradients of a fused optimizer, which unscales them itself."""
    scale = getattr(optimizer, "grad_scale", None)
    return scale if isinstance(scale, Tensor) else None


def _is_plain(param: Any) -> bool:
    return isinstance(param, Tensor) and not param.is_sparse and not param.is_complex() and param.numel() > 0
