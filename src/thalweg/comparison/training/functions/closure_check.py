"""Check, before any training, that a loop of the user's passes a closure to contenders that need it."""

import contextlib
from typing import Any

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.training.functions.call_site import line_of_user
from thalweg.comparison.training.functions.optimizer_requests import OptimizerRequests
from thalweg.errors import TaskError
from thalweg.optim import RuleOptimizer
from thalweg.tasks import TrainingFunction, seeded
from thalweg.tasks.tuning import task_at
from thalweg.tasks.user_code import raise_task_errors

_REMEDY = (
    "Write def closure(): optimizer.zero_grad(); loss = ...; loss.backward(); return loss, and then "
    "optimizer.step(closure), which serves all contenders; or leave {name} out."
)


_NEEDED = {"closure", "second gradient"}


class _Checked(BaseException):
    """Leaves a training function at its first step; an ``except Exception`` of the user does not stop it."""


def check_closures(function: TrainingFunction, contender: Contender) -> None:
    """Run a training function up to its first step, to see if it passes the closure that a contender needs.

    Args:
        function: The training function.
        contender: The contender.

    Raises:
        TaskError: If the contender needs a closure and the step gets none; the message names the line of the step.
    """
    if not contender.needs & _NEEDED:
        return

    def check(optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        needs = optimizer.rule.traits.needs if isinstance(optimizer, RuleOptimizer) else ""
        if needs not in _NEEDED:  # another optimizer of the training
            return
        has_closure = callable(kwargs.get("closure", args[1] if len(args) > 1 else None))
        if has_closure or optimizer.has_second_gradients:
            raise _Checked
        line = line_of_user()
        raise TaskError(
            f"{function.name}: the step must get a closure, since {contender.name} needs "
            f"{'several gradients' if needs == 'closure' else 'two gradients'} a step, got step() without "
            f"one{f' (at {line})' if line else ''}. {_REMEDY.format(name=contender.name)}"
        )

    requests = OptimizerRequests(function.name, contender, {}, before_step=check)
    with seeded(0), raise_task_errors(f"{function.name}: the function must train"), contextlib.suppress(_Checked):
        task_at(function, contender.task_values({})).run(requests, lambda *values, **named: None)
