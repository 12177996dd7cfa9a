"""Split: a parameter taken apart into the matrices it holds, each of which the inner rule sees by itself.

    θ_t^(k) = as the inner rule says of θ_{t-1}^(k) and g_t^(k),        k = 1, ..., n

The blocks (k) are n equal stretches of rows or of columns, or the slices of a stack of matrices.

Use: around rules of matrices: Q, K and V in one projection (3 blocks of rows), the gates of an LSTM (4), a grouped
convolution (its groups), or experts in one tensor (a stack). A matrix made orthogonal together with others is not.
Avoid: projections that mix blocks row by row, as heads with q, k and v side by side.
Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon (Q, K and V are made orthogonal separately).
Departs: by rows, by columns or as a stack; the source says it of Q, K and V alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import SettingError
from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.hyper import count, switch
from thalweg.rules.core.reductions import ReductionGenerator, resolve_reductions
from thalweg.rules.core.state import StateTensor
from thalweg.rules.core.traits import Traits


@dataclass(frozen=True, kw_only=True)
class Split(Wrapper, scope="tensor", supports_complex=False):
    """A parameter taken apart into the matrices it holds, each of which the inner rule sees by itself."""

    row_blocks: int = count(1, ">= 1", symbol="n", doc="equal stretches of rows")
    column_blocks: int = count(1, ">= 1", symbol="n", doc="equal stretches of columns")
    stacked: bool = switch(False, doc="the first dimension counts matrices")

    @cached_property
    def traits(self) -> Traits:
        traits = super().traits
        return traits if traits.max_dims is None else replace(traits, max_dims=traits.max_dims + self.stacked)

    def check_together(self) -> None:
        if (self.row_blocks > 1) + (self.column_blocks > 1) + self.stacked > 1:
            raise SettingError(
                f"{self.name}: one of row_blocks, column_blocks and stacked must say how to split, got "
                f"row_blocks={self.row_blocks}, column_blocks={self.column_blocks}, stacked={self.stacked}."
            )

    def _pieces(self, whole: Tensor) -> tuple[Tensor, ...]:
        """The blocks, as views."""
        if self.stacked:
            return whole.unbind()
        dim, blocks = (0, self.row_blocks) if self.column_blocks == 1 else (1, self.column_blocks)
        if blocks == 1:
            return (whole,)
        if whole.dim() <= dim or whole.shape[dim] % blocks:
            raise SettingError(
                f"{self.name}: {blocks} blocks must divide dimension {dim} of a parameter, got one of shape "
                f"{tuple(whole.shape)}. Give it a group of its own."
            )
        return whole.chunk(blocks, dim)

    def _together(self, pieces: list[Tensor]) -> Tensor:
        return torch.stack(pieces) if self.stacked else torch.cat(pieces, dim=0 if self.column_blocks == 1 else 1)

    def layout(self, shape: torch.Size) -> dict[str, StateTensor]:
        pieces = self._pieces(torch.empty(shape, device="meta"))
        inner = self.inner.layout(pieces[0].shape)
        if len(pieces) == 1 and not self.stacked:
            return inner

        def of_all(leaf: StateTensor) -> StateTensor:
            return replace(
                leaf,
                first=lambda rule, param: torch.stack([leaf.first(leaf.rule, one) for one in self._pieces(param)]),
                shaped=lambda rule, whole: torch.Size([len(pieces), *leaf.shape(pieces[0].shape)]),
            )

        return {name: of_all(leaf) for name, leaf in inner.items()}

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> ReductionGenerator:
        return (yield from self._each(self.inner.direction, param, grad, state, c))

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> ReductionGenerator:
        return (yield from self._each(self.inner.apply, param, direction, state, c))

    def update_curvature(self, state: Any, curvature: Tensor, c: Any) -> Any:
        pieces = self._pieces(curvature)
        if len(pieces) == 1 and not self.stacked:
            return self.inner.update_curvature(state, curvature, c)
        own = self._own(state, pieces[0].shape)
        states = [self.inner.update_curvature(of_block(state, own, k), one, c) for k, one in enumerate(pieces)]
        return state._replace(**{name: torch.stack([getattr(each, name) for each in states]) for name in own})

    def evaluation_point(self, param: Tensor, state: Any, c: Any) -> Tensor:
        pieces = self._pieces(param)
        if len(pieces) == 1 and not self.stacked:
            return self.inner.evaluation_point(param, state, c)
        own = self._own(state, pieces[0].shape)
        return self._together(
            [self.inner.evaluation_point(one, of_block(state, own, k), c) for k, one in enumerate(pieces)]
        )

    def _own(self, state: Any, shape: torch.Size) -> list[str]:
        """What the inner rule remembers; what wrappers around this one do is none of the blocks' business."""
        return [name for name in self.inner.layout(shape) if name in state._fields]

    def _each(self, do: Callable[..., Any], param: Tensor, other: Tensor, state: Any, c: Any) -> ReductionGenerator:
        """What is done to each block, put together again. The blocks ask for reductions together."""
        params, others = self._pieces(param), self._pieces(other)
        if len(params) == 1 and not self.stacked:
            return (yield from resolve_reductions(do(param, other, state, c)))
        own = self._own(state, params[0].shape)
        pairs = enumerate(zip(params, others, strict=True))
        asking = [resolve_reductions(do(one, its, of_block(state, own, k), c)) for k, (one, its) in pairs]
        results, states = zip(*(yield from in_lockstep(asking)), strict=True)
        kept = {name: torch.stack([getattr(each, name) for each in states]) for name in own}
        return self._together(list(results)), state._replace(**kept)


def of_block(state: Any, names: list[str], k: int) -> Any:
    """The part of the state that is block k's."""
    return state._replace(**{name: getattr(state, name)[k] for name in names})


def in_lockstep(asking: Sequence[ReductionGenerator]) -> ReductionGenerator:
    """Run the blocks' generators side by side; what all ask over the model is asked once, for all of them."""
    results: list[Any] = [None] * len(asking)
    answers: dict[int, Any] = dict.fromkeys(range(len(asking)))
    while answers:
        requests = {}
        for k, answer in answers.items():
            try:
                requests[k] = asking[k].send(answer)
            except StopIteration as stop:
                results[k] = stop.value
        answers = {}
        together = {k: request for k, request in requests.items() if request.over == "model"}
        if together:
            first = next(iter(together.values()))
            whole = torch.cat([request.of.flatten() for request in together.values()])
            answers = dict.fromkeys(together, (yield replace(first, of=whole)))
        for k in requests.keys() - together.keys():
            answers[k] = yield requests[k]
    return results
