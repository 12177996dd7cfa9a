"""Seven mistakes of the printed demonstrations, each as the lines that cause it, on the line through 100 points.

Each function returns the path of θ = (w, b). docs/learning/linear_regression.md explains them one by one.
"""

from dataclasses import dataclass

import numpy as np
from linear_regression import START, gradient, y

from lesson.numpy_optimizers import SGD, Adam, descend, full_batches, random_batches


def train(optimizer, steps, start=START):
    """Train with the right gradient on all points."""
    return descend(optimizer, gradient, start, full_batches(100, steps))


# 1. A "gradient" without the model.


def distance_to_target(theta, batch):
    """Return θ - y: the gradient of ½ (θ - y)², whose minimum is the mean of y. x and the model do not occur."""
    return theta - np.mean(y[batch])


def train_on_distance(lr=0.1, steps=200):
    """Train with θ - y on all points."""
    return descend(SGD(lr), distance_to_target, START, full_batches(100, steps))


# 2. One decay rate for both moments.


def adam_moments_with_one_rate(m, v, g, beta):
    """Return the next mean of gradients and mean of squares, which share the decay rate."""
    m = beta * m + (1 - beta) * g
    v = beta * v + (1 - beta) * g**2
    return m, v


@dataclass
class AdamWithOneRate(Adam):
    """Adam whose mean of gradients and mean of squares share the decay rate `beta`."""

    beta: float = 0.9

    def step(self, theta, g):
        """Return the next θ."""
        self.t += 1
        self.m, self.v = adam_moments_with_one_rate(self.m, self.v, g, self.beta)
        m_hat = self.m / (1 - self.beta**self.t)
        v_hat = self.v / (1 - self.beta**self.t)
        return theta - self.lr * m_hat / (np.sqrt(v_hat) + self.eps)


def train_on_batches(optimizer, steps=1000):
    """Train with the right gradient on batches of 20 points."""
    return descend(optimizer, gradient, START, random_batches(100, 20, steps))


# 3. No bias correction.


def adam_step_without_correction(theta, m, v, lr, eps):
    """Return the next θ from the running means as they are."""
    return theta - lr * m / (np.sqrt(v) + eps)


@dataclass
class AdamWithoutCorrection(Adam):
    """Adam that divides the running means as they are."""

    def step(self, theta, g):
        """Return the next θ."""
        beta1, beta2 = self.betas
        self.m = beta1 * self.m + (1 - beta1) * g
        self.v = beta2 * self.v + (1 - beta2) * g**2
        return adam_step_without_correction(theta, self.m, self.v, self.lr, self.eps)


def step_length_without_correction(t, betas=(0.9, 0.999)):
    """Return how many times longer step t is without bias correction, at a constant gradient."""
    beta1, beta2 = betas
    return (1 - beta1**t) / np.sqrt(1 - beta2**t)


# 4. A call with one argument too many.


def call_with_step_number():
    """Return the message of Python for a call that passes the number of the step, too."""
    optimizer, theta, g, t = Adam(lr=0.2), START, gradient(START), 1
    try:
        optimizer.step(theta, g, t)
    except TypeError as error:
        return str(error)
    raise AssertionError("Adam.step takes θ and g alone")


# 5. A prediction that ignores the learnt slope.


def predict_without_slope(theta, x):
    """Return x + b: the slope is 1, whatever w is."""
    _, b = theta
    return x + b


def loss_of(prediction, theta, x, y):
    """Return the mean squared error of a prediction."""
    return np.mean((prediction(theta, x) - y) ** 2)


# 6. A momentum without memory.


def momentum_step_without_memory(theta, g, lr, momentum):
    """Return the next θ from a buffer that starts at 0 in every step."""
    b = np.zeros_like(theta)
    b = momentum * b + g
    return theta - lr * b


@dataclass
class MomentumWithoutMemory:
    """Momentum whose buffer is new in every step: it is gradient descent."""

    lr: float
    momentum: float = 0.9

    def step(self, theta, g):
        """Return the next θ."""
        return momentum_step_without_memory(theta, g, self.lr, self.momentum)


# 7. An RMSprop that averages gradients instead of their squares.


def rmsprop_step_without_squares(theta, s, g, lr, alpha, eps):
    """Return the next θ and the next mean, which is one of gradients."""
    s = alpha * s + (1 - alpha) * g
    return theta - lr * g / (np.sqrt(s) + eps), s


@dataclass
class RMSpropWithoutSquares:
    """RMSprop with the root of a running mean of the gradients themselves, which may be negative."""

    lr: float
    alpha: float = 0.9
    eps: float = 1e-8
    s: np.ndarray | float = 0.0

    def step(self, theta, g):
        """Return the next θ."""
        theta, self.s = rmsprop_step_without_squares(theta, self.s, g, self.lr, self.alpha, self.eps)
        return theta


# Both derivatives are positive here, so the roots exist at first.
POSITIVE_START = (5.0, 3.0)


def first_nan(path):
    """Return the first step after which a parameter is NaN, or None."""
    steps = np.flatnonzero(np.isnan(path).any(axis=1))
    return int(steps[0]) if len(steps) else None
