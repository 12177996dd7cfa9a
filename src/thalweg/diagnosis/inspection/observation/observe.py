"""Observe: a few of the user's own steps, watched, and then undone."""

from collections.abc import Sequence

from thalweg.diagnosis.inspection.observation.parameters import parameter_records
from thalweg.diagnosis.inspection.observation.records import Batch, Observation
from thalweg.diagnosis.inspection.observation.state import restored
from thalweg.diagnosis.inspection.observation.watcher import Watcher, copied
from thalweg.tasks.training import Training

MAX_STEPS = 16  # of the user's; accumulation over more is not looked through
OPTIMIZER_STEPS = 4  # enough to see gradients that are carried along, and zeros that never move


def observe(training: Training, batches: Sequence[Batch]) -> Observation:
    """Take a few steps of a training, watch them, and undo them.

    Args:
        training: The training.
        batches: The batches; they are used again from the first on if the steps are more.
    """
    observation = _observe(training, batches, is_traced=True)
    return _observe(training, batches, is_traced=False) if observation.error is not None else observation


def observe_step(training: Training, batch: Batch) -> Observation:
    """Take one step of a training on a batch, watch it without a trace, and undo it."""
    return _observe(training, [batch], is_traced=False, max_steps=1)


def _observe(
    training: Training, batches: Sequence[Batch], *, is_traced: bool, max_steps: int = MAX_STEPS
) -> Observation:
    observation = Observation(training, batches, parameter_records(training.model))
    with restored(training):
        watcher = Watcher(observation)
        try:
            with watcher:
                for number in range(max_steps if batches else 0):
                    watcher.take_step(copied(batches[number % len(batches)]), is_traced=is_traced and number == 0)
                    is_enough = len(observation.optimizer_steps) >= OPTIMIZER_STEPS <= number + 1
                    if is_enough and watcher.have_all_stepped():
                        break
        except Exception as error:  # of the user's code; the run of the training reports it
            observation.error = error
        watcher.finish()
    return observation
