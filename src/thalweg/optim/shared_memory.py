"""Shared memory: the state of an optimizer is created before the first step and shared between processes."""

from typing import Any, ClassVar

from torch import Tensor
from torch.nn.parameter import is_lazy

from thalweg.optim.captured.steps import CapturedSteps
from thalweg.optim.parameters.parameter_checks import can_be_trained
from thalweg.optim.state.state_entries import as_engine_tensor


class SharedMemory(CapturedSteps):
    """The part of `RuleOptimizer` that creates state without a step."""

    _has_state_from_start: ClassVar[bool] = False  # as torch's Adagrad

    def share_memory(self) -> None:
        """Move the state of all parameters into shared memory, so that several processes train with one state.

        The state is created first, where there is none. Then processes that are started with this optimizer, by fork
        or spawn, read and write the same moments and count the same steps, as with ``model.share_memory()`` the same
        parameters. Steps that processes take at the same moment are not synchronized.

        Call it after the parameters have their first values, since some rules keep a copy of them.

        Example:
            >>> import torch
            >>> from thalweg import optim
            >>> model = torch.nn.Linear(4, 1).share_memory()
            >>> optimizer = optim.Adam(model.parameters())
            >>> optimizer.share_memory()
            >>> all(entry.is_shared() for entry in optimizer.state[model.weight].values())
            True
        """
        for number in range(len(self.param_groups)):
            self._create_state(number)
        for record in self.state.values():
            for entry in record.values():
                if isinstance(entry, Tensor):
                    as_engine_tensor(entry).share_memory_()  # type: ignore[no-untyped-call]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, and its state if the optimizer has state before the first step."""
        super().add_param_group(param_group)
        if self._has_state_from_start:
            self._create_state(len(self.param_groups) - 1)

    def _create_state(self, number: int) -> None:
        """Create the state of all parameters of a group, as the first step would."""
        self._follow_state()
        params = [param for param in self._distinct(self.param_groups[number]["params"]) if _can_have_state(param)]
        if params:
            self._bind(number, params, self._program_for(number))
        self._discard_cache()


def _can_have_state(param: Tensor) -> bool:
    """Return True if a parameter has values now that an optimizer can change."""
    return not is_lazy(param) and not param.is_meta and can_be_trained(param)
