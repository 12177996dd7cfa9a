"""Training source: makes fresh, checked trainings from the user's function."""

import inspect
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from thalweg.diagnosis.time_limit import TimeLimitExceeded, time_limit
from thalweg.errors import DiagnosisError, TaskError
from thalweg.tasks.training import Training
from thalweg.tasks.user_code import describe, line_of, line_of_error, remedy_of

_PARTS = "model, optimizer, batches and loss_fn"


def diagnosis_error(who: str, condition: str, got: str, remedy: str, where: str = "") -> DiagnosisError:
    """Return the error ``who: condition, got ... (at file:line). Remedy.``"""
    line = f" (at {where})" if where and f"(at {where})" not in got else ""
    return DiagnosisError(f"{who}: {condition}, got {got}{line}. {remedy}".rstrip())


class TrainingSource:
    """A user's function of a seed that makes a fresh training.

    Args:
        function: Takes a seed and returns a ``Training``.
        limit_s: Seconds that one call may take.
        name: Name for messages. Defaults to that of the function.

    Attributes:
        name: Name for messages.
        line: File and line of the function; empty if unknown.
    """

    def __init__(self, function: Callable[[int], Training], limit_s: float, name: str = "") -> None:
        self.name = name or getattr(function, "__name__", type(function).__name__).replace("<lambda>", "training")
        if not callable(function):
            raise diagnosis_error(
                "diagnose",
                "a training must be a function of a seed that returns a thalweg.Training",
                f"an object of type {type(function).__name__}",
                "Write def training(seed): ...; return thalweg.Training(...).",
            )
        self.line = line_of(function)
        if not _takes_a_seed(function):
            raise self.error(
                "a training function must take one argument, the seed",
                f"{self.name.rpartition(':')[2]}{inspect.signature(function)}",
                "Write def training(seed): ...",
            )
        self._function = function
        self._limit_s = limit_s
        self._earlier: list[weakref.ref[nn.Parameter]] = []

    def make(self, seed: int) -> Training:
        """Return a fresh training of a seed. The caller seeds the random states.

        Raises:
            DiagnosisError: If the function raises an error, takes too long, returns no usable training, or returns a
                model that has parameters of an earlier one.
        """
        try:
            with time_limit(self._limit_s):
                training = self._function(seed)
        except TimeLimitExceeded as error:
            raise self.error(
                "the function must return a training",
                f"no return within {self._limit_s:.3g} s",
                "Look for an endless loop, or pass a larger budget.",
                line_of_error(error),
            ) from None
        except (DiagnosisError, TaskError):  # a task says by itself what it lacks
            raise
        except (Exception, SystemExit) as error:
            raise self.error(
                "the function must return a training", describe(error), remedy_of(error), line_of_error(error)
            ) from error
        self._check(training)
        return training

    def error(self, condition: str, got: str, remedy: str, where: str = "") -> DiagnosisError:
        """Return an error about this training, with the line of the function unless another one is known."""
        return diagnosis_error(self.name, condition, got, remedy, where or self.line)

    def _check(self, training: Any) -> None:
        if not isinstance(training, Training):
            raise self.error(
                "the function must return a thalweg.Training",
                f"{type(training).__name__}",
                f"Return thalweg.Training(...) with {_PARTS}.",
            )
        if not isinstance(training.model, nn.Module):
            raise self.error("model must be an nn.Module", type(training.model).__name__, "Pass the model itself.")
        if not list(training.model.parameters()) and not _held(training.optimizer):
            raise self.error("the model must have parameters", "none", "Layers in a plain list are not registered.")
        for name in ("step", "zero_grad"):
            if not callable(getattr(training.optimizer, name, None)):
                raise self.error(
                    f"optimizer must have the method {name}",
                    type(training.optimizer).__name__,
                    "Pass a torch.optim.Optimizer, or an object with step, zero_grad and param_groups.",
                )
        if not callable(training.loss_fn):
            raise self.error(
                "loss_fn must be a function of output and target", type(training.loss_fn).__name__, "Pass a function."
            )
        for name in ("step", "metric"):
            if getattr(training, name) is not None and not callable(getattr(training, name)):
                raise self.error(
                    f"{name} must be a function or None", type(getattr(training, name)).__name__, "Pass a function."
                )
        if not isinstance(training.batches, Iterable):
            raise self.error(
                "batches must be an iterable of tuples (inputs..., target)",
                type(training.batches).__name__,
                "Pass a DataLoader, a list or a generator.",
            )
        self._check_fresh(training.model)

    def _check_fresh(self, model: nn.Module) -> None:
        """Raise an error if a parameter belongs to the model of an earlier call that still lives."""
        earlier = {id(param) for ref in self._earlier if (param := ref()) is not None}
        shared = [name for name, param in model.named_parameters() if id(param) in earlier and param.requires_grad]
        if shared:
            raise self.error(
                "each call must make a model of its own",
                f"the same parameters twice: {', '.join(shared[:3])}{', ...' if len(shared) > 3 else ''}",
                "Make the model inside the function.",
            )
        self._earlier = [ref for ref in self._earlier if ref() is not None]
        self._earlier += [weakref.ref(param) for param in model.parameters()]


def _takes_a_seed(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(0)
    except TypeError:
        return False
    except ValueError:  # a function without a signature
        return True
    return True


def _held(optimizer: Any) -> list[Tensor]:
    """Return the parameters that an optimizer holds."""
    groups = getattr(optimizer, "param_groups", [])
    return [param for group in groups for param in group.get("params", [])]


class BatchStream:
    """The batches of a training, one after another.

    An iterable is begun again at its end; an iterator is used as it is.

    Args:
        batches: The iterable or iterator.
        source: The training source, for messages.
    """

    def __init__(self, batches: Iterable[Any], source: TrainingSource) -> None:
        self._batches = batches
        self._source = source
        self._iterator: Iterator[Any] = iter(batches)
        self._can_restart = self._iterator is not batches
        self.position = 0  # of the next batch in this pass

    def next(self) -> tuple[Any, ...] | None:
        """Return the next batch; None at the end of an iterator.

        Raises:
            DiagnosisError: If there is no batch at all, or a batch is no tuple.
        """
        batch = next(self._iterator, None)
        if batch is None and self._can_restart and self.position:
            self._iterator, self.position = iter(self._batches), 0
            batch = next(self._iterator, None)
        if batch is None:
            if self.position:
                return None
            raise self._source.error(
                "batches must contain a batch", "none", "Make the iterator anew for each call of the function."
            )
        if not isinstance(batch, (tuple, list)) or not batch:
            raise self._source.error(
                "a batch must be a tuple (inputs..., target)", type(batch).__name__, "Yield (inputs, target)."
            )
        self.position += 1
        return tuple(batch)
