"""Observation: a few of the user's own steps, watched and undone."""

from thalweg.diagnosis.inspection.observation.observe import observe, observe_step
from thalweg.diagnosis.inspection.observation.records import LossCall, Observation, OptimizerStep
from thalweg.diagnosis.inspection.observation.watcher import copied

__all__ = ["LossCall", "Observation", "OptimizerStep", "copied", "observe", "observe_step"]
