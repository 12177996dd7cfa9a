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

from thalweg.tasks import Batch, Split, Task, TrainingFunction, seeded
from thalweg.tasks.data import as_batch
from thalweg.tasks.task import raise_task_errors

NUM_EXAMPLES = 64  # of each split that the model is tried on


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


def fingerprint_of_function(function: TrainingFunction) -> dict[str, Any]:
    """Return the name and the source text of a training function; the text of its file, if it was read from one."""
    try:
        text = function.source or inspect.getsource(function.train)
    except (OSError, TypeError):  # typed at a prompt
        text = ""
    return {"name": function.name, "source": text} | _measured(function)


def fingerprint_of_task(task: Task) -> dict[str, Any]:
    """Return a hash of a task's data and initial model, its behaviour on the first examples, and its settings.

    Raises:
        TaskError: If the model or the data cannot be read, or the task does not train.
    """
    model = task.make_model(0)
    digest = hashlib.sha256()
    with raise_task_errors(f"{task.name}: the model must be ready to train"):
        for tensor in model.state_dict().values():
            _add(digest, tensor)
    behaviour = []
    for name in ("train", "validation", "test"):
        split = task.split(name)
        if isinstance(split, tuple):
            for tensor in split:
                _add(digest, tensor)
        with seeded(0), raise_task_errors(f"{task.name}: the task must train"):
            batch = _first_batch(task, split)
            for part in batch.values() if isinstance(batch, dict) else batch:
                if isinstance(part, Tensor):
                    _add(digest, part)
            behaviour.append(_behaviour(model, task, name, batch))
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


def _first_batch(task: Task, split: Split) -> Batch:
    """Return the first examples of a split as a batch."""
    if split is None:
        return ()
    if isinstance(split, tuple):
        return tuple(tensor[:NUM_EXAMPLES] for tensor in split)
    return as_batch(task.name, next(iter(split)))


def _behaviour(model: torch.nn.Module, task: Task, split: str, batch: Batch) -> list[str]:
    """Return the measure of a batch and the norm of each gradient, to three digits: machines differ in the last."""
    value: Any = task.measure(split)(model, batch)
    if not isinstance(value, Tensor):
        return [str(value)]
    sizes = [value.detach().cpu().double().sum()]  # on the CPU: MPS has no double precision
    if value.requires_grad and value.dim() == 0:
        params = [param for param in model.parameters() if param.requires_grad]
        grads = torch.autograd.grad(value, params, allow_unused=True)
        sizes += [grad.cpu().double().norm() for grad in grads if grad is not None]
    return [f"{float(size):.3g}" for size in sizes]


def _add(digest: _Digest, tensor: Tensor) -> None:
    flat = tensor.detach().cpu().contiguous().flatten()
    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode() + flat.view(torch.uint8).numpy().tobytes())
