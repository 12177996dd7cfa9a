"""Tuning each optimizer once and testing over a few seeds finds differences between identical ones."""

from typing import Any

import numpy as np
from replay import Bank, digits_banks, share
from scipy import stats

REPLAYS = 2000


def measure() -> dict[str, Any]:
    """Return the claim, its setting and the measured values."""
    (bank,) = [bank for bank in digits_banks() if bank.name == "adamw"]
    seen = {}
    for trials in (5, 10, 25, 50):
        rng = np.random.default_rng(trials)
        hits = []
        for _ in range(REPLAYS):
            columns = rng.permutation(bank.test.shape[1])
            a, b = (best_of(bank, rng, trials, columns[0]) for _ in range(2))
            judged = columns[1:6]
            if a != b:
                hits.append(stats.ttest_rel(bank.test[a, judged], bank.test[b, judged]).pvalue < 0.05)
        different = share(hits)
        seen[f"{trials} trials"] = [different["share"], different["low"], different["high"]]
    return {
        "claim": "a t-test over 5 seeds after one tuning calls identical optimizers different far more often than 5 %",
        "setting": "digits, perceptron of width 32, AdamW against itself, share of replays with its 95 % interval",
        "seen": seen,
    }


def best_of(bank: Bank, rng: np.random.Generator, trials: int, seed: int) -> int:
    """Return the drawn setting with the best validation score from one seed."""
    drawn = rng.choice(len(bank.test), trials, replace=False)
    return int(drawn[bank.validation[drawn, seed].argmin()])
