"""Checkpoints: a saved state is checked as a whole and prepared before anything of an optimizer is changed.

A checkpoint is accepted if it is one of ours, one of torch's class of the same name, or one of another library that can
be converted exactly. No entry is kept that a step would not use.
"""

from thalweg.optim.checkpoints.evaluation import TRAIN_PARAM, is_evaluating, with_mode
from thalweg.optim.checkpoints.preparation import as_dict, prepare

__all__ = ["TRAIN_PARAM", "as_dict", "is_evaluating", "prepare", "with_mode"]
