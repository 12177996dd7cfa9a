"""Split: a parameter taken apart into the matrices it holds, each of which the inner rule sees by itself.

    θ_t^(k) = as the inner rule says of θ_{t-1}^(k) and g_t^(k),        k = 1, ..., n

The blocks (k) are n equal stretches of rows or of columns, or the slices of a stack of matrices.

Use: around rules of matrices: Q, K and V in one projection (3 blocks of rows), the gates of an LSTM (4), a grouped
convolution (its groups), or experts in one tensor (a stack). A matrix made orthogonal together with others is not.
Avoid: projections that mix blocks row by row, as heads with q, k and v side by side.
Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon (Q, K and V are made orthogonal separately).
Departs: by rows, by columns or as a stack; the source says it of Q, K and V alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import SettingError
from thalweg.rules.base.hyper import count, switch
from thalweg.rules.base.reductions import Asking
from thalweg.rules.base.rule import Leaf, steps
from thalweg.rules.base.wrapper import Wrapper


@dataclass(frozen=True, kw_only=True)
class Split(Wrapper, scope="tensor"):
    """A parameter taken apart into the matrices it holds, each of which the inner rule sees by itself."""

    row_blocks: int = count(1, ">= 1", symbol="n", doc="equal stretches of rows")
    column_blocks: int = count(1, ">= 1", symbol="n", doc="equal stretches of columns")
    stacked: bool = switch(False, doc="the first dimension counts matrices")

    own_takes_complex = False

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

    def layout(self, shape: torch.Size) -> dict[str, Leaf]:
        pieces = self._pieces(torch.empty(shape, device="meta"))
        inner = self.inner.layout(pieces[0].shape)
        if len(pieces) == 1 and not self.stacked:
            return inner

        def of_all(leaf: Leaf) -> Leaf:
            return replace(
                leaf,
                first=lambda rule, param: torch.stack([leaf.first(leaf.rule, one) for one in self._pieces(param)]),
                shaped=lambda rule, whole: torch.Size([len(pieces), *leaf.shape(pieces[0].shape)]),
            )

        return {name: of_all(leaf) for name, leaf in inner.items()}

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Asking:
        return (yield from self._each(self.inner.direction, param, grad, state, c))

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> Asking:
        return (yield from self._each(self.inner.apply, param, direction, state, c))

    def _each(self, do: Callable[..., Any], param: Tensor, other: Tensor, state: Any, c: Any) -> Asking:
        """What is done to each block, put together again."""
        params, others = self._pieces(param), self._pieces(other)
        if len(params) == 1 and not self.stacked:
            return (yield from steps(do(param, other, state, c)))
        done = []
        for k, (one, its) in enumerate(zip(params, others, strict=True)):
            own = type(state)(*(leaf[k] for leaf in state))
            done.append((yield from steps(do(one, its, own, c))))
        results, states = zip(*done, strict=True)
        return self._together(list(results)), type(state)(*map(torch.stack, zip(*states, strict=True)))
