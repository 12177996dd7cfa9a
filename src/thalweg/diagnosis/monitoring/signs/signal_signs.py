"""Signal signs: what passes through the network forward and backward, by depth."""

import math
from collections.abc import Iterator
from itertools import accumulate

from thalweg.diagnosis.clue import Certainty, Clue
from thalweg.diagnosis.monitoring.record import Record
from thalweg.diagnosis.monitoring.signs import thresholds as at
from thalweg.diagnosis.monitoring.signs.series import finite, first_where, in_order, middle, of_step, weights


def signal_clues(record: Record) -> Iterator[Clue]:
    """Yield the signs of signals and gradients that do not pass through the network."""
    yield from symmetric_units(record)
    yield from without_gradient(record)
    yield from units(record)
    yield from attention(record)
    yield from gradients_over_depth(record)
    yield from signals_over_depth(record)
    yield from gradient_jumps(record)


def symmetric_units(record: Record) -> Iterator[Clue]:
    """Weights that began alike, as zeros, and whose units stay alike: they get the same gradient or none."""
    symmetric = [
        name for name, values in record.symmetry.items() if len(finite(values)) >= 3 and min(finite(values)) == 1
    ]
    if not symmetric:
        return
    all_weights = [name for name, info in record.parameters.items() if info.role == "weight"]
    where = record.parameters[symmetric[0]].module if 2 * len(symmetric) <= len(all_weights) else None
    yield Clue("zero_init", "certain", where, 0, {"weights_alike": float(len(symmetric)), "first_weight": symmetric[0]})


def without_gradient(record: Record) -> Iterator[Clue]:
    """Parameters that an optimizer holds and that never get a gradient."""
    if len(record.steps) < 3:
        return
    held = {name: info for name, info in record.parameters.items() if info.group >= 0 and info.trained}
    silent = [name for name in held if not any(not math.isnan(value) for value in record.gradient_norms.get(name, ()))]
    if not silent or len(silent) == len(held):
        return
    share = sum(held[name].numel for name in silent) / sum(info.numel for info in held.values())
    certainty: Certainty = "certain" if share > at.MOST_OF_THE_WEIGHTS else "likely"
    for module in _largest_modules(
        [held[name].module for name in silent], [held[n].module for n in held if n not in silent]
    ):
        yield Clue(
            "no_gradient",
            certainty,
            module,
            0,
            {"parameters": float(len(silent)), "share_of_the_weights": share, "first": silent[0]},
        )


def _largest_modules(silent: list[str], with_gradient: list[str]) -> list[str]:
    """Return the names of the largest modules of which every part is silent."""
    largest: list[str] = []
    for module in silent:
        parts = module.split(".")
        for count in range(1, len(parts) + 1):
            name = ".".join(parts[:count])
            if not any(active == name or active.startswith(name + ".") for active in with_gradient):
                if name not in largest:
                    largest.append(name)
                break
    return largest


def units(record: Record) -> Iterator[Clue]:
    """Units that are never active, or always at an end of their activation."""
    for kind, table, clear, possible in (
        ("dead_relu", record.dead, at.DEAD_SHARE, at.DEAD_SHARE_POSSIBLE),
        ("saturation", record.saturated, at.SATURATED_SHARE, at.SATURATED_SHARE_POSSIBLE),
    ):
        for name in in_order(record, table):
            values = table[name]
            lasting = min(5, max(1, len(record.steps) // 2))
            for bound, certainty in ((clear, "likely"), (possible, "possible")):
                since = first_where(values, lambda value, bound=bound: value >= bound, lasting)  # type: ignore[misc]
                if since is not None:
                    share = middle(values[since:])
                    certainty = certainty if share >= bound else "possible"
                    yield Clue(kind, certainty, name or None, record.steps[since], {"share_of_units": share})  # type: ignore[arg-type]
                    break


def attention(record: Record) -> Iterator[Clue]:
    """Attention that looks at a single place, because its logits are far apart."""
    for name in in_order(record, record.attention):
        values = record.attention[name]
        since = first_where(values, lambda value: value > at.ATTENTION_SPREAD_POSSIBLE, 2)
        if since is not None:
            spread = middle(values[since:])
            certainty: Certainty = "likely" if spread > at.ATTENTION_SPREAD else "possible"
            evidence = {"logit_spread": spread, "at_first": values[0]}
            yield Clue("attention_logit_growth", certainty, name or None, record.steps[since], evidence)


def gradients_over_depth(record: Record) -> Iterator[Clue]:
    """Gradients that are far smaller, or larger, in the first layer than in the last."""
    layers = weights(record)
    if len(layers) < 3:
        return
    start = [index for index, step in enumerate(record.steps) if step < at.FIRST_STEPS]
    start = start[1:] if len(start) > 2 else start  # a head that begins at zero passes nothing on at the first step
    norms = {name: middle(record.gradient_norms[name][index] for index in start) for name, _ in layers}
    first, last = _pair(record, norms, [name for name, _ in layers])
    if first is None or last is None or not norms[last]:
        return
    ratio = norms[first] / norms[last]
    where = record.parameters[first].module or None
    evidence: dict[str, float | str] = {"first_to_last_gradient": ratio, "first": first, "last": last}
    if 0 < ratio < at.VANISHING_RATIO_POSSIBLE:
        certainty: Certainty = "likely" if ratio < at.VANISHING_RATIO else "possible"
        yield Clue("vanishing_gradient", certainty, where, 0, evidence)
    elif ratio > at.EXPLODING_RATIO:
        yield Clue("exploding_gradient", "likely", where, 0, evidence)


def _pair(record: Record, norms: dict[str, float], names: list[str]) -> tuple[str | None, str | None]:
    """Return the first and the last layer whose gradients were measured, and whose units are not dead."""
    alive = [
        name for name in names if math.isfinite(norms[name]) and not _is_dead(record, record.parameters[name].module)
    ]
    return (alive[0], alive[-1]) if len(alive) > 1 else (None, None)


def _is_dead(record: Record, module: str) -> bool:
    return middle(record.dead.get(module, [])[: at.FIRST_STEPS]) >= at.DEAD_SHARE


def signals_over_depth(record: Record) -> Iterator[Clue]:
    """Signals that are far larger in the last layers than in the first, at the start."""
    names = [name for name in in_order(record, record.activation_scales) if name in record.depths]
    scales = {name: middle(record.activation_scales[name][:1]) for name in names}
    scales = {name: scale for name, scale in scales.items() if math.isfinite(scale)}
    if len(scales) < 2 or not record.steps:
        return
    before = record.input_scale if math.isfinite(record.input_scale) else next(iter(scales.values()))
    before = max(before, 1.0)
    growth = max(scales.values()) / before
    if growth < at.SIGNAL_GROWTH_POSSIBLE:
        return
    where = next(name for name, scale in scales.items() if scale >= at.SIGNAL_GROWTH_POSSIBLE * before)
    certainty: Certainty = "likely" if growth > at.SIGNAL_GROWTH else "possible"
    yield Clue("init_too_large", certainty, where, 0, {"signal_growth": growth, "inputs": before})


def gradient_jumps(record: Record) -> Iterator[Clue]:
    """Gradients that are suddenly far larger than before, as at the cliffs of recurrent networks."""
    names = [name for name, _ in weights(record)]
    totals = [math.hypot(*values) if values else math.nan for values in _columns(record, names)]
    largest_since = list(accumulate(reversed([0.0 if math.isnan(total) else total for total in totals]), max))[::-1]
    for index in range(3, len(totals)):
        usual = middle(totals[max(0, index - at.SPIKE_WINDOW) : index])
        if usual > 0 and totals[index] > at.GRADIENT_JUMP * usual:
            worst = max(names, key=lambda name: _growth(record, name, index))
            evidence = {"gradient_over_usual": totals[index] / usual, "largest": largest_since[index]}
            where = record.parameters[worst].module or None
            certainty: Certainty = "possible" if _has_risen(record, record.steps[index - 1]) else "likely"
            yield Clue("exploding_gradient", certainty, where, record.steps[index], evidence)
            return


def _has_risen(record: Record, step: int) -> bool:
    """Return True if the loss was far above its start before a step: larger gradients are a consequence then."""
    before = finite(record.losses[: step + 1])
    return bool(before) and before[-1] > before[0] + (at.LOSS_RISE - 1) * abs(before[0])


def _columns(record: Record, names: list[str]) -> list[list[float]]:
    return [of_step(record.gradient_norms, names, index) for index in range(len(record.steps))]


def _growth(record: Record, name: str, index: int) -> float:
    values = record.gradient_norms[name]
    usual = middle(values[max(0, index - at.SPIKE_WINDOW) : index])
    return values[index] / usual if usual > 0 and math.isfinite(values[index]) else 0.0
