"""Comparison: which optimizer, at which settings, for this task. Plan, search, finals, store, statistics, verdict."""

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
