"""Course signs: how the training goes on: spikes, plateaus, noise, the edge of stability, norms, several networks."""

import math
from collections.abc import Iterator
from statistics import median

from thalweg.diagnosis.clue import Certainty, Clue
from thalweg.diagnosis.monitoring.record import Record
from thalweg.diagnosis.monitoring.signs import thresholds as at
from thalweg.diagnosis.monitoring.signs.series import ends, finite, first_where, in_order, learns, middle


def course_clues(record: Record) -> Iterator[Clue]:
    """Yield the signs that the course of a training shows."""
    yield from spikes(record)
    yield from plateaus(record)
    yield from edge_of_stability(record)
    yield from noise(record)
    yield from batchnorm(record)
    yield from collapsed_codes(record)
    yield from unequal_optimizers(record)


def spikes(record: Record) -> Iterator[Clue]:
    """Losses far above those before them, which undo a good part of the progress."""
    losses, count, first, height = record.losses, 0, None, 0.0
    for step in range(at.SPIKE_WINDOW, len(losses)):
        window = finite(losses[step - at.SPIKE_WINDOW : step])
        if len(window) < at.SPIKE_WINDOW // 2 or not math.isfinite(losses[step]):
            continue
        usual = median(window)
        deviation = median(abs(loss - usual) for loss in window)
        progress = median(finite(losses[: at.SPIKE_WINDOW])) - usual
        rise = losses[step] - usual
        if rise > at.SPIKE_DEVIATIONS * deviation and progress > 0 and rise > at.SPIKE_SHARE * progress:
            count += 1
            first = step if first is None else first
            height = max(height, rise / progress)
    if first is not None:
        yield Clue("loss_spike", "possible", None, first, {"spikes": float(count), "largest_share_undone": height})


def plateaus(record: Record) -> Iterator[Clue]:
    """A loss that does not fall over the second half, or over a first part after which it does."""
    losses = record.losses
    if len(losses) < 5 * at.SPIKE_WINDOW or not math.isfinite(losses[-1]):
        return
    start, end, _ = ends(losses)
    half = losses[len(losses) // 2 :]
    _, _, sure = ends(half)
    if abs(sure) < 2 and not learns(record):
        yield Clue("plateau", "possible", None, 0, {"first_loss": start, "last_loss": end})
        return
    quarter = losses[: len(losses) // 4]
    _, later, early_sure = ends(quarter)
    if abs(early_sure) < 2 and learns(record) and start - later < 0.05 * (start - end):
        yield Clue(
            "plateau", "possible", None, 0, {"first_loss": start, "last_loss": end, "steps": float(len(quarter))}
        )


def edge_of_stability(record: Record) -> Iterator[Clue]:
    """Updates after which the slope along them has turned round: curvature times step is about 2."""
    for values in record.sharpness.values():
        window = [middle(values[max(0, index - at.EDGE_STEPS + 1) : index + 1]) for index in range(len(values))]
        since = first_where(window[at.EDGE_STEPS :], lambda value: value > at.EDGE_SHARPNESS, at.EDGE_STEPS)
        if since is not None:
            certainty: Certainty = "possible"
            since += at.EDGE_STEPS
            yield Clue(
                "edge_of_stability",
                certainty,
                None,
                record.steps[since],
                {"curvature_times_step": middle(window[since:])},
            )


def noise(record: Record) -> Iterator[Clue]:
    """Gradients of successive batches that have next to nothing in common."""
    for name, products in record.gradient_products.items():
        pairs = [
            (square, product)
            for square, product in zip(record.gradient_squares.get(name, ()), products, strict=False)
            if math.isfinite(square) and math.isfinite(product)
        ]
        if len(pairs) < 10 or math.isnan(middle(record.cosines.get(name, ()))):
            continue
        # Each pair counts alike, however large its gradients are.
        cosine = middle(record.cosines[name])
        ratio = (1 - cosine) / cosine if cosine > 0 else math.inf
        if ratio > at.NOISE_RATIO:
            yield Clue("gradient_noise", "possible", None, 0, {"noise_over_signal": ratio, "cosine": cosine})


def batchnorm(record: Record) -> Iterator[Clue]:
    """Running statistics that are not those of the batches, and batches that are too small for statistics."""
    late = [index for index, step in enumerate(record.steps) if step >= at.EVAL_GAP_STEPS]
    for name in in_order(record, record.batchnorm_gaps):
        gap = middle(record.batchnorm_gaps[name][index] for index in late[-10:])
        spread = middle(record.batchnorm_noise[name][index] for index in late[-10:])
        if spread > at.BATCH_NOISE:
            yield Clue("batchnorm_tiny_batch", "possible", name, 0, {"deviations_between_batches": spread})
        elif gap > at.EVAL_GAP:
            since = next(index for index in late if record.batchnorm_gaps[name][index] > at.EVAL_GAP)
            yield Clue("batchnorm_eval_gap", "likely", name, record.steps[since], {"gap_in_deviations": gap})


def collapsed_codes(record: Record) -> Iterator[Clue]:
    """A module inside of the network whose outputs fall to nothing, as an encoder's whose code is not used."""
    if not record.samples:
        return
    names = in_order(record, record.activation_scales)
    for name in names[:-1]:
        values = finite(record.activation_scales[name])
        if len(values) > 10 and values[0] > 0 and middle(values[-5:]) < at.COLLAPSED * max(values):
            evidence = {"output_scale": middle(values[-5:]), "largest": max(values)}
            yield Clue("posterior_collapse", "possible", name, record.steps[-1], evidence)
            return


def unequal_optimizers(record: Record) -> Iterator[Clue]:
    """Two optimizers, one of which moves its network far more than the other."""
    indices = sorted({group.index for group in record.groups})
    if len(indices) < 2:
        return
    updates: dict[int, float] = {}
    modules: dict[int, list[str]] = {}
    for index in indices:
        held = [
            (name, info)
            for name, info in record.parameters.items()
            if info.group >= 0 and record.groups[info.group].index == index and info.role == "weight"
        ]
        updates[index] = middle(middle(record.update_ratios.get(name, [])) for name, _ in held)
        modules[index] = [info.module for _, info in held]
    known = {index: update for index, update in updates.items() if update > 0}
    if len(known) < 2:
        return
    fast, slow = max(known, key=known.__getitem__), min(known, key=known.__getitem__)
    ratio = known[fast] / known[slow]
    if ratio > at.UNEQUAL_UPDATES:
        where = common_module(modules[fast])
        yield Clue("gan_discriminator_wins", "possible", where, 0, {"update_over_the_other": ratio})


def common_module(names: list[str]) -> str | None:
    """Return the module that contains all modules, or None.

    Example:
        >>> common_module(["net.critic.0", "net.critic.2"])
        'net.critic'
    """
    shared: list[str] = []
    for parts in zip(*(name.split(".") for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared) or None
