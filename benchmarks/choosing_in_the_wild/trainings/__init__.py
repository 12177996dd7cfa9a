"""The trainings of this bench, each as the author of such a script would write it."""

from benchmarks.choosing_in_the_wild.training import Training
from benchmarks.choosing_in_the_wild.trainings import (
    characters,
    contrastive,
    field,
    fine_tuning,
    gan,
    graph,
    grid_world,
    noisy_labels,
    oscillator,
    series,
    tabular,
    vae,
)

_MODULES = (
    vae,
    gan,
    oscillator,
    graph,
    characters,
    grid_world,
    series,
    contrastive,
    field,
    tabular,
    fine_tuning,
    noisy_labels,
)
TRAININGS: dict[str, Training] = {module.TRAINING.name: module.TRAINING for module in _MODULES}
