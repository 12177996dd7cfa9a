"""Published optimizers that treat a parameter as a matrix or a tensor, transcribed from their papers.

In comments η is the learning rate, λ the weight decay, θ the parameter, g its gradient and t the step, from 1.
An optimizer for matrices takes more dimensions than two as (first, rest); m × n is the shape of the matrix.
"""

import math
from typing import ClassVar

import torch

from cases.references.transcription import Transcription, decay, penalized, zeros
from cases.references.wrapping import standard_normal


def matrix(tensor):
    """Return a tensor as a matrix of shape (first dimension, product of the others)."""
    return tensor.reshape(tensor.shape[0], -1)


def require_matrix(param):
    """Raise ValueError for a parameter that the paper does not treat."""
    if param.dim() < 2:
        raise ValueError(f"this optimizer is for matrices, not for a tensor of {param.dim()} dimensions")


def frobenius(tensor):
    """Return the root of the sum of squares."""
    return math.sqrt((tensor**2).sum().item())


def contract(tensor, dim):
    """Return the contraction of a tensor with itself over all dimensions but one."""
    slices = [tensor.select(dim, index) for index in range(tensor.shape[dim])]
    return torch.stack([torch.stack([(first * second).sum() for second in slices]) for first in slices])


def mode_product(tensor, factor, dim):
    """Multiply a tensor by a matrix along one dimension: Σ_j factor[i, j] tensor[.., j, ..]."""
    slices = [tensor.select(dim, index) for index in range(tensor.shape[dim])]
    rows = [sum(factor[i, j] * part for j, part in enumerate(slices)) for i in range(factor.shape[0])]
    return torch.stack(rows, dim=dim)


class Shampoo(Transcription):
    """Gupta, Koren & Singer 2018, arXiv:1802.09568, Algorithm 2, with momentum and an L2 penalty.

    A parameter without dimensions counts as one dimension of size 1. A dimension beyond `max_dim` is not scaled, and
    the others' exponents are those of a tensor without it (Anil et al. 2020, arXiv:2002.09018). With tracked roots the
    eigenvectors are those of the first root, each time one power iteration and a QR decomposition further, in falling
    order of the eigenvalues that they had before; the eigenvalues are the diagonal in their basis.
    """

    defaults: ClassVar = {
        "lr": 0.1,
        "momentum": 0.0,
        "eps": 1e-4,
        "update_every": 1,
        "max_dim": 8192,
        "roots": "exact",
        "weight_decay": 0.0,
    }

    def start(self, param, group):
        sizes = param.shape if param.dim() > 0 else (1,)
        scaled = [dim for dim, size in enumerate(sizes) if size <= group["max_dim"]]
        accumulators = {dim: group["eps"] * torch.eye(sizes[dim], dtype=param.dtype) for dim in scaled}
        return {**zeros(param, "b"), "accumulators": accumulators, "roots": {}, "vectors": {}}

    @staticmethod
    def power(symmetric, exponent):
        """Return a real power of a symmetric positive definite matrix."""
        values, vectors = torch.linalg.eigh(symmetric)
        return vectors @ torch.diag(values**exponent) @ vectors.T

    @staticmethod
    def update_vectors(memory, dim):
        """Update the eigenvectors of a dimension and return the eigenvalues in their basis."""
        symmetric = memory["accumulators"][dim]
        vectors = memory["vectors"].get(dim)
        if vectors is None:
            vectors = torch.linalg.eigh(symmetric).eigenvectors
        else:
            order = torch.argsort(torch.diagonal(vectors.T @ symmetric @ vectors), descending=True)
            vectors = torch.linalg.qr(symmetric @ vectors[:, order]).Q
        memory["vectors"][dim] = vectors
        return torch.diagonal(vectors.T @ symmetric @ vectors)

    def update(self, param, grad, memory, step, group):
        g = penalized(param, grad, group)
        g = g if g.dim() > 0 else g.reshape(1)
        update = g
        exponent = -1 / (2 * max(1, len(memory["accumulators"])))
        for dim in memory["accumulators"]:
            memory["accumulators"][dim] = memory["accumulators"][dim] + contract(g, dim)
            if (step - 1) % group["update_every"] == 0:
                if group["roots"] == "tracked":
                    values = self.update_vectors(memory, dim)
                    vectors = memory["vectors"][dim]
                    memory["roots"][dim] = vectors @ torch.diag(values**exponent) @ vectors.T
                else:
                    memory["roots"][dim] = self.power(memory["accumulators"][dim], exponent)
            update = mode_product(update, memory["roots"][dim], dim)
        memory["b"] = group["momentum"] * memory["b"] + update.reshape(param.shape)
        param.sub_(group["lr"] * memory["b"])


class SOAP(Transcription):
    """Vyas et al. 2024, arXiv:2409.11321, Algorithm 3, as in the authors' code (github.com/nikhilvyas/SOAP).

    That code keeps m in the eigenbasis and turns it back and into the new basis at each change, which is the same as
    the unrotated m of the paper, kept here; v stays where it is, reordered like the columns of the basis. The step
    doesn't depend on the signs of the basis vectors, so none is taken; it does depend on the basis of an eigenspace
    of more than one dimension, for example of the null space while an accumulator isn't of full rank yet.

    The basis of a dimension beyond `max_dim` is the identity (the authors' `max_precond_dim`), and so is, one-sided,
    that of the larger side: of the rows where both are equal, as in GaLore. For more dimensions, of the largest.
    """

    defaults: ClassVar = {
        "lr": 3e-3,
        "betas": (0.95, 0.95),
        "shampoo_beta": -1,
        "eps": 1e-8,
        "update_every": 10,
        "max_dim": 10000,
        "one_sided": False,
        "precondition_1d": False,
        "weight_decay": 0.01,
    }

    def start(self, param, group):
        sizes = {dim: size for dim, size in enumerate(param.shape) if size <= group["max_dim"]}
        if sum(size > 1 for size in param.shape) < 2 and not group["precondition_1d"]:
            sizes = {}
        if group["one_sided"] and param.dim() > 0:
            sizes.pop(list(param.shape).index(max(param.shape)), None)
        accumulators = {dim: param.new_zeros(size, size) for dim, size in sizes.items()}
        return {**zeros(param, "m", "v"), "accumulators": accumulators, "bases": {}}

    @staticmethod
    def to_basis(tensor, bases):
        """Return a tensor in the coordinates of bases, whose columns are the vectors."""
        for dim, basis in bases.items():
            tensor = mode_product(tensor, basis.T, dim)
        return tensor

    @staticmethod
    def from_basis(tensor, bases):
        """Return a tensor from its coordinates in bases."""
        for dim, basis in bases.items():
            tensor = mode_product(tensor, basis, dim)
        return tensor

    @staticmethod
    def accumulate(grad, memory, group):
        """Update the accumulator of every dimension."""
        beta = group["shampoo_beta"] if group["shampoo_beta"] >= 0 else group["betas"][1]
        for dim, accumulator in memory["accumulators"].items():
            memory["accumulators"][dim] = beta * accumulator + (1 - beta) * contract(grad, dim)

    @staticmethod
    def refresh(memory):
        """Update every basis by a power iteration and QR, with vectors in descending order of estimated eigenvalues."""
        for dim, accumulator in memory["accumulators"].items():
            basis = memory["bases"][dim]
            estimates = torch.diagonal(basis.T @ accumulator @ basis)
            order = torch.argsort(estimates, descending=True)
            memory["v"] = memory["v"].index_select(dim, order)
            memory["bases"][dim] = torch.linalg.qr(accumulator @ basis[:, order]).Q

    def update(self, param, grad, memory, step, group):
        if step == 1:  # only the first bases, the greatest eigenvalue first
            self.accumulate(grad, memory, group)
            for dim, accumulator in memory["accumulators"].items():
                memory["bases"][dim] = torch.linalg.eigh(accumulator).eigenvectors.flip(1)
            return
        beta1, beta2 = group["betas"]
        count = step - 1
        bases = memory["bases"]
        memory["m"] = beta1 * memory["m"] + (1 - beta1) * grad
        memory["v"] = beta2 * memory["v"] + (1 - beta2) * self.to_basis(grad, bases) ** 2
        # the ε is added to the root of v before its bias correction
        size = group["lr"] * math.sqrt(1 - beta2**count) / (1 - beta1**count)
        update = self.to_basis(memory["m"], bases) / (torch.sqrt(memory["v"]) + group["eps"])
        param.sub_(size * self.from_basis(update, bases))
        decay(param, group)
        self.accumulate(grad, memory, group)
        if count % group["update_every"] == 0:
            self.refresh(memory)


class GaLoreAdam(Transcription):
    """Zhao et al. 2024, arXiv:2403.03507, Algorithm 2, with decoupled decay; below two dimensions it is Adam.

    The smaller side is projected, the columns where both are equal (as in the authors' code). The sign of a singular
    vector is that which makes its first element of the greatest absolute value positive.
    """

    defaults: ClassVar = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "rank": 4,
        "update_gap": 200,
        "scale": 0.25,
        "weight_decay": 0.0,
    }

    def start(self, param, group):
        if param.dim() < 2:
            return zeros(param, "m", "v")
        rows, columns = matrix(param).shape
        rank = min(group["rank"], rows, columns)
        shape = (rows, rank) if rows >= columns else (rank, columns)
        return {"m": param.new_zeros(shape), "v": param.new_zeros(shape), "projector": None}

    @staticmethod
    def projector(g, rank):
        """Return the first singular vectors of the smaller side, as columns."""
        left, _, right = torch.linalg.svd(g, full_matrices=False)
        vectors = right.T if g.shape[0] >= g.shape[1] else left
        signed = []
        for index in range(min(rank, vectors.shape[1])):
            vector = vectors[:, index]
            signed.append(-vector if vector[vector.abs().argmax()] < 0 else vector)
        return torch.stack(signed, dim=1)

    @staticmethod
    def adam(grad, memory, step, group):
        """Return the direction of Adam, with bias corrections."""
        beta1, beta2 = group["betas"]
        memory["m"] = beta1 * memory["m"] + (1 - beta1) * grad
        memory["v"] = beta2 * memory["v"] + (1 - beta2) * grad**2
        m = memory["m"] / (1 - beta1**step)
        v = memory["v"] / (1 - beta2**step)
        return m / (torch.sqrt(v) + group["eps"])

    def update(self, param, grad, memory, step, group):
        decay(param, group)
        if param.dim() < 2:
            param.sub_(group["lr"] * self.adam(grad, memory, step, group))
            return
        g = matrix(grad)
        if (step - 1) % group["update_gap"] == 0:
            memory["projector"] = self.projector(g, group["rank"])
        p = memory["projector"]
        if g.shape[0] >= g.shape[1]:
            back = self.adam(g @ p, memory, step, group) @ p.T
        else:
            back = p @ self.adam(p.T @ g, memory, step, group)
        param.sub_(group["lr"] * group["scale"] * back.reshape(param.shape))


class PSGDKron(Transcription):
    """Li 2015, arXiv:1512.04202, for a Kronecker product of triangular factors that whitens (Li 2018, 1809.10232).

    P = Qᵀ Q with Q = Q_1 ⊗ Q_2 ⊗ ... is written out as a matrix for all elements of the parameter. The criterion is
    E[gᵀ P g + vᵀ P⁻¹ v] with v ~ N(0, I), g being the mean gradient; its relative gradient for a factor is the upper
    triangle of a aᵀ - b bᵀ with a = Q g and b = Q⁻ᵀ v, contracted over all other dimensions. A step is divided by
    the spectral norm of a aᵀ + b bᵀ, found by two power iterations from the longest column.

    The first `update_first` steps and then every `update_every`th one change Q; v is a hash of parameter, step and
    element. A dimension has a diagonal factor if it is larger than `max_size`, or than `max_skew` times the product of
    all others. A parameter without dimensions counts as one dimension of size 1.
    """

    defaults: ClassVar = {
        "lr": 1e-3,
        "momentum": 0.9,
        "precond_lr": 0.1,
        "precond_init": 1.0,
        "update_every": 10,
        "update_first": 500,
        "max_size": 8192,
        "max_skew": 8,
        "clip": 1.1,
        "eps": 1e-4,
        "weight_decay": 0.0,
    }

    def start(self, param, group):
        sizes = param.shape if param.dim() > 0 else (1,)
        factors = []
        for size in sizes:
            diagonal = size > group["max_size"] or size > group["max_skew"] * (param.numel() // size)
            scale = group["precond_init"] ** (1 / len(sizes))
            factors.append((scale * torch.eye(size, dtype=param.dtype, device=param.device), diagonal))
        return {**zeros(param, "m"), "factors": factors}

    @staticmethod
    def product(memory):
        """Return the Kronecker product of all factors."""
        product = memory["m"].new_ones(1, 1)
        for factor, _ in memory["factors"]:
            product = torch.kron(product, factor)
        return product

    @staticmethod
    def norm(symmetric):
        """Return a lower bound of the spectral norm from two power iterations."""
        columns = list(symmetric.T)
        lengths = [frobenius(column) for column in columns]
        x = symmetric @ columns[lengths.index(max(lengths))]
        return frobenius(symmetric @ (x / frobenius(x)))

    def fit(self, g, v, memory, group):
        """Take one step of every factor, all from the same Q."""
        shape = [factor.shape[0] for factor, _ in memory["factors"]]
        whole = self.product(memory)
        rms = math.sqrt((g**2).mean().item())
        if rms == 0:
            return
        a = (whole @ (g + group["eps"] * rms * v).flatten()).reshape(shape)
        b = torch.linalg.solve(whole.T, v.flatten()).reshape(shape)
        for dim, (factor, diagonal) in enumerate(memory["factors"]):
            gained, lost = contract(a, dim), contract(b, dim)
            if diagonal:
                gained, lost = (torch.diag(torch.diagonal(matrix)) for matrix in (gained, lost))
            change = torch.triu(gained - lost) @ factor
            # the norm of a diagonal matrix is known
            size = torch.diagonal(gained + lost).max().item() if diagonal else self.norm(gained + lost)
            memory["factors"][dim] = (factor - group["precond_lr"] / size * change, diagonal)

    def update_all(self, params, grads, memories, step, groups):
        for position, (param, grad, memory, group) in enumerate(zip(params, grads, memories, groups, strict=True)):
            if grad is not None:
                self.update_at(position, param, grad, memory, memory["step"], group)

    def update_at(self, position, param, grad, memory, step, group):
        beta = group["momentum"]
        memory["m"] = beta * memory["m"] + (1 - beta) * grad
        g = memory["m"] / (1 - beta**step)
        if step <= group["update_first"] or (step - 1) % group["update_every"] == 0:
            v = param.new_tensor([standard_normal(position, step, element) for element in range(param.numel())])
            self.fit(g, v.reshape(param.shape), memory, group)
        whole = self.product(memory)
        update = (whole.T @ (whole @ g.flatten())).reshape(param.shape)
        rms = math.sqrt((update**2).mean().item())
        if rms > group["clip"]:
            update = update * group["clip"] / rms
        decay(param, group)
        param.sub_(group["lr"] * update)
