"""Number signs: values that are not finite, and where they began."""

from collections.abc import Iterator

from thalweg.diagnosis.clue import Certainty, Clue
from thalweg.diagnosis.monitoring.record import NonFinite, Record
from thalweg.diagnosis.monitoring.signs import thresholds as at
from thalweg.diagnosis.monitoring.signs.series import finite, middle

KIND_OF_OPERATION = {"sqrt": "nan_from_sqrt", "log": "nan_from_log", "division": "nan_from_division"}


def number_clues(record: Record) -> Iterator[Clue]:
    """Yield the possible origins of the first value that is not finite."""
    non_finite = record.non_finite
    if non_finite is None:
        return
    evidence: dict[str, float | str] = {"source": non_finite.source}
    if non_finite.source == "input":
        yield Clue("nan_in_data", "certain", None, non_finite.step, evidence)
        return
    if non_finite.half:
        yield Clue(
            "fp16_overflow",
            "likely",
            non_finite.where if non_finite.source == "output" else None,
            non_finite.step,
            evidence,
        )
    elif "float16" in {info.dtype for info in record.parameters.values()}:
        yield Clue("fp16_overflow", "possible", None, non_finite.step, evidence)
    if grew_before(record, non_finite):
        yield Clue(
            "lr_too_high", "possible", None, non_finite.step, evidence | {"before": "growth of the loss or the weights"}
        )
        yield Clue("exploding_gradient", "possible", non_finite.where, non_finite.step, evidence)
        return
    known = record.model_operations if non_finite.source == "output" else record.loss_operations
    operations = known or tuple(KIND_OF_OPERATION)
    certainty: Certainty = "likely" if len(operations) == 1 else "possible"
    for operation in operations:
        yield Clue(KIND_OF_OPERATION[operation], certainty, None, non_finite.step, evidence | {"operation": operation})
    yield Clue("nan_in_data", "possible", None, non_finite.step, evidence)


def grew_before(record: Record, non_finite: NonFinite) -> bool:
    """Return True if the loss or a signal had grown far beyond its usual size before the value was not finite."""
    before = finite(record.losses[: non_finite.step])
    if not before:
        return False
    usual = middle(before[: at.FIRST_STEPS])
    if before[-1] > usual + (at.UNBOUNDED_RISE - 1) * abs(usual):
        return True
    place = next((index for index, step in enumerate(record.steps) if step >= non_finite.step), len(record.steps))
    for values in (*record.activation_scales.values(), *record.parameter_norms.values()):
        known = finite(values[:place])
        if len(known) > 1 and known[0] > 0 and known[-1] > at.UNBOUNDED_RISE * known[0]:
            return True
    return False
