"""Tasks: the models, losses and data that are trained. A task of yours and a built-in task have the same type."""

from thalweg.extras import require_lab

require_lab(__name__)

from thalweg.tasks.catalogue import BUILT_IN, SUITE, as_task, load  # noqa: E402
from thalweg.tasks.data import Batch, Split, Splits, split_at_random  # noqa: E402
from thalweg.tasks.reproducibility.seeded import seeded  # noqa: E402
from thalweg.tasks.supervised import supervised  # noqa: E402
from thalweg.tasks.task import Task  # noqa: E402
from thalweg.tasks.training import Training  # noqa: E402
from thalweg.tasks.training_function import TrainingFunction  # noqa: E402
from thalweg.tasks.tuning.tunable import choice, log_range, range  # noqa: A004, E402

__all__ = [
    "BUILT_IN",
    "SUITE",
    "Batch",
    "Split",
    "Splits",
    "Task",
    "Training",
    "TrainingFunction",
    "as_task",
    "choice",
    "load",
    "log_range",
    "range",
    "seeded",
    "split_at_random",
    "supervised",
]
