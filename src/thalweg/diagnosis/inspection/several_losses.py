"""Several losses: networks that train against each other, and networks whose targets follow themselves."""

from collections.abc import Iterator
from itertools import permutations
from statistics import median
from typing import Any

from thalweg.diagnosis.clue import Clue
from thalweg.diagnosis.inspection.observation import Observation
from thalweg.diagnosis.inspection.observation.records import OptimizerStep
from thalweg.diagnosis.inspection.observation.trace import Call, ModuleCall, ancestors
from thalweg.diagnosis.inspection.wiring import largest_owner

# Of the movement of two networks per step of the training, each relative to its weights. Heusel et al. 2017 let the
# discriminator learn four times as fast (arXiv:1706.08500); Arjovsky et al. 2017 let it take five steps (1701.07875).
UNEQUAL_MOVEMENT = 30.0
_CUTS = ("detach", "data", "detach_", "numpy")


def several_losses_clues(observation: Observation) -> Iterator[Clue]:
    """Yield clues about a discriminator that learns faster than its generator, and about targets of the model's own."""
    adversaries = _adversaries(observation)
    if adversaries is None:
        yield from _own_targets(observation)
        return
    judge, maker = adversaries
    moved = [_movement(steps, observation) for steps in adversaries]
    ratio = moved[0] / moved[1] if moved[1] else float("inf")
    if ratio >= UNEQUAL_MOVEMENT:
        held = [record for key, record in observation.parameters.items() if key in judge[0].listed]
        evidence: dict[str, float | str] = {
            "steps of the discriminator": len(judge) / len(observation.losses),
            "steps of the generator": len(maker) / len(observation.losses),
            "movement of the discriminator by that of the generator": ratio,
        }
        where = largest_owner(held, observation) if held else None
        yield Clue("gan_discriminator_wins", "likely", where, 0, evidence)


def _adversaries(observation: Observation) -> tuple[list[OptimizerStep], list[OptimizerStep]] | None:
    """Return the steps of a discriminator and of its generator; None if there are none.

    The gradients of the generator go through the discriminator, and those of the discriminator through it alone.
    """
    steps: dict[int, list[OptimizerStep]] = {}
    for step in observation.optimizer_steps:
        steps.setdefault(id(step.optimizer), []).append(step)
    for judge, maker in permutations(steps.values(), 2):
        if _is_reached(judge, maker) and not _is_reached(maker, judge):
            return judge, maker
    return None


def _is_reached(owner: list[OptimizerStep], at: list[OptimizerStep]) -> bool:
    """Return True if the gradients that an optimizer steps by have gone through the parameters of another one."""
    return median(bool(step.reached & owner[0].listed) for step in at) > 0


def _movement(steps: list[OptimizerStep], observation: Observation) -> float:
    """Return how far steps move their parameters per step of the training, relative to their norm."""
    shares = [step.update_norm / step.weight_norm for step in steps if step.weight_norm]
    return sum(shares) / max(1, len(observation.losses))


def _own_targets(observation: Observation) -> Iterator[Clue]:
    """Yield a clue if a step calls a module twice, and one result is cut off the graph, as a target is."""
    if observation.training.step is None or observation.trace is None:
        return
    calls: dict[str, list[ModuleCall]] = {}
    for call in observation.trace.module_calls:
        if "." not in call.name and any(param.requires_grad for param in call.module.parameters()):
            calls.setdefault(call.name, []).append(call)
    cuts = [call for call in observation.trace.calls if call.name in _CUTS and call.tensors[0].numel() > 1]  # no loss
    cut = {id(ancestor) for call in cuts for ancestor in _near(call)}
    in_loss = {id(ancestor) for call in observation.trace.calls if _is_loss(call) for ancestor in ancestors(call)}
    for name, own in sorted(calls.items(), key=lambda item: item[0] != ""):  # the model itself before its parts
        own = [call for call in own if any(id(maker) in in_loss for maker in call.output_calls)]
        free = [call for call in own if not any(output.requires_grad for output in call.outputs)]
        detached = [call for call in own if any(id(maker) in cut for maker in call.output_calls)]
        if 0 < len({id(call) for call in (*free, *detached)}) < len(own):
            yield Clue("bootstrap_divergence", "possible", name or None, 0, {"calls in a step": float(len(own))})
            return


def _is_loss(call: Call) -> bool:
    return any(output.requires_grad and output.numel() == 1 for output in call.outputs)


def _near(call: Call) -> list[Any]:
    """Return the calls that a call's argument comes from, up to the first that belongs to a module."""
    near, pending = [], [parent for parent in call.parents if parent is not None]
    while pending:
        ancestor = pending.pop()
        near.append(ancestor)
        if ancestor.module is None:
            pending += [parent for parent in ancestor.parents if parent is not None]
    return near
