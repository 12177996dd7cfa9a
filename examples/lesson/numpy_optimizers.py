"""Gradient descent, SGD, momentum, AdaGrad, RMSprop and Adam in NumPy, by the conventions of PyTorch and thalweg.

All parameters of a model are one vector θ. An optimizer gets θ and the gradient g, and returns the next θ. It counts
its own steps and keeps its own state.
"""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class SGD:
    """A step against the gradient. With the gradient of all examples it is gradient descent, of a batch it is SGD."""

    lr: float

    def step(self, theta, g):
        """Return the next θ."""
        return theta - self.lr * g


@dataclass
class Momentum:
    """A step along a sum of all gradients so far, in which a gradient loses the factor `momentum` with each step."""

    lr: float
    momentum: float = 0.9
    b: np.ndarray | float = field(default=0.0, init=False)

    def step(self, theta, g):
        """Return the next θ."""
        self.b = self.momentum * self.b + g
        return theta - self.lr * self.b


@dataclass
class AdaGrad:
    """Each gradient divided by the root of the sum of its squares so far."""

    lr: float
    eps: float = 1e-10
    s: np.ndarray | float = field(default=0.0, init=False)

    def step(self, theta, g):
        """Return the next θ."""
        self.s = self.s + g**2
        return theta - self.lr * g / (np.sqrt(self.s) + self.eps)


@dataclass
class RMSprop:
    """Each gradient divided by the root of a running mean of its squares."""

    lr: float
    alpha: float = 0.99
    eps: float = 1e-8
    s: np.ndarray | float = field(default=0.0, init=False)

    def step(self, theta, g):
        """Return the next θ."""
        self.s = self.alpha * self.s + (1 - self.alpha) * g**2
        return theta - self.lr * g / (np.sqrt(self.s) + self.eps)


@dataclass
class Adam:
    """A running mean of gradients, divided by the root of a running mean of squares; both corrected for their start."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    m: np.ndarray | float = field(default=0.0, init=False)
    v: np.ndarray | float = field(default=0.0, init=False)
    t: int = field(default=0, init=False)

    def step(self, theta, g):
        """Return the next θ."""
        beta1, beta2 = self.betas
        self.t += 1
        self.m = beta1 * self.m + (1 - beta1) * g
        self.v = beta2 * self.v + (1 - beta2) * g**2
        m_hat = self.m / (1 - beta1**self.t)
        v_hat = self.v / (1 - beta2**self.t)
        return theta - self.lr * m_hat / (np.sqrt(v_hat) + self.eps)


def finite_differences(loss, theta, h=1e-6):
    """Return the gradient of a loss from its values: the slope between θ - h and θ + h along each axis."""
    axes = np.eye(len(theta))
    return np.array([(loss(theta + h * axis) - loss(theta - h * axis)) / (2 * h) for axis in axes])


def descend(optimizer, gradient, theta, batches):
    """Return the path of θ: the start, then θ after each batch. `gradient(theta, batch)` is that of the mean loss."""
    path = [theta]
    for batch in batches:
        path.append(optimizer.step(path[-1], gradient(path[-1], batch)))
    return np.array(path)


def full_batches(count, steps):
    """Return the same batch for every step: the indices of all examples."""
    return [np.arange(count)] * steps


def random_batches(count, batch_size, steps, seed=0):
    """Return a batch of indices for every step. Every pass over the data has a new random order."""
    random = np.random.default_rng(seed)
    per_pass = count // batch_size
    orders = [random.permutation(count) for _ in range(-(-steps // per_pass))]
    return [order[k * batch_size : (k + 1) * batch_size] for order in orders for k in range(per_pass)][:steps]
