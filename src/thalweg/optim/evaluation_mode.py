"""Evaluation mode: parameters that hold the values at which the model is evaluated, and then their own again.

While an optimizer evaluates, the state of each parameter holds the value that is trained under ``train_param``. So a
checkpoint, a copy or a pickle that is made meanwhile continues as if there had been no evaluation.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.core.plain_tensors import write_count
from thalweg.errors import ParameterError
from thalweg.optim.checkpoints import TRAIN_PARAM
from thalweg.optim.shared_memory import SharedMemory
from thalweg.optim.state.state_entries import as_engine_tensor


@dataclass
class Mode:
    """The values that the parameters hold. Wrappers that forward attributes (Lightning's) share the object.

    Attributes:
        evaluating: The parameters hold the values for evaluation.
        perturbed: The parameters hold the values at which a second gradient is computed.
        has_second_gradients: The gradients are those at the perturbed parameters.
        size_of_second_gradients: The sum of their absolute values when they were computed.
        write_counts: The parameters that ``eval`` has written, and how often each was written to by then. Empty after a
            checkpoint was loaded: the model may be loaded before it or after it.
    """

    evaluating: bool = False
    perturbed: bool = False
    has_second_gradients: bool = False
    size_of_second_gradients: Tensor | None = None
    write_counts: Sequence[tuple[Tensor, int]] = ()


class EvaluationMode(SharedMemory):
    """The half of `RuleOptimizer` that moves parameters to where the model is evaluated, and back."""

    _mode: Mode

    @torch.no_grad()
    def eval(self) -> None:
        """Give the parameters the values at which the model is to be evaluated.

        Schedule-Free rules and averages evaluate the model at other values than they train it at. For all other rules
        this does nothing, so a training loop may always call it, as often as it likes and in any order with ``train``.
        """
        if self._mode.evaluating or not self.rule.traits.has_eval_params:
            return
        self._check_training("be evaluated")
        self._drop_gathered_copies()
        points = self._evaluation_points()
        params = dict.fromkeys(p for group in self.param_groups for p in group["params"] if self.state.get(p))
        for param in params:  # all before the first is written: parameters may share memory
            self.state[param][TRAIN_PARAM] = param.detach().clone()
        for param, value in points:
            param.copy_(value)
        self._mode.evaluating = True
        self._mode.write_counts = [(param, write_count(param)) for param in params]

    def train(self) -> None:
        """Give the parameters the values again that they are trained at. Does nothing if they have them.

        Raises:
            ParameterError: If other code has changed the parameters since ``eval``, at the first call only.
        """
        if self._mode.evaluating:
            self._drop_gathered_copies()
            self._restore()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Return a context in which the parameters have the values at which the model is to be evaluated.

        Example:
            >>> import torch
            >>> from thalweg import optim
            >>> model = torch.nn.Linear(4, 1)
            >>> optimizer = optim.ScheduleFreeAdamW(model.parameters())
            >>> with optimizer.evaluating():
            ...     prediction = model(torch.ones(1, 4))
        """
        outermost = not self._mode.evaluating
        try:
            self.eval()
            yield
        finally:
            if outermost:
                self.train()

    def _evaluation_points(self) -> list[tuple[Tensor, Tensor]]:
        """Return each parameter that has taken a step, as the engine runs it, with its value for evaluation."""
        self._follow_state()
        points = []
        for number, group in enumerate(self.param_groups):
            program_for = self._program_for(number, ahead=0, fresh=True)
            params = [param for param in self._distinct(group["params"]) if self.state.get(param)]
            for binding, _ in self._bind(number, params, program_for):
                points += binding.evaluation_points(program_for(binding.dtype))
        return points

    @torch.no_grad()
    def _restore(self) -> None:
        """Write the trained values back, unless other code has changed the parameters."""
        records = [(param, record) for param, record in self.state.items() if TRAIN_PARAM in record]
        for param, record in records:
            if param.shape != record[TRAIN_PARAM].shape:
                raise ParameterError(
                    f"{self._who}: parameters must keep their shapes between eval() and train(), got "
                    f"{tuple(param.shape)} in place of {tuple(record[TRAIN_PARAM].shape)}. Make a new optimizer."
                )
        written = [param for param, count in self._mode.write_counts if write_count(param) != count]
        self._mode.write_counts = ()
        if written and not self._are_evaluation_points(records, written):
            raise ParameterError(
                f"{self._who}: parameters must not be changed between eval() and train(), which restores their values, "
                "got some that were. To train on from the new values, make a new optimizer. To go back to the values "
                "from before eval(), call train() again."
            )
        for param, record in records:
            param.copy_(record.pop(TRAIN_PARAM))
        self._mode.evaluating = False

    def _are_evaluation_points(self, records: Sequence[tuple[Tensor, dict[str, Any]]], params: list[Tensor]) -> bool:
        """Return True if `params` have their values for evaluation, computed anew.

        Other code may have written the same values, as ``model.load_state_dict`` does. After a move to another device
        or dtype this cannot be told, and counts as True. No parameter is changed.
        """
        values = [param.detach().clone() for param in params]
        if any((record[TRAIN_PARAM].dtype, record[TRAIN_PARAM].device) != (p.dtype, p.device) for p, record in records):
            return True
        for param, record in records:
            param.copy_(record[TRAIN_PARAM])
        for param, value in self._evaluation_points():
            param.copy_(value)
        same = all(map(_equal, params, values))
        for param, value in zip(params, values, strict=True):
            param.copy_(value)
        return same

    @torch.no_grad()
    def _end_evaluation(self, *, stay: bool) -> None:
        """Make ready for a checkpoint that replaces the state.

        Args:
            stay: True if the checkpoint was saved in an evaluation. Otherwise the trained values are written back.
                Parameters that were written to since ``eval`` keep their values: the model was loaded first.
        """
        for param, count in () if stay else self._mode.write_counts:
            if write_count(param) == count and TRAIN_PARAM in self.state.get(param, ()):
                param.copy_(self.state[param][TRAIN_PARAM])
        self._mode.write_counts = ()

    def _check_training(self, purpose: str) -> None:
        if self._mode.evaluating:
            raise ParameterError(
                f"{self._who}: parameters must be those of training to {purpose}, got those of evaluation. "
                "Call optimizer.train() first."
            )
        if self._mode.perturbed:
            raise ParameterError(
                f"{self._who}: parameters must be those of training to {purpose}, got perturbed ones. "
                "End the block `with optimizer.perturbed():` first."
            )

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_mode": Mode(evaluating=self._mode.evaluating)}


def _equal(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(as_engine_tensor(a), as_engine_tensor(b), rtol=0, atol=0, equal_nan=True)
