"""Fingerprints of a task and of a training function: plain JSON that differs if the trainings would differ.

A task is identified by its behaviour, not by its name: by its data, by the model it makes from one seed, and by the
losses and gradients of that model on the first examples. An edited activation, loss or loader makes another task. If
the task was read from a file, the text of the file counts too.
"""

import hashlib
import inspect
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from thalweg.tasks import Batch, Task, TrainingFunction, seeded
from thalweg.tasks.reproducibility.imported_modules import imported_texts
from thalweg.tasks.user_code import raise_task_errors

NUM_EXAMPLES = 64  # of each split that the model is tried on


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


def fingerprint_of_function(function: TrainingFunction) -> dict[str, Any]:
    """Return the name and the source text of a training function; the text of its file, if it was read from one.

    The texts of the user's modules that the file imports from its folder count too.
    """
    try:
        text = function.source or inspect.getsource(function.train)
    except (OSError, TypeError):  # typed at a prompt
        text = ""
    modules = imported_texts(function.train)
    return {"name": function.name, "source": text} | ({"modules": modules} if modules else {}) | _measured(function)


def fingerprint_of_task(task: Task) -> dict[str, Any]:
    """Return a hash of a task's data and initial model, its behaviour on the first examples, and its settings.

    Raises:
        TaskError: If the model or the data cannot be read, or the task does not train.
    """
    model = task.make_model(0)
    digest = hashlib.sha256()
    with raise_task_errors(f"{task.name}: the model must be ready to train", task.line_of("model")):
        for tensor in model.state_dict().values():
            _add(digest, tensor)
    behaviour = []
    for name in ("train", "validation", "test"):
        split = task.split(name)
        if isinstance(split, tuple):
            for tensor in split:
                _add(digest, tensor)
        with seeded(0), raise_task_errors(f"{task.name}: the task must train", task.line_of("loss")):
            batch = task.first_batch(name, NUM_EXAMPLES)
            for part in batch.values() if isinstance(batch, dict) else batch if isinstance(batch, tuple) else ():
                if isinstance(part, Tensor):
                    _add(digest, part)
            behaviour.append(_behaviour(model, task, name, batch))
    _check_last_batch(model, task)
    return {
        "name": task.name,
        "source": task.source,
        "content": digest.hexdigest(),
        "behaviour": behaviour,
        "batch_size": task.batch_size,
        "batches": task.batches_per_pass(),
        "passes": task.passes,
        "optimum": task.optimum,
        "words": task.metric_name,
        "roles": dict(task.roles),
        **({} if task.accumulate == 1 else {"accumulate": task.accumulate}),
        **({} if task.precision is None else {"precision": task.precision}),
    } | _measured(task)


def _measured(task: Task | TrainingFunction) -> dict[str, Any]:
    """Return what a task says of its measurements, without what it leaves open."""
    facts: dict[str, Any] = {"maximize": task.maximize, "result": task.result, "scale": task.scale}
    if isinstance(task, TrainingFunction):
        facts["words"] = task.metric_name
    elif task.metrics:
        facts["metrics"] = sorted(task.metrics)
    return {name: value for name, value in facts.items() if value not in (None, "", "last")}


def _check_last_batch(model: torch.nn.Module, task: Task) -> None:
    """Raise TaskError if a pass ends with a batch of one example on which the model cannot train, as with BatchNorm.

    A training would fail there, after all that were measured before it.
    """
    count = _examples_in_pass(task)
    if count is None:
        return
    batch = task.first_batch("train", 1)
    if isinstance(batch, dict):
        batch = {key: part[:1] if isinstance(part, Tensor) and part.dim() else part for key, part in batch.items()}
    elif isinstance(batch, tuple):
        batch = tuple(part[:1] if isinstance(part, Tensor) and part.dim() else part for part in batch)
    condition = f"{task.name}: the task must train on the last batch of a pass, which has 1 of {count:,} examples"
    with seeded(0), raise_task_errors(condition, task.line_of("data")):
        model.train()
        task.loss(model, batch)


def _examples_in_pass(task: Task) -> int | None:
    """Return the number of training examples if the last batch of a pass has one of them; else None."""
    train = task.split("train")
    if isinstance(train, tuple):
        count, size = len(train[0]), task.batch_size
    else:
        size = getattr(train, "batch_size", None) or 0
        dataset = getattr(train, "dataset", None)
        if size == 0 or getattr(train, "drop_last", False) or isinstance(dataset, IterableDataset):
            return None
        count = getattr(train, "num_examples", 0) if dataset is None else len(dataset)
    return count if count > 1 and size > 1 and count % size == 1 else None


def _behaviour(model: torch.nn.Module, task: Task, split: str, batch: Batch) -> list[str]:
    """Return the measure of a batch and the norm of each gradient, to three digits: machines differ in the last."""
    value: Any = task.measure(split)(model, batch)
    if not isinstance(value, Tensor):
        return [str(value)]
    sizes = [value.detach().cpu().double().sum()]  # on the CPU: MPS has no double precision
    if value.requires_grad and value.dim() == 0:
        params = [param for param in model.parameters() if param.requires_grad]
        grads = torch.autograd.grad(value, params, allow_unused=True)
        reals = [grad.abs() if grad.is_complex() else grad for grad in grads if grad is not None]
        sizes += [grad.cpu().double().norm() for grad in reals]
    return [f"{float(size):.3g}" for size in sizes]


def _add(digest: _Digest, tensor: Tensor) -> None:
    flat = tensor.detach().cpu().contiguous().flatten()
    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode() + flat.view(torch.uint8).numpy().tobytes())
