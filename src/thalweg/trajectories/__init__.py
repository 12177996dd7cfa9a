"""Trajectories: the paths of optimizers over surfaces of two dimensions."""

from thalweg.extras import require_lab

require_lab(__name__)

from thalweg.trajectories.surfaces import SURFACES, Surface, find_surface  # noqa: E402
from thalweg.trajectories.trace import MAX_OPTIMIZERS, MAX_STEPS, trace  # noqa: E402
from thalweg.trajectories.trajectory import OptimizerPaths, Trajectories, Trajectory  # noqa: E402

__all__ = [
    "MAX_OPTIMIZERS",
    "MAX_STEPS",
    "SURFACES",
    "OptimizerPaths",
    "Surface",
    "Trajectories",
    "Trajectory",
    "find_surface",
    "trace",
]
