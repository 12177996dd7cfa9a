"""Wrappers, transcribed from their papers as hooks around an optimizer of torch, unit by unit.

Each is a function of the settings `s`, the parameters and the inner optimizer that returns hooks. `before(t)` may write
the gradients of step t = 1, 2, ...; `after(t, old)` may write the parameters, which were `old` before the step;
`eval_params` are the parameters at which the model is evaluated. If torch has a function, it is called.
"""

import math

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def nothing(s, params, inner):
    """Leave the inner optimizer as it is."""
    return {}


def on_gradients(change):
    """Return a wrapper in which `change(s, t, params)` writes the gradients."""
    return lambda s, params, inner: {"before": lambda t: change(s, t, params)}


def on_steps(change):
    """Return a wrapper in which `change(s, old, new, gradient)` returns the new parameter."""

    def hooks(s, params, inner):
        def after(t, olds):
            for param, old in zip(params, olds, strict=True):
                param.copy_(change(s, old, param, param.grad))

        return {"after": after}

    return hooks


def chain(*wrappers):
    """Return a wrapper that changes the gradients as several wrappers do, the outermost first."""

    def hooks(s, params, inner):
        befores = [wrapper(s, params, inner)["before"] for wrapper in wrappers]
        return {"before": lambda t: [before(t) for before in befores]}

    return hooks


def set_gradients(params, grads):
    """Set the gradient of each parameter."""
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad


def units(tensor):
    """Return views of the rows or filters of a tensor, or of the whole tensor if it is a bias or gain."""
    return list(tensor) if tensor.dim() > 1 else [tensor]


def norm(tensors):
    """Return the root of the sum of all squares."""
    return math.sqrt(sum((tensor**2).sum().item() for tensor in tensors))


clip = on_gradients(lambda s, t, params: clip_grad_norm_(params, s.max_norm))
clip_norm = on_gradients(lambda s, t, params: [clip_grad_norm_([param], s.max_tensor_norm) for param in params])
clip_value = on_gradients(lambda s, t, params: clip_grad_value_(params, s.max_value))
clip_weights = on_steps(lambda s, old, new, grad: new.clamp(-s.largest, s.largest))


@on_gradients
def centralized(s, t, params):
    """Yong et al. 2020, equation 1."""
    for row in (row for param in params if param.dim() > 1 for row in units(param.grad)):
        row -= row.sum() / row.numel()


@on_gradients
def clip_adaptive(s, t, params):
    """Brock et al. 2021, equation 3."""
    for param in params:
        for w, g in zip(units(param), units(param.grad), strict=True):
            if g.norm() / max(w.norm(), s.least_norm) > s.clipping:
                g *= s.clipping * max(w.norm(), s.least_norm) / g.norm()


@on_gradients
def orthogonalized(s, t, params):
    """Prieto et al. 2025, section 5. Nothing is orthogonal to a single number."""
    for param in params:
        w, g = param.flatten(), param.grad.flatten()
        part = g - torch.dot(w, g) / torch.dot(w, w) * w
        param.grad = (part * g.norm() / part.norm()).view_as(param) if len(w) > 1 else torch.zeros_like(param)


@on_steps
def cautious(s, old, new, grad):
    """Liang et al. 2024, Algorithm 1, with the authors' scale; decoupled decay is not masked."""
    shrunk = (1 - s.lr * s.weight_decay) * old
    u = shrunk - new
    phi = (u * grad > 0).double()
    return shrunk - u * phi / max(phi.mean().item(), 1e-3)


@on_steps
def cautious_decay(s, old, new, grad):
    """Chen et al. 2025, Algorithm 1."""
    u = (old - new) / s.lr
    return old - s.lr * (u + s.weight_decay * torch.where(u * old >= 0, old, 0.0))


def fixed_norms(s, params, inner):
    """Rows and filters w = s v / ‖v‖ (Salimans & Kingma 2016) with the s that they begin with."""
    sizes = [[unit.norm() for unit in units(param)] for param in params]

    def after(t, old):
        for param, norms in zip(params, sizes, strict=True):
            for row, size in zip(units(param), norms, strict=True) if param.dim() > 1 else ():
                row *= size / row.norm()

    return {"after": after}


def grokfast(s, params, inner):
    """Lee et al. 2024, Algorithm 2; the slow gradient starts as the first one."""
    slow = {}

    def before(t):
        for param in params:
            slow[param] = s.slow_decay * slow.get(param, param.grad) + (1 - s.slow_decay) * param.grad
            param.grad = param.grad + s.gain * slow[param]

    return {"before": before}


def mars(s, params, inner):
    """Yuan et al. 2024, equations 4 and 5, with the last gradient for the last parameters' (MARS-approx)."""
    last = {}

    def before(t):
        for param in params:
            g = param.grad
            c = g + s.gamma * s.beta1 / (1 - s.beta1) * (g - last.get(param, g))
            last[param] = g
            param.grad = c / c.norm() if c.norm() > 1 else c

    return {"before": before}


def lookahead(s, params, inner):
    """Zhang et al. 2019, Algorithm 1."""
    slow = [param.clone() for param in params]

    def after(t, old):
        for phi, theta in zip(slow, params, strict=True) if t % s.every == 0 else ():
            phi += s.slow_step * (theta - phi)
            theta.copy_(phi)

    return {"after": after, "eval_params": slow}


def averaged(start, **options):
    """Return a wrapper with torch.optim.swa_utils.AveragedModel, updated after every step but the first `start`."""

    def hooks(s, params, inner):
        model = nn.ParameterList(params)  # of the same memory
        average = AveragedModel(model, **{key: make(s) for key, make in options.items()})
        return {
            "after": lambda t, old: average.update_parameters(model) if t > start(s) else None,
            "eval_params": average.parameters(),
        }

    return hooks


moving_average = averaged(lambda s: 0, multi_avg_fn=lambda s: get_ema_multi_avg_fn(s.average_decay))
polyak_average = averaged(lambda s: s.start)


def warm_restarts(s, params, inner):
    """Set the learning rate after each step by the schedule of torch."""
    schedule = CosineAnnealingWarmRestarts(inner, T_0=s.period, T_mult=s.stretch, eta_min=s.lr_min)
    return {"after": lambda t, old: schedule.step()}


@on_gradients
def noisy(s, t, params):
    """Neelakantan et al. 2015, equation 1."""
    for position, param in enumerate(params):
        z = [standard_normal(position, t, element) for element in range(param.numel())]
        param.grad = param.grad + math.sqrt(s.noise / (1 + t) ** s.fading) * param.new_tensor(z).view_as(param)


def standard_normal(position, step, element, seed=0):
    """Return the Box-Muller transform of 24 bits of each of two hashes (Wellons' lowbias32), in integer arithmetic."""

    def mixed(x):  # the finalizer of SplitMix64
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    key = seed
    for number in (0, position, step):
        key = mixed((key + number * 0x9E3779B97F4A7C15) % 2**64)

    def bits(x):
        for half in (key % 2**24, key >> 40):
            x ^= half
            x = (x ^ x >> 16) * 0x7FEB352D % 2**32
            x = (x ^ x >> 15) * 0x846CA68B % 2**32
            x ^= x >> 16
        return x >> 8

    radius = math.sqrt(-2 * math.log((bits(2 * element) + 0.5) / 2**24))
    return radius * math.cos(2 * math.pi * bits(2 * element + 1) / 2**24)


def sam(gradients):
    """Foret et al. 2021, Algorithm 1; `gradients(t, params)` are those at other parameters."""

    @on_gradients
    def change(s, t, params):
        length = norm(param.grad for param in params)
        set_gradients(params, gradients(t, [param + s.rho * param.grad / length for param in params]))

    return change


def asam(gradients):
    """Kwon et al. 2021, Algorithm 1 with p = 2: T = |θ| + η for every element."""

    @on_gradients
    def change(s, t, params):
        scales = [param.abs() + s.offset for param in params]
        length = norm(scale * param.grad for scale, param in zip(scales, params, strict=True))
        perturbed = [p + s.rho * scale**2 * p.grad / length for scale, p in zip(scales, params, strict=True)]
        set_gradients(params, gradients(t, perturbed))

    return change
