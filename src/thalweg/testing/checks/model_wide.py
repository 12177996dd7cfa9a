"""Checks of parameters that differ from the others, in rules that look at the whole model."""

from thalweg.testing.fixtures import RefusedError, SkippedError, Subject, set_gradients

_MAX_RATIO = 20.0
_NUM_STEPS = 20


def trains_a_late_parameter_like_the_others(subject: Subject) -> None:
    """A parameter that is unfrozen after 5 steps moves about as far as one that was never frozen.

    Known defect: a step size that is estimated for the model is estimated anew, from nothing, for the late parameter.
    """
    _compare_moves(_last_move(subject), _last_move(subject, late=True), "the late parameter")


def trains_groups_at_their_own_rates(subject: Subject) -> None:
    """A group at half the learning rate moves about half as far, or less. Known defect: it silently stays put."""
    _compare_moves(_last_move(subject), _last_move(subject, factor=0.5), "the group at half the lr")


def _last_move(subject: Subject, *, late: bool = False, factor: float = 1.0) -> float:
    """Return the distance that the last parameter moves in 20 steps. The others have the whole learning rate."""
    params = subject.params()
    optimizer = subject.optimizer([{"params": params[:-1]}, {"params": params[-1:]}])
    if "lr" not in optimizer.param_groups[1]:
        raise SkippedError("no lr in its groups")
    optimizer.param_groups[1]["lr"] = optimizer.param_groups[1]["lr"] * factor
    for step in range(5):
        set_gradients(params, step)
        if late:
            params[-1].grad = None
        try:
            subject.step(optimizer, params)
        except (ValueError, TypeError, RuntimeError) as error:
            if factor != 1 and "group" in str(error):
                raise RefusedError(str(error)) from error
            raise
    start = params[-1].detach().clone()
    for step in range(5, 5 + _NUM_STEPS):
        set_gradients(params, step)
        subject.step(optimizer, params)
    assert all(param.isfinite().all() for param in params), "parameters are not finite"
    return float((params[-1].detach() - start).norm())


def _compare_moves(usual: float, actual: float, description: str) -> None:
    assert usual / _MAX_RATIO <= actual <= usual * _MAX_RATIO, (
        f"{description} moves {actual:.3g} in {_NUM_STEPS} steps, and {usual:.3g} when treated as the others are"
    )
