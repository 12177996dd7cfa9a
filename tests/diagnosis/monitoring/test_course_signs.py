"""Signs in the course of a training, from records with made-up values."""

import math

from thalweg.diagnosis.monitoring import Record, clues
from thalweg.diagnosis.monitoring.record import GroupInfo, ParameterInfo
from thalweg.diagnosis.monitoring.signs.series import ends, first_where, learns


def record(losses: list[float], **tables: list[float]) -> Record:
    """Return the record of a training with one weight and one optimizer."""
    steps = list(range(len(losses)))
    made = Record(losses=losses, lrs=[(0.1,)] * len(losses), steps=steps, groups=[GroupInfo("SGD", 0, 0.0, 0.0)])
    made.parameters = {"w": ParameterInfo("", (2, 2), "float32", 0, 0, "weight", True)}
    made.gradient_norms["w"] = [1.0] * len(losses)
    made.update_ratios["w"] = [1e-3] * len(losses)
    for table, values in tables.items():
        made.tables()[table]["SGD" if table in ("sharpness", "cosines", "gradient_products") else "w"] = values
    return made


def found(made: Record) -> set[str]:
    return {clue.kind for clue in clues(made)}


FALLING = [1.0 / (1 + step / 10) for step in range(120)]


def test_spikes_plateaus_noise_and_the_edge() -> None:
    assert found(record(FALLING)) == set()
    spiked = [*FALLING[:80], 3.0, *FALLING[81:]]
    (spike,) = [clue for clue in clues(record(spiked)) if clue.kind == "loss_spike"]
    assert (spike.since, spike.evidence["spikes"]) == (80, 1)
    flat = [1.0 + 0.01 * (-1) ** step for step in range(120)]
    assert "plateau" in found(record(flat))
    assert "plateau" in found(record([1.0 + 1e-4 * (-1) ** step for step in range(60)] + FALLING))
    assert "edge_of_stability" in found(record(FALLING, sharpness=[1.0] * 40 + [2.0] * 80))
    assert "edge_of_stability" not in found(record(FALLING, sharpness=[1.7] * 120))
    ones = [1.0] * 120
    for cosine, noisy in ((0.01, True), (0.03, False), (-0.1, True)):
        made = record(FALLING, cosines=[cosine] * 120, gradient_products=ones)
        made.gradient_squares["SGD"] = ones
        assert ("gradient_noise" in found(made)) is noisy


def test_a_loss_that_rises_early_or_without_bound() -> None:
    large = {"update_ratios": [0.06] * 120}
    rising = [1.0, 1.2, 3.1, *[2.0] * 117]
    (clue,) = [clue for clue in clues(record(rising, **large)) if clue.kind == "lr_too_high"]
    assert (clue.certainty, clue.since) == ("likely", 2)
    assert "lr_too_high" not in found(record([1.0, 1.2, 2.9, *FALLING]))
    assert "lr_too_high" in found(record([1.0, 1.2, 3.1, *FALLING]))
    negative = [-1.0, -1.2, 0.9, *[-1.0 - loss for loss in FALLING]]
    assert "lr_too_high" not in found(record(negative))
    unbounded = [1.05**step for step in range(120)]
    assert "bootstrap_divergence" in found(record(unbounded))


def test_gradients_that_jump() -> None:
    made = record(FALLING)
    made.parameters["cell.w"] = ParameterInfo("cell", (2, 2), "float32", 1, 0, "weight", True)
    made.gradient_norms["cell.w"] = [1.0] * 50 + [300.0] + [1.0] * 69
    (clue,) = [clue for clue in clues(made) if clue.kind == "exploding_gradient"]
    assert (clue.where, clue.since, clue.certainty) == ("cell", 50, "likely")
    made.gradient_norms["cell.w"][50] = 90.0
    assert "exploding_gradient" not in found(made)


def test_attention_codes_and_adversaries() -> None:
    made = record(FALLING)
    made.attention["block.0"] = [5.0] * 20 + [120.0] * 100
    (clue,) = clues(made)
    assert (clue.kind, clue.where, clue.since, clue.certainty) == ("attention_logit_growth", "block.0", 20, "likely")
    made = record(FALLING)
    made.activation_scales |= {"encoder": [1.0] * 5 + [0.1] * 115, "decoder": [1.0] * 120}
    made.depths = {"encoder": 0, "decoder": 1}
    assert found(made) == set()
    made.samples = True
    assert [clue.where for clue in clues(made)] == ["encoder"]
    made = record(FALLING)
    made.groups = [GroupInfo("Adam", 0, 0.5, 1e-8), GroupInfo("Adam", 1, 0.5, 1e-8)]
    made.parameters = {
        "g.0.w": ParameterInfo("g.0", (2, 2), "float32", 0, 0, "weight", True),
        "d.0.w": ParameterInfo("d.0", (2, 2), "float32", 1, 1, "weight", True),
        "d.1.w": ParameterInfo("d.1", (2, 2), "float32", 2, 1, "weight", True),
    }
    for name, update in (("g.0.w", 1e-3), ("d.0.w", 0.04), ("d.1.w", 0.05)):
        made.gradient_norms[name] = [1.0] * 120
        made.update_ratios[name] = [update] * 120
    (clue,) = [clue for clue in clues(made) if clue.kind == "gan_discriminator_wins"]
    assert clue.where == "d"


def test_series() -> None:
    assert first_where([math.nan, 9, math.nan, 9, 1], lambda value: value > 5, 2) == 1
    assert first_where([9, 1, 9], lambda value: value > 5, 2) is None
    start, end, sure = ends([2.0] * 50 + [1.0] * 50)
    assert (start, end, sure) == (2.0, 1.0, math.inf)
    assert not learns(record([1.0, 0.5, math.nan]))
    assert not learns(record([]))
