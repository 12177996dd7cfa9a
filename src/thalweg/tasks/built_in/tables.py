"""Tasks on small tables of measurements, with perceptrons."""

import torch
from torch import nn
from torch.nn import functional

from thalweg.tasks.built_in.classics import breast_cancer_data
from thalweg.tasks.data import Splits, split_at_random, standardized
from thalweg.tasks.supervised import supervised
from thalweg.tasks.task import Task


def _diabetes_data() -> Splits:
    from sklearn.datasets import load_diabetes

    features, progression = load_diabetes(return_X_y=True, scaled=False)
    # The target is standardized too, so that predicting the mean has a mean squared error of 1.
    return standardized(split_at_random((torch.tensor(features), torch.tensor(progression))), parts=2)


def _perceptron(features: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(features, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0)
    )


def breast_cancer() -> Task:
    """Classify the tumours of logistic-regression: a perceptron with two hidden layers of 32 units."""
    return Task(
        name="breast-cancer",
        about="breast cancer, 30 features, 569 patients, a perceptron with two hidden layers",
        model=lambda: _perceptron(30),
        loss=supervised(functional.binary_cross_entropy_with_logits),
        data=breast_cancer_data,
        metric_name="log loss",
        batch_size=32,
        passes=20,
    )


def diabetes() -> Task:
    """Predict the progress of diabetes in a year from 10 measurements of 442 patients (data of scikit-learn)."""
    return Task(
        name="diabetes",
        about="progression of diabetes, 10 features, 442 patients, a perceptron with two hidden layers",
        model=lambda: _perceptron(10),
        loss=supervised(functional.mse_loss),
        data=_diabetes_data,
        metric_name="mean squared error",
        batch_size=32,
        passes=20,
    )
