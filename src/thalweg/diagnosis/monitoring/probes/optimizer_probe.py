"""Optimizer probe: measures gradients and true updates around the steps of one optimizer."""

import math
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from thalweg.diagnosis.monitoring.probes.buffers import Buffers
from thalweg.diagnosis.monitoring.probes.columns import Columns

NONE = -1  # no monitored step


class OptimizerProbe:
    """Observes the steps of an optimizer, by hooks where it has them, else around its method ``step``.

    Around a monitored step it keeps copies of the parameters and of the gradients in buffers, which it allocates once.

    Args:
        optimizer: The optimizer.
        name: Its name in the record.
        columns: Where values go.
        on_step: Called after every step.

    Attributes:
        lrs: The learning rates of the groups at the last step; a tensor on a device stays one.
    """

    def __init__(self, optimizer: Any, name: str, columns: Columns, on_step: Callable[[], None]) -> None:
        self.optimizer = optimizer
        self.name = name
        self.lrs: tuple[Any, ...] = ()
        self._columns, self._readings, self._on_step = columns, columns.readings, on_step
        self._measures = NONE  # index of the monitored step that the next step is
        self._follows = NONE  # index of the monitored step that the next step follows
        self._is_full = False
        self._remove: list[Callable[[], None]] = []
        self._buffers = Buffers(columns, name)
        self._following = columns.of_optimizer(name, "gradient_products", "next_slopes", "next_squares")
        self._slopes = columns.of_optimizer(name, "slopes")

    def install(self) -> None:
        """Begin to observe."""
        if isinstance(self.optimizer, Optimizer) and "_optimizer_step_pre_hooks" in vars(self.optimizer):
            before = self.optimizer.register_step_pre_hook(self._before_step)
            after = self.optimizer.register_step_post_hook(self._after_step)
            self._remove = [before.remove, after.remove]
        else:
            self._remove = [_around_step(self.optimizer, self._before_step, self._after_step)]

    def remove(self) -> None:
        """Observe no longer, and free the buffers."""
        for remove in self._remove:
            remove()
        self._remove = []
        self._buffers = Buffers(self._columns, self.name)
        self._measures = self._follows = NONE

    def arm(self, index: int, *, is_full: bool) -> None:
        """Measure the next step as the monitored step of an index.

        Args:
            index: The index.
            is_full: True to measure sizes of parameters and second moments, too, and to compare the step after it.
        """
        self._measures, self._is_full = index, is_full

    def _before_step(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._measures == self._follows == NONE or torch.compiler.is_compiling():
            return
        is_recorded = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)  # as torch.no_grad does, at a tenth of the time
        try:
            if self._measures != NONE:
                self._buffers.choose(getattr(self.optimizer, "param_groups", ()), in_full=self._is_full)
            if _closure(args, kwargs) is None:
                self._take_gradients()
            if self._measures != NONE:
                self._buffers.copy_parameters()
        finally:
            torch._C._set_grad_enabled(is_recorded)

    def _after_step(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():
            return
        self.lrs = tuple([_held(group.get("lr", math.nan)) for group in getattr(optimizer, "param_groups", ())])
        self._on_step()
        self._follows = NONE
        if self._measures == NONE:
            return
        is_recorded = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)
        try:
            if _closure(args, kwargs) is not None:
                self._take_gradients()
            self._measure_update()
        finally:
            torch._C._set_grad_enabled(is_recorded)
        self._follows, self._measures = self._measures, NONE

    def _take_gradients(self) -> None:
        """Compare the gradients with those of the step before, and with its update; measure them."""
        buffers = self._buffers
        if not buffers.params:
            return
        follows = self._follows != NONE and buffers.has_update
        if not follows and not self._is_full:
            measured = buffers.gradient_norms(self.optimizer)
            if measured is not None:
                self._readings.add_vector(self._measures, *measured)
            return
        places = buffers.copy_gradients(self.optimizer)
        new = buffers.new_gradients
        if follows:
            values = [torch.dot(new, buffers.gradients), torch.dot(new, buffers.updates), torch.dot(new, new)]
            self._readings.add_vector(self._follows, self._following, torch.stack(values))
        buffers.has_update = False
        if self._measures != NONE:
            buffers.keep_gradients()
            views = buffers.gradient_views
            if len(places) < len(views):
                views = [views[place] for place in places]
            if views:
                norms = torch.stack(torch._foreach_norm(views))
                self._readings.add_vector(self._measures, buffers.gradient_columns(places), norms)

    def _measure_update(self) -> None:
        buffers = self._buffers
        if not buffers.params:
            return
        views = buffers.update_views
        if self._is_full:
            sizes = torch.stack(torch._foreach_norm(views))
            self._readings.add_vector(self._measures, buffers.parameter_columns, sizes)
        torch._foreach_sub_(views, buffers.params)  # now minus the update
        lengths = torch.stack(torch._foreach_norm(views))
        self._readings.add_vector(self._measures, buffers.update_columns, lengths)
        if buffers.halves:
            kept = [1 - views[place].count_nonzero() / views[place].numel() for place in buffers.halves]
            self._readings.add_vector(self._measures, buffers.half_columns, torch.stack(kept))
        if self._is_full:
            slope = torch.dot(buffers.gradients, buffers.updates)
            self._readings.add(self._measures, self._slopes[0], slope)
            buffers.has_update = True
            self._measure_second_moments()

    def _measure_second_moments(self) -> None:
        for group in getattr(self.optimizer, "param_groups", ()):
            eps, betas = group.get("eps"), group.get("betas")
            if not isinstance(eps, float) or eps <= 0 or not isinstance(betas, (tuple, list)) or len(betas) < 2:
                continue
            columns, moments, factors, steps = [], [], [], None
            for param in group["params"]:
                state = self.optimizer.state.get(param, {})
                moment = state.get("exp_avg_sq")
                place = self._buffers.place_of.get(id(param))
                if place is None or not isinstance(moment, Tensor) or moment.shape != param.shape:
                    continue
                steps = state.get("step") if steps is None else steps
                columns.append(self._buffers.moment_columns[place])
                moments.append(moment)
                factors.append(1 / (eps * math.sqrt(moment.numel())))
            if moments:
                sums = torch.stack(torch._foreach_norm(moments, 1, dtype=self._buffers.dtype))
                roots = (sums / _bias(betas[1], steps, sums.device)).sqrt()
                self._readings.add_vector(self._measures, columns, roots, factors)


def _closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[1] if len(args) > 1 else kwargs.get("closure")


def _held(lr: Any) -> Any:
    """Return a learning rate as it is now: a tensor changes later."""
    if isinstance(lr, Tensor):
        return float(lr) if lr.device.type == "cpu" else lr.detach().clone()
    return lr


def _bias(beta: Any, steps: Any, device: torch.device) -> Any:
    """The share of its final size that a moving average has after so many steps."""
    if isinstance(steps, Tensor) and steps.device != device:
        steps = float(steps)  # torch keeps it on the CPU then, and does not wait for a device
    return 1 - float(beta) ** (1 if steps is None else steps)


_Hook = Callable[[Any, tuple[Any, ...], dict[str, Any]], None]


def _around_step(optimizer: Any, before: _Hook, after: _Hook) -> Callable[[], None]:
    """Call functions around the method ``step`` of an object. Return a function that ends this."""
    own = vars(optimizer).get("step")
    original = own or type(optimizer).step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = args if own is not None else (self, *args)
        if self is not optimizer:  # a copy of the optimizer has this method, too
            return original(*bound, **kwargs)
        before(self, (self, *args), kwargs)
        result = original(*bound, **kwargs)
        after(self, (self, *args), kwargs)
        return result

    method = optimizer.step = MethodType(step, optimizer)

    def restore() -> None:
        if vars(optimizer).get("step") is method:
            del optimizer.step
            if own is not None:
                optimizer.step = own

    return restore
