"""Comparison: which optimizer, at which settings, for this task. Plan, search, finals, store, statistics, verdict."""

from thalweg.comparison.comparison import Comparison, compare
from thalweg.comparison.contender import Contender
from thalweg.comparison.contenders import CONTENDERS, DEFAULT
from thalweg.comparison.reading import parse, split_list
from thalweg.comparison.store import Store
from thalweg.comparison.suite import Suite, TaskProgress, compare_suite, folder_name
from thalweg.comparison.verdict import Verdict
from thalweg.comparison.work import Progress

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
