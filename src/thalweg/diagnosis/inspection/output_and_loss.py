"""Output and loss: outputs that are not what the loss needs."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from thalweg.diagnosis.clue import Certainty, Clue
from thalweg.diagnosis.inspection.loss_behaviour import doubled, ignores_pairing
from thalweg.diagnosis.inspection.loss_sites import (
    Site,
    are_log_probabilities,
    are_probabilities,
    model_makers,
)
from thalweg.diagnosis.inspection.observation import Observation, observe_step
from thalweg.diagnosis.inspection.observation.trace import Call

# Of the variance of the targets: with more of it out of reach the best possible fit is visibly worse than without.
OUT_OF_REACH, PARTLY_OUT_OF_REACH = 0.05, 0.01
# Of ln C: bounded logits cannot bring the cross-entropy below it.
HIGH_FLOOR = 0.1
# A mean is the same for a batch that has each example twice, a sum is twice as large; dropout blurs both.
SUMMED = 1.8
# A true update of this share of the weights in the first step is too large for most networks.
LARGE_UPDATE = 0.05

_SOFTMAXES = ("softmax", "log_softmax")
_PROBABILITIES = ("sigmoid", "sigmoid_", "hardsigmoid", "softmax")


def output_and_loss_clues(observation: Observation, sites: Sequence[Site]) -> Iterator[Clue]:
    """Yield clues about outputs that do not fit the loss.

    Args:
        observation: The observation.
        sites: The places at which outputs meet targets.
    """
    yielded: set[tuple[str, str | None]] = set()
    for clue in (
        *(clue for site in sites for clue in _of_site(site, observation)),
        *_of_the_output(sites, observation),
    ):
        if (clue.kind, clue.where) not in yielded:
            yielded.add((clue.kind, clue.where))
            yield clue
    yield from _summed(observation)


def _of_site(site: Site, observation: Observation) -> Iterator[Clue]:
    if not site.output.is_floating_point():
        return
    softmax = _softmax_clue(site, observation)
    if softmax is not None:
        yield softmax
    elif site.family == "cross entropy" and are_probabilities(site.output, site.class_dim):
        yield _clue("softmax_before_cross_entropy", "certain", site)
    elif site.family == "likelihood":
        yield from _likelihood(site)
    elif site.family == "logits" and site.made_by is not None and site.made_by.name in _PROBABILITIES:
        yield _clue("sigmoid_before_bce_logits", "certain", site)
    else:
        yield from _out_of_reach(site)
    if site.family == "difference":
        yield from _broadcast(site, observation)


def _clue(kind: str, certainty: Certainty, site: Site, **evidence: float | str) -> Clue:
    values = site.output.detach()
    numbers: dict[str, float | str] = {"smallest output": float(values.min()), "largest output": float(values.max())}
    made_by = {"made by": site.made_by.name} if site.made_by is not None else {}
    return Clue(kind, certainty, site.where, 0, {"loss": site.name, **made_by, **numbers, **evidence})


def _softmax_clue(site: Site, observation: Observation) -> Clue | None:
    """Return a clue if the output is a softmax of one unit, or over another dimension than that of the classes."""
    values = site.output.detach()
    is_softmax = site.made_by is not None and site.made_by.name in _SOFTMAXES
    is_of_classes = site.family in ("cross entropy", "likelihood")
    if is_of_classes and values.ndim > site.class_dim and values.shape[site.class_dim] == 1:
        return _clue("softmax_of_one_unit", "certain", site)
    if not is_softmax or site.made_by is None:
        return None
    if _is_of_one_unit(site.made_by):
        return _clue("softmax_of_one_unit", "certain", site)
    if is_of_classes:
        check = are_probabilities if site.made_by.name == "softmax" else are_log_probabilities
        return None if check(values, site.class_dim) else _clue("softmax_wrong_dim", "certain", site)
    return _clue("softmax_wrong_dim", "certain", site) if _is_over_batch(site.made_by, observation) else None


def _is_of_one_unit(call: Call) -> bool:
    values = call.outputs[0].detach()
    return bool((values == (1.0 if call.name == "softmax" else 0.0)).all()) and values.numel() > 0


def _is_over_batch(call: Call, observation: Observation) -> bool:
    """Return True if a softmax sums to 1 over the examples of a batch, and over no other dimension."""
    values = call.outputs[0].detach()
    size = next((len(part) for part in observation.first_batch if isinstance(part, Tensor) and part.ndim), 0)
    if values.ndim < 2 or size < 2 or values.shape[0] != size:
        return False
    check = are_probabilities if call.name == "softmax" else are_log_probabilities
    return check(values, 0) and not any(check(values, dim) for dim in range(1, values.ndim))


def _likelihood(site: Site) -> Iterator[Clue]:
    values = site.output.detach()
    if bool((values > 1e-3).any()):
        yield _clue("nll_without_log", "certain", site)
    elif not are_log_probabilities(values, site.class_dim):
        total = float(values.double().exp().sum(site.class_dim).mean())
        yield _clue("nll_without_log", "likely", site, **{"sum of the exponentials": total})


def _out_of_reach(site: Site) -> Iterator[Clue]:
    low, high = site.range
    if (low == -math.inf and high == math.inf) or not site.is_of_data:
        return
    if site.family == "difference" and site.target.is_floating_point():
        targets = site.target.detach().double()
        variance = float(targets.var(correction=0)) if targets.numel() > 1 else 0.0
        missed = float((targets.clamp(low, high) - targets).square().mean())
        share = missed / variance if variance else float(missed > 0)
        if share >= PARTLY_OUT_OF_REACH:
            certainty: Certainty = "certain" if share >= OUT_OF_REACH else "likely"
            evidence = {"smallest target": float(targets.min()), "largest target": float(targets.max())}
            yield _clue("output_activation", certainty, site, **evidence, **{"share of the variance": share})
    elif site.family == "logits":
        targets = site.target.detach().double()
        if (low >= 0 and bool((targets < 0.5).any())) or (high <= 0 and bool((targets > 0.5).any())):
            yield _clue("output_activation", "certain", site)
        elif math.isfinite(high - low):
            yield _clue("output_activation", "likely", site)
    elif site.family == "cross entropy" and site.made_by is not None and site.made_by.name != "log_softmax":
        yield from _bounded_logits(site, low, high)


def _bounded_logits(site: Site, low: float, high: float) -> Iterator[Clue]:
    """Yield a clue if the classes cannot be told apart clearly: by logits of a bounded range, or those of a ReLU."""
    classes = site.output.shape[site.class_dim]
    if math.isfinite(high - low):
        floor = math.log1p((classes - 1) * math.exp(low - high))
        if floor >= HIGH_FLOOR * math.log(classes):
            yield _clue("output_activation", "likely", site, **{"smallest possible loss": floor})
    elif low == 0.0 or high == 0.0:
        yield _clue("output_activation", "likely", site)


def _broadcast(site: Site, observation: Observation) -> Iterator[Clue]:
    shapes = site.output.shape, site.target.shape
    try:
        together = torch.broadcast_shapes(*shapes).numel()  # type: ignore[no-untyped-call]
    except RuntimeError:
        return
    if together <= max(site.output.numel(), site.target.numel()):
        return
    evidence: dict[str, float | str] = {
        "loss": site.name,
        "shape of the output": str(tuple(shapes[0])),
        "shape of the target": str(tuple(shapes[1])),
        "pairs": float(together),
    }
    yield Clue("broadcast_targets", "certain", None, 0, evidence)


def _of_the_output(sites: Sequence[Site], observation: Observation) -> Iterator[Clue]:
    """Yield clues about outputs whose loss is unknown."""
    if not any(clue.kind == "broadcast_targets" for site in sites for clue in _broadcast(site, observation)):
        yield from _pairing(observation)
    known = [site.made_by for site in sites]
    for call in model_makers(observation):
        if call in known or call.name not in _SOFTMAXES:
            continue
        evidence: dict[str, float | str] = {"made by": call.name}
        if _is_of_one_unit(call):
            yield Clue("softmax_of_one_unit", "certain", call.module or None, 0, evidence)
        elif _is_over_batch(call, observation):
            yield Clue("softmax_wrong_dim", "certain", call.module or None, 0, evidence)


def _pairing(observation: Observation) -> Iterator[Clue]:
    """Yield a clue if outputs and targets broadcast against each other in the loss, as its value shows."""
    call = observation.loss_calls[0] if observation.loss_calls else None
    if call is None or not isinstance(call.output, Tensor) or not isinstance(call.target, Tensor):
        return
    shapes = call.output.shape, call.target.shape
    if sorted(size for size in shapes[0] if size > 1) != sorted(size for size in shapes[1] if size > 1):
        return
    if shapes[0] != shapes[1] and ignores_pairing(observation, call):
        evidence: dict[str, float | str] = {
            "shape of the output": str(tuple(shapes[0])),
            "shape of the target": str(tuple(shapes[1])),
        }
        yield Clue("broadcast_targets", "certain", None, 0, evidence)


def _summed(observation: Observation) -> Iterator[Clue]:
    """Yield a clue if a batch that has each example twice has twice the loss."""
    values = observation.backward_values[0] if observation.backward_values else []
    twice = doubled(observation.batches[0]) if observation.batches else None
    if twice is None or not values or not math.isfinite(sum(values)) or sum(values) == 0.0:
        return
    second = observe_step(observation.training, twice)
    both = second.backward_values[0] if second.backward_values else []
    if second.error is not None or len(both) != len(values):
        return
    ratio = sum(both) / sum(values)
    if not SUMMED <= ratio <= 4 - SUMMED:
        return
    step = observation.optimizer_steps[0] if observation.optimizer_steps else None
    update = step.update_norm / step.weight_norm if step is not None and step.weight_norm else 0.0
    evidence: dict[str, float | str] = {
        "loss of a batch": sum(values),
        "loss of the batch twice": sum(both),
        "examples in a batch": float(len(observation.batches[0][0])),
        "first update by weight": update,
    }
    yield Clue("loss_summed", "likely" if update >= LARGE_UPDATE else "possible", None, 0, evidence)
