"""Comparison of optimizers: plan, search, race, store, verdict.

``compare`` finds the best optimizer and its settings for one task; ``compare_suite`` runs it on several tasks. The
folders follow the data: ``contenders``, ``training``, ``planning``, ``protocol`` (pure statistics) and ``results``.
"""

from thalweg.extras import require_lab

require_lab(__name__)

from thalweg.comparison.comparison import compare  # noqa: E402
from thalweg.comparison.contenders.contender import Contender  # noqa: E402
from thalweg.comparison.contenders.named import CONTENDERS, DEFAULT  # noqa: E402
from thalweg.comparison.contenders.parsing import parse, split_list  # noqa: E402
from thalweg.comparison.finished import Comparison  # noqa: E402
from thalweg.comparison.presentation.callbacks import CsvLog, TensorBoardLog  # noqa: E402
from thalweg.comparison.presentation.trial_table import TrialTable  # noqa: E402
from thalweg.comparison.progress import Progress  # noqa: E402
from thalweg.comparison.results.store import Store  # noqa: E402
from thalweg.comparison.results.verdict import Verdict  # noqa: E402
from thalweg.comparison.suite import TaskProgress, compare_suite, folder_name, open_suite  # noqa: E402
from thalweg.comparison.suite_result import Suite  # noqa: E402

__all__ = [
    "CONTENDERS",
    "DEFAULT",
    "Comparison",
    "Contender",
    "CsvLog",
    "Progress",
    "Store",
    "Suite",
    "TaskProgress",
    "TensorBoardLog",
    "TrialTable",
    "Verdict",
    "compare",
    "compare_suite",
    "folder_name",
    "open_suite",
    "parse",
    "split_list",
]
