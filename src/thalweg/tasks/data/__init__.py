"""Data of a task: forms that users have, three splits, batches, and their device."""

from thalweg.tasks.data.splits import (
    SPLIT_NAMES,
    Batch,
    Split,
    Splits,
    Tensors,
    completed,
    epochs_of_indices,
    examples_in,
    shuffled,
    split_at_random,
    standardized,
)

__all__ = [
    "SPLIT_NAMES",
    "Batch",
    "Split",
    "Splits",
    "Tensors",
    "completed",
    "epochs_of_indices",
    "examples_in",
    "shuffled",
    "split_at_random",
    "standardized",
]
