"""Number signs: values that are not finite, and where they began."""

from collections.abc import Iterator

from thalweg.diagnosis.clue import Certainty, Clue
from thalweg.diagnosis.monitoring.record import NonFinite, Record
from thalweg.diagnosis.monitoring.signs import thresholds as at
from thalweg.diagnosis.monitoring.signs.series import finite, middle

KIND_OF_OPERATION = {"sqrt": "nan_from_sqrt", "log": "nan_from_log", "division": "nan_from_division"}


def number_clues(record: Record) -> Iterator[Clue]:
    """Yield the possible origins of the first value that is not finite."""
    found = record.non_finite
    if found is None:
        return
    evidence: dict[str, float | str] = {"source": found.source}
    if found.source == "input":
        yield Clue("nan_in_data", "certain", None, found.step, evidence)
        return
    if found.half:
        yield Clue("fp16_overflow", "likely", found.where if found.source == "output" else None, found.step, evidence)
    elif "float16" in {info.dtype for info in record.parameters.values()}:
        yield Clue("fp16_overflow", "possible", None, found.step, evidence)
    if grew_before(record, found):
        yield Clue(
            "lr_too_high", "possible", None, found.step, evidence | {"before": "growth of the loss or the weights"}
        )
        yield Clue("exploding_gradient", "possible", found.where, found.step, evidence)
        return
    known = record.model_operations if found.source == "output" else record.loss_operations
    operations = known or tuple(KIND_OF_OPERATION)
    certainty: Certainty = "likely" if len(operations) == 1 else "possible"
    for operation in operations:
        yield Clue(KIND_OF_OPERATION[operation], certainty, None, found.step, evidence | {"operation": operation})
    yield Clue("nan_in_data", "possible", None, found.step, evidence)


def grew_before(record: Record, found: NonFinite) -> bool:
    """Return True if the loss or a signal had grown far beyond its usual size before the value was not finite."""
    before = finite(record.losses[: found.step])
    if not before:
        return False
    usual = middle(before[: at.FIRST_STEPS])
    if before[-1] > usual + (at.UNBOUNDED_RISE - 1) * abs(usual):
        return True
    place = next((index for index, step in enumerate(record.steps) if step >= found.step), len(record.steps))
    for values in (*record.activation_scales.values(), *record.parameter_norms.values()):
        known = finite(values[:place])
        if len(known) > 1 and known[0] > 0 and known[-1] > at.UNBOUNDED_RISE * known[0]:
            return True
    return False
