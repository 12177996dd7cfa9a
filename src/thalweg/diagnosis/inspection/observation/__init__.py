"""Observation: a few of the user's own steps, watched and undone."""

from thalweg.diagnosis.inspection.observation.observe import (
    LossCall,
    Observation,
    OptimizerStep,
    copied,
    copied_values,
    observe,
    observe_step,
)

__all__ = ["LossCall", "Observation", "OptimizerStep", "copied", "copied_values", "observe", "observe_step"]
