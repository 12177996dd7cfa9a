"""Logistic regression of 569 tumours by six optimizers: in NumPy alone, then by thalweg with the same numbers.

    python examples/logistic_regression.py

docs/learning/logistic_regression.md derives the gradient and explains the output. thalweg tunes the six against each
other on the same data:

thalweg compare examples/logistic_regression.py:task --with gd,sgd,momentum,adagrad,rmsprop,adam --budget 60s
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
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.nn import functional

import thalweg

X, t = load_breast_cancer(return_X_y=True)
X = (X - X.mean(axis=0)) / X.std(axis=0)
COUNT, FEATURES = X.shape
ALL = np.arange(COUNT)
PENALTY = 0.01
START = np.zeros(FEATURES + 1)


def sigmoid(z):
    """Return 1 / (1 + exp(-z)) without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * z))


def loss(theta, batch=ALL):
    """Return the mean cross-entropy of a batch plus the penalty of the weights. θ is (w, b)."""
    w, b = theta[:-1], theta[-1]
    z = X[batch] @ w + b
    return np.mean(np.logaddexp(0, z) - t[batch] * z) + PENALTY / 2 * w @ w


def gradient(theta, batch=ALL):
    """Return the derivatives of the loss by all weights and by b."""
    w, b = theta[:-1], theta[-1]
    error = sigmoid(X[batch] @ w + b) - t[batch]
    return np.append(X[batch].T @ error / len(batch) + PENALTY * w, np.mean(error))


def newton(theta=START, steps=20):
    """Return the exact minimum by Newton's method: each step solves the quadratic function that fits best at θ."""
    design = np.hstack([X, np.ones((COUNT, 1))])
    penalty = PENALTY * np.diag(np.append(np.ones(FEATURES), 0))
    for _ in range(steps):
        p = sigmoid(design @ theta)
        hessian = design.T @ (design * (p * (1 - p))[:, None]) / COUNT + penalty
        theta = theta - np.linalg.solve(hessian, gradient(theta))
    return theta


def excess(path):
    """Return how far the loss is above its minimum at every θ of a path, as a share of the minimum."""
    w, b = path[:, :-1], path[:, -1:]
    z = w @ X.T + b
    losses = np.mean(np.logaddexp(0, z) - t * z, axis=1) + PENALTY / 2 * np.sum(w**2, axis=1)
    return losses / loss(newton()) - 1


def make_model():
    """Return the same model in PyTorch in float64, at the same start."""
    model = nn.Linear(FEATURES, 1, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return model


def torch_loss(model, batch):
    """Return the same loss for autograd."""
    z = model(torch.from_numpy(X)[batch])[:, 0]
    labels = torch.from_numpy(t).double()[batch]
    return functional.binary_cross_entropy_with_logits(z, labels) + PENALTY / 2 * model.weight.square().sum()


PROBLEM = Problem(gradient, START, make_model, torch_loss, count=COUNT, batch_size=64, steps=250)
# The learning rate of 0.001, 0.002, 0.005, ... 10 with which the optimizer needs the fewest steps.
BEST_LR = {"gradient descent": 5.0, "SGD": 0.5, "momentum": 0.5, "AdaGrad": 1.0, "RMSprop": 0.02, "Adam": 0.1}


task = thalweg.Task(
    model=lambda: nn.Sequential(nn.Linear(FEATURES, 1), nn.Flatten(0)),
    loss=thalweg.supervised(functional.binary_cross_entropy_with_logits),
    data=(X, t.astype(float)),
    batch_size=32,
    passes=20,
    name="569 tumours",
)


def main():
    """Check the gradient, train with the six optimizers, and print how far NumPy and thalweg differ."""
    best = newton()
    right = np.mean((X @ best[:-1] + best[-1] > 0) == t)
    print(f"Newton: loss {loss(best):.4f}, {100 * right:.1f} % of the tumours on the right side\n")
    theta = np.linspace(-1, 1, FEATURES + 1)
    error = np.abs(gradient(theta) - finite_differences(loss, theta)).max()
    print(f"gradient: finite differences agree to 1e-8: {error < 1e-8}\n")
    rows = []
    for name in SIX:
        lr = BEST_LR[name]
        path = numpy_path(PROBLEM, name, lr)
        same = largest_difference(path, thalweg_path(PROBLEM, name, lr)) < 1e-12
        steps = steps_to_settle(excess(path))
        rows.append([name, f"{lr:g}", str(steps), f"{loss(path[-1]):.4f}", "yes" if same else "no"])
    print_table(["optimizer", "lr", "steps to 1 %", "loss after 250", "thalweg within 1e-12"], rows)


if __name__ == "__main__":
    main()
