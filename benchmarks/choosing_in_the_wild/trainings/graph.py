"""A graph convolutional network classifies the nodes of a made graph from few labels (Kipf and Welling's setting)."""

from functools import cache

import torch
from torch import nn
from torch.nn import functional

from benchmarks.choosing_in_the_wild.data import report_points
from benchmarks.choosing_in_the_wild.training import Training

STEPS = 120
NODES, CLASSES, FEATURES = 600, 4, 24
LABELLED, VALIDATED = 60, 180  # the other nodes are for the test


@cache
def community_graph():
    """Return the normalized adjacency matrix, noisy features and the community of each node."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (NODES,), generator=generator)
    same = labels.unsqueeze(0) == labels.unsqueeze(1)
    upper = (torch.rand(NODES, NODES, generator=generator) < torch.where(same, 0.022, 0.007)).float().triu(1)
    adjacency = upper + upper.T + torch.eye(NODES)
    scale = adjacency.sum(1).rsqrt()
    centers = torch.randn(CLASSES, FEATURES, generator=generator)
    features = 0.35 * centers[labels] + torch.randn(NODES, FEATURES, generator=generator)
    return scale.unsqueeze(1) * adjacency * scale, features, labels


class GCN(nn.Module):
    """Two graph convolutions with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, 32)
        self.second = nn.Linear(32, CLASSES)

    def forward(self, adjacency, x):
        x = functional.dropout(x, 0.5, self.training)
        x = functional.relu(adjacency @ self.first(x))
        x = functional.dropout(x, 0.5, self.training)
        return adjacency @ self.second(x)


def train(make_optimizer, report, steps=STEPS):
    """Train on the whole graph at each step; only few nodes have labels."""
    adjacency, features, labels = community_graph()
    model = GCN()
    optimizer = make_optimizer(model)
    points = report_points(steps)
    for step in range(1, steps + 1):
        model.train()
        loss = functional.cross_entropy(model(adjacency, features)[:LABELLED], labels[:LABELLED])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in points:
            model.eval()
            with torch.no_grad():
                logits = model(adjacency, features)
            if not logits.isfinite().all():
                report(float("nan"))
                return
            right = (logits.argmax(1) == labels).float()
            report(right[LABELLED : LABELLED + VALIDATED].mean(), test=right[LABELLED + VALIDATED :].mean())


TRAINING = Training(
    name="graph",
    about="the communities of 600 nodes from 60 labels, two graph convolutions with dropout",
    train=train,
    steps=STEPS,
    schedule="constant",
    metric="accuracy",
    worst=0.25,
    maximize=True,
    scale="linear",
    best_possible=1.0,
)
