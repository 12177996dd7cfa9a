"""Published optimizers whose steps are near orthogonal, transcribed from their papers.

Notation as in `matrices`.
"""

import math
from typing import ClassVar

import torch

from cases.references.matrices import frobenius, matrix, require_matrix
from cases.references.transcription import Transcription, decay, zeros

# Amsel et al. 2025, arXiv:2505.16932, Implementation 1: hard-coded polynomials; a safety factor for all but the last,
# which is repeated.
PUBLISHED = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
POLAR_EXPRESS = (*((a / 1.01, b / 1.01**3, c / 1.01**5) for a, b, c in PUBLISHED[:-1]), PUBLISHED[-1])


def newton_schulz(
    tensor, steps, coefficients=(3.4445, -4.7750, 2.0315), eps=1e-7, polynomials="jordan", products="auto"
):
    """Jordan 2024, "Muon": a quintic iteration which takes all singular values of a matrix near to 1.

    With polynomials "polar-express" that of Amsel et al. 2025, Algorithm 1, one polynomial a step, from the same norm.
    """
    tall = tensor.shape[0] > tensor.shape[1]
    x = tensor.T if tall else tensor
    x = x / max(frobenius(x), eps)  # as torch.optim.Muon; the blog adds it
    x = x if products == "auto" else x.to(getattr(torch, products))
    for step in range(steps):
        a, b, c = coefficients if polynomials == "jordan" else POLAR_EXPRESS[min(step, len(POLAR_EXPRESS) - 1)]
        square = x @ x.T
        x = a * x + b * square @ x + c * square @ square @ x
    x = x.to(tensor.dtype)
    return x.T if tall else x


class Muon(Transcription):
    """Jordan et al. 2024, kellerjordan.github.io/posts/muon, with the scales that torch.optim.Muon offers."""

    defaults = {  # noqa: RUF012
        "lr": 1e-3,
        "weight_decay": 0.1,
        "momentum": 0.95,
        "nesterov": True,
        "ns_coefficients": (3.4445, -4.775, 2.0315),
        "eps": 1e-7,
        "ns_steps": 5,
        "adjust_lr_fn": "original",
        "polynomials": "jordan",
        "products": "auto",
    }

    def start(self, param, group):
        require_matrix(param)
        return zeros(param, "m")

    def update(self, param, grad, memory, step, group):
        mu = group["momentum"]
        memory["m"] = mu * memory["m"] + (1 - mu) * grad
        ahead = (1 - mu) * grad + mu * memory["m"] if group["nesterov"] else memory["m"]
        flat = ahead.reshape(ahead.shape[0], -1)
        rows, columns = flat.shape
        step_along = newton_schulz(
            flat,
            group["ns_steps"],
            group["ns_coefficients"],
            group["eps"],
            group["polynomials"],
            group["products"],
        )
        if group["adjust_lr_fn"] == "original":
            scale = math.sqrt(max(1.0, rows / columns))
        else:
            scale = 0.2 * math.sqrt(max(rows, columns))
        decay(param, group)
        param -= group["lr"] * scale * step_along.reshape(param.shape)


class NorMuon(Transcription):
    """Li et al. 2025, arXiv:2510.05491, Algorithm 1, with the Nesterov input of the authors' code; for matrices only.

    A zero O makes no step but the decay.
    """

    defaults: ClassVar = {
        "lr": 0.02,
        "momentum": 0.95,
        "beta2": 0.95,
        "nesterov": True,
        "ns_steps": 5,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "polynomials": "jordan",
        "products": "auto",
    }

    def start(self, param, group):
        require_matrix(param)
        return {**zeros(param, "m"), "v": param.new_zeros(param.shape[0])}

    def update(self, param, grad, memory, step, group):
        mu, beta2 = group["momentum"], group["beta2"]
        memory["m"] = mu * memory["m"] + (1 - mu) * grad
        ahead = (1 - mu) * grad + mu * memory["m"] if group["nesterov"] else memory["m"]
        o = newton_schulz(
            matrix(ahead), group["ns_steps"], polynomials=group["polynomials"], products=group["products"]
        )
        rows, columns = o.shape
        memory["v"] = beta2 * memory["v"] + (1 - beta2) * (o**2).mean(dim=1)
        hat = o / (torch.sqrt(memory["v"])[:, None] + group["eps"])
        decay(param, group)
        if frobenius(hat) > 0:
            rate = 0.2 * group["lr"] * math.sqrt(rows * columns) / frobenius(hat)
            param.sub_(rate * hat.reshape(param.shape))


class Scion(Transcription):
    """Pethick et al. 2025, arXiv:2502.07529, SCG (constrained) and uSCG (unconstrained); 1 - `momentum` is its α.

    The norm balls: for matrices the spectral one with max(1, √(m/n)), for fewer dimensions the sign.
    """

    defaults: ClassVar = {
        "lr": 3e-4,
        "momentum": 0.9,
        "radius": 50.0,
        "constrained": True,
        "ns_steps": 5,
        "polynomials": "jordan",
        "products": "auto",
    }

    def start(self, param, group):
        return zeros(param, "d")

    def update(self, param, grad, memory, step, group):
        mu, lr = group["momentum"], group["lr"]
        d = memory["d"] = mu * memory["d"] + (1 - mu) * grad
        if param.dim() >= 2:
            rows, columns = matrix(d).shape
            scale = math.sqrt(max(1.0, rows / columns))
            part = newton_schulz(
                matrix(d), group["ns_steps"], polynomials=group["polynomials"], products=group["products"]
            )
            direction = scale * part.reshape(param.shape)
        else:
            direction = torch.sign(d)
        if group["constrained"]:
            param.copy_((1 - lr) * param - lr * group["radius"] * direction)
        else:
            param.copy_(param - lr * group["radius"] * direction)


class Dion(Transcription):
    """Ahn et al. 2025, arXiv:2504.05295, Algorithm 1 (centralized), with decoupled decay; for matrices only.

    Q starts as the first columns of the identity (the paper draws it). The rank is Python's `round`, halves to even.
    The diagonal of R in the QR decomposition is made positive, though no step depends on it. A zero B leaves Q as it
    is and makes no step but the decay, as in the authors' code: otherwise Q would be 0 for ever after.
    """

    defaults: ClassVar = {"lr": 0.01, "momentum": 0.95, "rank_fraction": 0.25, "eps": 1e-8, "weight_decay": 0.01}

    def start(self, param, group):
        require_matrix(param)
        rows, columns = matrix(param).shape
        rank = max(1, round(group["rank_fraction"] * min(rows, columns)))
        right = torch.eye(columns, dtype=param.dtype, device=param.device)[:, :rank]
        return {"momentum": torch.zeros_like(matrix(param)), "Q": right}

    @staticmethod
    def orthonormalize(columns):
        """Return the Q of the QR decomposition with a positive diagonal of R."""
        left, right = torch.linalg.qr(columns)
        signs = torch.where(torch.diagonal(right) < 0, -1.0, 1.0).to(left.dtype)
        return left * signs

    def update(self, param, grad, memory, step, group):
        decay(param, group)
        b = memory["momentum"] + matrix(grad)
        if frobenius(b) == 0:
            return
        p = self.orthonormalize(b @ memory["Q"])
        r = b.T @ p
        memory["momentum"] = b - (1 - group["momentum"]) * p @ r.T
        memory["Q"] = r / (torch.sqrt((r**2).sum(dim=0)) + group["eps"])
        rows, columns = b.shape
        update = math.sqrt(rows / columns) * p @ memory["Q"].T
        param.sub_(group["lr"] * update.reshape(param.shape))
