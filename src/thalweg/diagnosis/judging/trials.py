"""Trials: the replays of candidates, in an order that settles the cause with few of them."""

import math
from collections.abc import Callable, Sequence

from thalweg.diagnosis.judging.candidates import CORE_PROBES, Candidate
from thalweg.diagnosis.judging.clock import Clock
from thalweg.diagnosis.judging.replays import Laboratory
from thalweg.diagnosis.judging.scale import Scale, final_score
from thalweg.diagnosis.run_record import RunRecord

# A gain, as a share of what can be reached, that matters: the less a clue says, the more its change must gain. Source:
# on healthy trainings of the bench's open half, probes gained up to 0.09, changes for a clue up to 0.05.
MATTERS = {3: 0.04, 2: 0.06, 1: 0.10, 0: 0.15}
MAX_NOISE = 0.3  # a gain above this matters even where late scores change much, as those of runs that diverge
WORKS = 0.1  # below the best run, as a share, a run works as well
NOT_LEARNT = 0.15  # a share below which a training has learnt next to nothing
EXPLOSION = 10.0  # a training whose loss ends so many times as high as it began has exploded
HOPELESS_AT = 0.5  # share of the steps after which a replay that is behind ends
VERIFICATION_RUNS = 6.5  # runs that are kept for fresh seeds

Report = Callable[[str, str], None]


class Trials:
    """The replays of one training from one seed.

    Args:
        laboratory: Runs the trainings.
        clock: The time that is left.
        sick: The run as the training is.
        reserve: Number of runs for which time is kept.
        report: Told the stage and what is tried.

    Attributes:
        sick: The run as the training is.
        records: The run of each replay, by the key of its candidates.
        candidates: All candidates that were tried, in order.
    """

    def __init__(self, laboratory: Laboratory, clock: Clock, sick: RunRecord, reserve: float, report: Report) -> None:
        self.sick = sick
        self.records: dict[tuple[str, str | None], RunRecord] = {}
        self.candidates: list[Candidate] = []
        self._laboratory, self._clock, self._report, self._reserve = laboratory, clock, report, reserve
        self._core: set[str] = set()
        self.is_cut_short = False

    @property
    def scale(self) -> Scale:
        """The scale of all runs so far."""
        return Scale([self.sick, *self.records.values()])

    def gain(self, candidate: Candidate, scale: Scale | None = None) -> float:
        """Return the gain of a candidate, as a share of what can be reached."""
        scale = scale or self.scale
        record = self.records[candidate.key]
        gain = scale.final_share(record) - scale.final_share(self.sick)
        return min(gain, 0.0) if record.ending == "stopped" else gain

    def matters(self, candidate: Candidate, scale: Scale | None = None) -> bool:
        """Return True if the gain of a candidate matters, for what its clue says, and is more than noise."""
        scale = scale or self.scale
        if scale.is_empty and candidate.certainty < 3 and not self._has_exploded:
            return False  # what no run learns is not in the data, and differences are chance
        return self.gain(candidate, scale) >= max(MATTERS[candidate.certainty], min(2 * scale.noise, MAX_NOISE))

    @property
    def shows_health(self) -> bool:
        """True unless time ended before it was tried what can be reached: other learning rates, another optimizer."""
        tried = {candidate.kind for candidate in self.candidates}
        return not self.is_cut_short or self._core <= tried

    @property
    def has_learnt(self) -> bool:
        """True if the training as it is has learnt more than next to nothing."""
        scale = self.scale
        return not scale.is_empty and scale.final_share(self.sick) >= NOT_LEARNT

    @property
    def has_lower_loss(self) -> bool:
        """True if the loss of the training as it is ends at less than half of its start."""
        first, last = self._ends()
        return self.sick.ending == "complete" and last < first / 2

    @property
    def _has_exploded(self) -> bool:
        """True if the loss of the training as it is ends far above its start."""
        first, last = self._ends()
        return self.sick.ending != "complete" or not last <= EXPLOSION * first

    def _ends(self) -> tuple[float, float]:
        """Return the mean size of the loss over the first and over the last tenth of the steps."""
        losses = [abs(loss) for loss in self.sick.losses] or [math.nan]
        span = max(1, len(losses) // 10)
        return sum(losses[:span]) / span, sum(losses[-span:]) / span

    def run(self, candidates: Sequence[Candidate]) -> None:
        """Try candidates until the cause is settled or the time is over."""
        symptoms = [candidate for candidate in candidates if candidate.is_symptom]
        clues = [candidate for candidate in candidates if not candidate.is_probe and not candidate.is_symptom]
        probes = [candidate for candidate in candidates if candidate.is_probe]
        core = [candidate for candidate in probes if candidate.kind in CORE_PROBES]
        strong = [candidate for candidate in clues if candidate.certainty > 1 or candidate.is_structural]
        # A clue may name one of these kinds; it is then no probe, and comes later.
        self._core = {candidate.kind for candidate in candidates if candidate.kind in CORE_PROBES}
        self._try_kinds(strong)
        self._try_kinds(core)
        self._try_kinds(strong)  # larger changes, where the runs so far show that more can be reached
        if not self._is_settled():
            self._try_kinds([candidate for candidate in clues if candidate not in strong])
        if not self._is_settled() and not self._is_healthy():
            self._try_kinds([candidate for candidate in probes if candidate not in core])
        if not self._is_settled() and not self._is_healthy():
            self._try_kinds(symptoms)

    def _try_kinds(self, candidates: Sequence[Candidate]) -> None:
        """Try candidates; of a kind and place, larger changes only as long as they are needed and help."""
        for _ in range(2):  # the second time the runs of the other kinds show what can be reached
            for candidate in candidates:
                if candidate in self.candidates or not self._is_needed(candidate):
                    continue
                if candidate.key not in self.records and not self._replay(candidate):
                    return
                self.candidates.append(candidate)

    def _is_needed(self, candidate: Candidate) -> bool:
        """Return True unless smaller changes for the same cause do, or larger ones do worse and worse."""
        own = [tried for tried in self.candidates if tried.cause == candidate.cause]
        if not own:
            return True
        scale = self.scale
        gains = [self.gain(tried, scale) for tried in own]
        if gains[-1] < max(gains) - WORKS / 2:
            return False
        if candidate.is_probe and self.has_learnt and max(gains) < MATTERS[0] / 2:
            return False
        if not self.matters(own[gains.index(max(gains))], scale):
            return True
        rival = max((self.gain(tried, scale) for tried in self.candidates if tried not in own), default=0.0)
        if max(gains) < max(1 - WORKS / 2 - scale.final_share(self.sick), rival - WORKS / 2):
            return True
        is_leading = rival < max(gains) - WORKS / 2  # nothing shows yet that this is all that can be reached
        is_rising = len(own) == 1 or gains[-1] > gains[-2] + WORKS / 2
        return candidate.change.size == own[-1].change.size and is_leading and is_rising

    def _replay(self, candidate: Candidate) -> bool:
        """Run a candidate's change. Return False if there is no time."""
        if not self._clock.pays_for(1.0 + self._reserve):
            self.is_cut_short = True
            return False
        self._report("replaying", candidate.change.name)
        if candidate.change.changes_loss and self._laboratory.score_name.startswith("loss"):
            self._compare_by_agreement()
        record = self._laboratory.run(self.sick.seed, candidate.change, candidate.where, stop=self._is_hopeless)
        self.records[candidate.key] = record
        if record.step_s:  # the run that was watched has slower steps
            self._clock.own_s = min(self._clock.own_s or math.inf, record.step_s * self._laboratory.steps)
        return True

    def _compare_by_agreement(self) -> None:
        """Run everything so far again, compared by agreement of outputs and targets."""
        self._laboratory.compare_by_agreement()
        changes = {candidate.key: candidate for candidate in self.candidates}
        self.sick = self._laboratory.run(self.sick.seed)
        for key, candidate in changes.items():
            self.records[key] = self._laboratory.run(self.sick.seed, candidate.change, candidate.where)

    def _is_hopeless(self, record: RunRecord) -> bool:
        """Return True if a run is behind the run as it is at the same moment, late enough.

        As long as no run has learnt much, there is no measure of being behind.
        """
        done, score = record.scores[-1]
        scale = self.scale
        beside = dict(self.sick.scores).get(done)
        if beside is None or done < HOPELESS_AT * self._laboratory.steps or scale.is_empty or scale.is_small:
            return False
        behind = scale.share(beside) - scale.share(score)
        return behind > max(WORKS, 3 * scale.noise) and scale.share(score) < scale.share(final_score(self.sick))

    def _is_settled(self) -> bool:
        """Return True if a specific change does as well as the best run."""
        scale = self.scale
        return any(
            candidate.certainty > 1
            and self.matters(candidate, scale)
            and scale.final_share(self.records[candidate.key]) >= 1 - WORKS
            for candidate in self.candidates
        )

    def _is_healthy(self) -> bool:
        """Return True if the training does as well as the best of all runs so far, and has learnt something."""
        scale = self.scale
        return not scale.is_empty and scale.final_share(self.sick) >= 1 - MATTERS[2]
