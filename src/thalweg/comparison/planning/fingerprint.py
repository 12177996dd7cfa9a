"""Fingerprint: the key of a comparison. Two calls with the same key request the same comparison, so one can resume."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import scipy
import torch

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.planning.budget import Budget
from thalweg.comparison.training.workload import Workload
from thalweg.version import __version__


def key_of(
    workload: Workload,
    contenders: Sequence[Contender],
    budget: Budget,
    seed: int,
    schedule: str,
    options: Mapping[str, Any],
) -> str:
    """Return a hash of everything that decides the results of a comparison.

    Args:
        workload: The task or training function.
        contenders: The contenders, in order.
        budget: The budget.
        seed: The seed of the comparison.
        schedule: Name of the learning rate schedule.
        options: Other options, as plain JSON.

    Returns:
        The hash as hexadecimal text; it also depends on the versions of thalweg, torch and scipy.
    """
    facts = {
        "task": workload.fingerprint(),
        "contenders": [[contender.describe().identity(), sorted(contender.pinned)] for contender in contenders],
        "budget": asdict(budget),
        "seed": seed,
        "schedule": schedule,
        "options": dict(options),
        "versions": [__version__, torch.__version__, scipy.__version__],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
