"""Entrants: the contenders of a comparison as they are trained on a workload."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.named import DEFAULT
from thalweg.comparison.contenders.parsing import resolve, with_user_settings
from thalweg.comparison.training.workload import Workload
from thalweg.errors import SettingError
from thalweg.rules import Rule
from thalweg.tasks.tunable import fix


def entrants_of(
    workload: Workload,
    contenders: Iterable[str | Rule | Contender | Callable[..., Any]] | None,
    *,
    control: bool = False,
    fixed: Mapping[str, float] | None = None,
    start: Sequence[str] = (),
) -> list[Contender]:
    """Return the contenders that take part, as they are trained on this workload.

    Args:
        workload: The task or training function.
        contenders: The contenders as the user names them; None for the default ones.
        control: True to enter the first contender twice.
        fixed: Values of numbers of the task that are not tuned.
        start: Settings that enter the search first, such as ``"adamw:lr=3e-4"``.

    Raises:
        UnknownNameError: If no optimizer has a name, or none takes part under a name of ``start``.
        KeywordError: If a contender has no setting of a name.
        SettingError: If a setting is out of its bounds, or two settings have the same name.
    """
    entrants = resolve(DEFAULT) if contenders is None else resolve(contenders)
    if contenders is None and not workload.has_full_batch:
        entrants = [contender for contender in entrants if not contender.full_batch]
    for contender in entrants:
        contender.warn_of_settings()
    if control:
        entrants.append(replace(entrants[0], name=f"{entrants[0].name} (control)"))
    if workload.optimum is not None:
        entrants = [contender.keeping_the_optimum() for contender in entrants]
    tunables, code = fix(workload.tunables, fixed or {}, workload.name), tuple(workload.code_of_tunables)
    for contender in entrants:
        for name in tunables.keys() & contender.rule.hypers().keys():
            raise SettingError(
                f"{workload.name}: a tuned number must not have the name of a setting of an optimizer, but {name} is "
                f"one of {contender.name}. Rename the argument, or leave it out: each contender tunes its own {name}."
            )
    entrants = [replace(contender, task_settings=tunables, task_code=code) for contender in entrants]
    return with_user_settings(entrants, start)


def with_optimizer_names(
    workload: Workload, contenders: Sequence[Contender], names: Sequence[str] | None, seed: int, schedule: str | None
) -> list[Contender]:
    """Return contenders that have settings for each optimizer of a training.

    Args:
        workload: The task or training function.
        contenders: The contenders, at least one.
        names: The names of the optimizers, from a stored comparison; None to ask the workload.
        seed: Seed of a training up to its first step.
        schedule: Name of the learning rate schedule if the user chose one, else None. ``"none"`` is no schedule that a
            training function must follow: it also stands in the declaration of optimizers that need none.

    Raises:
        TaskError: If a training function fails before its first step, or has its own schedule and must not.
    """
    if names is None:
        chosen = [name for name in (schedule, *(each.schedule for each in contenders)) if name not in (None, "none")]
        names = workload.optimizer_names(contenders[0], seed, next(iter(chosen), None))
    return [contender.for_optimizers(tuple(names)) for contender in contenders]
