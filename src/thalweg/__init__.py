"""thalweg: the workbench for the optimizers of deep learning.

- ``thalweg.compare`` finds the optimizer and the settings that suit a task, and stores all measurements.
- ``thalweg.compare_suite`` runs one comparison for each of several tasks and aggregates the results.
- ``thalweg.Task`` describes a model, its loss and its data.
- ``thalweg.choice``, ``thalweg.range`` and ``thalweg.log_range`` declare numbers of a task that are tuned, too.
- ``thalweg.Training`` describes a training in its parts, for a diagnosis.
- ``thalweg.diagnose`` names the cause of a training that fails, and proves a cure. ``thalweg.Diagnosis`` is its result.
- ``thalweg.watch`` watches a training in your own loop and says what is wrong with it.
- ``thalweg.supervised`` turns a loss of (output, target) into a loss of (model, batch).
- ``thalweg.show`` draws the paths of optimizers over a surface of two dimensions.
- :mod:`thalweg.optim` contains the optimizers as ``torch.optim.Optimizer`` classes. To use them, change the import.
- :mod:`thalweg.rules` contains the formulas as pure functions.
- :mod:`thalweg.tasks` contains the built-in tasks.
- :mod:`thalweg.testing` checks any optimizer for conformance with PyTorch's interface.
- ``thalweg.ThalwegError`` is the base class of all errors.

A name is imported when it is first used. So ``import thalweg`` is fast. The optimizers and ``watch`` need only PyTorch.
Comparisons, diagnoses, tasks and the command line need the extra: ``pip install 'thalweg[lab]'``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from thalweg.version import __version__

if TYPE_CHECKING:
    from thalweg import optim, rules, tasks
    from thalweg.comparison import Comparison, Contender, Suite, compare, compare_suite
    from thalweg.comparison.diagnosing import diagnose
    from thalweg.diagnosis.diagnosis import Diagnosis
    from thalweg.diagnosis.monitoring import watch
    from thalweg.errors import ThalwegError
    from thalweg.report.pictures.show import show
    from thalweg.tasks import Splits, Task, Training, choice, log_range, range, supervised  # noqa: A004

_MODULE_OF = {
    "Comparison": "thalweg.comparison",
    "Contender": "thalweg.comparison",
    "Diagnosis": "thalweg.diagnosis.diagnosis",
    "Suite": "thalweg.comparison",
    "compare": "thalweg.comparison",
    "compare_suite": "thalweg.comparison",
    "diagnose": "thalweg.comparison.diagnosing",
    "ThalwegError": "thalweg.errors",
    "Splits": "thalweg.tasks",
    "Task": "thalweg.tasks",
    "Training": "thalweg.tasks",
    "choice": "thalweg.tasks",
    "log_range": "thalweg.tasks",
    "range": "thalweg.tasks",
    "show": "thalweg.report.pictures.show",
    "supervised": "thalweg.tasks",
    "watch": "thalweg.diagnosis.monitoring",
}
_SUBMODULES = ("optim", "rules", "tasks")

__all__ = [
    "Comparison",
    "Contender",
    "Diagnosis",
    "Splits",
    "Suite",
    "Task",
    "ThalwegError",
    "Training",
    "__version__",
    "choice",
    "compare",
    "compare_suite",
    "diagnose",
    "log_range",
    "optim",
    "range",
    "rules",
    "show",
    "supervised",
    "tasks",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"thalweg.{name}")
    if name in _MODULE_OF:
        return getattr(import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'thalweg' has no attribute {name!r}")


def __dir__() -> list[str]:
    from thalweg.extras import missing_packages

    # `help(thalweg)` reads all these names. Those of the extra `lab` raise an error if it is not installed.
    if not missing_packages():
        return __all__
    needing = ("comparison", "tasks", "diagnosing", "diagnosis", "show")
    return [name for name in __all__ if not _MODULE_OF.get(name, f"thalweg.{name}").endswith(needing)]
