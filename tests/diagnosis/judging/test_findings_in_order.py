"""The order of findings: cures that were verified come first, and what they refute is a note."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from thalweg.diagnosis.changes import changes_for
from thalweg.diagnosis.clue import Clue
from thalweg.diagnosis.diagnose import (
    _findings,
    _is_refuted,
    _verifications,
    _without_opposites,
    _without_refuted,
)
from thalweg.diagnosis.finding import cured_by, finding_from
from thalweg.diagnosis.judging.candidates import Candidate
from thalweg.diagnosis.judging.verdict import Verdict
from thalweg.diagnosis.judging.verification import Verification
from thalweg.diagnosis.run_record import RunRecord


def test_of_opposite_learning_rates_the_first_is_a_cause() -> None:
    low, high, units = (
        Candidate(Clue(kind, "possible"), changes_for("lr_too_low", None)[0])
        for kind in ("lr_too_low", "lr_too_high", "dead_relu")
    )
    assert _without_opposites([low, units, high]) == [low, units]
    assert _without_opposites([high, low]) == [high]
    assert _without_opposites([units]) == [units]


class TrialsOfOneEnd:
    """Trials of changes that all end at the same score."""

    scale = None
    has_learnt = False

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.sick = RunRecord("as it is", 0, (), ((0, 0.0), (9, 0.1), (10, 0.1)))
        self.records = {
            candidate.key: RunRecord(candidate.change.name, 0, (), ((0, 0.0), (9, 0.9), (10, 0.9)))
            for candidate in candidates
        }

    def gain(self, candidate: Candidate, scale: object) -> float:
        return 0.8


@pytest.mark.parametrize(
    ("is_cured", "severities"),
    [
        (
            True,
            {"lr_too_low": "error", "labels_misaligned": "note", "no_gradient": "note", "parameter_twice": "warning"},
        ),
        (
            False,
            {
                "lr_too_low": "error",
                "labels_misaligned": "warning",
                "no_gradient": "warning",
                "parameter_twice": "warning",
            },
        ),
    ],
)
def test_what_a_verified_cure_refutes_is_a_note(is_cured: bool, severities: dict[str, str]) -> None:
    rate = Candidate(Clue("lr_too_low", "likely"), changes_for("lr_too_low", None)[0])
    unsettled = (
        Clue("labels_misaligned", "likely"),
        Clue("no_gradient", "certain", "body"),  # a consequence, since the training works without it
        Clue("parameter_twice", "certain"),  # a fault, whatever the training does
    )
    trials: Any = TrialsOfOneEnd([rate])

    findings = _findings(trials, Verdict((rate,), unsettled, True), unsettled, healthy=False, is_cured=is_cured)

    assert {finding.kind: finding.severity for finding in findings} == severities


def test_the_first_finding_names_the_cure_that_was_verified() -> None:
    finding = finding_from(Clue("lr_too_low", "likely"), "error")
    own = cured_by(finding, "lr_too_low", "learning rate x 100")
    assert own.remedy == f"Make the change that was verified: learning rate x 100. In general: {finding.remedy}"
    other = cured_by(finding, "sgd_on_badly_scaled", "Adam")
    assert other.remedy == f"{finding.remedy} The change that was verified is another: Adam."
    assert replace(own, remedy="") == replace(other, remedy="") == replace(finding, remedy="")


def verification(candidate: Candidate, gain: float, *, holds: bool = False) -> Verification:
    return Verification(candidate, (), (), gain, gain - 0.1, gain + 0.1, gain, holds)


def test_a_cause_whose_cure_gains_nothing_on_fresh_seeds_comes_last() -> None:
    """A training that fails on some seeds: on the first one, two changes help."""
    units, rate, clip = (
        Candidate(Clue(kind, "possible"), changes_for(kind, None)[0])
        for kind in ("dead_relu", "lr_too_high", "exploding_gradient")
    )
    verdict = Verdict((units, rate, clip), (), True)

    def causes(*verifications: Verification) -> tuple[Candidate, ...]:
        return _without_refuted(verdict, verifications).causes

    assert causes(verification(units, -0.3), verification(rate, 0.4)) == (rate, clip, units)
    assert causes(verification(units, 0.4), verification(rate, -0.3)) == (units, clip, rate)
    assert causes(verification(units, 0.0, holds=True)) == (units, rate, clip)
    everything = [verification(candidate, -0.3) for candidate in verdict.causes]
    assert causes(*everything) == (units, rate, clip)  # which leaves no sign of a fault
    assert _is_refuted(verdict, everything[0])
    assert not _is_refuted(verdict, verification(rate, 0.4))


class ScriptedVerifier:
    """Verifies with these gains, by the kind of the candidate."""

    def __init__(self, gains: dict[str, float], *, holds: bool) -> None:
        self.gains, self.holds = gains, holds

    def verify(self, candidate: Candidate) -> Verification:
        return verification(candidate, self.gains[candidate.kind], holds=self.holds)


@pytest.mark.parametrize(
    ("units", "rate", "holds", "kinds"),
    [
        (-0.3, 0.4, False, ["lr_too_high", "dead_relu"]),
        (0.4, 0.2, False, ["dead_relu", "lr_too_high"]),
        (0.1, 0.4, True, ["dead_relu"]),
    ],
)
def test_the_first_verification_is_one_that_holds_else_that_of_the_greatest_gain(
    units: float, rate: float, holds: bool, kinds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cures = [Candidate(Clue(kind, "possible"), changes_for(kind, None)[0]) for kind in ("dead_relu", "lr_too_high")]
    monkeypatch.setattr("thalweg.diagnosis.diagnose.smallest_cures", lambda trials, verdict: cures)
    verifier: Any = ScriptedVerifier({"dead_relu": units, "lr_too_high": rate}, holds=holds)
    unused: Any = None
    assert [each.candidate.kind for each in _verifications(verifier, unused, unused)] == kinds
