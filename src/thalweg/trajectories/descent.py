"""Descent: the path of an optimizer over a surface, by the training loop that comparisons use.

A surface becomes a task without data whose model is one point. Noise of the gradient is data: examples n that add n·θ
to the height. They come in pairs n and -n, so that a step on all of them has no noise.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import thalweg.optim
from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.external import set_training_mode
from thalweg.comparison.contenders.schedule import lr_factor
from thalweg.comparison.training.computation.step_gradients import micro_batches
from thalweg.comparison.training.runs import SingleRun, Trial
from thalweg.errors import ParameterError, ThalwegError
from thalweg.optim.setting_warnings import suppress_warnings
from thalweg.optim.settings import keywords
from thalweg.rules import Rule
from thalweg.tasks import Batch, Splits, Task
from thalweg.trajectories.surfaces import Point, Surface

ROW = (1, 2)  # the shape of a point as a matrix
_VECTOR = (2,)
_MAX_NOISE_PAIRS = 500


class PointModel(nn.Module):
    """A point on a surface as a model with one parameter.

    Args:
        surface: The surface.
        start: The first point.
        shape: The shape of the parameter: a vector, or a matrix of one row.
    """

    def __init__(self, surface: Surface, start: Point, shape: tuple[int, ...]) -> None:
        super().__init__()
        self._surface = surface
        self.point = nn.Parameter(torch.tensor(start, dtype=torch.float64).reshape(shape))

    def forward(self, noise: Tensor | None = None) -> Tensor:
        return _noisy_height(self._surface, self.point.reshape(2), noise)


def _noisy_height(surface: Surface, points: Tensor, noise: Tensor | None) -> Tensor:
    height = surface.height(points)
    return height if noise is None else height + points @ noise.mean(0)


def task_of(surface: Surface, start: Point, shape: tuple[int, ...], steps: int, noise: float, seed: int) -> Task:
    """Return the task of one path.

    Args:
        surface: The surface.
        start: The first point.
        shape: The shape of the parameter.
        steps: Number of steps.
        noise: Standard deviation of the noise of each coordinate of the gradient.
        seed: Seed of the noise.
    """
    data = None
    if noise > 0:
        generator = torch.Generator().manual_seed(seed)
        half = noise * torch.randn(min(steps, _MAX_NOISE_PAIRS), 2, generator=generator, dtype=torch.float64)
        examples = (torch.cat([half, -half]),)
        data = Splits(examples, examples, examples)
    return Task(
        name=surface.name,
        model=lambda: PointModel(surface, start, shape),
        loss=_loss,
        data=data,
        batch_size=1,
        passes=steps,
        optimum=surface.best,
        device="cpu",
    )


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    return model(*batch)


def shape_for(contender: Contender) -> tuple[int, ...]:
    """Return the shape in which a contender takes a point: a vector, or a row if it accepts matrices alone."""
    rule = contender.thalweg_rule
    if rule is not None and (rule.traits.needs_whole_matrices or rule.traits.min_dims > 1):
        return ROW
    try:
        contender.optimizer([nn.Parameter(torch.ones(2))], {})
    except (ParameterError, ValueError):  # torch's Muon raises a ValueError
        return ROW
    return _VECTOR


def descend(contender: Contender, task: Task, lr: float, steps: int, seed: int) -> list[Point]:
    """Return the points of a path, the start first.

    Args:
        contender: The optimizer.
        task: The task of the path.
        lr: The learning rate.
        steps: Number of steps.
        seed: Seed of the order of the noise.

    Raises:
        ThalwegError: If the optimizer raises an error.
    """
    try:
        return _points_of_run(contender, task, lr, steps, seed)
    except ThalwegError:
        raise
    except Exception as error:
        raise ParameterError(
            f"{contender.name}: it must step a parameter of two numbers without further arguments, got "
            f"{type(error).__name__}: {error}"
        ) from error


def _points_of_run(contender: Contender, task: Task, lr: float, steps: int, seed: int) -> list[Point]:
    run = SingleRun(task, contender, Trial({"lr": lr}, seed))
    point = next(run.model.parameters())
    has_eval_params = callable(getattr(run.optimizer, "eval", None))
    points = [_as_point(point)]
    for step in range(steps):
        run.step(lr_factor(contender.schedule or "constant", step, steps))
        if has_eval_params:
            set_training_mode(run.optimizer, False)
        points.append(_as_point(point))
        if has_eval_params:
            set_training_mode(run.optimizer, True)
        if not all(map(math.isfinite, points[-1])):
            break
    return points


def _as_point(param: Tensor) -> Point:
    x, y = param.detach().reshape(2).tolist()
    return x, y


def can_descend_together(contender: Contender) -> bool:
    """Return True if paths at several learning rates may be steps of one optimizer: no path depends on another."""
    rule = contender.thalweg_rule
    if rule is None:
        return False
    traits = rule.traits
    return (
        traits.scope != "model"
        and traits.needs == "gradient"
        and not (
            traits.has_shared_state or traits.uses_model_lr or traits.uses_random_numbers or traits.has_eval_params
        )
    )


def descend_together(
    contender: Contender, surface: Surface, task: Task, lrs: Sequence[float], steps: int, seed: int
) -> list[list[Point]]:
    """Return a path for each learning rate, the same as of ``descend``, at a fraction of its time.

    All paths are parameters of one optimizer, each with its own learning rate, and their gradients are computed at
    once.

    Args:
        contender: An optimizer for which ``can_descend_together`` is True.
        surface: The surface.
        task: The task of the path.
        lrs: The learning rates.
        steps: Number of steps.
        seed: Seed of the order of the noise.
    """
    rule = contender.thalweg_rule
    assert isinstance(rule, Rule)
    params = [next(task.model().parameters()) for _ in lrs]
    groups = [{"params": [param], "lr": lr} for param, lr in zip(params, lrs, strict=True)]
    make = thalweg.optim.optimizer_for(rule.at_defaults())
    with suppress_warnings():  # the learning rates are ours; the settings of the user are checked once
        optimizer = make(groups, **keywords.from_rule(rule))
    stream = micro_batches(task, seed, full_batch=contender.full_batch)
    positions = [torch.stack([param.detach().reshape(2) for param in params])]
    for step in range(steps):
        points = positions[-1].clone().requires_grad_()
        (batch,) = next(stream)
        noise = batch[0] if batch else None
        (gradients,) = torch.autograd.grad(_noisy_height(surface, points, noise).sum(), points)
        factor = lr_factor(contender.schedule or "constant", step, steps)
        for param, gradient, group, lr in zip(params, gradients, optimizer.param_groups, lrs, strict=True):
            param.grad = gradient.reshape(param.shape)
            group["lr"] = lr * factor
        optimizer.step()
        positions.append(torch.stack([param.detach().reshape(2) for param in params]))
    return [[(x, y) for x, y in path] for path in torch.stack(positions, 1).tolist()]
