"""Propagation: weights, activations and their scale at the start."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from thalweg.diagnosis.clue import Certainty, Clue
from thalweg.diagnosis.inspection.loss_sites import model_makers
from thalweg.diagnosis.inspection.observation import Observation, copied
from thalweg.diagnosis.inspection.observation.parameters import ParameterRecord, rows_alike
from thalweg.diagnosis.inspection.observation.state import restored
from thalweg.diagnosis.inspection.observation.trace import RELUS, SIGMOIDS, Call, ModuleCall, ancestors, source
from thalweg.diagnosis.inspection.wiring import looks_random

# Backward passes after which a zero that was released by another one has moved.
RELEASED_AFTER = 3
DEAD, MOSTLY_DEAD = 0.98, 0.9
# Of unit variance before a hyperbolic tangent, 0.8 % of the values are beyond 0.99 after it; of a deviation of 4, half.
SATURATED, MOSTLY_SATURATED = 0.6, 0.4
# Root mean square of the norms of the rows: 0.6 by torch's default, 1.4 by He et al. (2015); a standard normal
# distribution of 64 inputs has 8. In between, depth does the harm: a gain of 2.5 over six layers is 250.
LARGE_GAIN, GROWING_GAIN, GROWN = 7.0, 2.5, 100.0
MIN_INPUTS = 8  # of a unit: fewer make no sum
# The mean largest weight of attention; a fresh layer attends to all places nearly alike.
PEAKED = 0.95
AFFINE = 1e-3  # relative, in float32

_LINEAR = (nn.Linear, nn.modules.conv._ConvNd, nn.Bilinear)
_SCORES = frozenset(
    [
        "matmul",
        "__matmul__",
        "bmm",
        "einsum",
        "masked_fill",
        "where",
        "__truediv__",
        "__mul__",
        "__add__",
        "true_divide",
    ]
)
_BETWEEN = frozenset(
    ["batch_norm", "layer_norm", "group_norm", "rms_norm", "instance_norm", "dropout", "add", "mul", "div"]
)


def propagation_clues(observation: Observation) -> Iterator[Clue]:
    """Yield clues about initial weights and activations."""
    stuck = [record for record in observation.records() if _is_stuck(record)]
    if stuck and any(record.is_moved for record in observation.records()):
        certainty: Certainty = "certain" if min(r.arrivals for r in stuck) >= RELEASED_AFTER else "likely"
        evidence: dict[str, float | str] = {
            "weights with equal rows": float(len(stuck)),
            "largest entry": float(stuck[0].tensor.detach().abs().max()),
            "backward passes": float(stuck[0].arrivals),
        }
        yield Clue("zero_init", certainty, stuck[0].module or stuck[0].name, 0, evidence)
        return
    if observation.trace is None:
        return
    yield from _dead(observation)
    saturated = list(_saturated(observation))
    yield from saturated
    peaked = _peaked(observation)
    large = list(_large_weights(observation, {clue.where for clue in saturated}, {where for where, _ in peaked}))
    if peaked:
        evidence = {"mean largest weight": peaked[0][1]}
        is_cause = not any(clue.certainty == "likely" for clue in large)
        yield Clue("attention_logit_growth", "likely" if is_cause else "possible", peaked[0][0], 0, evidence)
    yield from large
    yield from _affine(observation)


def _is_stuck(record: ParameterRecord) -> bool:
    """Return True if all units of a layer begin alike, and every gradient keeps them so."""
    return (
        record.arrivals > 0
        and record.is_held
        and record.initial is not None
        and rows_alike(record.initial)
        and record.gradient_rows_alike
    )


def _feeding(call: Call | None, through: frozenset[str] = _BETWEEN) -> str | None:
    """Return the module with the weights that the entries of a tensor come from, through normalizations.

    Args:
        call: The call that made the tensor.
        through: Names of the functions through which the way goes on, by their first argument.
    """
    for _ in range(8):
        call = source(call)
        if call is None or call.name not in through:
            break
        call = call.parents[0]
    return call.module or None if call is not None else None


def _own_weights(module: str | None, observation: Observation) -> list[ParameterRecord]:
    return [record for record in observation.records() if record.module == (module or "") and record.tensor.ndim >= 2]


def _dead(observation: Observation) -> Iterator[Clue]:
    """Yield clues about layers whose units are never active."""
    last = model_makers(observation)
    for call in observation.trace.calls if observation.trace else []:
        if call.name not in RELUS or call in last or call.module is None or "dead_last" not in call.numbers:
            continue
        where = _feeding(call.parents[0])
        share = min(call.numbers["dead_last"], call.numbers["dead_channels"])
        if share < MOSTLY_DEAD:
            continue
        weights = _own_weights(where, observation)
        is_without_gradient = bool(weights) and all(not any(record.gradient_squares) for record in weights)
        certainty: Certainty = "possible"
        if share >= DEAD:
            certainty = "certain" if share == 1.0 and is_without_gradient else "likely"
        yield Clue("dead_relu", certainty, where, 0, {"share of inactive units": share, "activation": call.module})
        return


def _saturated(observation: Observation) -> Iterator[Clue]:
    """Yield clues about hidden layers at the flat ends of their activation."""
    last = model_makers(observation)
    shares = [
        (call.numbers["saturated"], _feeding(call.parents[0]))
        for call in (observation.trace.calls if observation.trace else [])
        if call.name in SIGMOIDS and call not in last and call.module is not None and "saturated" in call.numbers
    ]
    shares += [
        (float((call.outputs[0].detach().abs() > 0.99).double().mean()), call.name)
        for call in (observation.trace.module_calls if observation.trace else [])
        if isinstance(call.module, (nn.RNN, nn.RNNCell)) and call.module.nonlinearity == "tanh" and call.outputs
    ]
    for share, where in shares:
        if share >= MOSTLY_SATURATED:
            certainty: Certainty = "likely" if share >= SATURATED else "possible"
            yield Clue("saturation", certainty, where, 0, {"share of saturated values": share})
            return


def _layers(observation: Observation) -> list[ModuleCall]:
    calls = observation.trace.module_calls if observation.trace else []
    return [call for call in calls if isinstance(call.module, _LINEAR) and call.inputs and call.outputs]


def _large_weights(observation: Observation, saturated: set[str | None], peaked: set[str | None]) -> Iterator[Clue]:
    """Yield clues about random weights that multiply the scale of what passes."""
    layers = _layers(observation)
    gains: dict[str, float] = {}
    for call in layers:
        weight = call.module.weight
        rows = weight.detach().flatten(1) if isinstance(weight, Tensor) else torch.zeros(0, 0)
        if rows.shape[1] >= MIN_INPUTS and rows.requires_grad is False and call.module.weight.requires_grad:
            gains[call.name] = float(rows.double().square().sum(1).mean().sqrt()) if looks_random(rows) else 0.0
    if not gains:
        return
    largest = max(gains, key=lambda name: gains[name])
    grown = layers[-1].rms_output / layers[0].rms_input if layers[0].rms_input else 0.0
    evidence: dict[str, float | str] = {
        "largest gain of a layer": gains[largest],
        "layer": largest,
        "growth from the first input to the last output": grown,
    }
    large = [name for name, gain in gains.items() if gain >= LARGE_GAIN]
    growing = [name for name, gain in gains.items() if gain >= GROWING_GAIN]
    where = large[0] if len(large) == 1 and len(gains) > 2 else None
    if large:
        is_explained = bool(saturated) or set(large) <= peaked
        yield Clue("init_too_large", "possible" if is_explained else "likely", where, 0, evidence)
    elif len(growing) >= 3 and grown >= GROWN:
        yield Clue("exploding_gradient", "likely", None, 0, evidence)
        yield Clue("init_too_large", "possible", None, 0, evidence)


def _peaked(observation: Observation) -> list[tuple[str | None, float]]:
    """Return the modules that feed attention that looks at one place only, with its mean largest weight."""
    last = model_makers(observation)
    return [
        (_feeding(call.parents[0], _BETWEEN | _SCORES), call.numbers["peak"])
        for call in (observation.trace.calls if observation.trace else [])
        if call.numbers.get("peak", 0.0) >= PEAKED and call.module is not None and call not in last
    ]


def _affine(observation: Observation) -> Iterator[Clue]:
    """Yield a clue if several layers in a row are together an affine map of the inputs."""
    layers = _layers(observation)
    batch = observation.batches[0] if observation.batches else ()
    inputs = batch[0] if len(batch) == 2 else None
    is_usable = isinstance(inputs, Tensor) and inputs.dtype in (torch.float32, torch.float64) and inputs.ndim >= 2
    if len(layers) < 2 or not is_usable or not _are_in_series(layers):
        return
    last = layers[-1].module
    try:
        deviation = _deviation_from_affine(observation, last, copied(inputs))
    except Exception:  # of the user's model, for inputs that it does not expect
        return
    if deviation is not None and deviation < AFFINE:
        names = ", ".join(dict.fromkeys(call.name for call in layers))
        evidence: dict[str, float | str] = {"layers": names, "deviation from an affine map": deviation}
        yield Clue("no_nonlinearity", "likely", None, 0, evidence)


def _are_in_series(layers: list[ModuleCall]) -> bool:
    """Return True if the last layer gets what an earlier one makes."""
    earlier = {id(call.output_calls[0]) for call in layers[:-1] if call.module is not layers[-1].module}
    return any(id(call) in earlier for call in ancestors(layers[-1].output_calls[0]))


def _deviation_from_affine(observation: Observation, last: nn.Module, inputs: Tensor) -> float | None:
    """Return by how much f(a + b) differs from f(a) + f(b) - f(0), relative to its terms."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, arguments: object, output: Tensor) -> None:
        kept.append(output.detach().double())

    with restored(observation.training), torch.no_grad():
        model = observation.training.model.eval()
        handle = last.register_forward_hook(keep)
        try:
            for example in (inputs, 3 * inputs.flip(0), torch.zeros_like(inputs), inputs + 3 * inputs.flip(0)):
                model(example)
        finally:
            handle.remove()
    if len(kept) != 4 or len({value.shape for value in kept}) != 1:
        return None
    first, second, zero, both = kept
    size = float((first - zero).abs().max() + (second - zero).abs().max())
    return float((both - first - second + zero).abs().max()) / size if size > 0 else None
