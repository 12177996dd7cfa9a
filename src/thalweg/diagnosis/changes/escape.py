"""Changes that leave a poor minimum or a plateau: noise, warm restarts, another optimizer later on, restarts."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from thalweg.diagnosis.changes.parts.change import Change
from thalweg.diagnosis.changes.parts.optimizers import around_step, groups_of, optimizers_of, scale_lr
from thalweg.diagnosis.changes.steps import has_lr
from thalweg.diagnosis.run_training import plain_step
from thalweg.rules import SGD
from thalweg.rules.wrappers.noisy import Noisy
from thalweg.rules.wrappers.warm_restarts import WarmRestarts
from thalweg.tasks.training import Training

_NO_LR = "a group has no learning rate above 0"


@dataclass(frozen=True, kw_only=True)
class GradientNoise(Change):
    """Gradients with noise that fades, as large at first as a share of their own deviation.

    Attributes:
        share: The deviation of the noise over the root mean square of the first gradient.
        fading: The exponent of the fading.
    """

    share: float = 1.0
    fading: float = 0.55

    def alter(self, training: Training, where: str | None) -> None:
        rule = Noisy(SGD(lr=1.0), noise=self.share**2, fading=self.fading)
        generator = torch.Generator().manual_seed(0)
        scales: dict[int, Tensor] = {}

        def shake(owner: Any) -> None:
            for group in owner.param_groups:
                for param in group["params"]:
                    if param.grad is not None:
                        count = steps[id(owner)]
                        scale = scales.setdefault(id(param), param.grad.square().mean().sqrt())
                        noise = torch.randn(param.shape, generator=generator).to(param.grad)
                        param.grad.add_(rule.own_coefficients(count)["sigma"] * scale * noise)
            steps[id(owner)] += 1

        optimizers = optimizers_of(training)
        steps = {id(optimizer): 0 for optimizer in optimizers}
        for optimizer in optimizers:
            around_step(optimizer, before=shake)

    def lines(self, training: Training, where: str | None) -> str:
        return (
            "import itertools\n\nimport torch\n\n"
            "steps, scales = itertools.count(), {}\n\n\n"
            "def shake(optimizer, args, kwargs):\n"
            f"    sigma = {self.share:g} / (1 + next(steps)) ** {self.fading / 2:g}\n"
            '    for param in (param for group in optimizer.param_groups for param in group["params"]):\n'
            "        if param.grad is not None:\n"
            "            scale = scales.setdefault(param, param.grad.square().mean().sqrt())\n"
            "            param.grad.add_(sigma * scale * torch.randn_like(param.grad))\n\n\n"
            "optimizer.register_step_pre_hook(shake)"
        )


@dataclass(frozen=True, kw_only=True)
class Restarts(Change):
    """A learning rate that falls along half a cosine and restarts, from a higher rate.

    Attributes:
        period: Steps of the first period; each one is twice as long as the one before.
        peak: The rate after a restart, over the rate of the group.
    """

    period: int = 50
    peak: float = 10.0

    def why_not(self, training: Training, where: str | None) -> str:
        return "" if has_lr(training) else _NO_LR

    def alter(self, training: Training, where: str | None) -> None:
        rule = WarmRestarts(SGD(lr=self.peak), period=self.period)
        scale_lr(training, lambda group, step: group["lr"] * max(float(rule.base_lr(step + 1)), 1e-3))

    def lines(self, training: Training, where: str | None) -> str:
        return (
            "import torch\n\n"
            "for group in optimizer.param_groups:\n"
            f'    group["lr"] *= {self.peak:g}\n'
            "restarts = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts("
            f"optimizer, {self.period}, T_mult=2)\n"
            "optimizer.register_step_post_hook(lambda *_: restarts.step())"
        )


@dataclass
class _Best:
    """The best state of the parameters so far, and the losses since the last restart."""

    params: list[Tensor] = field(default_factory=list)
    loss: float = float("inf")
    losses: list[float] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class PerturbedRestarts(Change):
    """Restarts from the best weights so far, perturbed, with fresh averages of the optimizer.

    Attributes:
        every: Steps between restarts.
        share: The deviation of the perturbation over the root mean square of each tensor.
        restarts: The number of restarts; the last stretch begins at the best weights without a perturbation.
    """

    every: int = 50
    share: float = 0.5
    restarts: int = 4

    def alter(self, training: Training, where: str | None) -> None:
        best, generator, count = _Best(), torch.Generator().manual_seed(0), 0
        own_step = training.step or plain_step
        params = [param for group in groups_of(training) for param in group["params"]]

        def step(training: Training, *batch: Any) -> Any:
            nonlocal count
            if count and count % self.every == 0 and count <= (self.restarts + 1) * self.every:
                self._restart(training, params, best, generator, last=count == (self.restarts + 1) * self.every)
            count += 1
            before = [param.detach().clone() for param in params]
            loss = own_step(training, *batch)
            best.losses.append(float(loss))
            recent = best.losses[-self._window :]
            mean = sum(recent) / len(recent)
            if len(recent) == self._window and mean < best.loss:
                best.loss, best.params = mean, before
            return loss

        training.step = step

    @property
    def _window(self) -> int:
        return max(1, self.every // 10)

    def _restart(
        self, training: Training, params: list[Tensor], best: _Best, generator: torch.Generator, *, last: bool
    ) -> None:
        best.losses.clear()
        with torch.no_grad():
            for param, kept in zip(params, best.params or [param.detach().clone() for param in params], strict=True):
                noise = torch.randn(kept.shape, generator=generator).to(kept)
                param.copy_(kept if last else kept + self.share * kept.square().mean().sqrt() * noise)
        for optimizer in optimizers_of(training):
            if hasattr(optimizer, "state"):
                optimizer.state.clear()

    def lines(self, training: Training, where: str | None) -> str:
        return _PERTURBED.format(
            every=self.every, share=self.share, last=(self.restarts + 1) * self.every, window=self._window
        )


_PERTURBED = """import torch


def with_restarts(step):
    best, losses, count = (float("inf"), None), [], 0

    def step_with_restarts(training, *batch):
        nonlocal best, count
        params = [param for group in training.optimizer.param_groups for param in group["params"]]
        if count and count % {every} == 0 and count <= {last}:
            losses.clear()
            training.optimizer.state.clear()
            with torch.no_grad():
                for param, kept in zip(params, best[1]):
                    spread = {share} * kept.square().mean().sqrt() if count < {last} else 0.0
                    param.copy_(kept + spread * torch.randn_like(kept))
        count += 1
        before = [param.detach().clone() for param in params]
        losses.append(float(step(training, *batch)))
        mean = sum(losses[-{window}:]) / {window}
        if len(losses) >= {window} and mean < best[0]:
            best = mean, before
        return torch.tensor(losses[-1])

    return step_with_restarts


step = with_restarts(step)"""


@dataclass(frozen=True, kw_only=True)
class ThenOther(Change):
    """Another optimizer after some steps, or at every other step.

    Attributes:
        make: Makes the other optimizer of a list of parameters and the learning rate of the group.
        spelling: The text of that optimizer, with ``params`` and ``lr``.
        switch_at: The number of steps before it; 0 to take turns.
    """

    make: Callable[[list[Any], float], Any]
    spelling: str
    switch_at: int = 100

    def why_not(self, training: Training, where: str | None) -> str:
        return "" if has_lr(training) else _NO_LR

    def alter(self, training: Training, where: str | None) -> None:
        for optimizer in optimizers_of(training):
            self._alter_one(optimizer)

    def _alter_one(self, optimizer: Any) -> None:
        params = [param for group in optimizer.param_groups for param in group["params"]]
        second = self.make(params, float(optimizer.param_groups[0]["lr"]))
        count = 0
        kept: list[Any] = []

        def before(owner: Any) -> None:
            nonlocal count
            is_others = count >= self.switch_at if self.switch_at else count % 2 == 1
            count += 1
            kept.clear()
            if is_others:
                second.step()
                kept.extend(param.grad for param in params)
                for param in params:  # the own step then has nothing to do
                    param.grad = None

        def after(owner: Any) -> None:
            for param, grad in zip(params, kept, strict=False):
                param.grad = grad

        around_step(optimizer, before, after)

    def lines(self, training: Training, where: str | None) -> str:
        turn = f"count >= {self.switch_at}" if self.switch_at else "count % 2 == 1"
        return (
            "import itertools\n\nimport torch\n\n"
            'params = [param for group in optimizer.param_groups for param in group["params"]]\n'
            'lr = optimizer.param_groups[0]["lr"]\n'
            f"other, counter = {self.spelling}, itertools.count()\n\n\n"
            "def take_turns(optimizer, args, kwargs):\n"
            "    count = next(counter)\n"
            f"    if {turn}:\n"
            "        other.step()\n"
            "        for param in params:\n"
            "            param.grad = None\n\n\n"
            "optimizer.register_step_pre_hook(take_turns)"
        )
