"""Optimizer probe: measures gradients and true updates around the steps of one optimizer."""

import math
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from thalweg.diagnosis.monitoring.readings import Key, Readings

HALF = (torch.float16, torch.bfloat16)
NONE = -1  # no monitored step


class OptimizerProbe:
    """Observes the steps of an optimizer, by hooks where it has them, else around its method ``step``.

    Around a monitored step it keeps copies of the parameters and of the gradients in buffers, which it allocates once.

    Args:
        optimizer: The optimizer.
        name: Its name in the record.
        names: Returns the names of parameters by their id.
        readings: Where values go.
        on_step: Called after every step.

    Attributes:
        lrs: The learning rates of the groups at the last step; a tensor on a device stays one.
    """

    def __init__(
        self,
        optimizer: Any,
        name: str,
        names: Callable[[], Mapping[int, str]],
        readings: Readings,
        on_step: Callable[[], None],
    ) -> None:
        self.optimizer = optimizer
        self.name = name
        self.lrs: tuple[Any, ...] = ()
        self._names, self._readings, self._on_step = names, readings, on_step
        self._measures = NONE  # index of the monitored step that the next step is
        self._follows = NONE  # index of the monitored step that the next step follows
        self._remove: list[Callable[[], None]] = []
        self._buffers = _Buffers()

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
        self._remove, self._buffers = [], _Buffers()
        self._measures = self._follows = NONE

    def arm(self, index: int) -> None:
        """Measure the next step as the monitored step of an index, and compare the step after it with it."""
        self._measures = index

    def _before_step(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._measures == self._follows == NONE or torch.compiler.is_compiling():
            return
        with torch.no_grad():
            has_gradients = _closure(args, kwargs) is None
            if has_gradients and self._follows != NONE:
                self._compare_with_last()
            if self._measures != NONE:
                self._buffers.choose(self.optimizer, self._names, self.name)
                self._buffers.copy_parameters()
                if has_gradients:
                    self._measure_gradients()

    def _after_step(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():
            return
        self.lrs = tuple(_held(group.get("lr", math.nan)) for group in optimizer.param_groups)
        self._on_step()
        self._follows = NONE
        if self._measures != NONE:
            with torch.no_grad():
                if _closure(args, kwargs) is not None:
                    self._measure_gradients()
                self._measure_update()
            self._follows, self._measures = self._measures, NONE

    def _measure_gradients(self) -> None:
        buffers = self._buffers
        gradients = buffers.choose_gradients()
        for place, param in enumerate(buffers.params):
            if param.grad is not None and param.grad.is_sparse:
                value = param.grad.coalesce().values().to(buffers.norm_dtype).norm()
                self._readings.add(self._measures, [Key("gradient_norms", buffers.labels[place])], [value])
        if not gradients:
            return
        norms = torch.stack(buffers.norms(gradients))
        scale = getattr(self.optimizer, "grad_scale", None)  # of gradients that a fused optimizer unscales itself
        if isinstance(scale, Tensor):
            norms = norms / scale
        self._readings.add(self._measures, buffers.gradient_keys, norms)
        torch._foreach_copy_(buffers.gradients, gradients)
        # Of the gradients as they are, so that cosines do not depend on the scale.
        buffers.square = norms.square().sum()
        if isinstance(scale, Tensor):
            buffers.square = buffers.square * scale**2
        self._readings.add(self._measures, [Key("gradient_squares", self.name)], buffers.square)

    def _measure_update(self) -> None:
        buffers = self._buffers
        if not buffers.params:
            return
        norms = buffers.norms(buffers.before)
        torch._foreach_sub_(buffers.before, buffers.params)  # now minus the update
        lengths = buffers.norms(buffers.before)
        self._readings.add(self._measures, buffers.update_keys, norms + lengths)
        if buffers.halves:
            kept = [1 - buffers.before[place].count_nonzero() / buffers.before[place].numel() for place in buffers.halves]
            keys = [Key("unchanged", buffers.labels[place]) for place in buffers.halves]
            self._readings.add(self._measures, keys, kept)
        if buffers.gradients and buffers.square is not None:
            buffers.slope = _product(buffers.gradients, [buffers.before[place] for place in buffers.places])
            length = torch.stack([lengths[place] for place in buffers.places]).square().sum()
            alignment = buffers.slope / (length * buffers.square).sqrt()
            self._readings.add(self._measures, [Key("alignments", self.name)], alignment)
        self._measure_second_moments()

    def _compare_with_last(self) -> None:
        """Compare the gradients with those of the step before, and with its update."""
        buffers = self._buffers
        gradients = [buffers.params[place].grad for place in buffers.places]
        if buffers.slope is None or buffers.square is None or not gradients:
            return
        dense = [gradient for gradient in gradients if gradient is not None and not gradient.is_sparse]
        if len(dense) < len(gradients):
            return
        product = _product(buffers.gradients, dense)
        length = torch.stack(buffers.norms(dense)).square().sum()
        slope = _product(dense, [buffers.before[place] for place in buffers.places])
        values = [1 - slope / buffers.slope, product / (length * buffers.square).sqrt(), product]
        keys = [Key(table, self.name) for table in ("sharpness", "cosines", "gradient_products")]
        self._readings.add(self._follows, keys, values)
        buffers.slope = None

    def _measure_second_moments(self) -> None:
        for group in self.optimizer.param_groups:
            eps, betas = group.get("eps"), group.get("betas")
            if not isinstance(eps, float) or eps <= 0 or not isinstance(betas, (tuple, list)) or len(betas) < 2:
                continue
            keys, moments, factors, steps = [], [], [], None
            for param in group["params"]:
                state = self.optimizer.state.get(param, {})
                moment = state.get("exp_avg_sq")
                place = self._buffers.place_of.get(id(param))
                if place is None or not isinstance(moment, Tensor) or moment.shape != param.shape:
                    continue
                steps = state.get("step") if steps is None else steps
                keys.append(Key("second_moments", self._buffers.labels[place]))
                moments.append(moment)
                factors.append(1 / (eps * eps * moment.numel()))
            if moments:
                means = torch.stack(torch._foreach_mul(self._buffers.norms(moments, 1), factors))
                self._readings.add(self._measures, keys, (means / _bias(betas[1], steps, means.device)).sqrt())


class _Buffers:
    """The measured parameters of an optimizer, and copies of them and of their gradients.

    Attributes:
        params: The parameters, dense and on one device.
        labels: Their names.
        before: The parameters before the step; after it, minus the update.
        places: The parameters that had a gradient.
        gradients: Copies of these gradients.
        square: Squared norm of the gradients.
        slope: Inner product of the gradients and minus the update; None if it was used, or not measured.
    """

    def __init__(self) -> None:
        self.params: list[Tensor] = []
        self.labels: list[str] = []
        self.before: list[Tensor] = []
        self.places: list[int] = []
        self.gradients: list[Tensor] = []
        self.gradient_keys: list[Key] = []
        self.update_keys: list[Key] = []
        self.halves: list[int] = []
        self.place_of: dict[int, int] = {}
        self.square: Tensor | None = None
        self.slope: Tensor | None = None
        self.norm_dtype = torch.float32
        self._signature: list[Any] = []

    def choose(self, optimizer: Any, names: Callable[[], Mapping[int, str]], fallback: str) -> None:
        """Choose the parameters of an optimizer that are measured, and allocate buffers if they are others."""
        params = [param for group in optimizer.param_groups for param in group["params"]]
        signature = [(id(param), param.dtype, param.device, param.shape) for param in params]
        if signature == self._signature:
            return
        self.__init__()  # type: ignore[misc]  # all anew
        self._signature = signature
        unique = {id(param): param for param in params if _is_plain(param)}
        device = next((param.device for param in unique.values()), None)
        self.params = [param for param in unique.values() if param.device == device]
        self.place_of = {id(param): place for place, param in enumerate(self.params)}
        known = names()
        self.labels = [known.get(id(param), f"{fallback}.{place}") for place, param in enumerate(self.params)]
        self.before = [torch.empty_like(param) for param in self.params]
        self.update_keys = [Key("parameter_norms", label) for label in self.labels]
        self.update_keys += [Key("update_norms", label) for label in self.labels]
        self.halves = [place for place, param in enumerate(self.params) if param.dtype in HALF]
        if any(param.dtype == torch.float64 for param in self.params):
            self.norm_dtype = torch.float64

    def copy_parameters(self) -> None:
        """Copy the parameters."""
        if self.params:
            torch._foreach_copy_(self.before, self.params)

    def choose_gradients(self) -> list[Tensor]:
        """Return the dense gradients, with buffers for copies of them."""
        places, gradients = [], []
        for place, param in enumerate(self.params):
            grad = param.grad
            if grad is not None and not grad.is_sparse:
                places.append(place)
                gradients.append(grad)
        if places != self.places or [grad.dtype for grad in gradients] != [grad.dtype for grad in self.gradients]:
            self.places = places
            self.gradients = [torch.empty_like(grad) for grad in gradients]
            self.gradient_keys = [Key("gradient_norms", self.labels[place]) for place in places]
        self.square = self.slope = None
        return gradients

    def norms(self, tensors: list[Tensor], order: float = 2) -> list[Tensor]:
        """Return the norm of each tensor, in single precision at least."""
        return list(torch._foreach_norm(tensors, order, dtype=self.norm_dtype))


def _held(lr: Any) -> Any:
    """Return a learning rate as it is now: a tensor changes later."""
    if isinstance(lr, Tensor):
        return float(lr) if lr.device.type == "cpu" else lr.detach().clone()
    return lr


def _is_plain(param: Any) -> bool:
    return isinstance(param, Tensor) and not param.is_sparse and not param.is_complex() and param.numel() > 0


def _closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[1] if len(args) > 1 else kwargs.get("closure")


def _bias(beta: Any, steps: Any, device: torch.device) -> Any:
    """The share of its final size that a moving average has after so many steps."""
    if isinstance(steps, Tensor) and steps.device != device:
        steps = float(steps)  # torch keeps it on the CPU then, and does not wait for a device
    return 1 - float(beta) ** (1 if steps is None else steps)


def _product(first: list[Tensor], second: list[Tensor]) -> Tensor:
    """Return the inner product of two lists of tensors."""
    parts = [_dot(a, b) for a, b in zip(first, second, strict=True)]
    return torch.stack(parts).sum()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    if a.dtype in HALF or a.dtype != b.dtype:
        a, b = a.float(), b.float()
    return torch.dot(a.reshape(-1), b.reshape(-1))


_Hook = Callable[[Any, tuple[Any, ...], dict[str, Any]], None]


def _around_step(optimizer: Any, before: _Hook, after: _Hook) -> Callable[[], None]:
    """Call functions around the method ``step`` of an object. Return a function that ends this."""
    own = vars(optimizer).get("step")
    original = own or type(optimizer).step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = (args, kwargs) if own is not None else ((self, *args), kwargs)
        if self is not optimizer:  # a copy of the optimizer has this method, too
            return original(*bound[0], **bound[1])
        before(self, (self, *args), kwargs)
        result = original(*bound[0], **bound[1])
        after(self, (self, *args), kwargs)
        return result

    method = optimizer.step = MethodType(step, optimizer)

    def restore() -> None:
        if vars(optimizer).get("step") is method:
            del optimizer.step
            if own is not None:
                optimizer.step = own

    return restore
