"""Linear and logistic regression: convex tasks."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from thalweg.tasks.data import Splits, split_at_random, standardized
from thalweg.tasks.supervised import supervised
from thalweg.tasks.task import Task


def _line(count: int, random: np.random.RandomState) -> tuple[torch.Tensor, torch.Tensor]:
    x = random.rand(count, 1)
    y = 3 * x + random.rand(count, 1)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)


def linear_regression() -> Task:
    """Fit a line to 100 points, y = 3x + noise, x and noise uniform in [0, 1). The optimum is known."""
    random = np.random.RandomState(0)
    splits = Splits(train=_line(100, random), validation=_line(100, random), test=_line(1000, random))
    x, y = (tensor.double() for tensor in splits.train)  # type: ignore[union-attr]
    design = torch.cat([x, torch.ones_like(x)], dim=1)
    best = torch.linalg.lstsq(design, y).solution
    return Task(
        name="linear-regression",
        about="a line through 100 points, optimum known in closed form",
        model=lambda: nn.Linear(1, 1),
        loss=supervised(functional.mse_loss),
        data=splits,
        metric_name="mean squared error",
        batch_size=20,
        passes=200,
        optimum=((design @ best - y) ** 2).mean().item(),
    )


def breast_cancer_data() -> Splits:
    """Return 30 standardized measurements of 569 breast tumours, and a label for each: 1 for benign."""
    from sklearn.datasets import load_breast_cancer

    features, labels = load_breast_cancer(return_X_y=True)
    return standardized(split_at_random((torch.tensor(features), torch.tensor(labels, dtype=torch.float32))))


def logistic_regression() -> Task:
    """Classify 569 breast tumours as benign or malignant from 30 measurements (data of scikit-learn)."""
    return Task(
        name="logistic-regression",
        about="breast cancer, 30 features, 569 patients",
        model=lambda: nn.Sequential(nn.Linear(30, 1), nn.Flatten(0)),
        loss=supervised(functional.binary_cross_entropy_with_logits),
        data=breast_cancer_data,
        metric_name="log loss",
        batch_size=32,
        passes=30,
    )
