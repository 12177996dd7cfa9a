"""Update probe: what the optimizer of a training makes of other gradients than those it got."""

from collections.abc import Mapping

import torch
from torch import Tensor

from thalweg.diagnosis.inspection.observation import Observation
from thalweg.diagnosis.inspection.observation.parameters import held_tensors, square_sum
from thalweg.diagnosis.inspection.observation.state import restored


def update_norm(observation: Observation, factor: float) -> float | None:
    """Return the norm of the first update for the computed gradients times a factor; None if it cannot be known.

    Args:
        observation: The observation.
        factor: The factor; 0 for gradients of zero.
    """
    update = update_of(observation, factor)
    return None if update is None else sum(map(square_sum, update.values())) ** 0.5


def update_of(observation: Observation, factor: float) -> Mapping[int, Tensor] | None:
    """Return the first update of each parameter, by its id, for the computed gradients times a factor."""
    if not observation.optimizer_steps or not observation.optimizer_steps[0].gradients:
        return None
    step = observation.optimizer_steps[0]
    tensors = {id(tensor): tensor for tensor in held_tensors(step.optimizer) if id(tensor) in step.gradients}
    before = {key: tensor.detach().clone() for key, tensor in tensors.items()}
    try:
        with restored(observation.training), torch.no_grad():
            for key, tensor in tensors.items():
                tensor.grad = step.gradients[key] * factor
            step.optimizer.step()
            return {key: tensor.detach() - before[key] for key, tensor in tensors.items()}
    except Exception:  # an optimizer that needs a closure, or was made in the step itself
        return None


def is_scale_invariant(observation: Observation) -> bool | None:
    """Return True if the first update does not depend on the scale of the gradients; None if unknown."""
    norms = [update_norm(observation, factor) for factor in (1.0, 0.01)]
    if norms[0] is None or norms[1] is None or norms[0] == 0.0:
        return None
    return norms[1] / norms[0] > 0.5
