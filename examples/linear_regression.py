"""A line through 100 points by six optimizers: in NumPy alone, then by thalweg with the same numbers.

    python examples/linear_regression.py

docs/learning/linear_regression.md derives the gradient and explains the output. thalweg tunes the six against each
other on the same points:

thalweg compare examples/linear_regression.py:task --with gd,sgd,momentum,adagrad,rmsprop,adam --budget 60s
"""

import numpy as np
import torch
from lesson.numpy_optimizers import finite_differences
from lesson.side_by_side import (
    SIX,
    Problem,
    largest_difference,
    numpy_path,
    print_table,
    steps_to_settle,
    thalweg_path,
)
from torch import nn
from torch.nn import functional

import thalweg

random = np.random.RandomState(0)
x = random.rand(100, 1)
y = 3 * x + random.rand(100, 1)
ALL = np.arange(100)
START = np.zeros(2)


def predict(theta, x):
    """Return the line w x + b at the points x. θ is (w, b)."""
    w, b = theta
    return w * x + b


def loss(theta, batch=ALL):
    """Return the mean squared error of a batch of points."""
    return np.mean((predict(theta, x[batch]) - y[batch]) ** 2)


def gradient(theta, batch=ALL):
    """Return the derivatives of the loss by w and by b."""
    error = predict(theta, x[batch]) - y[batch]
    return np.array([np.mean(2 * error * x[batch]), np.mean(2 * error)])


def least_squares():
    """Return the exact minimum: the solution of (XᵀX) θ = Xᵀy, where X has the columns x and 1."""
    X = np.hstack([x, np.ones_like(x)])
    return np.linalg.solve(X.T @ X, X.T @ y)[:, 0]


def excess(path):
    """Return how far the loss is above its minimum at every θ of a path, as a share of the minimum."""
    losses = np.mean((predict(path.T[..., None], x[:, 0]) - y[:, 0]) ** 2, axis=1)
    return losses / loss(least_squares()) - 1


def make_model():
    """Return the same line as a model of PyTorch in float64, at the same start."""
    model = nn.Linear(1, 1, dtype=torch.float64)
    with torch.no_grad():
        model.weight.fill_(START[0])
        model.bias.fill_(START[1])
    return model


def torch_loss(model, batch):
    """Return the mean squared error of a batch of points, for autograd."""
    return functional.mse_loss(model(torch.from_numpy(x)[batch]), torch.from_numpy(y)[batch])


PROBLEM = Problem(gradient, START, make_model, torch_loss, count=100, batch_size=20, steps=1000)
# The learning rate of 0.001, 0.002, 0.005, ... 10 with which the optimizer needs the fewest steps.
BEST_LR = {"gradient descent": 0.5, "SGD": 0.05, "momentum": 0.05, "AdaGrad": 2.0, "RMSprop": 0.01, "Adam": 0.2}


task = thalweg.Task(
    model=lambda: nn.Linear(1, 1),
    loss=thalweg.supervised(functional.mse_loss),
    data=(x, y),
    batch_size=20,
    passes=50,
    name="a line through 100 points",
)


def main():
    """Check the gradient, train with the six optimizers, and print how far NumPy and thalweg differ."""
    w, b = least_squares()
    print(f"least squares: y = {w:.4f} x + {b:.4f}, loss {loss((w, b)):.4f}\n")
    theta = np.array([1.0, -2.0])
    error = np.abs(gradient(theta) - finite_differences(loss, theta)).max()
    print(f"gradient at (1, -2): {gradient(theta).round(4)}, finite differences agree to 1e-8: {error < 1e-8}\n")
    rows = []
    for name in SIX:
        lr = BEST_LR[name]
        path = numpy_path(PROBLEM, name, lr)
        same = largest_difference(path, thalweg_path(PROBLEM, name, lr)) < 1e-12
        steps = steps_to_settle(excess(path))
        rows.append([name, f"{lr:g}", f"{steps}", f"{path[-1][0]:.4f}", f"{path[-1][1]:.4f}", "yes" if same else "no"])
    print_table(["optimizer", "lr", "steps to 1 %", "w", "b", "thalweg within 1e-12"], rows)


if __name__ == "__main__":
    main()
