"""Split: each matrix that a parameter holds, stepped by itself.

    θ_t^(k) = as the inner rule says of θ_{t-1}^(k) and g_t^(k),        k = 1, ..., n

The blocks (k) are n equal groups of rows or of columns, or the slices of a stack of matrices.

Use: around rules for matrices: Q, K and V in one projection (3 blocks of rows), the gates of an LSTM (4), a grouped
convolution (its groups), or experts in one tensor (a stack). Blocks that are orthogonalized as one matrix do not
become orthogonal themselves.
Avoid: projections that mix blocks row by row, such as heads with q, k and v side by side.
Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon (Q, K and V are orthogonalized separately).
Departs: by rows, by columns or as a stack; the source has Q, K and V alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import SettingError
from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.hyper import count, switch
from thalweg.rules.core.matrix_requests import MatrixRequest, OperationGroup
from thalweg.rules.core.records import Record
from thalweg.rules.core.reductions import Request, RequestGenerator, resolve_reductions
from thalweg.rules.core.state import StateTensor
from thalweg.rules.core.traits import Traits


@dataclass(frozen=True, kw_only=True)
class Split(Wrapper, scope="tensor", supports_complex=False):
    """Each matrix that a parameter holds, stepped by itself.

    At most one of the settings may differ from its default.

    Args:
        inner: The rule that steps each block.
        row_blocks: The number of equal groups of rows, >= 1.
        column_blocks: The number of equal groups of columns, >= 1.
        stacked: True if the first dimension counts matrices.

    Raises:
        SettingError: If more than one setting differs from its default, or, when parameters are passed, if the blocks
            do not divide the dimension.

    Example:
        >>> import torch
        >>> from thalweg.rules import Muon, Split
        >>> Split(Muon(), row_blocks=3).init(torch.zeros(12, 4)).buffer.shape
        torch.Size([3, 4, 4])
    """

    row_blocks: int = count(1, ">= 1", symbol="n", doc="equal groups of rows")
    column_blocks: int = count(1, ">= 1", symbol="n", doc="equal groups of columns")
    stacked: bool = switch(False, doc="the first dimension counts matrices")

    @cached_property
    def traits(self) -> Traits:
        traits = super().traits
        if traits.max_dims is not None:
            traits = traits.with_(max_dims=traits.max_dims + self.stacked)
        # The blocks of a shard are not those of the parameter.
        is_split = self.row_blocks > 1 or self.column_blocks > 1 or self.stacked
        return traits.with_(supports_shards=traits.supports_shards and not is_split)

    def check_consistency(self) -> None:
        if (self.row_blocks > 1) + (self.column_blocks > 1) + self.stacked > 1:
            raise SettingError(
                f"{self.name}: at most one of row_blocks, column_blocks and stacked must differ from its default, got "
                f"row_blocks={self.row_blocks}, column_blocks={self.column_blocks}, stacked={self.stacked}. "
                "Leave two of them out."
            )

    def _blocks(self, whole: Tensor) -> tuple[Tensor, ...]:
        """Return the blocks of a tensor, as views."""
        if self.stacked:
            return whole.unbind()
        dim, num_blocks = (0, self.row_blocks) if self.column_blocks == 1 else (1, self.column_blocks)
        if num_blocks == 1:
            return (whole,)
        if whole.dim() <= dim or whole.shape[dim] % num_blocks:
            raise SettingError(
                f"{self.name}: {num_blocks} blocks must divide dimension {dim} of a parameter, got one of shape "
                f"{tuple(whole.shape)}. Give it a group of its own."
            )
        return whole.chunk(num_blocks, dim)

    def _join(self, blocks: list[Tensor]) -> Tensor:
        return torch.stack(blocks) if self.stacked else torch.cat(blocks, dim=0 if self.column_blocks == 1 else 1)

    def layout(self, shape: torch.Size) -> dict[str, StateTensor]:
        blocks = self._blocks(torch.empty(shape, device="meta"))
        layout = self.inner.layout(blocks[0].shape)
        if len(blocks) == 1 and not self.stacked:
            return layout

        def stacked(tensor: StateTensor) -> StateTensor:
            if tensor.shared:  # the blocks hold the same values, as all parameters do
                return tensor
            return replace(
                tensor,
                init=lambda rule, param: torch.stack(
                    [tensor.init(tensor.rule, block) for block in self._blocks(param)]
                ),
                shape_of=lambda rule, whole: torch.Size([len(blocks), *tensor.shape(blocks[0].shape)]),
            )

        return {name: stacked(tensor) for name, tensor in layout.items()}

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> RequestGenerator:
        return (yield from self._map(self.inner.direction, param, grad, state, c))

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> RequestGenerator:
        return (yield from self._map(self.inner.apply, param, direction, state, c))

    def update_curvature(self, state: Any, curvature: Tensor, c: Any) -> Record:
        blocks = self._blocks(curvature)
        if len(blocks) == 1 and not self.stacked:
            return self.inner.update_curvature(state, curvature, c)
        names = self._inner_names(state, blocks[0].shape)
        states = [
            self.inner.update_curvature(state_of_block(state, names, k), block, c) for k, block in enumerate(blocks)
        ]
        return self._with_block_states(state, names, states)

    def evaluation_point(self, param: Tensor, state: Any, c: Any) -> Tensor:
        blocks = self._blocks(param)
        if len(blocks) == 1 and not self.stacked:
            return self.inner.evaluation_point(param, state, c)
        names = self._inner_names(state, blocks[0].shape)
        return self._join(
            [self.inner.evaluation_point(block, state_of_block(state, names, k), c) for k, block in enumerate(blocks)]
        )

    def _inner_names(self, state: Any, shape: torch.Size) -> list[str]:
        """Return the names of the inner rule's state tensors that are split; those of wrappers around this are not."""
        layout = self.inner.layout(shape).items()
        return [name for name, tensor in layout if name in state._fields and not tensor.shared]

    def _map(self, function: Callable[..., Any], first: Tensor, second: Tensor, state: Any, c: Any) -> RequestGenerator:
        """Call a function for the blocks of two tensors, side by side, and join the results."""
        first_blocks, second_blocks = self._blocks(first), self._blocks(second)
        if len(first_blocks) == 1 and not self.stacked:
            return (yield from resolve_reductions(function(first, second, state, c)))
        names = self._inner_names(state, first_blocks[0].shape)
        pairs = enumerate(zip(first_blocks, second_blocks, strict=True))
        generators = [resolve_reductions(function(*blocks, state_of_block(state, names, k), c)) for k, blocks in pairs]
        results, states = zip(*(yield from in_lockstep(generators)), strict=True)
        return self._join(list(results)), self._with_block_states(state, names, states)

    def _with_block_states(self, state: Any, names: list[str], block_states: Sequence[Any]) -> Any:
        """Return a state with the results of all blocks; what is shared is the same in each of them."""
        return state._replace(
            **{
                name: torch.stack([getattr(block, name) for block in block_states])
                if name in names
                else getattr(block_states[0], name)
                for name in state._fields
            }
        )


def state_of_block(state: Any, names: list[str], k: int) -> Any:
    """Return the state with the tensors of these names replaced by their part for block k."""
    return state._replace(**{name: getattr(state, name)[k] for name in names})


def in_lockstep(generators: Sequence[RequestGenerator]) -> RequestGenerator:
    """Run the generators of several blocks side by side and return their results.

    What they reduce over the model is one request, for all blocks; so are operations on matrices.
    """
    results: list[Any] = [None] * len(generators)
    replies: dict[int, Any] = dict.fromkeys(range(len(generators)))
    while replies:
        requests: dict[int, Request] = {}
        for k, reply in replies.items():
            try:
                requests[k] = generators[k].send(reply)
            except StopIteration as stop:
                results[k] = stop.value
        replies = {}
        on_matrices = {k: request for k, request in requests.items() if isinstance(request, MatrixRequest)}
        reductions = {k: request for k, request in requests.items() if not isinstance(request, MatrixRequest)}
        over_model = {k: request for k, request in reductions.items() if request.over == "model"}
        if over_model:
            first = next(iter(over_model.values()))
            joined = torch.cat([request.tensor.flatten() for request in over_model.values()])
            replies = dict.fromkeys(over_model, (yield replace(first, tensor=joined)))
        if on_matrices:
            replies |= yield from _request_together(on_matrices)
        for k in reductions.keys() - over_model.keys():
            replies[k] = yield reductions[k]
    return results


def _request_together(requests: Mapping[int, MatrixRequest]) -> RequestGenerator:
    """Request the operations of all requests as one group; return the result of each request."""
    members = [operation for request in requests.values() for operation in request.operations]
    results = iter((yield OperationGroup(members)))
    return {k: request.result([next(results) for _ in request.operations]) for k, request in requests.items()}
