"""Numbers: values beyond the range or the precision of their format, and decay of the weights."""

import math
from collections.abc import Iterator
from statistics import median

import torch
from torch import Tensor, nn

from thalweg.diagnosis.clue import Certainty, Clue
from thalweg.diagnosis.inspection.observation import Observation
from thalweg.diagnosis.inspection.observation.parameters import held_tensors, largest_entry
from thalweg.diagnosis.inspection.observation.trace import ROOTS, Call
from thalweg.diagnosis.inspection.update_probe import update_norm, update_of

# So many times larger would the first update be without epsilon. 2: gradients are as small as it.
MUCH_LARGER, LARGER = 10.0, 2.0
FAR_ABOVE = 100.0  # times epsilon: without effect of it, and within half precision when squared
MOSTLY = 0.5  # of the entries with a gradient
# Steps in which decay alone takes most of a weight. Trainings take hundreds at least.
SHORT_LIFE, LIFE = 50, 200
# Decoupled decay of language models (GPT-3: 0.1). With no more than that, a short life comes from the learning rate.
USUAL_DECAY = 0.1

_HALVES = (torch.float16, torch.bfloat16)
_LOGARITHMS = ("log", "log2", "log10", "log1p", "log_", "xlogy")
_DIVISIONS = ("div", "true_divide", "__truediv__", "__rtruediv__", "__rdiv__", "divide", "reciprocal", "div_", "rdiv")
_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


def number_clues(observation: Observation) -> Iterator[Clue]:
    """Yield clues about formats and precision."""
    underflow = list(_epsilon(observation))
    yield from underflow
    yield from _not_finite(observation)
    if not underflow:
        yield from _below_precision(observation)
    yield from _decay(observation)


def _epsilon(observation: Observation) -> Iterator[Clue]:
    step = observation.optimizer_steps[0] if observation.optimizer_steps else None
    if step is None or not any("eps" in group for group in step.optimizer.param_groups):
        return
    largest = max(map(largest_entry, step.gradients.values()), default=0.0)
    if not 0.0 < largest < math.inf:
        return
    epsilon = max(float(group["eps"]) for group in step.optimizer.param_groups if "eps" in group)
    far_above = FAR_ABOVE * max(1.0, epsilon) / largest
    as_it_is, scaled, larger = (update_norm(observation, factor) for factor in (1.0, far_above, FAR_ABOVE * far_above))
    if as_it_is is None or scaled is None or larger is None or as_it_is == 0.0 or larger > LARGER * scaled:
        return
    if scaled >= LARGER * as_it_is:
        evidence: dict[str, float | str] = {
            "epsilon": epsilon,
            "largest gradient": largest,
            "update without epsilon by update": scaled / as_it_is,
        }
        certainty: Certainty = "likely" if scaled >= MUCH_LARGER * as_it_is else "possible"
        yield Clue("adam_eps_underflow", certainty, None, 0, evidence)


def _below_precision(observation: Observation) -> Iterator[Clue]:
    steps = [step for step in observation.optimizer_steps if step.used_norm > 0 and math.isfinite(step.used_norm)]
    steps = [step for step in steps if any(rate > 0 for rate in step.lrs)]
    if not steps:
        return
    unmoved = median(step.unmoved for step in steps)
    dtypes = {tensor.dtype for step in steps for tensor in held_tensors(step.optimizer)}
    if unmoved < MOSTLY or not dtypes:
        return
    is_half = bool(dtypes & set(_HALVES))
    evidence: dict[str, float | str] = {
        "share of the entries that a step leaves as they are": unmoved,
        "dtype": ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes)),
        "learning rate": steps[0].lrs[0],
    }
    yield Clue("update_below_precision", "likely" if is_half else "possible", None, 0, evidence)


def _not_finite(observation: Observation) -> Iterator[Clue]:
    """Yield a clue about the function of the first step that made the first value that is not finite."""
    if observation.trace is None or not observation.losses or not _is_data_finite(observation):
        return
    if not math.isfinite(observation.losses[0]):
        origin = _origin(observation.trace.calls)
        if origin is not None:
            yield from _of_origin(origin)
        elif (buffer := _overflown(observation.training.model)) is not None:
            where = buffer.rpartition(".")[0] or None
            yield Clue("fp16_overflow", "certain", where, 0, {"infinite": buffer})
    elif observation.optimizer_steps and not math.isfinite(observation.optimizer_steps[0].computed_norm):
        for call in observation.trace.calls:
            if call.name in ROOTS and call.numbers.get("smallest_output") == 0.0:
                evidence: dict[str, float | str] = {"function": call.name, "loss": observation.losses[0]}
                yield Clue("nan_from_sqrt", "likely", call.module or None, 0, evidence)
                return


def _is_data_finite(observation: Observation) -> bool:
    parts = [part for part in observation.first_batch if isinstance(part, Tensor) and part.is_floating_point()]
    return all(bool(part.isfinite().all()) for part in parts)


def _origin(calls: list[Call]) -> Call | None:
    """Return the call that made the first NaN, or the infinity that it was made of; None if that came from outside."""
    call: Call | None = next(
        (call for call in calls if call.numbers["nan_outputs"] and not call.numbers["nan_inputs"]), None
    )
    if call is None:
        return next((c for c in calls if c.numbers["finite_inputs"] and not c.numbers["finite_outputs"]), None)
    visited: set[int] = set()
    while call is not None and not call.numbers["finite_inputs"] and id(call) not in visited:
        visited.add(id(call))
        call = next((parent for parent in call.parents if parent and not parent.numbers["finite_outputs"]), None)
    return call


def _of_origin(call: Call) -> Iterator[Clue]:
    kind = ""
    if call.name in _LOGARITHMS:
        kind = "nan_from_log"
    elif call.name in _DIVISIONS:
        kind = "nan_from_division"
    elif any(tensor.dtype == torch.float16 for tensor in call.outputs):
        kind = "fp16_overflow"
    elif call.name in ROOTS:
        kind = "nan_from_sqrt"
    if kind:
        yield Clue(kind, "likely", call.module or None, 0, {"function": call.name})


def _overflown(model: nn.Module) -> str | None:
    """Return the name of a buffer or parameter in half precision that is infinite."""
    tensors = (*model.named_buffers(), *model.named_parameters())
    return next(
        (name for name, tensor in tensors if tensor.dtype == torch.float16 and bool(tensor.isinf().any())), None
    )


def _decay(observation: Observation) -> Iterator[Clue]:
    """Yield clues about weight decay, as a step with gradients of zero shows it."""
    step = observation.optimizer_steps[0] if observation.optimizer_steps else None
    groups = step.optimizer.param_groups if step is not None else []
    if step is None or not any(float(group.get("weight_decay", 0) or 0) > 0 for group in groups):
        return
    update = update_of(observation, 0.0)
    if not update:
        return
    rates = {key: rate for key, change in update.items() if (rate := _decay_rate(observation, key, change)) > 0}
    if not rates:
        return
    momentum = max(float(group.get("momentum", 0) or 0) for group in groups)
    strongest = max(rates.values()) / max(1e-6, 1 - min(momentum, 1.0))
    norms = _norm_parameters(observation.training.model)
    on_norms = [key for key in rates if key in norms]
    vectors = {id(param) for param in observation.training.model.parameters() if param.dim() < 2}
    if strongest * SHORT_LIFE > 1 and not (on_norms and vectors.issuperset(rates)):
        evidence: dict[str, float | str] = {"share of a weight that decay takes in a step": strongest}
        decay = max(float(group.get("weight_decay", 0) or 0) for group in groups)
        evidence["weight decay"] = decay
        certainty: Certainty = "likely" if decay > USUAL_DECAY else "possible"
        yield Clue("weight_decay_too_strong", certainty, None, 0, evidence)
        return
    if on_norms and strongest * LIFE > 1:
        evidence = {"share of a weight that decay takes in a step": strongest, "parameters": float(len(on_norms))}
        yield Clue("decay_on_norms", "possible", norms[on_norms[0]], 0, evidence)


def _decay_rate(observation: Observation, key: int, change: Tensor) -> float:
    """Return the share of a parameter that a step without gradient takes; 0 if the change is no share of it."""
    record = observation.parameters.get(key)
    if record is None or not bool(record.tensor.any()):
        return 0.0
    weight = record.tensor.detach().double().flatten()
    moved = change.double().flatten()
    share = -float(weight @ moved / (weight @ weight))
    return share if float((moved + share * weight).norm()) <= 0.05 * float(moved.norm()) else 0.0


def _norm_parameters(model: nn.Module) -> dict[int, str]:
    return {
        id(param): name
        for name, module in model.named_modules()
        if isinstance(module, _NORMS)
        for param in module.parameters(recurse=False)
    }
