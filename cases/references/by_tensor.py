"""Published optimizers whose steps depend on a tensor, its rows or the whole model, transcribed from their papers.

In comments η is the learning rate, λ the weight decay, θ the parameter, g its gradient and t the step, from 1.
"""

import math
from typing import ClassVar

import torch

from cases.references.transcription import Transcription, decay, penalized, zeros


def norm(tensor):
    """Return the root of the sum of squares."""
    return math.sqrt((tensor**2).sum().item())


def rms(tensor):
    """Return the root of the mean of squares."""
    return math.sqrt((tensor**2).mean().item())


class LARS(Transcription):
    """You et al. 2017, arXiv:1708.03888, Algorithm 1, with the learning rate outside of the momentum, as in torch."""

    defaults: ClassVar = {
        "lr": 0.1,
        "momentum": 0.9,
        "trust": 1e-3,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "nesterov": False,
    }

    def start(self, param, group):
        return zeros(param, "b")

    def update(self, param, grad, memory, step, group):
        local = 1.0
        if param.dim() >= 2 and norm(param) > 0 and norm(grad) > 0:
            below = norm(grad) + group["weight_decay"] * norm(param) + group["eps"]
            local = group["trust"] * norm(param) / below
        g = local * penalized(param, grad, group)
        memory["b"] = group["momentum"] * memory["b"] + g
        update = g + group["momentum"] * memory["b"] if group["nesterov"] else memory["b"]
        param.sub_(group["lr"] * update)


class LAMB(Transcription):
    """You et al. 2019, arXiv:1904.00962 (version 5), Algorithm 2, with φ the identity."""

    defaults: ClassVar = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01}

    def start(self, param, group):
        return zeros(param, "m", "v")

    def update(self, param, grad, memory, step, group):
        beta1, beta2 = group["betas"]
        memory["m"] = beta1 * memory["m"] + (1 - beta1) * grad
        memory["v"] = beta2 * memory["v"] + (1 - beta2) * grad**2
        m = memory["m"] / (1 - beta1**step)
        v = memory["v"] / (1 - beta2**step)
        update = m / (torch.sqrt(v) + group["eps"]) + group["weight_decay"] * param
        ratio = 1.0
        if norm(param) > 0 and norm(update) > 0:
            ratio = norm(param) / norm(update)
        param.sub_(group["lr"] * ratio * update)


class NovoGrad(Transcription):
    """Ginsburg et al. 2019, arXiv:1905.11286, Algorithm 1."""

    defaults: ClassVar = {"lr": 1e-3, "betas": (0.95, 0.98), "eps": 1e-8, "weight_decay": 0.0}

    def start(self, param, group):
        return {"m": None, "v": None}

    def update(self, param, grad, memory, step, group):
        beta1, beta2 = group["betas"]
        if step == 1:
            memory["v"] = norm(grad) ** 2
        else:
            memory["v"] = beta2 * memory["v"] + (1 - beta2) * norm(grad) ** 2
        normed = grad / (math.sqrt(memory["v"]) + group["eps"]) + group["weight_decay"] * param
        memory["m"] = normed if step == 1 else beta1 * memory["m"] + normed
        param.sub_(group["lr"] * memory["m"])


class SM3(Transcription):
    """Anil et al. 2019, arXiv:1901.11150, SM3-II, with momentum and an L2 penalty.

    The covers are the slices along each dimension. 0/0 is 0, as in the paper: `eps` has no effect here.
    """

    defaults: ClassVar = {"lr": 0.1, "momentum": 0.9, "eps": 1e-30, "weight_decay": 0.0}

    def start(self, param, group):
        sizes = param.shape if param.dim() > 0 else (1,)
        return {**zeros(param, "m"), "accumulators": [param.new_zeros(size) for size in sizes]}

    def update(self, param, grad, memory, step, group):
        g = penalized(param, grad, group)
        shape = g.shape if g.dim() > 0 else (1,)
        square = (g**2).reshape(shape)
        # ν(i) = the least μ(r) of the slices r in which i lies, + g(i)²
        least = torch.full_like(square, math.inf)
        for dim, accumulator in enumerate(memory["accumulators"]):
            sizes = [1] * len(shape)
            sizes[dim] = shape[dim]
            least = torch.minimum(least, accumulator.reshape(sizes))
        v = least + square
        # μ(r) = the greatest ν(i) of all i in the slice r
        for dim in range(len(shape)):
            slices = [v.select(dim, index).max() for index in range(shape[dim])]
            memory["accumulators"][dim] = torch.stack(slices)
        v = v.reshape(g.shape)
        update = torch.where(v > 0, g / torch.sqrt(v), torch.zeros_like(g))
        beta = group["momentum"]
        memory["m"] = beta * memory["m"] + (1 - beta) * update
        param.sub_(group["lr"] * memory["m"])


class CAME(Transcription):
    """Luo et al. 2023, arXiv:2307.02047, Algorithm 2, with the means of the authors' code in place of sums.

    More than two dimensions are a stack of matrices, fewer have no factors and no confidence. Decoupled decay.
    """

    defaults: ClassVar = {
        "lr": 2e-4,
        "betas": (0.9, 0.999, 0.9999),
        "eps1": 1e-30,
        "eps2": 1e-16,
        "clip": 1.0,
        "weight_decay": 0.0,
    }

    def start(self, param, group):
        if param.dim() < 2:
            return zeros(param, "m", "v")
        rows, columns = param[..., :, 0], param[..., 0, :]
        return {
            **zeros(param, "m"),
            **zeros(rows, "square_rows", "instability_rows"),
            **zeros(columns, "square_columns", "instability_columns"),
        }

    @staticmethod
    def update_factored(memory, name, beta, tensor):
        """Update the averages over rows and over columns and return their product: V = R C / mean(R)."""
        rows = memory[f"{name}_rows"] = beta * memory[f"{name}_rows"] + (1 - beta) * tensor.mean(dim=-1)
        columns = memory[f"{name}_columns"] = beta * memory[f"{name}_columns"] + (1 - beta) * tensor.mean(dim=-2)
        return rows[..., :, None] * columns[..., None, :] / rows.mean(dim=-1)[..., None, None]

    def update(self, param, grad, memory, step, group):
        beta1, beta2, beta3 = group["betas"]
        square = grad**2 + group["eps1"]
        if param.dim() >= 2:
            v = self.update_factored(memory, "square", beta2, square)
        else:
            v = memory["v"] = beta2 * memory["v"] + (1 - beta2) * square
        update = grad / torch.sqrt(v)
        update = update / max(1.0, rms(update) / group["clip"])
        memory["m"] = beta1 * memory["m"] + (1 - beta1) * update
        final = memory["m"]
        if param.dim() >= 2:
            instability = (update - memory["m"]) ** 2 + group["eps2"]
            final = memory["m"] / torch.sqrt(self.update_factored(memory, "instability", beta3, instability))
        decay(param, group)
        param.sub_(group["lr"] * final)


class StableAdamW(Transcription):
    """Wortsman et al. 2023, "Stable and low-precision training", arXiv:2304.13013, Algorithm 2."""

    defaults: ClassVar = {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.01}

    def start(self, param, group):
        return zeros(param, "m", "v")

    def update(self, param, grad, memory, step, group):
        # β̂ = β (1 - β^(t-1)) / (1 - β^t)
        beta1, beta2 = (beta * (1 - beta ** (step - 1)) / (1 - beta**step) for beta in group["betas"])
        memory["m"] = beta1 * memory["m"] + (1 - beta1) * grad
        memory["v"] = beta2 * memory["v"] + (1 - beta2) * grad**2
        ratio = grad**2 / torch.clamp(memory["v"], min=group["eps"] ** 2)
        lr = group["lr"] / max(1.0, math.sqrt(ratio.mean().item()))
        update = memory["m"] / (torch.sqrt(memory["v"]) + group["eps"])
        param.copy_(param - lr * group["weight_decay"] * param - lr * update)


class AdamMini(Transcription):
    """Zhang et al. 2024, "Adam-mini", arXiv:2406.16793, with a block for each row, or each smaller parameter."""

    defaults: ClassVar = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}

    def start(self, param, group):
        return {**zeros(param, "m"), "v": [0.0] * (param.shape[0] if param.dim() >= 2 else 1)}

    def update(self, param, grad, memory, step, group):
        beta1, beta2 = group["betas"]
        memory["m"] = beta1 * memory["m"] + (1 - beta1) * grad
        m = memory["m"] / (1 - beta1**step)
        decay(param, group)
        for index in range(len(memory["v"])):
            block = index if param.dim() >= 2 else ...
            memory["v"][index] = beta2 * memory["v"][index] + (1 - beta2) * (grad[block] ** 2).mean().item()
            v = memory["v"][index] / (1 - beta2**step)
            param[block] -= group["lr"] * m[block] / (math.sqrt(v) + group["eps"])


class DoG(Transcription):
    """Ivgi et al. 2023, "DoG is SGD's Best Friend", arXiv:2302.12022, with an L2 penalty.

    Norms are over the parameters that have a gradient in the step and a learning rate above 0. The first distance is
    that at the first gradient which is not zero. Parameter groups may differ in `lr`, `eps` and `weight_decay`.
    """

    defaults: ClassVar = {"lr": 1.0, "reps_rel": 1e-6, "eps": 1e-8, "weight_decay": 0.0}

    def start(self, param, group):
        return {"origin": param.clone(), "reach": 0.0, "squares": 0.0}  # the last two are the model's

    def update_all(self, params, grads, memories, step, groups):
        model = memories[0]  # the first parameter keeps the values of the model
        quadruples = zip(params, grads, memories, groups, strict=True)
        present = [entry for entry in quadruples if entry[1] is not None and entry[3]["lr"] > 0]
        gradients = [penalized(param, grad, group) for param, grad, _, group in present]
        distance = math.sqrt(sum(norm(param - memory["origin"]) ** 2 for param, _, memory, _ in present))
        squares = sum(norm(grad) ** 2 for grad in gradients)
        if model["squares"] == 0 and squares > 0:
            origin = math.sqrt(sum(norm(memory["origin"]) ** 2 for _, _, memory, _ in present))
            model["reach"] = groups[0]["reps_rel"] * (1 + origin)
        model["reach"] = max(model["reach"], distance)  # r̄_t
        model["squares"] += squares  # G_t
        for (param, _, _, group), grad in zip(present, gradients, strict=True):
            param.sub_(group["lr"] * model["reach"] / math.sqrt(model["squares"] + group["eps"]) * grad)


class LDoG(Transcription):
    """Ivgi et al. 2023, arXiv:2302.12022: DoG for each tensor alone, with an L2 penalty."""

    defaults: ClassVar = {"lr": 1.0, "reps_rel": 1e-6, "eps": 1e-8, "weight_decay": 0.0}

    def start(self, param, group):
        return {"origin": param.clone(), "reach": group["reps_rel"] * (1 + norm(param)), "squares": 0.0}

    def update(self, param, grad, memory, step, group):
        g = penalized(param, grad, group)
        memory["reach"] = max(memory["reach"], norm(param - memory["origin"]))
        memory["squares"] += norm(g) ** 2
        param.sub_(group["lr"] * memory["reach"] / math.sqrt(memory["squares"] + group["eps"]) * g)
