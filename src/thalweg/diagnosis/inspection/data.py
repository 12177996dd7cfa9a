"""Data: inputs and targets as the batches have them, and as the first layer gets them."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from thalweg.diagnosis.clue import Certainty, Clue
from thalweg.diagnosis.inspection.loss_behaviour import class_weights
from thalweg.diagnosis.inspection.loss_sites import Site
from thalweg.diagnosis.inspection.observation import Observation, observe_step
from thalweg.diagnosis.inspection.update_probe import is_scale_invariant

# Root mean square of inputs, and their mean by their deviation. Standardized inputs have 1 and 0; images in [0, 1] have
# about 0.3 and 1 to 2; initializations are made for order 1 (LeCun et al. 1998, Efficient BackProp, section 4.3).
LARGE_INPUTS, SMALL_INPUTS, FAR_FROM_ZERO = 10.0, 0.01, 2.5
# The largest range of a column by the smallest: the condition number of the loss is about its square.
UNEQUAL_COLUMNS = 100.0
# Root mean square of targets by that of the first outputs, or by 1.
LARGE_TARGETS, VERY_LARGE_TARGETS = 10.0, 30.0
# Deviations of the statistic of shuffled data. A chance of less than 1e-9 for the first, of 1e-3 for the second.
SORTED_DEVIATIONS, RELATED_DEVIATIONS = 8.0, 3.0
MIN_EXAMPLES, MAX_EXAMPLES, MAX_CLASSES = 64, 512, 100
# Of an equal share of the loss, for a class.
SMALL_CLASS, VERY_SMALL_CLASS = 0.25, 0.1
SHUFFLES = 30


def data_clues(observation: Observation, sites: Sequence[Site]) -> Iterator[Clue]:
    """Yield clues about the data.

    Args:
        observation: The observation.
        sites: The places at which outputs meet targets.
    """
    if not observation.batches:
        return
    broken = list(_not_finite(observation))
    yield from broken
    yield from _scale_of_targets(sites, observation)
    constant = list(_constant(observation))
    yield from constant
    if not broken and not constant:
        yield from _scale_of_inputs(observation)
    examples = _Examples(observation)
    unordered = list(_order(examples))
    yield from unordered
    if not unordered:
        yield from _imbalance(examples, observation)
        if not broken and not constant and (observation.loss_calls or any(site.is_of_data for site in sites)):
            yield from _unrelated(examples)


def _not_finite(observation: Observation) -> Iterator[Clue]:
    """Yield a clue about values that are not finite, and make the loss or a gradient so."""
    bad = [batch for batch in observation.batches if any(not _is_finite(part) for part in batch)]
    if not bad or not any(_breaks(batch, observation) for batch in bad[:3]):
        return
    places = [place for place in range(len(bad[0])) if not _is_finite(bad[0][place])]
    part = bad[0][places[0]]
    evidence: dict[str, float | str] = {
        "batches": float(len(bad)),
        "of": float(len(observation.batches)),
        "values in the first of them": float((~part.isfinite()).sum()),
        "in": "the target" if places[0] == len(bad[0]) - 1 else f"input {places[0]}",
    }
    yield Clue("nan_in_data", "certain", None, 0, evidence)


def _is_finite(part: object) -> bool:
    return not isinstance(part, Tensor) or not part.is_floating_point() or bool(part.isfinite().all())


def _breaks(batch: tuple[object, ...], observation: Observation) -> bool:
    step = observe_step(observation.training, batch)
    norms = [update.computed_norm for update in step.optimizer_steps]
    return step.error is None and not all(map(math.isfinite, [*step.losses, *norms]))


def _inputs(batch: Sequence[object]) -> list[Tensor]:
    return [part for part in batch[:-1] if isinstance(part, Tensor) and part.ndim >= 1 and len(part)]


def _constant(observation: Observation) -> Iterator[Clue]:
    """Yield a clue if all examples of a batch have the same inputs, and not the same target."""
    batches = [batch for batch in observation.batches if len(batch) > 1 and _inputs(batch)]
    sizes = {len(part) for batch in batches for part in _inputs(batch)}
    if not batches or (min(sizes) < 2 and len(batches) < 3):
        return
    if min(sizes) < 2:  # one example in a batch: the batches are the examples
        rows = [torch.stack([part.detach() for part in parts]) for parts in _by_place(batches)]
        if not rows or not all(_are_alike(part) for part in rows):
            return
    elif not all(_are_alike(part) for batch in batches for part in _inputs(batch)):
        return
    targets = [batch[-1] for batch in batches]
    differ = any(isinstance(target, Tensor) and target.ndim and not _are_alike(target) for target in targets)
    differ = differ or any(
        isinstance(target, Tensor) and not _same(target, targets[0]) for target in targets if min(sizes) < 2
    )
    if differ:
        yield Clue("inputs_constant", "certain", None, 0, {"batches": float(len(batches))})


def _by_place(batches: Sequence[Sequence[object]]) -> list[list[Tensor]]:
    columns = zip(*(_inputs(batch) for batch in batches), strict=False)
    return [list(parts) for parts in columns if len({part.shape for part in parts}) == 1]


def _same(a: Tensor, b: object) -> bool:
    return isinstance(b, Tensor) and a.shape == b.shape and torch.equal(a, b)


def _are_alike(part: Tensor) -> bool:
    """Return True if all examples are the same, up to rounding."""
    values = part.detach()
    if not values.is_floating_point():
        return bool((values == values[:1]).all())
    spread = (values - values[:1]).abs().max()
    return float(spread) <= 1e-6 * float(values.abs().max()) and bool(values.isfinite().all())


def _scale_of_inputs(observation: Observation) -> Iterator[Clue]:
    """Yield clues about the scale of what the first layer gets."""
    first_inputs = _first_inputs(observation)
    if first_inputs is None:
        return
    name, values = first_inputs
    columns = values.transpose(1, 3).flatten(0, 2) if values.ndim == 4 else values.reshape(-1, values.shape[-1])
    columns = columns[:, (columns != columns[:1]).any(0)].double()
    if columns.shape[1] == 0 or len(columns) < 8:
        return
    deviation = columns.std(0, correction=0)
    scale = float(columns.square().mean().sqrt())
    offset = float((columns.mean(0).abs() / deviation).median())
    ranges = (columns - columns.mean(0)).abs().amax(0)
    unequal = float(ranges.max() / ranges.min())
    evidence: dict[str, float | str] = {
        "root mean square": scale,
        "mean by deviation": offset,
        "largest column by smallest": unequal,
        "first layer": name,
    }
    is_normalized = _is_normalized_after(name, observation)
    is_odd = scale >= LARGE_INPUTS or scale <= SMALL_INPUTS
    if is_odd and not is_normalized:
        certainty: Certainty = "likely" if offset >= FAR_FROM_ZERO or scale >= LARGE_INPUTS**2 else "possible"
        yield Clue("inputs_not_normalised", certainty, None, 0, evidence)
    elif offset >= 2 * FAR_FROM_ZERO and scale > 1 and not is_normalized:
        yield Clue("inputs_not_normalised", "possible", None, 0, evidence)
    if unequal >= UNEQUAL_COLUMNS and is_scale_invariant(observation) is False:
        is_main = scale < LARGE_INPUTS**2 and offset < FAR_FROM_ZERO
        yield Clue("sgd_on_badly_scaled", "likely" if is_main else "possible", None, 0, evidence)


def _first_inputs(observation: Observation) -> tuple[str, Tensor] | None:
    """Return the name of the first layer with weights and its inputs at all steps; of numbers, not of tokens."""
    kept = [
        (name, values) for name, values in observation.first_inputs if values.is_floating_point() and values.ndim >= 2
    ]
    if kept:
        name, shape = kept[0][0], kept[0][1].shape[1:]
        same = [values for layer, values in kept if layer == name and values.shape[1:] == shape]
        return name, torch.cat(same)
    parts = [_inputs(batch)[0] for batch in observation.batches if _inputs(batch)]
    parts = [part for part in parts if part.is_floating_point() and part.ndim >= 2]
    if observation.first_inputs or not parts:
        return None
    return "", torch.cat([part.detach() for part in parts if part.shape[1:] == parts[0].shape[1:]])


def _is_normalized_after(name: str, observation: Observation) -> bool:
    """Return True if the first layer is a normalization, or the next module after it is."""
    norms = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
    calls = (
        [call for call in observation.trace.module_calls if not list(call.module.children())]
        if observation.trace
        else []
    )
    places = [place for place, call in enumerate(calls) if call.name == name]
    return bool(places) and any(isinstance(call.module, norms) for call in calls[places[0] : places[0] + 2])


def _scale_of_targets(sites: Sequence[Site], observation: Observation) -> Iterator[Clue]:
    for site in sites:
        if site.family != "difference" or not site.is_of_data or not site.target.is_floating_point():
            continue
        target, output = site.target.detach().double(), site.output.detach().double()
        if not bool(target.isfinite().all()) or not target.numel():
            continue
        size = float(target.square().mean().sqrt())
        ratio = size / max(1.0, float(output.square().mean().sqrt()))
        if ratio >= LARGE_TARGETS:
            evidence: dict[str, float | str] = {
                "root mean square of the targets": size,
                "mean of the targets": float(target.mean()),
                "root mean square of the first outputs": float(output.square().mean().sqrt()),
            }
            certainty: Certainty = "likely" if ratio >= VERY_LARGE_TARGETS else "possible"
            yield Clue("targets_not_normalised", certainty, None, 0, evidence)
            return


class _Examples:
    """The examples of the batches: their first inputs, their targets, and the number of their batch."""

    def __init__(self, observation: Observation) -> None:
        kept = [
            (number, batch)
            for number, batch in enumerate(observation.batches)
            if isinstance(batch[-1], Tensor) and batch[-1].ndim >= 1 and all(map(_is_finite, batch))
        ]
        kept = [(number, batch) for number, batch in kept if batch[-1].shape[1:] == kept[0][1][-1].shape[1:]]
        self.targets = torch.cat([batch[-1].detach() for _, batch in kept]) if kept else torch.zeros(0)
        self.batch = torch.cat([torch.full((len(b[-1]),), n) for n, b in kept]) if kept else torch.zeros(0)
        parts = [_inputs(batch)[0].detach() if _inputs(batch) else None for _, batch in kept]
        has_inputs = bool(kept) and all(
            part is not None
            and part.is_floating_point()
            and part.shape[1:] == parts[0].shape[1:]  # type: ignore[union-attr]  # none is None here
            and len(part) == len(batch[-1])
            for part, (_, batch) in zip(parts, kept, strict=True)
        )
        self.inputs = torch.cat([part for part in parts if part is not None]) if has_inputs else None

    @property
    def classes(self) -> Tensor | None:
        """The class of each example; None if the targets are no classes."""
        flat = self.targets.reshape(len(self.targets), -1) if len(self.targets) else self.targets
        if len(flat) < MIN_EXAMPLES or flat.shape[1] != 1:
            return None
        if flat.is_floating_point() and not bool(((flat == 0) | (flat == 1)).all()):
            return None
        return flat[:, 0].long() if len(flat.unique()) <= MAX_CLASSES else None  # type: ignore[no-untyped-call]


def _order(examples: _Examples) -> Iterator[Clue]:
    """Yield a clue if batches differ in their targets by more than chance."""
    count = len(examples.targets)
    numbers = examples.batch.unique() if count else examples.batch  # type: ignore[no-untyped-call]
    if count < MIN_EXAMPLES or len(numbers) < 3:
        return
    classes = examples.classes
    if classes is not None and len(classes.unique()) == 1:  # type: ignore[no-untyped-call]
        evidence: dict[str, float | str] = {"examples": float(count), "classes": 1.0}
        yield Clue("batches_sorted", "likely", None, 0, evidence)
        return
    if classes is not None:
        deviations = _homogeneity(classes, examples.batch)
        values = classes.double()
    elif examples.targets.is_floating_point():
        values = examples.targets.reshape(count, -1).double().mean(1)
        deviations = _variance_ratio(values, examples.batch)
    else:
        return
    if deviations < SORTED_DEVIATIONS:
        return
    rising = bool((values.diff() >= 0).all()) or bool((values.diff() <= 0).all())
    certainty: Certainty = "certain" if rising else "likely"
    evidence = {"examples": float(count), "deviations from shuffled batches": deviations}
    yield Clue("batches_sorted", certainty, None, 0, evidence)


def _homogeneity(classes: Tensor, batch: Tensor) -> float:
    """Return by how many of its deviations the chi-square statistic of batches and classes exceeds its mean."""
    _, of_class = classes.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    _, of_batch = batch.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    shape = int(of_batch.max()) + 1, int(of_class.max()) + 1
    counts = torch.zeros(shape, dtype=torch.float64).index_put_(
        (of_batch.cpu(), of_class.cpu()), torch.ones(len(classes), dtype=torch.float64), accumulate=True
    )
    expected = counts.sum(1, keepdim=True) * counts.sum(0, keepdim=True) / counts.sum()
    freedom = (shape[0] - 1) * (shape[1] - 1)
    return (float(((counts - expected).square() / expected).sum()) - freedom) / math.sqrt(2 * freedom)


def _variance_ratio(values: Tensor, batch: Tensor) -> float:
    """Return by how many of its deviations the variance of the means of batches exceeds that of shuffled ones."""
    groups = [values[batch == number] for number in batch.unique()]  # type: ignore[no-untyped-call]
    size = len(values) / len(groups)
    variance = float(values.var())
    if variance == 0.0 or size < 2:
        return 0.0
    means = torch.stack([group.mean() for group in groups])
    ratio = float(means.var()) / (variance / size)
    return (ratio - 1) / math.sqrt(2 / max(1, len(groups) - 1))


def _imbalance(examples: _Examples, observation: Observation) -> Iterator[Clue]:
    """Yield a clue about a class that has little part in the loss: few examples, and no weight that makes up for it."""
    classes = examples.classes
    if classes is None:
        return
    values, counts = classes.unique(return_counts=True)  # type: ignore[no-untyped-call]
    if len(values) < 2 or int(counts.sum()) < 10 * len(values):
        return
    shares = counts.double() / counts.sum()
    weights = class_weights(observation, [int(value) for value in values])
    parts = shares.cpu() * torch.tensor(weights, dtype=torch.float64)
    parts = parts / parts.sum() * len(values)
    smallest = int(parts.argmin())
    if float(parts[smallest]) < SMALL_CLASS:
        evidence: dict[str, float | str] = {
            "class": float(values[smallest]),
            "its share of the examples": float(shares[smallest]),
            "its share of the loss": float(parts[smallest]) / len(values),
            "classes": float(len(values)),
        }
        certainty: Certainty = "likely" if float(parts[smallest]) < VERY_SMALL_CLASS else "possible"
        yield Clue("class_imbalance", certainty, None, 0, evidence)


def _unrelated(examples: _Examples) -> Iterator[Clue]:
    """Yield clues if neighbours among the inputs have targets that are no more alike than others."""
    inputs, targets = examples.inputs, examples.targets
    if inputs is None or len(targets) < 2 * MIN_EXAMPLES or not (targets.is_floating_point() or targets.ndim == 1):
        return
    inputs, targets = inputs[:MAX_EXAMPLES].flatten(1).float(), targets[:MAX_EXAMPLES]
    inputs = (inputs - inputs.mean(0)) / inputs.std(0).clamp_min(1e-6)
    distances = torch.cdist(inputs, inputs, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(math.inf)
    distances[distances < 1e-5] = math.inf  # the same example again
    nearest = distances.argmin(1)
    real = _difference(targets, targets[nearest])
    generator = torch.Generator().manual_seed(0)
    chance = torch.tensor(
        [_difference(targets, targets[torch.randperm(len(targets), generator=generator)]) for _ in range(SHUFFLES)]
    )
    deviations = (float(chance.mean()) - real) / max(float(chance.std()), 1e-12)
    if deviations < RELATED_DEVIATIONS:
        evidence: dict[str, float | str] = {"examples": float(len(targets)), "deviations from chance": deviations}
        yield Clue("labels_misaligned", "possible", None, 0, evidence)
        yield Clue("augmentation_too_strong", "possible", None, 0, evidence)


def _difference(targets: Tensor, partners: Tensor) -> float:
    if not targets.is_floating_point():
        return float((targets != partners).double().mean())
    return float((targets - partners).double().square().mean())
