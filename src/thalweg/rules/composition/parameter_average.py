"""ParameterAverage: the base of wrappers that evaluate the model at an average of its parameters.

    θ_t by the inner rule
    a_t = k_t a_{t-1} + (1 - k_t) θ_t

t counts the steps of the optimizer, also those in which a parameter has no gradient. So the average moves on towards a
parameter that rests, as torch.optim.swa_utils.AveragedModel does. Nothing is computed while it rests: the product of
the missed k is a scalar, and with it the average catches up at the next step or evaluation.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.reductions import RequestGenerator, resolve_reductions
from thalweg.rules.core.rule import StepResult
from thalweg.rules.core.state import copy_of_param


@dataclass(frozen=True)
class ParameterAverage(Wrapper, recurrent_scalars={"model_steps": 0.0, "average_share": 1.0}, counts_missed_steps=True):
    """The base class of wrappers that average parameters. Abstract.

    A subclass defines :meth:`keep`. The recurrent scalar ``average_share`` is the product of the k of missed steps.
    """

    effects = frozenset({"averages parameters"})

    class State:
        average = copy_of_param(key="average")

    def keep(self, step: float) -> Any:
        """Return k, the weight of the old average in step number ``step`` of the optimizer, counted from 1."""
        raise NotImplementedError

    def next_recurrent_scalars(self, step: int, previous: Any) -> dict[str, float]:
        model_step = previous.model_steps + 1
        keep = self.keep(model_step)
        own = {
            "model_steps": model_step,
            "average_share": 1.0,
            "average_keep": keep,
            "average_fresh": 1 - keep,
            "average_kept": previous.average_share,
            "average_missed": 1 - previous.average_share,
        }
        return self.inner.next_recurrent_scalars(step, previous) | own

    def missed_recurrent_scalars(self, previous: Any) -> dict[str, float]:
        model_step = previous.model_steps + 1
        own = {"model_steps": model_step, "average_share": previous.average_share * self.keep(model_step)}
        return self.inner.missed_recurrent_scalars(previous) | own

    def gradient(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> StepResult:
        return grad, state._replace(average=self.evaluation_point(param, state, c))

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> RequestGenerator:
        param, state = yield from resolve_reductions(self.inner.apply(param, direction, state, c))
        return param, state._replace(average=c.average_keep * state.average + c.average_fresh * param)

    def evaluation_point(self, param: Tensor, state: Any, c: Any) -> Tensor:
        return c.average_kept * state.average + c.average_missed * param
