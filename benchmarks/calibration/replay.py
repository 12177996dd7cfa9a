"""Replays of the protocol on banks whose truth is known: its error rates and the coverage of its intervals.

`python benchmarks/calibration/replay.py` runs `protocol.decide`, the function that live comparisons run, on two banks:
digits (`bank.py`) and a synthetic family with a known ranking. It writes `benchmarks/records/calibration.json`.
A replay draws settings and seeds from the bank with replacement, so the truth is the bank's own mean.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from scipy import stats

from thalweg import statistics
from thalweg.comparison.planning.budget import RANKED
from thalweg.comparison.protocol.design import Design
from thalweg.comparison.protocol.procedure import Findings, decide
from thalweg.comparison.protocol.score_scale import MARGIN, ScoreScale
from thalweg.comparison.protocol.trial import TrialRequest, TrialScore

HERE = Path(__file__).parent
RECORD = HERE.parent / "records" / "calibration.json"
REPLAYS = 1000
TRUTH_STUDIES = 4000  # that measure the score of a tuned optimizer


@dataclass(frozen=True)
class Bank:
    """Scores of every setting (rows) from every seed (columns).

    Attributes:
        name: The name of the contender.
        validation: Scores on the validation split, ``(settings, seeds)``.
        test: Scores on the test split, ``(settings, seeds)``.
    """

    name: str
    validation: np.ndarray
    test: np.ndarray

    def shifted(self, share: float) -> "Bank":
        """Return the bank of a contender whose losses are all larger by this share."""
        return Bank(f"{self.name}+{share:.0%}", self.validation + math.log1p(share), self.test + math.log1p(share))


def digits_banks() -> list[Bank]:
    """Return the banks of real trainings, on the scale of live comparisons."""
    stored = np.load(HERE / "bank.npz")
    about = json.loads(str(stored["about"]))
    scale = ScoreScale("log", about["untrained"])
    score = np.vectorize(scale.score)
    return [
        Bank(name, score(stored["validation"][row], "validation"), score(stored["test"][row], "test"))
        for row, name in enumerate(about["contenders"])
    ]


def synthetic_banks(leads: Sequence[float], *, settings: int = 1024, seeds: int = 24) -> list[Bank]:
    """Return banks with a known ranking: a bowl over two settings, an effect of each seed that is shared, and noise."""
    rng = np.random.default_rng(7)
    shared = 0.04 * rng.standard_normal((2, 1, seeds))
    banks = []
    for lead in leads:
        positions = rng.random((settings, 2))
        bowl = 6 * (positions[:, 0] - 0.5) ** 2 + 2 * (positions[:, 1] - 0.4) ** 2
        noise = 0.06 * rng.standard_normal((2, settings, seeds)) * (1 + bowl[None, :, None])
        validation, test = math.log1p(lead) + bowl[:, None] + shared + noise
        banks.append(Bank(f"synthetic+{lead:.0%}", validation, test))
    return banks


class Replay:
    """A comparison on banks. Its draws and seeds follow from a number."""

    def __init__(self, banks: dict[str, Bank], design: Design, number: int) -> None:
        self.banks, self.design = banks, design
        rng = np.random.default_rng(number)
        shape = (design.studies, design.draws)
        self.drawn = {name: rng.integers(len(bank.test), size=shape) for name, bank in banks.items()}
        self._rng = rng
        self._seeds: dict[tuple[str, int, int], int] = {}

    def seed(self, name: tuple[str, int, int]) -> int:
        """Return the column of the banks that stands for a seed; it is drawn at its first use."""
        if name not in self._seeds:
            columns = next(iter(self.banks.values())).test.shape[1]
            self._seeds[name] = int(self._rng.integers(columns))
        return self._seeds[name]

    def setting(self, name: str, study: int, trial: int) -> int:
        """Return the row of a contender's bank that stands for a drawn setting."""
        return int(self.drawn[name][study, trial])

    def scores(self, requests: Sequence[TrialRequest]) -> dict[TrialRequest, TrialScore]:
        """Return the scores of trainings, read from the banks."""
        scores = {}
        for request in requests:
            bank = self.banks[request.contender]
            place = (self.drawn[request.contender][request.study, request.trial], self.seed(request.seed))
            scores[request] = TrialScore(bank.validation[place], bank.test[place])
        return scores

    def findings(self) -> Findings:
        """Run the procedure and return its decisions."""
        draws = dict.fromkeys(self.banks, self.design.draws)
        cost = {name: place for place, name in enumerate(self.banks)}
        return decide(self.design, draws, self.scores, cost=cost, margin=lambda leader: math.log1p(MARGIN))

    def truth(self, name: str, findings: Findings) -> float:
        """Return the mean test score of a contender's chosen setting over all seeds of the bank."""
        study, trial = findings.chosen_settings[name]
        return float(self.banks[name].test[self.setting(name, study, trial)].mean())


def tuned(bank: Bank, design: Design) -> float:
    """Return the truth of question O: the mean score of an optimizer over very many studies."""
    rng = np.random.default_rng(0)
    ends = []
    for _ in range(TRUTH_STUDIES):
        drawn = rng.integers(len(bank.test), size=design.draws)
        seeds = rng.integers(bank.test.shape[1], size=1 + design.reseeds + design.judged)
        best = drawn[np.argsort(bank.validation[drawn, seeds[0]], kind="stable")[: design.retrained]]
        again = bank.validation[best][:, seeds[1 : 1 + design.reseeds]].mean(1)
        ends.append(bank.test[best[int(again.argmin())]][seeds[1 + design.reseeds :]].mean())
    return fmean(ends)


def share(hits: Iterable[bool]) -> dict[str, float]:
    """Return the share of hits, with its 95 % interval (Clopper and Pearson)."""
    outcomes = list(hits)
    k, n = sum(outcomes), len(outcomes)
    if not n:
        return {"share": math.nan, "low": math.nan, "high": math.nan, "of": 0}
    low = 0.0 if k == 0 else float(stats.beta.ppf(0.025, k, n - k + 1))
    high = 1.0 if k == n else float(stats.beta.ppf(0.975, k + 1, n - k))
    return {"share": k / n, "low": low, "high": high, "of": n}


def mean_of(values: Sequence[float]) -> dict[str, float]:
    """Return the mean of values, with its 95 % interval."""
    interval = statistics.interval(values)
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "of": len(values)}


def calibrate(banks: list[Bank], design: Design, replays: int, notify: Callable[[str], None]) -> dict[str, Any]:
    """Measure all error rates and coverages of the protocol with one design.

    Args:
        banks: The contenders, whose truth is known.
        design: The design of the comparisons.
        replays: The number of comparisons for each rate.
        notify: Called with the name of each part before it runs.

    Returns:
        The rates and their intervals, as plain JSON.
    """
    record: dict[str, Any] = {"design": design.to_json(), "banks": [bank.name for bank in banks], "replays": replays}
    replays_per_bank = replays // len(banks)

    notify("two identical contenders")
    wrong = []
    for bank in banks:
        for number in range(replays_per_bank):
            ranking = Replay({"a": bank, "b": bank}, design, number).findings().ranking
            assert ranking is not None
            wrong.append(len(ranking.remaining) < 2)
    record["identical_called_different"] = share(wrong)

    notify("eight identical contenders")
    record["any_of_eight_dropped"] = share(
        len(ranking.remaining) < 8
        for bank in banks
        for number in range(replays_per_bank)
        for ranking in [Replay({f"c{k}": bank for k in range(8)}, design, number).findings().ranking]
        if ranking
    )

    covered, ratio = [], []
    for effect in (0.05, 0.10, 0.20):
        notify(f"a true difference of {effect:.0%}")
        detected = []
        for bank in banks:
            for number in range(replays_per_bank):
                findings = Replay({"a": bank, "b": bank.shifted(effect)}, design, number).findings()
                assert findings.ranking is not None
                detected.append(findings.ranking.remaining == ["a"])
                studies = design.ranking[0].size
                scores = findings.ranking.scores
                paired = [b - a for a, b in zip(scores["a"][:studies], scores["b"][:studies], strict=True)]
                interval = statistics.interval(paired)
                ratio.append(interval.low <= math.log1p(effect) <= interval.high)
        record[f"power_at_{effect:.0%}"] = share(detected)
    record["coverage_of_ratio"] = share(ratio)

    notify("the real contenders")
    names = {bank.name: bank for bank in banks}
    settled, regrets, optimism, led, shown_best = [], [], [], [], []
    for number in range(replays):
        replay = Replay(names, design, number)
        findings = replay.findings()
        chosen = findings.race.recommended
        assert chosen is not None
        truths = {name: replay.truth(name, findings) for name in names}
        first, second = sorted(truths.values())[:2]
        settled.append(findings.race.settled)
        if findings.race.settled != "open":
            regrets.append(truths[chosen] - first > math.log1p(MARGIN))
        if second - first >= math.log1p(0.05):
            led.append(findings.race.settled == "open")
        shown_best.append(truths[chosen] - first <= math.log1p(MARGIN))
        value = statistics.interval(findings.value_scores)
        covered.append(value.low <= truths[chosen] <= value.high)
        optimism.append(math.expm1(truths[chosen] - value.mean))
    record["settled"] = {kind: share(ending == kind for ending in settled) for kind in ("best", "within", "open")}
    record["wrong_claims"] = share(regrets)
    record["abstains_when_best_leads_by_5%"] = share(led)
    record["recommended_within_margin_of_best"] = share(shown_best)
    record["coverage_of_value"] = share(covered)
    record["optimism_of_value"] = mean_of(optimism)
    record["tuned"] = {bank.name: tuned(bank, design) for bank in banks}
    return record


def main() -> None:
    """Replay every ranked design on both families and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("replays", nargs="?", type=int, default=REPLAYS, help="of each design (default: %(default)s)")
    replays = parser.parse_args().replays
    families = {
        "digits": digits_banks(),
        "synthetic": synthetic_banks((0.0, 0.02, 0.05, 0.10, 0.20)),
    }
    records = []
    for design in RANKED:
        for family, banks in families.items():
            began = time.perf_counter()
            analyses = [analysis.size for analysis in design.ranking]
            label = f"{design.draws} draws, analyses after {analyses} studies, {family}"
            record = calibrate(banks, design, replays, lambda part: print(f"{label}: {part}", file=sys.stderr))  # noqa: B023
            records.append({"family": family, **record})
            print(f"{label}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    RECORD.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
