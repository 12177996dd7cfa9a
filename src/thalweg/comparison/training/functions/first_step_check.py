"""Check, before any training, that a loop of the user's serves contenders that need more than parameters and steps.

Some need a closure at each step; those that route need the model.
"""

import contextlib
from typing import Any

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.training.functions.call_site import line_of_user
from thalweg.comparison.training.functions.optimizer_requests import OptimizerRequests
from thalweg.errors import RoutingError, SettingError, TaskError
from thalweg.optim import RuleOptimizer
from thalweg.tasks import TrainingFunction, seeded
from thalweg.tasks.tuning import task_at
from thalweg.tasks.user_code import line_of_error, raise_task_errors

_REMEDY = (
    "Write def closure(): optimizer.zero_grad(); loss = ...; loss.backward(); return loss, and then "
    "optimizer.step(closure), which serves all contenders; or leave {name} out."
)


_NEEDED = {"closure", "second gradient"}


class _Checked(BaseException):
    """Leaves a training function at its first step; an ``except Exception`` of the user does not stop it."""


def check_first_step(function: TrainingFunction, contender: Contender) -> None:
    """Run a training function up to its first step, if a contender needs a closure there or the model before it.

    Args:
        function: The training function.
        contender: The contender.

    Raises:
        TaskError: If the contender needs a closure and the step gets none; the message names the line of the step.
        SettingError: If the contender needs the model and ``make_optimizer`` gets parameters; it names that line.
        RoutingError: If the role of a parameter is ambiguous.
    """
    needs_closure = bool(contender.needs & _NEEDED)
    if not (needs_closure or contender.routes):
        return

    def check(optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not needs_closure:
            raise _Checked
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
        try:
            task_at(function, contender.task_values({})).run(requests, lambda *values, **named: None)
        except (RoutingError, SettingError) as error:
            line = line_of_error(error)
            raise type(error)(f"{function.name}: {error}{f' (at {line})' if line else ''}") from error
