"""Step signs: sizes of updates, learning rates, momentum, weight decay, and updates that get lost."""

import math
from collections.abc import Iterator

from thalweg.diagnosis.clue import Certainty, Clue
from thalweg.diagnosis.monitoring.record import Record
from thalweg.diagnosis.monitoring.signs import thresholds as at
from thalweg.diagnosis.monitoring.signs.series import ends, finite, first_where, learns, middle, of_step, weights


def step_clues(record: Record) -> Iterator[Clue]:
    """Yield the signs of steps that are too large, too small, or without effect."""
    yield from learning_rate_gone(record)
    yield from lost_updates(record)
    yield from epsilon(record)
    yield from clipped(record)
    yield from sizes(record)
    yield from momentum(record)
    yield from shrinking(record)


def learning_rate_gone(record: Record) -> Iterator[Clue]:
    """A learning rate that is far below its peak for a good part of the training."""
    rates = [max(finite(lrs), default=math.nan) for lrs in record.lrs]
    peak = max(finite(rates), default=0.0)
    if peak == 0 and rates:
        yield Clue("lr_too_low", "certain", None, 0, {"lr": 0.0})
        return
    place = next((step for step, rate in enumerate(rates) if rate == peak), 0)
    gone = [step for step in range(place, len(rates)) if rates[step] < at.LR_GONE * peak]
    if len(rates) >= at.FIRST_STEPS and len(gone) > at.LR_GONE_SHARE * len(rates):
        yield Clue("schedule_kills_lr", "likely", None, gone[0], {"peak": peak, "last": rates[-1]})


def lost_updates(record: Record) -> Iterator[Clue]:
    """Updates that are lost, because they are below half of the weights' last digit."""
    names = [name for name in record.unchanged if name in record.parameters]
    shares = [middle(of_step(record.unchanged, names, index)) for index in range(len(record.steps))]
    since = first_where(shares, lambda share: share > at.UNCHANGED_SHARE, min(5, max(1, len(shares))))
    if since is not None and _has_gradients(record, names):
        evidence: dict[str, float | str] = {
            "unchanged_share": middle(shares[since:]),
            "dtype": record.parameters[names[0]].dtype,
        }
        yield Clue("update_below_precision", "likely", None, record.steps[since], evidence)


def _has_gradients(record: Record, names: list[str]) -> bool:
    return any(middle(record.gradient_norms.get(name, [])) > 0 for name in names)


def epsilon(record: Record) -> Iterator[Clue]:
    """Gradients below Adam's epsilon, which then divides them instead of their own size."""
    names = [name for name, _ in weights(record) if name in record.second_moments]
    early = [index for index, step in enumerate(record.steps) if step < max(at.FIRST_STEPS, len(record.losses) // 4)]
    # Late in a training that has learnt everything gradients are tiny, too.
    ratio = middle(middle(filter(None, of_step(record.second_moments, names, index))) for index in early)
    if ratio < at.EPS_RATIO:
        eps = next((group.eps for group in record.groups if group.eps), 0.0)
        certainty: Certainty = "likely" if ratio < at.EPS_RATIO_CLEAR else "possible"
        yield Clue("adam_eps_underflow", certainty, None, 0, {"gradient_over_eps": ratio, "eps": eps})


def clipped(record: Record) -> Iterator[Clue]:
    """Gradients whose norm is the same at every step: clipping sets it."""
    for index, name in enumerate(record.gradient_squares):
        norms = [math.sqrt(square) for square in finite(record.gradient_squares[name])]
        usual = middle(norms)
        if len(norms) < 10 or not usual > 0:
            continue
        if middle(abs(norm - usual) for norm in norms) < at.CLIPPED_DEVIATION * usual and not _is_full_batch(record):
            is_adaptive = any(group.eps > 0 for group in record.groups if group.index == index)
            slow = _median_update(record) < at.UPDATE_TOO_SMALL_POSSIBLE
            certainty: Certainty = "likely" if slow and not is_adaptive else "possible"
            yield Clue(
                "clip_too_small", certainty, None, 0, {"gradient_norm": usual, "update_ratio": _median_update(record)}
            )


def _is_full_batch(record: Record) -> bool:
    """Return True if successive gradients are nearly the same: then their norms are, too."""
    return middle(value for values in record.cosines.values() for value in values) > 0.999


def _median_update(record: Record, end: float = math.inf) -> float:
    """Return the usual true update over all weights and the steps before an end, until values are not finite."""
    names = [name for name, _ in weights(record)]
    end = end if record.non_finite is None else min(end, record.non_finite.step)
    steps = [index for index, step in enumerate(record.steps) if step < end]
    return middle(middle(of_step(record.update_ratios, names, index)) for index in steps)


def sizes(record: Record) -> Iterator[Clue]:
    """Updates that are too large or too small for their weights, and losses that rise at the start."""
    update = _median_update(record)
    lost = any(True for sign in (learning_rate_gone, lost_updates, epsilon) for _ in sign(record))
    start, end, _ = ends(record.losses)
    early = finite(record.losses[: at.RISE_STEPS])
    first = record.losses[0] if record.losses and math.isfinite(record.losses[0]) else start
    bound = first + (at.LOSS_RISE - 1) * abs(first)
    rise = first_where(record.losses[: at.RISE_STEPS], lambda loss: bound < loss < math.inf)
    # Weights that have exploded are large, and updates are small beside them then.
    early_update = _median_update(record, at.FIRST_STEPS)
    large = max(finite((update, early_update)), default=0.0) > at.UPDATE_TOO_LARGE
    if rise is not None or large:
        worked = learns(record)
        since = rise if rise is not None else 0
        evidence = {"update_ratio": update, "early_update_ratio": early_update}
        evidence |= {"largest_early_loss": max(early, default=math.inf), "first_loss": first}
        certainty: Certainty = "likely" if large and not worked and (rise is not None or end >= start) else "possible"
        yield Clue("lr_too_high", certainty, None, since, evidence)
    elif update < at.UPDATE_TOO_SMALL_POSSIBLE and _has_gradients(record, [name for name, _ in weights(record)]):
        certainty = "likely" if update < at.UPDATE_TOO_SMALL and not learns(record) and not lost else "possible"
        evidence = {"update_ratio": update, "first_loss": start, "last_loss": end}
        yield Clue("lr_too_low", certainty, None, 0, evidence)
    if not math.isnan(end) and end > start + (at.UNBOUNDED_RISE - 1) * abs(start) and not large:
        # Steps are small, and yet the loss grows without bound: the targets may follow the network.
        yield Clue("bootstrap_divergence", "possible", None, rise or 0, {"first_loss": start, "last_loss": end})


def momentum(record: Record) -> Iterator[Clue]:
    """Momentum that averages more steps than a training of this length stands."""
    highest = max((group.momentum for group in record.groups), default=0.0)
    if highest >= at.HIGH_MOMENTUM:
        against = [value for values in record.alignments.values() for value in finite(values)]
        share = sum(value < 0 for value in against) / max(1, len(against))
        is_high = highest >= at.VERY_HIGH_MOMENTUM and not learns(record)
        evidence = {"momentum": highest, "share_of_steps_uphill": share}
        yield Clue("momentum_too_high", "likely" if is_high else "possible", None, 0, evidence)


def shrinking(record: Record) -> Iterator[Clue]:
    """Weights that shrink to a fraction of their size."""
    shares = []
    for name, _ in weights(record):
        sizes_of = finite(record.parameter_norms.get(name, []))
        if len(sizes_of) > 1 and sizes_of[0] > 0:
            shares.append(sizes_of[-1] / sizes_of[0])
    share = middle(shares)
    if share < at.SHRUNK_POSSIBLE:
        certainty: Certainty = "likely" if share < at.SHRUNK else "possible"
        yield Clue("weight_decay_too_strong", certainty, None, 0, {"last_to_first_weight_norm": share})
