"""Published optimizers that treat every element alone, transcribed from their papers.

In comments η is the learning rate, λ the weight decay, θ the parameter, g its gradient and t the step, from 1.
"""

import math
from typing import ClassVar

import torch

from cases.references.transcription import CurvatureTranscription, Transcription, decay, penalized, zeros


class HeavyBall(Transcription):
    """Polyak 1964, "Some methods of speeding up the convergence of iteration methods", with an L2 penalty."""

    defaults: ClassVar = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 0.0}

    def start(self, param, group):
        return {"previous": param.clone()}  # θ_{-1} = θ_0

    def update(self, param, grad, memory, step, group):
        g = penalized(param, grad, group)
        # θ_{t+1} = θ_t - α g_t + β (θ_t - θ_{t-1})
        new = param - group["lr"] * g + group["momentum"] * (param - memory["previous"])
        memory["previous"] = param.clone()
        param.copy_(new)


class Lion(Transcription):
    """Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", arXiv:2302.06675, Algorithm 2."""

    defaults: ClassVar = {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.0}

    def start(self, param, group):
        return zeros(param, "m")

    def update(self, param, grad, memory, step, group):
        beta1, beta2 = group["betas"]
        c = beta1 * memory["m"] + (1 - beta1) * grad
        # θ ← θ - η (sign(c) + λθ)
        param.copy_(param - group["lr"] * (torch.sign(c) + group["weight_decay"] * param))
        memory["m"] = beta2 * memory["m"] + (1 - beta2) * grad


class Signum(Transcription):
    """Bernstein et al. 2018, "signSGD", arXiv:1802.04434, Algorithm 2, with decoupled decay."""

    defaults: ClassVar = {"lr": 1e-4, "momentum": 0.9, "weight_decay": 0.0}

    def start(self, param, group):
        return zeros(param, "m")

    def update(self, param, grad, memory, step, group):
        beta = group["momentum"]
        memory["m"] = beta * memory["m"] + (1 - beta) * grad
        decay(param, group)
        param.sub_(group["lr"] * torch.sign(memory["m"]))


class Tiger(Transcription):
    """Su 2023, "Tiger: A Tight-fisted Optimizer", kexue.fm/archives/9512, without accumulation of gradients."""

    defaults: ClassVar = {"lr": 1e-3, "beta": 0.965, "weight_decay": 0.01}

    def start(self, param, group):
        return zeros(param, "m")

    def update(self, param, grad, memory, step, group):
        beta = group["beta"]
        memory["m"] = beta * memory["m"] + (1 - beta) * grad
        param.copy_(param - group["lr"] * (torch.sign(memory["m"]) + group["weight_decay"] * param))


class Adan(Transcription):
    """Xie et al. 2022, arXiv:2208.06677, Algorithm 1 with bias corrections and betas as decays: the authors' form."""

    defaults: ClassVar = {"lr": 1e-3, "betas": (0.98, 0.92, 0.99), "eps": 1e-8, "weight_decay": 0.0}

    def start(self, param, group):
        return {**zeros(param, "m", "v", "n"), "last": None}

    def update(self, param, grad, memory, step, group):
        beta1, beta2, beta3 = group["betas"]
        change = torch.zeros_like(grad) if memory["last"] is None else grad - memory["last"]
        memory["last"] = grad.clone()
        memory["m"] = beta1 * memory["m"] + (1 - beta1) * grad
        memory["v"] = beta2 * memory["v"] + (1 - beta2) * change
        memory["n"] = beta3 * memory["n"] + (1 - beta3) * (grad + beta2 * change) ** 2
        m = memory["m"] / (1 - beta1**step)
        v = memory["v"] / (1 - beta2**step)
        n = memory["n"] / (1 - beta3**step)
        update = (m + beta2 * v) / (torch.sqrt(n) + group["eps"])
        # the proximal form: θ ← (θ - η update) / (1 + λη)
        param.copy_((param - group["lr"] * update) / (1 + group["weight_decay"] * group["lr"]))


class AdaBelief(Transcription):
    """Zhuang et al. 2020, arXiv:2010.07468, Algorithm 2, with both ε of adabelief-pytorch 0.2 and decoupled decay."""

    defaults: ClassVar = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-16, "weight_decay": 0.0}

    def start(self, param, group):
        return zeros(param, "m", "s")

    def update(self, param, grad, memory, step, group):
        beta1, beta2 = group["betas"]
        memory["m"] = beta1 * memory["m"] + (1 - beta1) * grad
        memory["s"] = beta2 * memory["s"] + (1 - beta2) * (grad - memory["m"]) ** 2 + group["eps"]
        m = memory["m"] / (1 - beta1**step)
        s = memory["s"] / (1 - beta2**step)
        decay(param, group)
        param.sub_(group["lr"] * m / (torch.sqrt(s) + group["eps"]))


class ADOPT(Transcription):
    """Taniguchi et al. 2024, arXiv:2411.02853, with clipping at c_t = t^(1/4), and decoupled decay."""

    defaults: ClassVar = {"lr": 1e-3, "betas": (0.9, 0.9999), "eps": 1e-6, "weight_decay": 0.0}

    def start(self, param, group):
        return zeros(param, "m", "v")

    def update(self, param, grad, memory, step, group):
        beta1, beta2 = group["betas"]
        if step == 1:  # v_0 = g_0², and nothing else
            memory["v"] = grad**2
            return
        normed = grad / torch.clamp(torch.sqrt(memory["v"]), min=group["eps"])
        bound = (step - 1) ** 0.25
        memory["m"] = beta1 * memory["m"] + (1 - beta1) * torch.clamp(normed, -bound, bound)
        decay(param, group)
        param.sub_(group["lr"] * memory["m"])
        memory["v"] = beta2 * memory["v"] + (1 - beta2) * grad**2


class AdEMAMix(Transcription):
    """Pagliardini et al. 2024, "Better, Faster, Older", arXiv:2409.03137, Algorithm 1 and its two schedulers."""

    defaults: ClassVar = {
        "lr": 1e-3,
        "betas": (0.9, 0.999, 0.9999),
        "alpha": 5.0,
        "alpha_warmup": 0,
        "beta3_warmup": 0,
        "eps": 1e-8,
        "weight_decay": 0.0,
    }

    def start(self, param, group):
        return zeros(param, "fast", "slow", "v")

    def update(self, param, grad, memory, step, group):
        beta1, beta2, beta3 = group["betas"]
        alpha = group["alpha"]
        if step < group["alpha_warmup"]:
            alpha = alpha * step / group["alpha_warmup"]
        if step < group["beta3_warmup"]:
            # exp(ln β_start ln β3 / ((1 - t/T) ln β3 + (t/T) ln β_start)), where β_start is β1
            part = step / group["beta3_warmup"]
            start, end = math.log(beta1), math.log(beta3)
            beta3 = min(math.exp(start * end / ((1 - part) * end + part * start)), beta3)
        memory["fast"] = beta1 * memory["fast"] + (1 - beta1) * grad
        memory["slow"] = beta3 * memory["slow"] + (1 - beta3) * grad
        memory["v"] = beta2 * memory["v"] + (1 - beta2) * grad**2
        fast = memory["fast"] / (1 - beta1**step)
        v = memory["v"] / (1 - beta2**step)
        update = (fast + alpha * memory["slow"]) / (torch.sqrt(v) + group["eps"])
        param.copy_(param - group["lr"] * (update + group["weight_decay"] * param))


class LaProp(Transcription):
    """Ziyin et al. 2020, "LaProp: Separating Momentum and Adaptivity in Adam", arXiv:2002.04839, Algorithm 1."""

    defaults: ClassVar = {"lr": 4e-4, "betas": (0.9, 0.999), "eps": 1e-15, "weight_decay": 0.0}

    def start(self, param, group):
        return zeros(param, "m", "n")

    def update(self, param, grad, memory, step, group):
        mu, nu = group["betas"]
        memory["n"] = nu * memory["n"] + (1 - nu) * grad**2
        n = memory["n"] / (1 - nu**step)
        memory["m"] = mu * memory["m"] + (1 - mu) * grad / (torch.sqrt(n) + group["eps"])
        decay(param, group)
        param.sub_(group["lr"] * memory["m"] / (1 - mu**step))


class MADGRAD(Transcription):
    """Defazio & Jelassi 2021, arXiv:2101.11075, Algorithm 1, with an L2 penalty."""

    defaults: ClassVar = {"lr": 1e-2, "momentum": 0.9, "eps": 1e-6, "weight_decay": 0.0}

    def start(self, param, group):
        return {"origin": param.clone(), **zeros(param, "s", "v")}

    def update(self, param, grad, memory, step, group):
        g = penalized(param, grad, group)
        weight = group["lr"] * math.sqrt(step)  # λ_k = γ √(k + 1), where k counts from 0
        memory["s"] = memory["s"] + weight * g
        memory["v"] = memory["v"] + weight * g**2
        z = memory["origin"] - memory["s"] / (memory["v"] ** (1 / 3) + group["eps"])
        c = 1 - group["momentum"]
        param.copy_((1 - c) * param + c * z)


class Yogi(Transcription):
    """Zaheer et al. 2018, "Adaptive Methods for Nonconvex Optimization", Algorithm 2, with Adam's bias corrections."""

    defaults: ClassVar = {
        "lr": 1e-2,
        "betas": (0.9, 0.999),
        "eps": 1e-3,
        "initial_accumulator": 1e-6,
        "weight_decay": 0.0,
    }

    def start(self, param, group):
        return {**zeros(param, "m"), "v": torch.full_like(param, group["initial_accumulator"])}

    def update(self, param, grad, memory, step, group):
        beta1, beta2 = group["betas"]
        g = penalized(param, grad, group)
        memory["m"] = beta1 * memory["m"] + (1 - beta1) * g
        memory["v"] = memory["v"] - (1 - beta2) * torch.sign(memory["v"] - g**2) * g**2
        m = memory["m"] / (1 - beta1**step)
        v = memory["v"] / (1 - beta2**step)
        param.sub_(group["lr"] * m / (torch.sqrt(v) + group["eps"]))


class QHM(Transcription):
    """Ma & Yarats 2019, "Quasi-hyperbolic momentum and Adam", arXiv:1810.06801, eq. 3 and 4, with an L2 penalty."""

    defaults: ClassVar = {"lr": 1.0, "momentum": 0.999, "nu": 0.7, "weight_decay": 0.0}

    def start(self, param, group):
        return zeros(param, "b")

    def update(self, param, grad, memory, step, group):
        beta, nu = group["momentum"], group["nu"]
        g = penalized(param, grad, group)
        memory["b"] = beta * memory["b"] + (1 - beta) * g
        param.sub_(group["lr"] * ((1 - nu) * g + nu * memory["b"]))


class QHAdam(Transcription):
    """Ma & Yarats 2019, arXiv:1810.06801, section 4 (QHAdam), with an L2 penalty."""

    defaults: ClassVar = {"lr": 1e-3, "betas": (0.995, 0.999), "nus": (0.7, 1.0), "eps": 1e-8, "weight_decay": 0.0}

    def start(self, param, group):
        return zeros(param, "m", "v")

    def update(self, param, grad, memory, step, group):
        (beta1, beta2), (nu1, nu2) = group["betas"], group["nus"]
        g = penalized(param, grad, group)
        memory["m"] = beta1 * memory["m"] + (1 - beta1) * g
        memory["v"] = beta2 * memory["v"] + (1 - beta2) * g**2
        m = memory["m"] / (1 - beta1**step)
        v = memory["v"] / (1 - beta2**step)
        above = (1 - nu1) * g + nu1 * m
        below = torch.sqrt((1 - nu2) * g**2 + nu2 * v) + group["eps"]
        param.sub_(group["lr"] * above / below)


class AggMo(Transcription):
    """Lucas et al. 2019, "Aggregated Momentum", arXiv:1804.00325, with an L2 penalty."""

    defaults: ClassVar = {"lr": 0.1, "momenta": (0.0, 0.9, 0.99), "weight_decay": 0.0}

    def start(self, param, group):
        return {"velocities": [torch.zeros_like(param) for _ in group["momenta"]]}

    def update(self, param, grad, memory, step, group):
        g = penalized(param, grad, group)
        total = torch.zeros_like(param)
        for index, beta in enumerate(group["momenta"]):
            memory["velocities"][index] = beta * memory["velocities"][index] + g
            total = total + memory["velocities"][index]
        param.sub_(group["lr"] / len(group["momenta"]) * total)


class Sophia(CurvatureTranscription):
    """Liu et al. 2023, arXiv:2305.14342, Algorithm 3; γ is `rho`, and `curvature` gives ĥ where the paper has it."""

    defaults: ClassVar = {"lr": 1e-3, "betas": (0.965, 0.99), "rho": 0.04, "eps": 1e-12, "weight_decay": 0.1}

    def start(self, param, group):
        return {**zeros(param, "m", "h"), "estimate": None}

    def update(self, param, grad, memory, step, group):
        beta1, beta2 = group["betas"]
        memory["m"] = beta1 * memory["m"] + (1 - beta1) * grad
        if memory["estimate"] is not None:  # lines 7 to 9; line 11 keeps h otherwise
            memory["h"] = beta2 * memory["h"] + (1 - beta2) * memory["estimate"]
            memory["estimate"] = None
        decay(param, group)
        ratio = memory["m"] / torch.clamp(group["rho"] * memory["h"], min=group["eps"])
        param.sub_(group["lr"] * torch.clamp(ratio, -1, 1))


class AdaHessian(CurvatureTranscription):
    """Yao et al. 2020, arXiv:2006.00719, Algorithm 1 with a spatial average of one number, and decoupled decay."""

    defaults: ClassVar = {"lr": 0.1, "betas": (0.9, 0.999), "hessian_power": 1.0, "eps": 1e-4, "weight_decay": 0.0}

    def start(self, param, group):
        return {**zeros(param, "m", "v"), "estimate": torch.ones_like(param)}

    def update(self, param, grad, memory, step, group):
        beta1, beta2 = group["betas"]
        memory["m"] = beta1 * memory["m"] + (1 - beta1) * grad
        memory["v"] = beta2 * memory["v"] + (1 - beta2) * memory["estimate"] ** 2
        m = memory["m"] / (1 - beta1**step)
        v = memory["v"] / (1 - beta2**step)
        decay(param, group)
        param.sub_(group["lr"] * m / (torch.sqrt(v) ** group["hessian_power"] + group["eps"]))


class SparseAdam(torch.optim.SparseAdam):
    """torch's SparseAdam, with each dense gradient as a sparse one that holds all elements."""

    @torch.no_grad()
    def step(self, closure=None):
        for param in (param for group in self.param_groups for param in group["params"]):
            if param.grad is not None and not param.grad.is_sparse:
                param.grad = param.grad.to_sparse()
        return super().step(closure)
