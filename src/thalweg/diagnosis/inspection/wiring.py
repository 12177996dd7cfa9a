"""Wiring: which parameters a backward pass reaches, and which the optimizer holds."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from thalweg.diagnosis.clue import Certainty, Clue
from thalweg.diagnosis.inspection.observation import Observation
from thalweg.diagnosis.inspection.observation.parameters import ParameterRecord, owners

# More than half of the weights at random is more than a network can make up for with the rest; the first layer is not.
MOST = 0.5
# A matrix of independent entries has no singular value above the edge (Bai and Yin 1993, Annals of Probability 21).
# Small matrices exceed it a little; training adds values far above it (Martin and Mahoney 2021, JMLR 22).
RANDOM_EDGE = 1.15
POWER_STEPS = 30

_CUTS = ("detach", "data", "numpy", "tolist", "item", "detach_")


def wiring_clues(observation: Observation) -> Iterator[Clue]:
    """Yield clues about parameters that training does not reach."""
    yield from _twice(observation)
    yield from _unregistered(observation)
    yield from _stale(observation)
    yield from _frozen(observation)
    yield from _without_gradient(observation)


def looks_random(tensor: Tensor) -> bool:
    """Return True if a matrix looks as an initialization leaves it: independent entries, none larger than chance.

    Args:
        tensor: The weights, of at least two dimensions.
    """
    matrix = tensor.detach().float().flatten(1)
    matrix = matrix - matrix.mean()
    deviation = float(matrix.std(correction=0))
    if deviation == 0.0:
        return True
    vector = torch.ones(matrix.shape[1], device=matrix.device) + matrix[0] / deviation
    for _ in range(POWER_STEPS):
        vector = matrix.T @ (matrix @ vector)
        vector = vector / vector.norm().clamp_min(1e-30)
    edge = deviation * (matrix.shape[0] ** 0.5 + matrix.shape[1] ** 0.5)
    return float((matrix @ vector).norm()) <= RANDOM_EDGE * edge


def largest_owner(records: Sequence[ParameterRecord], observation: Observation) -> str | None:
    """Return the module that has most of some parameters; None if they are all of the model.

    Args:
        records: The parameters.
        observation: The observation.
    """
    everything = observation.records()
    if len(records) >= len(everything):
        return None
    names = [record.name for record in records]
    sizes = {
        owner: sum(r.tensor.numel() for r in records if r.name == owner or r.name.startswith(f"{owner}."))
        for owner in owners(names, [record.name for record in everything])
    }
    return max(sizes, key=lambda owner: sizes[owner]) if sizes else None


def _weights(records: Sequence[ParameterRecord]) -> list[ParameterRecord]:
    return [record for record in records if record.tensor.ndim >= 2]


def _share(records: Sequence[ParameterRecord], observation: Observation) -> float:
    total = sum(record.tensor.numel() for record in observation.records())
    return sum(record.tensor.numel() for record in records) / max(1, total)


def _are_random(records: Sequence[ParameterRecord]) -> bool:
    weights = _weights(records)
    return bool(weights) and all(looks_random(record.tensor) for record in weights)


def _twins(observation: Observation) -> set[int]:
    """Return the ids of parameters that are copies of others, as those of target networks are."""
    shapes: dict[tuple[int, ...], list[ParameterRecord]] = {}
    for record in _weights(observation.records()):
        shapes.setdefault(tuple(record.tensor.shape), []).append(record)
    modules = {
        record.module
        for same in shapes.values()
        for record in same
        if any(twin is not record and torch.equal(record.tensor, twin.tensor) for twin in same)
        and bool(record.tensor.count_nonzero())
    }
    return {id(record.tensor) for record in observation.records() if record.module in modules}


def _numbers(records: Sequence[ParameterRecord], observation: Observation) -> dict[str, float | str]:
    return {
        "parameters": float(len(records)),
        "share of the weights": round(_share(records, observation), 4),
        "first": records[0].name,
    }


def _twice(observation: Observation) -> Iterator[Clue]:
    twice = [record for record in observation.records() if record.places > 1]
    if twice:
        most = max(record.places for record in twice)
        where = twice[0].module or twice[0].name
        yield Clue("parameter_twice", "certain", where, 0, {**_numbers(twice, observation), "times": float(most)})
        return
    by_step: dict[tuple[int, int], set[int]] = {}
    for step in observation.optimizer_steps:
        for key in step.held:
            by_step.setdefault((step.number, key), set()).add(id(step.optimizer))
    both = {key for (_, key), optimizers in by_step.items() if len(optimizers) > 1}
    shared = [record for key, record in observation.parameters.items() if key in both]
    if shared:
        where = shared[0].module or shared[0].name
        yield Clue("parameter_twice", "likely", where, 0, {**_numbers(shared, observation), "optimizers": 2.0})


def _is_left_out(record: ParameterRecord) -> bool:
    return record.tensor.requires_grad and record.arrivals > 0 and not record.is_held and not record.is_moved


def _unregistered(observation: Observation) -> Iterator[Clue]:
    left_out = [record for record in observation.records() if not record.is_registered and _is_left_out(record)]
    for container in dict.fromkeys(record.container for record in left_out):
        records = [record for record in left_out if record.container == container]
        certainty: Certainty = "certain" if observation.optimizer_steps else "likely"
        if _weights(records) and not _are_random(records):
            certainty = "possible"  # trained before, and hidden on purpose, as the network of a perceptual loss
        yield Clue("unregistered_parameters", certainty, container, 0, _numbers(records, observation))


def _stale(observation: Observation) -> Iterator[Clue]:
    left_out = [record for record in observation.registered() if _is_left_out(record)]
    if not left_out:
        return
    idle = [record for record in observation.foreign if record.arrivals == 0]
    trainable = [record for record in observation.registered() if record.tensor.requires_grad]
    where = None if len(left_out) == len(trainable) else largest_owner(left_out, observation)
    numbers = {**_numbers(left_out, observation), "parameters of the optimizer without a gradient": float(len(idle))}
    if idle:
        yield Clue("stale_optimizer", "certain" if observation.optimizer_steps else "likely", where, 0, numbers)
    elif _are_random(left_out):
        yield Clue("stale_optimizer", "likely", where, 0, numbers)
    elif not _weights(left_out):
        yield Clue("stale_optimizer", "possible", where, 0, numbers)


def _frozen(observation: Observation) -> Iterator[Clue]:
    frozen = [record for record in observation.registered() if not record.tensor.requires_grad and not record.is_moved]
    if not frozen:
        return
    held = [record for record in observation.records() if record.is_held]
    idle = [record for record in held if not record.tensor.requires_grad]
    if idle and not any(record.arrivals for record in [*held, *observation.foreign]):
        yield Clue("frozen_parameters", "certain", largest_owner(idle, observation), 0, _numbers(idle, observation))
        return
    twins = _twins(observation)
    used = [r for r in frozen if _is_called(r, observation) and id(r.tensor) not in twins]
    if not used or not _are_random(used):
        return
    weights = _weights(used)
    is_last = bool(observation.last_weights() & {id(record.tensor) for record in weights})
    certainty: Certainty = "likely" if is_last or _share(used, observation) >= MOST else "possible"
    numbers = {**_numbers(used, observation), "as initialized": "yes"}
    yield Clue("frozen_parameters", certainty, largest_owner(used, observation), 0, numbers)


def _is_called(record: ParameterRecord, observation: Observation) -> bool:
    return record.module in observation.modes or (record.module == "" and "" in observation.modes)


def _without_gradient(observation: Observation) -> Iterator[Clue]:
    missing = [
        record
        for record in observation.registered()
        if record.tensor.requires_grad and record.is_held and not record.arrivals and not record.is_moved
        if observation.is_stepped(record)
    ]
    twins = _twins(observation)
    missing = [record for record in missing if id(record.tensor) not in twins]
    if not missing or (not observation.losses and observation.error is None):
        return
    used_ids = observation.used_ids()
    used = [record for record in missing if _is_used(record, observation, used_ids)]
    unused = [record for record in missing if not _is_used(record, observation, used_ids)]
    if _weights(used) or (used and len(used) == len(missing)):
        yield _detached(used, observation)
    if unused:
        certainty: Certainty = "likely" if _share(unused, observation) >= MOST else "possible"
        yield Clue("no_gradient", certainty, largest_owner(unused, observation), 0, _numbers(unused, observation))


def _is_used(record: ParameterRecord, observation: Observation, used_ids: set[int]) -> bool:
    return id(record.tensor) in used_ids if used_ids else record.module in observation.called


def _detached(used: Sequence[ParameterRecord], observation: Observation) -> Clue:
    numbers = _numbers(used, observation)
    modules = {record.module for record in used}
    order = [call.name for call in observation.trace.module_calls if call.name in modules] if observation.trace else []
    if order:
        numbers["last module without a gradient"] = order[-1]
    cuts = [call for call in observation.trace.calls if call.name in _CUTS] if observation.trace else []
    if cuts:
        numbers["cut by"] = cuts[0].name
    is_all = len(used) == len([record for record in observation.registered() if record.tensor.requires_grad])
    where = None if is_all else largest_owner(used, observation)
    is_kept = not _are_random(used) and bool(_weights(used))  # trained before: perhaps not to be trained further
    return Clue("detached_graph", "possible" if is_kept and not is_all else "certain", where, 0, numbers)
