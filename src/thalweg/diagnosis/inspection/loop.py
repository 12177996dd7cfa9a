"""Loop: what the user's own steps do beside the computation of the loss."""

import math
from collections.abc import Iterator
from itertools import pairwise
from statistics import median

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from thalweg.diagnosis.clue import Certainty, Clue
from thalweg.diagnosis.inspection.observation import Observation
from thalweg.diagnosis.inspection.update_probe import update_norm

# Clipping may take most of a gradient of a healthy training; a tenth is still common in the first steps.
CLIPPED_AWAY = 0.1
# A true update below this share of the weights hardly trains.
TINY_UPDATE = 1e-4
# Of the peak rate, the mean over the next steps. Linear and cosine decays to zero have one half.
SCHEDULE_STEPS = 250
KILLED, NEARLY_KILLED = 0.05, 0.1
GEOMETRIC = 0.02  # relative difference between the ratios of successive rates
# Values per channel that the statistics of a batch are made of: those of two are their order, no more.
TINY_COUNT, SMALL_BATCH = 4, 4


def loop_clues(observation: Observation) -> Iterator[Clue]:
    """Yield clues about zeroing, modes, clipping, schedules and statistics of tiny batches."""
    yield from _unzeroed(observation)
    yield from _evaluation_mode(observation)
    yield from _clipping(observation)
    yield from _schedule(observation)
    yield from _tiny_batches(observation)


def _unzeroed(observation: Observation) -> Iterator[Clue]:
    unzeroed = [record for record in observation.records() if record.unzeroed]
    if unzeroed:
        held = [record for record in observation.records() if record.is_held and record.arrivals]
        evidence: dict[str, float | str] = {
            "parameters": float(len(unzeroed)),
            "parameters with a gradient": float(max(len(held), len(unzeroed))),
            "first": unzeroed[0].name,
            "steps": float(max(record.unzeroed for record in unzeroed)),
        }
        yield Clue("no_zero_grad", "certain", None, 0, evidence)


def _evaluation_mode(observation: Observation) -> Iterator[Clue]:
    """Yield a clue about modules that a step calls in evaluation mode only, where that changes what they do."""
    wrong = {
        name: module
        for name, module in _mode_modules(observation.training.model).items()
        if _is_evaluating(name, observation)
    }
    if not wrong:
        return
    norms = {name: module for name, module in wrong.items() if isinstance(module, _NormBase)}
    fresh = [name for name, module in norms.items() if _is_untouched(module)]
    is_whole = _is_evaluating("", observation) if "" in observation.modes else not observation.training.model.training
    evidence: dict[str, float | str] = {
        "modules in evaluation mode": float(len(wrong)),
        "normalizations without statistics": float(len(fresh)),
        "first": next(iter(wrong)),
    }
    certainty: Certainty
    if is_whole:
        certainty = "certain" if fresh else "likely" if norms else "possible"
        yield Clue("left_in_eval_mode", certainty, None, 0, evidence)
    elif fresh:
        yield Clue("left_in_eval_mode", "likely", fresh[0], 0, evidence)


def _mode_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules whose result depends on their mode."""
    return {
        name: module
        for name, module in model.named_modules()
        if (isinstance(module, _NormBase) and module.track_running_stats)
        or (isinstance(module, _DropoutNd) and module.p > 0)
    }


def _is_evaluating(name: str, observation: Observation) -> bool:
    """Return True if there is a step all of whose calls of a module were in evaluation mode."""
    by_step: dict[int, list[bool]] = {}
    for number, mode in observation.modes.get(name, []):
        by_step.setdefault(number, []).append(mode)
    return any(not any(modes) for modes in by_step.values())


def _is_untouched(module: _NormBase) -> bool:
    """Return True if the running statistics are those of a new module."""
    mean, variance = module.running_mean, module.running_var
    return (
        isinstance(mean, Tensor)
        and isinstance(variance, Tensor)
        and not bool(mean.any())
        and bool((variance == 1).all())
    )


def _clipping(observation: Observation) -> Iterator[Clue]:
    steps = [
        step
        for step in observation.optimizer_steps
        if step.computed_norm > 0 and math.isfinite(step.computed_norm) and math.isfinite(step.used_norm)
    ]
    if not steps:
        return
    share = median(step.used_norm / step.computed_norm for step in steps)
    if share >= CLIPPED_AWAY:
        return
    norms = [update_norm(observation, factor) for factor in (1.0, share)]
    kept = share if norms[0] is None or norms[1] is None or norms[0] == 0.0 else norms[1] / norms[0]
    if kept >= CLIPPED_AWAY:
        return
    update = median(step.update_norm / step.weight_norm for step in steps if step.weight_norm) if steps else 0.0
    evidence: dict[str, float | str] = {
        "norm of the gradient": median(step.computed_norm for step in steps),
        "norm after clipping": median(step.used_norm for step in steps),
        "share of the update that is left": kept,
        "update by weight": update,
    }
    yield Clue("clip_too_small", "likely" if update < TINY_UPDATE else "possible", None, 0, evidence)


def _schedule(observation: Observation) -> Iterator[Clue]:
    rates = [
        step.lrs[0]
        for step in observation.optimizer_steps
        if step.lrs and step.optimizer is observation.training.optimizer
    ]
    rates = rates or [step.lrs[0] for step in observation.optimizer_steps if step.lrs]
    if not rates or not all(map(math.isfinite, rates)):
        return
    groups = getattr(observation.training.optimizer, "param_groups", None) or [{}]
    initial = groups[0].get("initial_lr", rates[0])
    following = observation.schedule or _geometric(rates)
    if not following:
        return
    peak = max(*rates, *following, float(initial))
    mean = sum([*following, *rates][:SCHEDULE_STEPS]) / SCHEDULE_STEPS if len(following) >= SCHEDULE_STEPS else None
    if mean is None or peak <= 0:  # a schedule that ends earlier was made for so many steps
        return
    share = mean / peak
    if share < NEARLY_KILLED:
        evidence = {"first rate": rates[0], "peak": peak, "mean rate by peak": share, "last rate": following[-1]}
        yield Clue("schedule_kills_lr", "likely" if share < KILLED else "possible", None, 0, evidence)


def _geometric(rates: list[float]) -> list[float]:
    """Return the rates that follow if each is the same fraction of the one before; none if they are not."""
    if len(rates) < 4 or min(rates) <= 0:
        return []
    ratios = [after / before for before, after in pairwise(rates)]
    if max(ratios) >= 1 or max(ratios) - min(ratios) > GEOMETRIC * min(ratios):
        return []
    return [rates[-1] * median(ratios) ** number for number in range(1, SCHEDULE_STEPS + 1)]


def _tiny_batches(observation: Observation) -> Iterator[Clue]:
    """Yield a clue about batch normalization whose statistics come from a handful of values."""
    for call in observation.trace.module_calls if observation.trace is not None else []:
        is_norm = isinstance(call.module, _NormBase) and not isinstance(
            call.module, nn.modules.instancenorm._InstanceNorm
        )
        if not is_norm or not call.is_training or not call.inputs or call.inputs[0].ndim < 2:
            continue
        size, channels = call.inputs[0].shape[:2]
        count = call.inputs[0].numel() // max(1, channels)
        if count <= TINY_COUNT or size <= SMALL_BATCH:
            certainty: Certainty = "likely" if count <= TINY_COUNT or size <= 2 else "possible"
            evidence: dict[str, float | str] = {"examples": float(size), "values per channel": float(count)}
            yield Clue("batchnorm_tiny_batch", certainty, call.name or None, 0, evidence)
            return
