"""Changes of the training loop."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from thalweg.diagnosis.changes.parts.change import Change
from thalweg.diagnosis.changes.parts.optimizers import optimizers_of
from thalweg.diagnosis.changes.parts.source import (
    PLAIN_STEP,
    arguments_of,
    calls_of,
    named_step,
    source_of,
    with_first_line,
)
from thalweg.tasks.training import Training

PLAIN_ZEROED = "the plain step does so already"


class FirstThen:
    """A step that calls a function first.

    Args:
        first: Called with the training.
        step: The step.
    """

    def __init__(self, first: Callable[[Training], Any], step: Callable[..., Any]) -> None:
        self.first, self.step = first, step
        self.__wrapped__ = step

    def __call__(self, training: Training, *batch: Any) -> Any:
        """Call the function and take the step."""
        self.first(training)
        return self.step(training, *batch)


def mended_step(training: Training, line: str) -> str:
    """Return the text of the user's step with a first line, in which ``training`` is the step's first argument.

    If the text of the step is unknown, it is a step that calls the user's.
    """
    source = source_of(training.step)
    if source is None or not arguments_of(source):
        return f"own_step = step\n\n\ndef step(training, *batch):\n    {line}\n    return own_step(training, *batch)"
    return named_step(with_first_line(source, line.replace("training.", f"{arguments_of(source)[0]}.")))


@dataclass(frozen=True, kw_only=True)
class ZeroGradients(Change):
    """Gradients are zeroed before each step."""

    def why_not(self, training: Training, where: str | None) -> str:
        return PLAIN_ZEROED if training.step is None else ""

    def alter(self, training: Training, where: str | None) -> None:
        optimizers = optimizers_of(training)

        def zero(training: Training) -> None:
            for optimizer in optimizers:
                optimizer.zero_grad()

        assert training.step is not None
        training.step = FirstThen(zero, training.step)

    def lines(self, training: Training, where: str | None) -> str:
        return mended_step(training, "training.optimizer.zero_grad()")


@dataclass(frozen=True, kw_only=True)
class TrainingMode(Change):
    """The model is put into training mode before each step."""

    def why_not(self, training: Training, where: str | None) -> str:
        in_training = all(module.training for module in training.model.modules())
        return "the model is in training mode" if training.step is None and in_training else ""

    def alter(self, training: Training, where: str | None) -> None:
        training.model.train()
        if training.step is not None:
            training.step = FirstThen(lambda training: training.model.train(), training.step)

    def lines(self, training: Training, where: str | None) -> str:
        source = source_of(training.step)
        if training.step is None or (source is not None and not calls_of(source, ["eval", "train"])):
            return "model.train()  # and after each evaluation"
        return mended_step(training, "training.model.train()")


@dataclass(frozen=True, kw_only=True)
class PlainStep(Change):
    """The plain step instead of the user's own."""

    def why_not(self, training: Training, where: str | None) -> str:
        return "the step is the plain one" if training.step is None else ""

    def alter(self, training: Training, where: str | None) -> None:
        training.step = None

    def lines(self, training: Training, where: str | None) -> str:
        return PLAIN_STEP
