"""Comparison of optimizers: plan, search, race, store, verdict.

``compare`` finds the best optimizer and its settings for one task; ``compare_suite`` runs it on several tasks. The
folders follow the data: ``contenders``, ``training``, ``planning``, ``protocol`` (pure statistics) and ``results``.
"""

from thalweg.comparison.comparison import Comparison, compare
from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.named import CONTENDERS, DEFAULT
from thalweg.comparison.contenders.parsing import parse, split_list
from thalweg.comparison.executor import Progress
from thalweg.comparison.results.store import Store
from thalweg.comparison.results.verdict import Verdict
from thalweg.comparison.suite import Suite, TaskProgress, compare_suite, folder_name

__all__ = [
    "CONTENDERS",
    "DEFAULT",
    "Comparison",
    "Contender",
    "Progress",
    "Store",
    "Suite",
    "TaskProgress",
    "Verdict",
    "compare",
    "compare_suite",
    "folder_name",
    "parse",
    "split_list",
]
