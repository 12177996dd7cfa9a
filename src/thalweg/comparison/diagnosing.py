"""diagnose, of a training function or of a task."""

from collections.abc import Callable
from typing import Any

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.training.computation.task_training import MAX_STEPS, training_function
from thalweg.diagnosis import diagnose as of_function
from thalweg.diagnosis.diagnosis import Diagnosis
from thalweg.errors import DiagnosisError
from thalweg.tasks import Task, Training, TrainingFunction
from thalweg.tasks.user_code import line_of

DEFAULT_CONTENDER = "adam"


def diagnose(
    training: Callable[[int], Training] | Task,
    seeds: int = 3,
    budget: str | float = "60s",
    steps: int | None = None,
    progress: of_function.ReportProgress | None = None,
    name: str = "",
    contender: str | Contender | None = None,
) -> Diagnosis:
    """Find the cause of a failed training, and the smallest change that cures it.

    Args:
        training: A function that makes a fresh ``Training`` for a seed; or a task.
        seeds: Number of fresh seeds on which the cure is verified, at least 2.
        budget: Time limit, such as ``"60s"`` or ``"5m"``, or a number of seconds. A diagnosis also ends after about 30
            times the training's own duration, at the earliest after 1.5 seconds; a budget above a minute raises this
            limit in proportion.
        steps: Steps of each run. Defaults to 250, or to those of a task if they are fewer.
        progress: Called with where the diagnosis is.
        name: Name of the training. Defaults to that of the function or the task.
        contender: The optimizer of a task, such as ``"adam:lr=0.01"``. Its learning rate is constant. Defaults to Adam.

    Returns:
        The diagnosis.

    Raises:
        DiagnosisInterrupted: On Ctrl-C. Its ``result`` is the diagnosis as far as it is known.
        DiagnosisError: If the function raises an error, returns no training, or the training cannot run; or if the task
            or its optimizer needs another step than the plain one.
        BudgetError: If the budget is no time.

    Example:
        >>> import torch
        >>> import thalweg
        >>> def training(seed):
        ...     x = torch.randn(64, 4)
        ...     model = torch.nn.Linear(4, 1)
        ...     optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
        ...     return thalweg.Training(model, optimizer, [(x, x @ torch.ones(4, 1))], torch.nn.functional.mse_loss)
        >>> diagnosis = thalweg.diagnose(training, steps=50)
        >>> diagnosis.cause.kind
        'lr_too_low'
    """
    function, own_name, steps = function_of(training, contender, steps)
    return of_function.diagnose(function, seeds, budget, steps, progress, name or own_name)


def function_of(training: Any, contender: str | Contender | None, steps: int | None) -> tuple[Any, str, int | None]:
    """Return the function that makes trainings, its name if it has one of its own, and the steps of a run.

    Args:
        training: A function, or a task.
        contender: The optimizer of a task.
        steps: Steps of each run; None for the default.

    Raises:
        DiagnosisError: If there is a contender for a function, or the training is a ``TrainingFunction``.
    """
    if isinstance(training, Task):
        chosen = parse(contender or DEFAULT_CONTENDER) if not isinstance(contender, Contender) else contender
        function = training_function(training, chosen)
        return function, training.name, steps or min(MAX_STEPS, training.passes * training.batches_per_pass())
    if isinstance(training, TrainingFunction):
        line = f" (at {line_of(training.train)})" if line_of(training.train) else ""
        raise DiagnosisError(
            f"{training.name}: a diagnosis needs a function training(seed) that returns a thalweg.Training, or a "
            f"thalweg.Task, got a TrainingFunction{line}, whose loop nobody can look into. "
            "Return the model, the optimizer, the batches and the loss of your loop as thalweg.Training(...)."
        )
    if contender is not None:
        raise DiagnosisError(
            f"diagnose: contender must be None for a function, got {contender}. "
            "A training(seed) function makes its own optimizer."
        )
    return training, "", steps
