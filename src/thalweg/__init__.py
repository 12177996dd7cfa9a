"""thalweg: the workbench for the optimizers of deep learning.

    thalweg.optim          rules as torch optimizers: change the import and go on
    thalweg.compare        which optimizer, at which settings, for this task, with the evidence
    thalweg.compare_suite  the same on each of several tasks, and what it comes to over all of them
    thalweg.Task           what is to be trained, as its owner writes it down
    thalweg.rules          the formulas, as pure functions

Names are imported when first used, so that `import thalweg` costs nothing and the core needs torch alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from thalweg import optim, rules, tasks
    from thalweg.comparison import Comparison, Contender, Suite, compare, compare_suite
    from thalweg.errors import ThalwegError
    from thalweg.tasks import Splits, Task, supervised

_HOMES = {
    "Comparison": "thalweg.comparison",
    "Contender": "thalweg.comparison",
    "Suite": "thalweg.comparison",
    "compare": "thalweg.comparison",
    "compare_suite": "thalweg.comparison",
    "ThalwegError": "thalweg.errors",
    "Splits": "thalweg.tasks",
    "Task": "thalweg.tasks",
    "supervised": "thalweg.tasks",
}
_MODULES = ("optim", "rules", "tasks")

__all__ = [
    "Comparison",
    "Contender",
    "Splits",
    "Suite",
    "Task",
    "ThalwegError",
    "__version__",
    "compare",
    "compare_suite",
    "optim",
    "rules",
    "supervised",
    "tasks",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"thalweg.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'thalweg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
