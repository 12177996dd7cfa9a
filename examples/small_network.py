"""A network with one hidden layer, trained by six optimizers: in NumPy alone, then by thalweg with the same numbers.

    python examples/small_network.py

docs/learning/small_network.md derives the gradient by backpropagation and explains the output. thalweg tunes the six
against each other on the same images:

thalweg compare examples/small_network.py:task --with gd,sgd,momentum,adagrad,rmsprop,adam --budget 60s
"""

import numpy as np
import torch
from lesson.numpy_optimizers import finite_differences
from lesson.side_by_side import SIX, Problem, largest_difference, numpy_path, print_table, thalweg_path
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.nn.utils import vector_to_parameters

import thalweg

INPUTS, HIDDEN, CLASSES = 64, 32, 10
images, labels = load_digits(return_X_y=True)
order = np.random.RandomState(0).permutation(len(images))
X, t = images[order] / 8 - 1, labels[order]
TRAIN, TEST = np.arange(1500), np.arange(1500, len(X))


def unpack(theta):
    """Return the weights and biases of both layers as parts of the vector θ."""
    shapes = (HIDDEN, INPUTS), (HIDDEN,), (CLASSES, HIDDEN), (CLASSES,)
    ends = np.cumsum([np.prod(shape) for shape in shapes])
    return [part.reshape(shape) for part, shape in zip(np.split(theta, ends[:-1]), shapes, strict=True)]


def start(seed=0):
    """Return random weights whose variance is 1 / (number of inputs of the layer), and biases of 0, as one vector."""
    random = np.random.default_rng(seed)
    W1 = random.normal(0, INPUTS**-0.5, (HIDDEN, INPUTS))
    W2 = random.normal(0, HIDDEN**-0.5, (CLASSES, HIDDEN))
    return np.concatenate([W1.ravel(), np.zeros(HIDDEN), W2.ravel(), np.zeros(CLASSES)])


def forward(theta, x):
    """Return the outputs of the hidden units and the logits of the classes."""
    W1, b1, W2, b2 = unpack(theta)
    h = np.tanh(x @ W1.T + b1)
    return h, h @ W2.T + b2


def log_softmax(z):
    """Return the logarithms of the probabilities. Subtracting the largest logit prevents overflow."""
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def loss(theta, batch=TRAIN):
    """Return the mean cross-entropy of a batch."""
    _, z = forward(theta, X[batch])
    return -np.mean(log_softmax(z)[np.arange(len(batch)), t[batch]])


def gradient(theta, batch=TRAIN):
    """Return the derivatives of the loss by all weights and biases, by backpropagation."""
    _, _, W2, _ = unpack(theta)
    x = X[batch]
    h, z = forward(theta, x)
    dz = np.exp(log_softmax(z))
    dz[np.arange(len(batch)), t[batch]] -= 1
    dz /= len(batch)
    dW2, db2 = dz.T @ h, dz.sum(axis=0)
    dh = dz @ W2
    da = dh * (1 - h**2)
    dW1, db1 = da.T @ x, da.sum(axis=0)
    return np.concatenate([dW1.ravel(), db1, dW2.ravel(), db2])


def accuracy(theta, batch=TEST):
    """Return the share of images whose largest logit is that of the right class."""
    _, z = forward(theta, X[batch])
    return np.mean(z.argmax(axis=1) == t[batch])


def make_model():
    """Return the same network in PyTorch in float64, at the same start."""
    model = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CLASSES)).double()
    vector_to_parameters(torch.from_numpy(start()), model.parameters())
    return model


def torch_loss(model, batch):
    """Return the same loss for autograd."""
    return functional.cross_entropy(model(torch.from_numpy(X)[batch]), torch.from_numpy(t)[batch])


PROBLEM = Problem(
    gradient,
    start(),
    make_model,
    torch_loss,
    count=len(TRAIN),
    batch_size=50,
    steps=300,
    on_batches=frozenset(SIX) - {"gradient descent"},
)
# The learning rate of 0.001, 0.002, 0.005, ... 10 with the lowest loss of the training images after 300 steps.
BEST_LR = {"gradient descent": 1.0, "SGD": 1.0, "momentum": 0.2, "AdaGrad": 0.1, "RMSprop": 0.01, "Adam": 0.02}


task = thalweg.Task(
    model=lambda: nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CLASSES)),
    loss=thalweg.supervised(functional.cross_entropy),
    data=(X, t),
    batch_size=50,
    passes=10,
    name="digits by a small network",
)


def main():
    """Check the gradient, train with the six optimizers, and print how far NumPy and thalweg differ."""
    theta, few = start(seed=1), TRAIN[:20]
    error = np.abs(gradient(theta, few) - finite_differences(lambda theta: loss(theta, few), theta)).max()
    print(f"gradient of {len(theta):,} parameters: finite differences agree to 1e-8: {error < 1e-8}\n")
    rows = []
    for name in SIX:
        lr = BEST_LR[name]
        path = numpy_path(PROBLEM, name, lr)
        same = largest_difference(path, thalweg_path(PROBLEM, name, lr)) < 1e-12
        end = path[-1]
        rows.append(
            [
                name,
                f"{lr:g}",
                f"{loss(end):.4f}",
                f"{loss(end, TEST):.3f}",
                f"{100 * accuracy(end):.1f} %",
                "yes" if same else "no",
            ]
        )
    print_table(["optimizer", "lr", "training loss", "test loss", "test accuracy", "thalweg within 1e-12"], rows)


if __name__ == "__main__":
    main()
