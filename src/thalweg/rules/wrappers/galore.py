"""GaLore: the inner rule applied to a low-rank projection of each matrix's gradient, so that its state is small.

    P_t = the r leading singular vectors of g_t, of the shorter side, computed again every T steps
    g_t ← P_tᵀ g_t, or g_t P_t where there are more rows than columns
    d_t = α × the inner rule's direction, projected back by P_t        θ_t by the inner rule, with this d_t

Below two dimensions the inner rule runs without a projection.

Use: fine-tuning and pre-training of language models whose optimizer state does not fit into memory, around Adam or
AdamW.
Avoid: models whose state fits into memory: the singular vectors cost as much time as many steps.
Source: Zhao et al. 2024, arXiv:2403.03507, Algorithm 2.
Departs: g_t P_t if rows and columns are equal in number, as in the authors' code. The moments do not change when P
changes. The largest element of each singular vector is positive.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import SettingError
from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.hyper import Scalar, count, hyper
from thalweg.rules.core.reductions import RequestGenerator, resolve_reductions
from thalweg.rules.core.state import StateTensor, of_shape
from thalweg.rules.math.matrices import as_matrix, has_nonfinite, matrix_shape


def _is_matrix(rule: Any, shape: torch.Size) -> bool:
    return len(shape) > 1


def _projector_shape(rule: Any, shape: torch.Size) -> torch.Size:
    return torch.Size([min(matrix_shape(shape)), min(rule.rank, *matrix_shape(shape))])


@dataclass(frozen=True, kw_only=True)
class GaLore(Wrapper, scope="matrix", supports_vmap=False, supports_complex=False):
    """The inner rule applied to a low-rank projection of each matrix's gradient, so that its state is small."""

    rank: int = count(4, ">= 1", symbol="r", doc="rank of the projection")
    update_gap: int = count(200, ">= 1", symbol="T", doc="steps between two updates of the projection")
    scale: Scalar = hyper(0.25, "> 0", symbol="α", doc="scale of the step")

    effects = frozenset({"substitutes parameters"})

    class State:
        projector = of_shape(_projector_shape, unit="1", key="projector", when=_is_matrix)

    def check_consistency(self) -> None:
        if self.inner.traits.scope != "elementwise":
            raise SettingError(
                f"GaLore: the inner rule must be elementwise, got {self.inner.name}. Wrap Adam, for example."
            )
        # An estimate of the curvature has the shape of the parameter; the state of the inner rule is smaller.
        if self.inner.traits.needs == "curvature":
            raise SettingError(
                f"GaLore: the inner rule must not need curvature, got {self.inner.name}. Wrap Adam, for example."
            )

    def layout(self, shape: torch.Size) -> dict[str, StateTensor]:
        layout = super().layout(shape)
        if len(shape) < 2:
            return layout
        return {name: tensor if name == "projector" else self._projected(tensor) for name, tensor in layout.items()}

    def _projected(self, tensor: StateTensor) -> StateTensor:
        """Return a state tensor of the inner rule, for a parameter of the projected shape."""
        return replace(
            tensor,
            init=lambda rule, param: tensor.init(rule, param.new_zeros(self._projected_shape(param.shape))),
            shape_of=lambda rule, shape: tensor.shape_of(rule, self._projected_shape(shape)),
        )

    def _projected_shape(self, shape: torch.Size) -> torch.Size:
        rows, columns = matrix_shape(shape)
        rank = min(self.rank, rows, columns)
        return torch.Size([rows, rank] if rows >= columns else [rank, columns])

    def own_coefficients(self, step: int) -> dict[str, Any]:
        return {"updates_projector": float((step - 1) % self.update_gap == 0), "scale": self.scale}

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> RequestGenerator:
        if param.dim() < 2:
            return (yield from resolve_reductions(self.inner.direction(param, grad, state, c)))
        matrix = as_matrix(grad)
        tall = matrix.shape[0] >= matrix.shape[1]
        projector = _leading_singular_vectors(matrix, self.rank, right=tall) if c.updates_projector else state.projector

        def project(full: Tensor) -> Tensor:
            return full @ projector if tall else projector.mT @ full

        d, state = yield from resolve_reductions(
            self.inner.direction(project(as_matrix(param)), project(matrix), state, c)
        )
        step = d @ projector.mT if tall else projector @ d
        return c.scale * step.reshape(param.shape), state._replace(projector=projector)


def _leading_singular_vectors(matrix: Tensor, rank: int, *, right: bool) -> Tensor:
    """Return the leading singular vectors as columns, the largest element of each positive; NaN if not finite."""
    is_invalid = has_nonfinite(matrix)
    left_vectors, _, right_vectors = torch.linalg.svd(matrix.double().masked_fill(is_invalid, 0.0), full_matrices=False)
    vectors = (right_vectors.mT if right else left_vectors)[:, :rank]
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return torch.where(largest < 0, -vectors, vectors).masked_fill(is_invalid, torch.nan).to(matrix.dtype)
