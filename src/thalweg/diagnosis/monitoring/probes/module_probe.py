"""Module probe: measures what modules compute, by forward hooks that exist during full measurements only."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from thalweg.diagnosis.monitoring.probes.columns import Columns
from thalweg.diagnosis.monitoring.probes.graph import (
    Activation,
    GraphWalk,
    grad_nodes,
    operation_of,
    saves_tensors_plainly,
    tensors_in,
)
from thalweg.diagnosis.monitoring.probes.targets import Parts

MAX_CALLS = 4  # of one module in one step: those of a shared module, or of micro-batches
WINDOW = 4  # full measurements over which a unit must be inactive to be dead
TANH_END, SIGMOID_END = 0.99, 0.01  # where the slope is 2 % and 4 % of its largest
MAX_VALUES = 32_768  # of one activation that are read
AVERAGE = 0.2  # weight of a batch in the average of a BatchNorm's statistics
# Their forward pass is one operation: there is nothing inside to walk through.
PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding, nn.LayerNorm, nn.GroupNorm, _BatchNorm)


class ModuleProbe:
    """Measures the outputs of modules with parameters, and the activations and attention between them.

    Args:
        parts: What is trained.
        columns: Where values go.

    Attributes:
        depths: Place of each module in the order of first calls.
        halves: Modules whose outputs are float16.
        limits: What cannot be measured, and why.
        operations: Operations between modules that may give values that are not finite.
        samples: True if there are exponentials between modules.
    """

    def __init__(self, parts: Parts, columns: Columns) -> None:
        self._columns, self._readings = columns, columns.readings
        self._parts = parts
        self._handles: list[Any] = []
        self._index = 0
        self._calls: dict[str, int] = {}
        self._peaks: dict[tuple[str, int], _Peak] = {}
        self._statistics: dict[str, tuple[Tensor, Tensor]] = {}  # averages of batches, of each BatchNorm
        self._counts: dict[tuple[str, str], int] = {}
        self._checkpointed = False
        self._is_surveyed = False
        self._walk = GraphWalk({})
        self.depths: dict[str, int] = {}
        self.halves: set[str] = set()
        self.limits: set[str] = set()
        self.operations: tuple[str, ...] = ()
        self.samples = False
        self.refresh()

    def refresh(self) -> None:
        """Look for modules anew: some may have been added."""
        self._modules: list[tuple[str, nn.Module]] = []
        self._module_of: dict[int, str] = {}
        self.end()
        self._roots = {module: name for name, module in self._parts.roots()}
        for name, module, compiled in self._parts.modules():
            own = [param for param in module._parameters.values() if param is not None]
            self._module_of.update({id(param): name for param in own})
            if compiled:
                self.limits.add("activations of compiled modules: a hook would break their graphs")
            elif (own or module in self._roots) and not isinstance(module, torch.jit.ScriptModule):
                self._modules.append((name, module))

    def install(self, index: int) -> None:
        """Measure until ``end`` is called, for the monitored step of an index."""
        self._index, self._calls, self._counts = index, {}, {}
        self._walk = GraphWalk(self._module_of)
        self._handles = [module.register_forward_hook(_Hook(self, name)) for name, module in self._modules]

    def end(self) -> None:
        """Forget the graph, which would keep memory, and remove all hooks."""
        if not self._is_surveyed and self._walk.kinds:
            self._is_surveyed = True
            self.operations = tuple(sorted({op for kind in self._walk.kinds if (op := operation_of(kind)) is not None}))
            self.samples = "ExpBackward0" in self._walk.kinds
        if self._handles:
            self._walk = GraphWalk({})
            for handle in self._handles:
                handle.remove()
            self._handles = []

    def after_forward(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """Measure a call of a module."""
        if torch.compiler.is_compiling() or not torch.is_grad_enabled() or _is_transformed():
            return
        calls = self._calls[name] = self._calls.get(name, 0) + 1
        if calls > MAX_CALLS:
            return
        tensor = _first_float(output)
        if tensor is None:
            return
        torch._C._set_grad_enabled(False)  # as torch.no_grad does
        try:
            if calls == 1:
                self._measure_scale(name, module, inputs, tensor)
            self._measure_graph(name, module, inputs, output)
            if calls == 1 and isinstance(module, _BatchNorm) and module.training:
                self._measure_batchnorm(name, module, tensor)
        finally:
            torch._C._set_grad_enabled(True)

    def _measure_scale(self, name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        if module in self._roots:
            tensor = _first_float(inputs)
            if tensor is not None:
                self._put("inputs", name, _norm(tensor), 1 / math.sqrt(tensor.numel() or 1))
            if module._modules:
                return
        if name not in self.depths:
            self.depths[name] = len(self.depths)
            if output.dtype == torch.float16:
                self.halves.add(name)
        self._put("activation_scales", name, _norm(output), 1 / math.sqrt(output.numel() or 1))

    def _put(self, table: str, name: str, value: Tensor, factor: float = 1.0) -> None:
        self._readings.add(self._index, self._columns.column(table, name), value, factor)

    def _measure_graph(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        self._checkpointed = self._checkpointed or not saves_tensors_plainly()
        if self._checkpointed:
            self.limits.add("activations: the model's checkpoints would compute them anew")
            return
        nodes = grad_nodes(inputs)
        if not isinstance(module, PLAIN):
            nodes += grad_nodes(output)
        is_gated = isinstance(module, (nn.LSTM, nn.GRU))  # whose sigmoids are at their ends for good reason
        for activation in self._walk.activations(nodes):
            where = activation.module or name
            count = self._counts[where, activation.function] = self._counts.get((where, activation.function), 0) + 1
            if count > MAX_CALLS or not activation.values.numel():
                continue
            if activation.function == "rectified":
                self._measure_dead(where, activation)
            elif activation.function == "tanh" or (activation.function == "sigmoid" and not is_gated):
                self._measure_saturation(where, activation)
            elif count == 1:
                self._measure_attention(where, activation)
        for node in grad_nodes(output):
            self._walk.add_output(node, name)

    def _measure_dead(self, where: str, activation: Activation) -> None:
        values = _some(activation.values)
        largest = values.amax(0) if values.ndim > 1 else values
        if values.ndim > 2:  # over places
            largest = largest.flatten(1).amax(1) if activation.channels_first else largest.flatten(0, -2).amax(0)
        # A unit of a module that is called several times is dead if no call activates it.
        peak = self._peaks.setdefault((where, len(largest)), _Peak()).update(largest, self._index)
        self._put("dead", where, peak.le(activation.floor).count_nonzero(), 1 / peak.numel())

    def _measure_saturation(self, where: str, activation: Activation) -> None:
        values = _some(activation.values)
        # The ends of a sigmoid are as far from its middle, of those of a tanh whose range is twice as large.
        distance = values.abs() if activation.function == "tanh" else (values - 0.5).abs()
        end = TANH_END if activation.function == "tanh" else 0.5 - SIGMOID_END
        self._put("saturated", where, distance.gt(end).count_nonzero(), 1 / values.numel())

    def _measure_attention(self, where: str, activation: Activation) -> None:
        """Measure the spread of logits in the first example and head: enough to see them grow, and cheap."""
        if activation.values.ndim < 3:
            return
        if activation.function == "attention":
            node = activation.node
            query, key = _first(node._saved_query), _first(node._saved_key)
            scale = getattr(node, "_saved_scale", None) or query.shape[-1] ** -0.5
            logits = query.float() @ key.float().T * scale
            spread = logits.amax(-1) - logits.amin(-1)
        else:
            shares = _first(activation.values).float()
            smallest = shares.masked_fill(shares <= 0, torch.inf).amin(-1)
            spread = -(smallest / shares.amax(-1)).log()
        self._put("attention", where, spread.amax())

    def _measure_batchnorm(self, name: str, module: _BatchNorm, output: Tensor) -> None:
        mean = getattr(output.grad_fn, "_saved_result1", None)
        inverse = getattr(output.grad_fn, "_saved_result2", None)
        running_mean, running_var = module.running_mean, module.running_var
        if (
            not isinstance(mean, Tensor)
            or not isinstance(inverse, Tensor)
            or running_mean is None
            or running_var is None
        ):
            return
        if mean.shape != running_mean.shape or inverse.shape != running_mean.shape:
            return
        variance = inverse**-2  # with the module's eps
        if name not in self._statistics:
            self._statistics[name] = (mean.clone(), variance.clone())
        mean_of, variance_of = self._statistics[name]
        noise = ((mean - mean_of).abs() * inverse).mean()
        mean_of.lerp_(mean, AVERAGE)
        variance_of.lerp_(variance, AVERAGE)
        running_var = running_var + module.eps
        shift = (running_mean - mean_of).abs() / torch.minimum(running_var, variance_of).sqrt()
        stretch = (running_var / variance_of).log().abs() / 2
        self._put("batchnorm_gaps", name, (shift + stretch).mean())
        self._put("batchnorm_noise", name, noise)


class _Hook:
    """A forward hook. A copy of it, in a copied or pickled model, does nothing."""

    def __init__(self, probe: ModuleProbe, name: str) -> None:
        self._probe, self._name = probe, name

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._probe.after_forward(self._name, module, inputs, output)

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _InertHook, ()


class _InertHook:
    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        pass


class _Peak:
    """The largest value of each unit over the last monitored steps: of this window and the one before."""

    def __init__(self) -> None:
        self._steps: set[int] = set()
        self._now: Tensor | None = None
        self._last: Tensor | None = None

    def update(self, largest: Tensor, index: int) -> Tensor:
        """Return the largest values so far, with those of the monitored step of an index."""
        if self._now is None:
            self._now = largest.clone()
        elif index not in self._steps and len(self._steps) == WINDOW:
            self._last, self._now, self._steps = self._now, largest.clone(), set()
        else:
            torch.maximum(self._now, largest, out=self._now)
        self._steps.add(index)
        return self._now if self._last is None else torch.maximum(self._now, self._last)


def _first_float(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else None
    return next((tensor for tensor in tensors_in(value) if tensor.is_floating_point()), None)


def _norm(values: Tensor) -> Tensor:
    if values.dtype in (torch.float32, torch.float64):
        return torch.linalg.vector_norm(values)
    return torch.linalg.vector_norm(values, dtype=torch.float32)


def _some(values: Tensor) -> Tensor:
    """Return the first examples of a batch, as many as are enough to see which units are active."""
    if values.ndim < 2 or values.numel() <= MAX_VALUES:
        return values
    return values[: max(1, MAX_VALUES * len(values) // values.numel())]


def _first(values: Tensor) -> Tensor:
    """Return the matrix of the first example and head."""
    return values.reshape(-1, *values.shape[-2:])[0]


def _is_transformed() -> bool:
    """Return True inside of ``torch.func``'s transforms, whose tensors must not leave them."""
    return torch._C._functorch.peek_interpreter_stack() is not None
