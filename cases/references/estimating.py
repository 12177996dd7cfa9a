"""Published optimizers that estimate their learning rate from the whole model, transcribed from their papers.

In comments η is the learning rate, λ the weight decay, θ the parameter, g its gradient and t the step, from 1.
Values of the whole model are stored with its first parameter. Sums are over the parameters that have a gradient in the
step and, unless the class says otherwise, a learning rate above 0.
"""

import math
from typing import ClassVar

import torch

from cases.references.transcription import Transcription, penalized, zeros


def inner(first, second):
    """Return the inner product of two tensors of the same shape."""
    return (first * second).sum().item()


def with_gradients(params, grads, memories):
    """Return the parameters that have a gradient, each with the gradient and its memory."""
    return [triple for triple in zip(params, grads, memories, strict=True) if triple[1] is not None]


def moving(params, grads, memories, groups):
    """Return the parameters with a gradient and a learning rate above 0, each with gradient, memory and group."""
    quadruples = zip(params, grads, memories, groups, strict=True)
    return [entry for entry in quadruples if entry[1] is not None and entry[3]["lr"] > 0]


def highest_lr(groups):
    """Return the highest learning rate of all groups."""
    return max(group["lr"] for group in groups)


class DAdaptAdam(Transcription):
    """Defazio & Mishchenko 2023, arXiv:2301.07733, Adam with D-Adaptation, as in the authors' `dadaptation` package.

    That is: the inner product is divided by the root of v from before this step, there are no bias corrections, and
    both the step and the decoupled decay take d from before this step. The learning rate of a group over the highest is
    the package's `layer_scale` r: it multiplies m, the inner product and the norm, but not s.
    """

    defaults: ClassVar = {
        "lr": 1.0,
        "betas": (0.9, 0.999),
        "d0": 1e-6,
        "eps": 1e-8,
        "growth": math.inf,
        "weight_decay": 0.0,
    }

    def start(self, param, group):
        return {**zeros(param, "m", "v", "s"), "d": group["d0"], "r": 0.0}  # d and r are the model's

    def update_all(self, params, grads, memories, step, groups):
        model, present = memories[0], moving(params, grads, memories, groups)
        beta2, growth = groups[0]["betas"][1], groups[0]["growth"]
        beta = math.sqrt(beta2)
        rate = model["d"] * highest_lr(groups)  # d_t γ
        product, length = 0.0, 0.0
        for _, grad, memory, group in present:
            r, beta1 = group["lr"] / highest_lr(groups), group["betas"][0]
            product += r * rate * inner(grad, memory["s"] / (torch.sqrt(memory["v"]) + group["eps"]))
            memory["m"] = beta1 * memory["m"] + (1 - beta1) * r * rate * grad
            memory["v"] = beta2 * memory["v"] + (1 - beta2) * grad**2
            memory["s"] = beta * memory["s"] + (1 - beta) * rate * grad
            length += r * memory["s"].abs().sum().item()
        if length == 0:  # no gradient yet
            return
        model["r"] = beta * model["r"] + (1 - beta) * product
        estimate = model["r"] / ((1 - beta) * length)
        model["d"] = max(model["d"], min(estimate, growth * model["d"]))
        for param, _, memory, group in present:
            param.mul_(1 - rate * group["lr"] / highest_lr(groups) * group["weight_decay"])
            param.sub_(memory["m"] / (torch.sqrt(memory["v"]) + group["eps"]))


class DAdaptSGD(Transcription):
    """Defazio & Mishchenko 2023, arXiv:2301.07733, SGD with D-Adaptation, as in the authors' `dadaptation` package.

    The decay is an L2 penalty, but the norm of the first gradient is taken without it, as there. A group whose learning
    rate is ρ times the highest trains θ / √ρ at the highest rate, so its gradients are √ρ times as large.
    """

    defaults: ClassVar = {"lr": 1.0, "momentum": 0.9, "d0": 1e-6, "growth": math.inf, "weight_decay": 0.0}

    def start(self, param, group):
        model = {"d": group["d0"], "first": 0.0, "product": 0.0}
        return {**zeros(param, "s"), "origin": param.clone(), **model}

    def update_all(self, params, grads, memories, step, groups):
        model, present = memories[0], moving(params, grads, memories, groups)

        def unit(group):  # √ρ
            return math.sqrt(group["lr"] / highest_lr(groups))

        if model["first"] == 0:
            model["first"] = math.sqrt(sum(unit(group) ** 2 * inner(grad, grad) for _, grad, _, group in present))
        if model["first"] == 0:  # no gradient yet
            return
        rate = model["d"] * highest_lr(groups) / model["first"]  # λ_t = d_t γ / ‖g_0‖
        square = 0.0
        for param, grad, memory, group in present:  # s is that of θ / √ρ
            g = unit(group) * penalized(param, grad, group)
            model["product"] += rate * inner(g, memory["s"])
            memory["s"] = memory["s"] + rate * g
            square += inner(memory["s"], memory["s"])
        if square == 0:
            return
        estimate = 2 * model["product"] / math.sqrt(square)
        model["d"] = max(model["d"], min(estimate, groups[0]["growth"] * model["d"]))
        for param, _, memory, group in present:
            beta = group["momentum"]
            param.copy_(beta * param + (1 - beta) * (memory["origin"] - unit(group) * memory["s"]))


class DoWG(Transcription):
    """Khaled, Mishchenko & Jin 2023, arXiv:2305.16284, Algorithm 1, with an L2 penalty; r_ε is `eps`."""

    defaults: ClassVar = {"lr": 1.0, "eps": 1e-4, "weight_decay": 0.0}

    def start(self, param, group):
        return {"origin": param.clone(), "reach": group["eps"], "v": 0.0}  # the last two are the model's

    def update_all(self, params, grads, memories, step, groups):
        model, present = memories[0], moving(params, grads, memories, groups)
        moves = [param - memory["origin"] for param, _, memory, _ in present]
        gradients = [penalized(param, grad, group) for param, grad, _, group in present]
        model["reach"] = max(model["reach"], math.sqrt(sum(inner(move, move) for move in moves)))  # r̄_t
        model["v"] += model["reach"] ** 2 * sum(inner(grad, grad) for grad in gradients)
        for (param, _, _, group), grad in zip(present, gradients, strict=True):
            if model["v"] > 0:
                param.sub_(group["lr"] * model["reach"] ** 2 / math.sqrt(model["v"]) * grad)


class Mechanic(Transcription):
    """Cutkosky, Defazio & Mehta 2023, arXiv:2306.00144, Algorithm 1. A subclass is its base optimizer.

    Sums include parameters whose learning rate is 0.
    The paper's m_t = max(β m_{t-1}, h_t) is read with |h_t|, as in both codes of the authors: with h_t itself, which
    is negative as long as the base goes downhill, nothing would ever move. All that is remembered starts at 0, so
    the first step moves nothing.
    """

    tuner: ClassVar = {
        "betas": (0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999),
        "s_decay": 1e-2,
        "s_init": 1e-8,
        "eps": 1e-8,
    }

    def start(self, param, group):
        model = {name: [0.0] * len(group["betas"]) for name in ("m", "v", "r", "s")}
        return {"origin": param.clone(), **zeros(param, "delta"), **model, "base": self.base_start(param)}

    def base_start(self, param):
        """Return the memory of the base before the first step."""
        raise NotImplementedError

    def base_update(self, param, grad, base, step, group):
        """Return u_t: the change of the parameter that the base would make in this step."""
        raise NotImplementedError

    def update_all(self, params, grads, memories, step, groups):
        group, model = groups[0], memories[0]  # the first group has the settings of the model
        present = with_gradients(params, grads, memories)
        if not present:
            return
        group_of = {id(param): group for param, group in zip(params, groups, strict=True)}
        scale = sum(model["s"])
        length = math.sqrt(sum(inner(param, param) for param, _, _ in present))  # ‖x_t‖
        slope = math.sqrt(sum(inner(grad, grad) for _, grad, _ in present))  # ‖g_t‖
        factor = group["s_decay"] * scale * slope / length if length > 0 else 0.0
        # h_t = <Δ_t, g_t + λ (Σ_i s_{t,i}) ‖g_t‖ x_t / ‖x_t‖>
        h = sum(inner(memory["delta"], grad + factor * param) for param, grad, memory in present)
        for param, grad, memory in present:  # Δ_{t+1} = Δ_t + u_t
            update = self.base_update(param, grad, memory["base"], memory["step"], group_of[id(param)])
            memory["delta"] = memory["delta"] + update
        for i, beta in enumerate(group["betas"]):
            model["m"][i] = max(beta * model["m"][i], abs(h))
            model["v"][i] = beta**2 * model["v"][i] + h**2
            model["r"][i] = max(0.0, beta * model["r"][i] - model["s"][i] * h)
            wealth = group["s_init"] / len(group["betas"]) * model["m"][i] + model["r"][i]
            model["s"][i] = wealth / (math.sqrt(model["v"][i]) + group["eps"])
        for param, _, memory in present:
            param.copy_(memory["origin"] + sum(model["s"]) * memory["delta"])


class MechanicSGD(Mechanic):
    """Mechanic over torch's SGD with heavy-ball momentum: b = μ b + g, u = -η b. The other keywords are Mechanic's."""

    defaults: ClassVar = {"lr": 1e-3, "momentum": 0.0, **Mechanic.tuner}

    def base_start(self, param):
        return zeros(param, "b")

    def base_update(self, param, grad, base, step, group):
        base["b"] = group["momentum"] * base["b"] + grad
        return -group["lr"] * base["b"]


class MechanicAdamW(Mechanic):
    """Mechanic over torch's AdamW; `inner_betas` and `inner_eps` are AdamW's, `betas` and `eps` are Mechanic's."""

    defaults: ClassVar = {
        "lr": 1e-3,
        "inner_betas": (0.9, 0.999),
        "inner_eps": 1e-8,
        "weight_decay": 0.01,
        **Mechanic.tuner,
    }

    def base_start(self, param):
        return zeros(param, "m", "v")

    def base_update(self, param, grad, base, step, group):
        beta1, beta2 = group["inner_betas"]
        base["m"] = beta1 * base["m"] + (1 - beta1) * grad
        base["v"] = beta2 * base["v"] + (1 - beta2) * grad**2
        m = base["m"] / (1 - beta1**step)
        v = base["v"] / (1 - beta2**step)
        return -group["lr"] * (group["weight_decay"] * param + m / (torch.sqrt(v) + group["inner_eps"]))
