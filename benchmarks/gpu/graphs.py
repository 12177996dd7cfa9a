"""Captured steps: every rule recorded in a graph and replayed, beside the same steps one by one.

Learning rates are tensors on the device and follow a schedule; the sync debug mode of torch makes each wait an error.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import lr_scheduler

from benchmarks.gpu import stub, waits
from benchmarks.gpu.session import Session, SkippedError
from benchmarks.gpu.stepping import Subject, subjects
from thalweg import optim
from thalweg.bench.device_meter import DeviceMeter

WARM_UP_STEPS = 3
REPLAYED_STEPS = 20
SHAPES = ((5, 3), (33, 5), (7,), (300, 131))
_TOLERANCE = 1e-6  # of the change of all parameters: scalars of a step are computed on the device
_IN_SHORT = ("AdamW-lr-betas-eps-weight_decay", "SGD", "LAMB", "Prodigy")

SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "LambdaLR": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 ** (step // 4)),
    "StepLR": lambda optimizer: lr_scheduler.StepLR(optimizer, 5, gamma=0.5),
    "CosineAnnealingLR": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 30),
    "CosineAnnealingWarmRestarts": lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 7),
    "LinearLR": lambda optimizer: lr_scheduler.LinearLR(optimizer, 0.1, total_iters=10),
    "ExponentialLR": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.9),
    "OneCycleLR": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=40),
    "CyclicLR": lambda optimizer: lr_scheduler.CyclicLR(optimizer, 0.001, 0.02, step_size_up=6, cycle_momentum=False),
}


def run(session: Session) -> None:
    """Capture all rules by one schedule, and AdamW by all schedules."""
    for subject in subjects():
        if session.stub and not subject.name.startswith(_IN_SHORT):
            continue
        session.check(subject.name, partial(_compare, session, subject, "LambdaLR", _TOLERANCE))
    adamw = next(subject for subject in subjects() if subject.name == "AdamW-lr-betas-eps-weight_decay")
    for name in SCHEDULERS:
        if name != "LambdaLR":
            # A schedule of a tensor is computed in float32, and one of a number in float64.
            session.check(f"AdamW by {name}", partial(_compare, session, adamw, name, 2e-5))
    session.check("a parameter without a gradient", partial(_refuses_missing_gradients, session))


def _compare(session: Session, subject: Subject, schedule: str, tolerance: float) -> None:
    if subject.rule.traits.needs != "gradient":
        raise SkippedError(f"it needs a {subject.rule.traits.needs} in each step")
    device = session.device
    shapes = subject.shapes if subject.rule.traits.needs_whole_matrices else SHAPES
    eager = _Training(subject, shapes, device, schedule, capturable=False)
    try:
        captured = _Training(subject, shapes, device, schedule, capturable=True)
    except Exception as error:
        if "capturable" in str(error) and subject.rule.traits.needs_whole_matrices:
            raise SkippedError(f"it refuses to be captured: {error}") from error
        raise
    starts = [param.detach().clone() for param in captured.params]
    replay = None
    for step in range(WARM_UP_STEPS + REPLAYED_STEPS):
        eager.set_gradients(step)
        eager.optimizer.step()
        eager.schedule()
        captured.set_gradients(step)
        if step < WARM_UP_STEPS:
            with waits.forbidden(device) if step else waits.forbidden(torch.device("cpu")):  # the first one makes state
                captured.meter.warm_up(captured.optimizer.step)
        else:
            replay = replay or captured.meter.record(captured.optimizer.step)
            with waits.forbidden(device):
                replay()
        captured.schedule()
    for k, (param, expected, start) in enumerate(zip(captured.params, eager.params, starts, strict=True)):
        change = (expected.detach() - start).double().norm()
        error = float((param.detach() - expected.detach()).double().norm() / change.clamp(min=1e-30))
        assert change > 0, f"parameter {k} never moved"
        assert error <= tolerance, f"parameter {k} of shape {tuple(param.shape)} is off by {error:.3g} of its change"


class _Training:
    """An optimizer with parameters, gradients that stay in place, and a schedule."""

    def __init__(
        self,
        subject: Subject,
        shapes: Sequence[tuple[int, ...]],
        device: torch.device,
        schedule: str,
        *,
        capturable: bool,
    ) -> None:
        generator = torch.Generator().manual_seed(1)
        self.meter: DeviceMeter = stub.meter(device)
        self.params = [torch.randn(shape, generator=generator).to(device).requires_grad_() for shape in shapes]
        self.optimizer: optim.RuleOptimizer = subject.make(self.params, capturable=capturable)
        for param in self.params:
            param.grad = torch.zeros_like(param)
        for group in self.optimizer.param_groups:
            if "lr" in group:  # of a value that float32 has, so that both trainings have the same one
                lr = torch.tensor(float(group["lr"]))
                group["lr"] = lr.to(device) if capturable else float(lr)
        self.optimizer.prepare()
        self._scheduler = SCHEDULERS[schedule](self.optimizer) if "lr" in self.optimizer.param_groups[0] else None

    def set_gradients(self, step: int) -> None:
        """Write the gradients of a step to where they are."""
        generator = torch.Generator().manual_seed(100 + step)
        for param in self.params:
            assert param.grad is not None
            param.grad.copy_(torch.randn(param.shape, generator=generator) + 0.3)

    def schedule(self) -> None:
        """Set the learning rate of the next step."""
        if self._scheduler is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch does not see the steps of a graph
                self._scheduler.step()


def _refuses_missing_gradients(session: Session) -> None:
    """A graph would leave such a parameter out for ever."""
    device = session.device
    if device.type != "cuda":
        raise SkippedError("a graph is captured on cuda only")
    params: list[Tensor] = [torch.ones(3, device=device, requires_grad=True) for _ in range(2)]
    optimizer = optim.AdamW(params, capturable=True)
    params[0].grad = torch.ones_like(params[0])
    meter = stub.meter(device)
    meter.warm_up(optimizer.step)
    reason = ""
    try:
        meter.record(optimizer.step)
    except Exception as error:  # thalweg's, or one of torch that has it as its cause
        reason = f"{error} {error.__cause__ or error.__context__}"
    assert reason, "a step was captured while a parameter has no gradient"
    assert "gradient" in reason, f"the error does not name the reason: {reason}"
