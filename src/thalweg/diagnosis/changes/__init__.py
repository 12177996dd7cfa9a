"""Changes: each alters one thing of a fresh training, and has the lines to paste."""

from thalweg.diagnosis.changes.catalogue import CHANGES, changes_for
from thalweg.diagnosis.changes.parts.change import Change

__all__ = ["CHANGES", "Change", "changes_for"]
