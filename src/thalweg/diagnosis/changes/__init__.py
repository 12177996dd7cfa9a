"""Changes: each alters one thing of a fresh training, and has the lines to paste."""

from thalweg.diagnosis.changes.catalogue import CHANGES, ESCAPES, FIXED_SUBSET, changes_for
from thalweg.diagnosis.changes.parts.change import Change
from thalweg.diagnosis.changes.steps import SetLearningRate

__all__ = ["CHANGES", "ESCAPES", "FIXED_SUBSET", "Change", "SetLearningRate", "changes_for"]
