"""Replays of the protocol on banks whose truth is known: how often it is wrong, and how sure it is.

`python benchmarks/calibration/replay.py` runs `protocol.decide`, the function that live comparisons run, on two banks:
digits (`bank.py`) and a synthetic family with a known ranking. It writes `benchmarks/records/calibration.json`.
A replay draws settings and seeds from the bank with replacement, so the truth is the bank's own mean.
"""

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

from thalweg.comparison.planning.budget import ladder
from thalweg.comparison.protocol import statistics
from thalweg.comparison.protocol.design import Design
from thalweg.comparison.protocol.procedure import Findings, decide
from thalweg.comparison.protocol.score_scale import MARGIN, ScoreScale
from thalweg.comparison.protocol.trial import TrialRequest, TrialScore

HERE = Path(__file__).parent
RECORD = HERE.parent / "records" / "calibration.json"
REPLAYS = 1000
TRUTH_STUDIES = 4000  # to know what an optimizer reaches when it is tuned


@dataclass(frozen=True)
class Bank:
    """Scores of every setting (rows) from every seed (columns), on validation and on test."""

    name: str
    validation: np.ndarray
    test: np.ndarray

    def shifted(self, share: float) -> "Bank":
        """A contender that is worse by this share everywhere."""
        return Bank(f"{self.name}+{share:.0%}", self.validation + math.log1p(share), self.test + math.log1p(share))


def digits_banks() -> list[Bank]:
    """The bank of real trainings, on the scale of live comparisons."""
    stored = np.load(HERE / "bank.npz")
    about = json.loads(str(stored["about"]))
    scale = ScoreScale("log", about["untrained"])
    score = np.vectorize(scale.score)
    return [
        Bank(name, score(stored["validation"][row], "validation"), score(stored["test"][row], "test"))
        for row, name in enumerate(about["contenders"])
    ]


def synthetic_banks(leads: Sequence[float], *, settings: int = 1024, seeds: int = 24) -> list[Bank]:
    """A family with a known ranking: a bowl over two settings, seeds that contenders share, and noise of their own."""
    rng = np.random.default_rng(7)
    shared = 0.04 * rng.standard_normal((2, 1, seeds))
    banks = []
    for lead in leads:
        where = rng.random((settings, 2))
        bowl = 6 * (where[:, 0] - 0.5) ** 2 + 2 * (where[:, 1] - 0.4) ** 2
        noise = 0.06 * rng.standard_normal((2, settings, seeds)) * (1 + bowl[None, :, None])
        validation, test = math.log1p(lead) + bowl[:, None] + shared + noise
        banks.append(Bank(f"synthetic+{lead:.0%}", validation, test))
    return banks


class Replay:
    """One comparison on banks: draws and seeds follow from a number."""

    def __init__(self, banks: dict[str, Bank], design: Design, number: int) -> None:
        self.banks, self.design = banks, design
        rng = np.random.default_rng(number)
        shape = (design.studies, design.draws)
        self.drawn = {name: rng.integers(len(bank.test), size=shape) for name, bank in banks.items()}
        self._rng, self._seeds = rng, {}

    def seed(self, of: tuple[str, int, int]) -> int:
        if of not in self._seeds:
            columns = next(iter(self.banks.values())).test.shape[1]
            self._seeds[of] = int(self._rng.integers(columns))
        return self._seeds[of]

    def setting(self, name: str, study: int, trial: int) -> int:
        return int(self.drawn[name][study, trial])

    def answer(self, asks: Sequence[TrialRequest]) -> dict[TrialRequest, TrialScore]:
        found = {}
        for ask in asks:
            bank = self.banks[ask.contender]
            at = (self.drawn[ask.contender][ask.study, ask.trial], self.seed(ask.seed))
            found[ask] = TrialScore(bank.validation[at], bank.test[at])
        return found

    def findings(self) -> Findings:
        draws = dict.fromkeys(self.banks, self.design.draws)
        cost = {name: place for place, name in enumerate(self.banks)}
        return decide(self.design, draws, self.answer, cost=cost, margin=lambda leader: math.log1p(MARGIN))

    def truth(self, name: str, findings: Findings) -> float:
        """What the chosen setting of a contender reaches on average over seeds."""
        study, trial = findings.chosen_settings[name]
        return float(self.banks[name].test[self.setting(name, study, trial)].mean())


def tuned(bank: Bank, design: Design) -> float:
    """The truth of question O: what an optimizer reaches in a study, on average over very many."""
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
    """How often something happened, with its 95 % interval (Clopper and Pearson)."""
    found = list(hits)
    k, n = sum(found), len(found)
    if not n:
        return {"share": math.nan, "low": math.nan, "high": math.nan, "of": 0}
    low = 0.0 if k == 0 else float(stats.beta.ppf(0.025, k, n - k + 1))
    high = 1.0 if k == n else float(stats.beta.ppf(0.975, k + 1, n - k))
    return {"share": k / n, "low": low, "high": high, "of": n}


def mean_of(values: Sequence[float]) -> dict[str, float]:
    found = statistics.interval(values)
    return {"mean": found.mean, "low": found.low, "high": found.high, "of": len(values)}


def calibrate(banks: list[Bank], design: Design, replays: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Everything that is promised of the protocol, measured with one design."""
    record: dict[str, Any] = {"design": design.to_json(), "banks": [bank.name for bank in banks], "replays": replays}
    each = replays // len(banks)

    tell("two identical contenders")
    wrong = []
    for bank in banks:
        for number in range(each):
            ranking = Replay({"a": bank, "b": bank}, design, number).findings().ranking
            assert ranking is not None
            wrong.append(len(ranking.remaining) < 2)
    record["identical_called_different"] = share(wrong)

    tell("eight identical contenders")
    record["any_of_eight_dropped"] = share(
        len(ranking.remaining) < 8
        for bank in banks
        for number in range(each)
        for ranking in [Replay({f"c{k}": bank for k in range(8)}, design, number).findings().ranking]
        if ranking
    )

    covered, ratio = [], []
    for effect in (0.05, 0.10, 0.20):
        tell(f"a true difference of {effect:.0%}")
        found = []
        for bank in banks:
            for number in range(each):
                findings = Replay({"a": bank, "b": bank.shifted(effect)}, design, number).findings()
                assert findings.ranking is not None
                found.append(findings.ranking.remaining == ["a"])
                first = design.ranking[0].size
                scores = findings.ranking.scores
                paired = [b - a for a, b in zip(scores["a"][:first], scores["b"][:first], strict=True)]
                interval = statistics.interval(paired)
                ratio.append(interval.low <= math.log1p(effect) <= interval.high)
        record[f"power_at_{effect:.0%}"] = share(found)
    record["coverage_of_ratio"] = share(ratio)

    tell("the real contenders")
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
    record["settled"] = {kind: share(one == kind for one in settled) for kind in ("best", "within", "open")}
    record["wrong_claims"] = share(regrets)
    record["abstains_when_best_leads_by_5%"] = share(led)
    record["recommended_within_margin_of_best"] = share(shown_best)
    record["coverage_of_value"] = share(covered)
    record["optimism_of_value"] = mean_of(optimism)
    record["tuned"] = {bank.name: tuned(bank, design) for bank in banks}
    return record


def main() -> None:
    replays = int(sys.argv[1]) if len(sys.argv) > 1 else REPLAYS
    families = {
        "digits": digits_banks(),
        "synthetic": synthetic_banks((0.0, 0.02, 0.05, 0.10, 0.20)),
    }
    records = []
    for design in ladder(2):
        if not design.ranking:
            continue
        for family, banks in families.items():
            began = time.perf_counter()
            label = f"{design.draws} draws, looks {[look.size for look in design.ranking]}, {family}"
            record = calibrate(banks, design, replays, lambda what: print(f"{label}: {what}", file=sys.stderr))  # noqa: B023
            records.append({"family": family, **record})
            print(f"{label}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    RECORD.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
