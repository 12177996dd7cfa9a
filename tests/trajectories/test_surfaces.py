"""Surfaces: the formulas at points computed by hand, their minima, and surfaces of the user's own."""

import math
from pathlib import Path

import pytest
import torch

from thalweg.errors import SettingError, TaskError, UnknownNameError
from thalweg.tasks.built_in import surfaces as tasks
from thalweg.trajectories import SURFACES, Surface, find_surface

TILT = math.radians(30)
VALUES = {
    "rosenbrock": ((-1.2, 1.0), 24.2),
    "quadratic": ((3 * math.cos(TILT), 3 * math.sin(TILT)), 0.09),
    "himmelblau": ((1.0, 2.0), 68.0),
    "beale": ((1.0, 2.0), 126.453125),
    "rastrigin": ((0.5, -1.0), 21.25),
    "ackley": ((3.0, 4.0), 20 * (1 - math.exp(-0.2 * math.sqrt(12.5)))),
    "saddle": ((2.0, 1.0), 1.75),
}


@pytest.mark.parametrize("name", SURFACES)
def test_the_height_is_the_published_one(name: str) -> None:
    point, height = VALUES[name]
    assert SURFACES[name].height_at(point) == pytest.approx(height, rel=1e-12)


def test_the_quadratic_is_fifty_times_as_steep_across() -> None:
    across = (-math.sin(TILT), math.cos(TILT))
    along = (math.cos(TILT), math.sin(TILT))
    surface = SURFACES["quadratic"]
    assert surface.height_at(across) / surface.height_at(along) == pytest.approx(50, rel=1e-12)


@pytest.mark.parametrize("name", SURFACES)
def test_the_minima_are_the_lowest_points_of_the_frame(name: str) -> None:
    surface = SURFACES[name]
    assert surface.holds(surface.start)
    for minimum in surface.minima:
        assert surface.holds(minimum)
        point = torch.tensor(minimum, dtype=torch.float64, requires_grad=True)
        height = surface.height(point)
        (gradient,) = torch.autograd.grad(height, point)
        assert height.item() == pytest.approx(surface.best, abs=1e-9)
        assert name == "ackley" or gradient.abs().max() < 1e-4  # Ackley's minimum is a corner
    x, y = torch.meshgrid(*(torch.linspace(*ends, 201) for ends in (surface.x, surface.y)), indexing="ij")
    assert surface.height(torch.stack([x, y], -1).double()).min() >= surface.best - 1e-12


@pytest.mark.parametrize(
    ("model", "name"),
    [(tasks.Rosenbrock(), "rosenbrock"), (tasks.Rastrigin(2), "rastrigin"), (tasks.Ackley(2), "ackley")],
)
def test_a_task_and_a_picture_have_the_same_formula(model: torch.nn.Module, name: str) -> None:
    point = (0.3, -1.7)
    with torch.no_grad():
        model.point.copy_(torch.tensor(point))
        assert model().item() == pytest.approx(SURFACES[name].height_at(point), rel=1e-5)


def bumps(point: torch.Tensor) -> torch.Tensor:
    return torch.sin(point).sum(-1)


def test_a_function_is_a_surface() -> None:
    surface = find_surface(bumps)
    assert (surface.name, surface.x, surface.best) == ("bumps", (-3.0, 3.0), None)
    assert surface.height_at((0.5, 0.0)) == pytest.approx(math.sin(0.5))


def test_a_function_in_a_file_is_a_surface(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def bowl(point):\n    return (point**2).sum(-1)\n")
    assert find_surface(f"{file}:bowl").height_at((1.0, 2.0)) == 5.0
    with pytest.raises(UnknownNameError, match=r"must define the function 'bowk', and does not\. Did you mean bowl"):
        find_surface(f"{file}:bowk")
    with pytest.raises(TaskError, match="the file must exist"):
        find_surface(f"{tmp_path}/other.py:bowl")


@pytest.mark.parametrize(
    ("height", "got"),
    [
        (lambda point: point[0] + point[1], r"\(3, 2\)"),
        (lambda point: 1.0, "AttributeError"),
        (lambda point: point.missing, "AttributeError"),
    ],
)
def test_a_function_that_does_not_map_points_to_heights_is_refused(height: object, got: str) -> None:
    with pytest.raises(SettingError, match=rf"must map points of shape .*got {got}.*Use point\[\.\.\., 0\]"):
        find_surface(height)


def test_a_frame_must_not_be_empty() -> None:
    with pytest.raises(SettingError, match=r"mine: x must be \(low, high\) with low < high, got 1\.0, 1\.0"):
        Surface("mine", "Mine", "", "", bumps, x=(1.0, 1.0))


@pytest.mark.parametrize("name", ["rosenbrok", "", 3, None])
def test_an_unknown_surface_lists_the_known_ones(name: object) -> None:
    with pytest.raises(UnknownNameError, match=r"must be one of rosenbrock, .*, saddle, got"):
        find_surface(name)
