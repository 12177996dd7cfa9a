"""Assembly: puts readings together into a record."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, pairwise
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.diagnosis.monitoring.probes.columns import Columns
from thalweg.diagnosis.monitoring.probes.graph import operations_of
from thalweg.diagnosis.monitoring.probes.module_probe import ModuleProbe
from thalweg.diagnosis.monitoring.probes.readings import Readings
from thalweg.diagnosis.monitoring.probes.targets import Parts
from thalweg.diagnosis.monitoring.record import GroupInfo, NonFinite, ParameterInfo, Record, Table
from thalweg.diagnosis.monitoring.signs.series import finite

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase, nn.RMSNorm)


class Assembly:
    """Puts a record together from what is measured.

    Args:
        parts: What is trained.
        optimizers: The optimizers.

    Attributes:
        record: The record so far.
        readings: Values that were not read yet.
        columns: Where probes put their values.
        steps_done: Steps that ended, or are ending.
    """

    def __init__(self, parts: Parts, optimizers: Sequence[Any]) -> None:
        self.record = Record()
        self.readings = Readings()
        self.columns = Columns(self.record, self.readings, self.refresh)
        self.steps_done = 0
        self._parts, self._optimizers = parts, optimizers
        self._losses: dict[int, float] = {}  # by call, of the steps that are not assigned yet
        self._lrs: list[tuple[Any, ...]] = []  # of steps, with tensors that were not read yet
        self._lag = 1  # 1 if a step's last loss is passed after its optimizer has stepped
        self._steps_assigned = 0
        self._checked = 0  # monitored steps that are finite
        self._first_calls: list[int] = []  # of each step: the calls that were made when its optimizer stepped
        self._written = 0  # monitored steps that writers have
        self._derived = 0  # monitored steps
        self._losses_finite = True
        self._sizes: dict[str, float] = {}  # the last known norm of each parameter
        self._loss_readings = _Losses()
        self._graph_read = False
        self.refresh()

    def refresh(self) -> Mapping[int, str]:
        """Read the model's parameters and the optimizers' groups anew; return the names of parameters by their id."""
        groups: dict[int, int] = {}
        self.record.groups = []
        for index, optimizer in enumerate(self._optimizers):
            for group in getattr(optimizer, "param_groups", ()):
                for param in group["params"]:
                    groups.setdefault(id(param), len(self.record.groups))
                self.record.groups.append(_group_info(type(optimizer).__name__, index, group))
        names: dict[int, str] = {}
        for place, (name, module_name, module, param) in enumerate(self._parts.parameters()):
            if nn.parameter.is_lazy(param):
                continue
            names[id(param)] = name
            self.record.parameters[name] = ParameterInfo(
                module_name,
                tuple(param.shape),
                str(param.dtype).removeprefix("torch."),
                place,
                groups.get(id(param), -1),
                _role(module, param),
                param.requires_grad,
            )
        return names

    def find_symmetric(self) -> list[tuple[str, Tensor]]:
        """Return the weights whose elements are all equal, as after an initialization with zeros."""
        candidates = [
            (name, param)
            for name, _, module, param in self._parts.parameters()
            if not nn.parameter.is_lazy(param) and _role(module, param) == "weight" and param.shape[0] > 1
        ]
        with torch.no_grad():
            is_symmetric = [(param == param.reshape(-1)[0]).all() for _, param in candidates]
        return [candidate for candidate, symmetric in zip(candidates, is_symmetric, strict=True) if bool(symmetric)]

    def put_loss(self, call: int, loss: Tensor | float) -> None:
        """Store the loss of a call."""
        if isinstance(loss, Tensor):
            self._loss_readings.add(call, loss)
        else:
            self._losses[call] = loss

    def count_optimizer_step(self, calls: int, *, is_first: bool) -> None:
        """Count a step of an optimizer, after so many calls. The first one since the last call ends a step."""
        self.record.optimizer_steps += 1
        if is_first:
            self._first_calls.append(calls)
            self.steps_done += 1

    def end_step(self, lrs: tuple[Any, ...], *, is_monitored: bool, loss: Any) -> None:
        """Note the learning rates of a step that has ended, and that it was monitored."""
        self._lrs.append(lrs)
        if is_monitored:
            self.record.steps.append(self.steps_done - 1)
            if not self._graph_read and isinstance(loss, Tensor) and loss.grad_fn is not None:
                self.record.loss_operations = operations_of(loss)
                self._graph_read = True

    def take(self, modules: ModuleProbe) -> None:
        """Put what was measured into the record.

        Args:
            modules: What knows the order of modules.
        """
        record = self.record
        self.readings.read(len(record.steps))
        losses = self._loss_readings.take()
        self._losses.update(losses)
        self._losses_finite = self._losses_finite and all(map(math.isfinite, self._losses.values()))
        record.lrs += [tuple(float(lr) for lr in lrs) for lrs in self._lrs]
        self._lrs = []
        self._assign_losses()
        self.columns.pad(len(record.steps))
        self._derive()
        self._take_depths(modules)
        record.limits = sorted(modules.limits)
        record.model_operations = modules.operations
        record.samples = modules.samples
        if math.isnan(record.input_scale):
            record.input_scale = next(iter(finite(chain(*self.columns.raw["inputs"].values()))), math.nan)
        is_finite = self.readings.all_finite and self._losses_finite
        if record.non_finite is None and not is_finite:
            record.non_finite = self._find_non_finite(modules)

    def _derive(self) -> None:
        """Compute what the record holds instead of raw values, for the steps since the last time."""
        record, raw, start, end = self.record, self.columns.raw, self._derived, len(self.record.steps)
        if start == end:
            return
        for name, updates in raw["update_norms"].items():
            ratios, size = list[float](), self._sizes.get(name, 0.0)
            for update, measured in zip(updates[start:end], record.parameter_norms[name][start:end], strict=True):
                size = measured if math.isfinite(measured) else size  # it is not measured at every step
                ratios.append(update / size if size > 0 else math.nan)
            self._sizes[name] = size
            _put(record.update_ratios, name, start, ratios)
        for name, slopes in raw["slopes"].items():
            labels = self.columns.parameters_of.get(name, [])
            squares = _sums_of_squares(record.gradient_norms, labels, start, end)
            lengths = _sums_of_squares(raw["update_norms"], labels, start, end)
            _put(record.gradient_squares, name, start, squares)
            measured_slopes = zip(slopes[start:end], lengths, squares, strict=True)
            cosines = [_ratio(slope, math.sqrt(length * square)) for slope, length, square in measured_slopes]
            _put(record.alignments, name, start, cosines)
        # The step that follows the last monitored one may come later.
        for index in range(max(0, start - 1), end):
            for name, slopes in raw["slopes"].items():
                squares = record.gradient_squares[name]
                next_square = raw["next_squares"][name][index]
                slope = max(0.0, slopes[index])  # an update that goes uphill has no minimum before it
                product = record.gradient_products[name][index]
                _put(record.sharpness, name, index, [1 - _ratio(raw["next_slopes"][name][index], slope)])
                _put(record.cosines, name, index, [_ratio(product, math.sqrt(squares[index] * next_square))])
        self._derived = end

    def _assign_losses(self) -> None:
        """Give each step the mean loss of its calls: those before the optimizer's step, and mostly the one after it."""
        ends, record = self._first_calls, self.record
        if not ends:
            record.losses = [self._losses[call] for call in sorted(self._losses)]
            return
        # Where the loss is passed before the optimizer steps, as many calls come before its first step as between two.
        lag = 0 if len(ends) > 1 and ends[0] == ends[1] - ends[0] else 1
        if lag != self._lag:
            self._lag, self._steps_assigned, record.losses = lag, 0, []
        for step in range(self._steps_assigned, len(ends)):
            start = ends[step - 1] + lag if step else 0
            calls = [self._losses[call] for call in range(start, ends[step] + lag) if call in self._losses]
            if not calls:
                break
            record.losses.append(fmean(calls))
            self._steps_assigned = step + 1
            if step > 1:  # by then the lag is known
                for call in range(start, ends[step] + lag):
                    self._losses.pop(call, None)
        if len(ends) > 1:
            record.micro_batches = max(1, int(median(b - a for a, b in pairwise(ends[-100:]))))

    def _take_depths(self, modules: ModuleProbe) -> None:
        record = self.record
        if len(record.depths) == len(modules.depths):
            return
        record.depths = dict(modules.depths)
        last = len(record.depths)
        for name, info in record.parameters.items():
            record.parameters[name] = replace(info, depth=record.depths.get(info.module, last))

    def _find_non_finite(self, modules: ModuleProbe) -> NonFinite | None:
        record = self.record
        bad_loss = next((step for step, loss in enumerate(record.losses) if not math.isfinite(loss)), math.inf)
        for index, step in enumerate(record.steps[self._checked :], self._checked):
            if step > bad_loss:
                break
            non_finite = self._non_finite_at(index, step, modules, loss_is_bad=step == bad_loss)
            if non_finite is not None:
                return non_finite
        self._checked = max(0, len(record.steps) - 1)  # the loss of the last step may come later
        return NonFinite(int(bad_loss), None, "unknown") if bad_loss < math.inf else None

    def _non_finite_at(self, index: int, step: int, modules: ModuleProbe, *, loss_is_bad: bool) -> NonFinite | None:
        record = self.record
        bad = {name for name, values in record.parameter_norms.items() if values[index] == math.inf}
        if bad:
            return NonFinite(step, next(name for name in record.parameter_norms if name in bad), "parameter")
        outputs = [name for name, values in record.activation_scales.items() if values[index] == math.inf]
        if any(values[index] == math.inf for values in self.columns.raw["inputs"].values()):
            return NonFinite(step, None, "input")
        if outputs:
            where = min(outputs, key=lambda name: record.depths.get(name, 0))
            return NonFinite(step, where, "output", half=where in modules.halves)
        if loss_is_bad:
            return NonFinite(step, None, "loss")
        bad = {name for name, values in record.gradient_norms.items() if values[index] == math.inf}
        if not bad:
            return None
        # A gradient that is not finite stays so on its way to the first module: it arose at or behind the last one.
        infos = [record.parameters[name] for name in bad if name in record.parameters]
        last = max(infos, key=lambda info: info.depth, default=None)
        is_half = last is not None and last.dtype == "float16"
        return NonFinite(step, last.module if last is not None and last.module else None, "gradient", half=is_half)

    def unwritten(self) -> list[tuple[int, dict[str, float]]]:
        """Return the monitored steps that were not returned before, with their values by name."""
        record, result = self.record, []
        for index in range(self._written, len(record.steps)):
            step = record.steps[index]
            if step >= len(record.losses):
                break
            values = {"loss": record.losses[step]}
            values |= {f"lr/{group}": lr for group, lr in enumerate(record.lrs[step])}
            for table_name, table in record.tables().items():
                for name, column in table.items():
                    if not math.isnan(column[index]):
                        values[f"{table_name}/{name}"] = column[index]
            result.append((step, values))
            self._written = index + 1
        return result


class _Losses:
    """Losses that wait on their device."""

    def __init__(self) -> None:
        self._calls: list[int] = []
        self._values: list[Tensor] = []

    def add(self, call: int, loss: Tensor) -> None:
        self._calls.append(call)
        self._values.append(loss.detach().clone())

    def take(self) -> dict[int, float]:
        if not self._calls:
            return {}
        kinds = {(value.shape, value.dtype, value.device) for value in self._values}
        if len(kinds) > 1:
            device = self._values[0].device
            self._values = [value.reshape(()).to(device, torch.float64) for value in self._values]
        losses: list[float] = torch.stack(self._values).flatten().tolist()
        result = dict(zip(self._calls, losses, strict=True))
        self._calls, self._values = [], []
        return result


def _put(table: Table, name: str, start: int, values: list[float]) -> None:
    """Put values into a column from an index on. What is not known before it becomes not a number."""
    column = table.setdefault(name, [])
    column.extend([math.nan] * (start - len(column)))
    column[start:] = values


def _sums_of_squares(table: Table, names: Sequence[str], start: int, end: int) -> list[float]:
    """Return the sum over names of the squares of the values that are known, at each index."""
    values = [table[name][start:end] for name in names if name in table]
    if not values:
        return [0.0] * (end - start)
    sums: list[float] = torch.tensor(values, dtype=torch.float64, device="cpu").square().nansum(0).tolist()
    return sums


def _ratio(value: float, by: float) -> float:
    """Return a ratio; not a number if it has none."""
    return value / by if by and math.isfinite(value) and math.isfinite(by) else math.nan


def _group_info(optimizer: str, index: int, group: Mapping[str, Any]) -> GroupInfo:
    betas, momentum, eps = group.get("betas"), group.get("momentum", 0.0), group.get("eps", 0.0)
    if isinstance(betas, (tuple, list)) and betas:
        momentum = betas[0]
    is_adaptive = isinstance(betas, (tuple, list)) and len(betas) > 1
    return GroupInfo(
        optimizer,
        index,
        float(momentum) if isinstance(momentum, (int, float)) else 0.0,
        float(eps) if is_adaptive and isinstance(eps, (int, float)) else 0.0,
    )


def _role(module: nn.Module, param: Tensor) -> str:
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return "embedding"
    if isinstance(module, NORMS):
        return "norm"
    return "weight" if param.ndim > 1 else "vector"
