"""Tasks on photographs and on a map of heights. The data come with scikit-learn and matplotlib."""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.tasks.data import Batch, Splits, split_at_random, standardized
from thalweg.tasks.supervised import supervised
from thalweg.tasks.task import Task

_PATCH = 8  # pixels along an edge
_PATCHES = 4000
_STRIDE = 4  # of rows and columns of the map, which leaves 86 x 101 heights
_OCTAVES = 5


def _patches() -> Splits:
    """Return rows of 64 standardized pixels, cut from photographs of a temple and of a flower."""
    from sklearn.datasets import load_sample_images

    photographs = torch.tensor(np.stack(load_sample_images().images)).float().mean(-1)  # (2, 427, 640)
    tiles = photographs.unfold(1, _PATCH, _PATCH).unfold(2, _PATCH, _PATCH).reshape(-1, _PATCH * _PATCH)
    selected = torch.randperm(len(tiles), generator=torch.Generator().manual_seed(0))[:_PATCHES]
    # Standardized, so that the same grey for all pixels has a mean squared error of 1.
    return standardized(split_at_random((tiles[selected],)))


def _autoencoder() -> nn.Module:
    pixels = _PATCH * _PATCH
    return nn.Sequential(
        nn.Linear(pixels, 64), nn.ReLU(), nn.Linear(64, 12), nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, pixels)
    )


def _squared_error_of_copy(model: nn.Module, batch: Batch) -> Tensor:
    (patches,) = batch
    return functional.mse_loss(model(patches), patches)


def patches() -> Task:
    """Reconstruct patches of photographs, 8 x 8 grey pixels: an autoencoder with a bottleneck of 12."""
    return Task(
        name="patches",
        about="4,000 patches of 8 x 8 grey pixels from two photographs, an autoencoder with a bottleneck of 12",
        model=_autoencoder,
        loss=_squared_error_of_copy,
        data=_patches,
        metric_name="mean squared error",
        batch_size=64,
        passes=30,
    )


def _heights() -> Splits:
    """Return places and heights around the Jacksboro fault in Tennessee, both standardized."""
    from matplotlib.cbook import get_sample_data

    with np.load(get_sample_data("jacksboro_fault_dem.npz", asfileobj=False)) as file:
        heights = torch.tensor(file["elevation"][::_STRIDE, ::_STRIDE], dtype=torch.float32)
    rows, columns = (torch.arange(float(length)) for length in heights.shape)
    return standardized(split_at_random((torch.cartesian_prod(rows, columns), heights.reshape(-1, 1))), parts=2)


class Field(nn.Module):
    """Predicts the height at a place from sines and cosines of its coordinates, one pair for each octave.

    Without these features a network learns only low frequencies (Tancik et al. 2020, arXiv:2006.10739).
    """

    frequencies: Tensor

    def __init__(self, octaves: int, width: int) -> None:
        super().__init__()
        # Standardized coordinates go from -1.7 to 1.7, so the longest wave, of length 4, covers the map.
        self.register_buffer("frequencies", math.pi / 2 * 2.0 ** torch.arange(octaves))
        self.layers = nn.Sequential(
            nn.Linear(4 * octaves, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )

    def forward(self, places: Tensor) -> Tensor:  # (places, 2) -> (places, 1)
        angles = (places.unsqueeze(-1) * self.frequencies).flatten(1)
        return self.layers(torch.cat([angles.sin(), angles.cos()], dim=1))


def elevation() -> Task:
    """Predict 86 x 101 heights of a map from their coordinates: a neural field on sines and cosines."""
    return Task(
        name="elevation",
        about="8,686 heights of a map, a neural field: two hidden layers of 64 units on sines and cosines",
        model=lambda: Field(_OCTAVES, 64),
        loss=supervised(functional.mse_loss),
        data=_heights,
        metric_name="mean squared error",
        batch_size=64,
        passes=20,
    )
