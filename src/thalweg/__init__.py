"""thalweg: the workbench for the optimizers of deep learning.

- ``thalweg.compare`` tells which optimizer, at which settings, suits a task, and keeps the evidence.
- ``thalweg.compare_suite`` runs one comparison on each of several tasks and aggregates the results.
- ``thalweg.Task`` describes the model, loss and data that are trained; ``thalweg.supervised`` makes the usual loss.
- :mod:`thalweg.optim` provides the optimizers as ``torch.optim.Optimizer`` classes. Changing the import is enough.
- :mod:`thalweg.rules` provides the formulas as pure functions.
- :mod:`thalweg.tasks` provides the built-in tasks.
- :mod:`thalweg.testing` checks any optimizer for conformance with PyTorch's interface.

Names are imported at first use, so that ``import thalweg`` is fast and the core needs PyTorch alone.
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
