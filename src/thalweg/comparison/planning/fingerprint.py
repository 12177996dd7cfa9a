"""Fingerprint: whether two calls ask for the same comparison. Resuming looks a comparison up by it.

A task is known by what it does, not by what it is called: its data, the model it makes from one seed, and the losses
and gradients of that model on the first examples. So an edited activation, loss or loader is another task. Where a task
was read from a file, the file's text counts too.
"""

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import scipy
import torch

import thalweg
from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.planning.budget import Budget
from thalweg.tasks import Batch, Task, TrainingFunction, seeded
from thalweg.tasks.data import as_batch
from thalweg.tasks.task import raise_task_errors

LOOKED_AT = 64  # examples of each split that a model is tried on


def key_of(
    task: Task | TrainingFunction,
    contenders: Sequence[Contender],
    budget: Budget,
    seed: int,
    schedule: str,
    options: Mapping[str, Any],
) -> str:
    """A hash of everything that decides the results: what is trained, by whom, how long, and by which software."""
    facts = {
        "task": _function(task) if isinstance(task, TrainingFunction) else _task(task),
        "contenders": [[contender.described(), sorted(contender.pinned)] for contender in contenders],
        "budget": asdict(budget),
        "seed": seed,
        "schedule": schedule,
        "options": dict(options),
        "versions": [thalweg.__version__, torch.__version__, scipy.__version__],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _function(task: TrainingFunction) -> dict[str, Any]:
    """A function is known by its text, and that of the file it stands in."""
    try:
        text = task.source or inspect.getsource(task.train)
    except (OSError, TypeError):  # typed at a prompt
        text = ""
    return {"name": task.name, "source": text}


def _task(task: Task) -> dict[str, Any]:
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
            batch = _first(task, split)
            for part in batch.values() if isinstance(batch, dict) else batch:
                if isinstance(part, torch.Tensor):
                    _add(digest, part)
            behaviour.append(_tried(model, task, name, batch))
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
    }


def _first(task: Task, split: Any) -> Batch:
    """The first examples of a split, as a batch."""
    if split is None:
        return ()
    return (
        tuple(tensor[:LOOKED_AT] for tensor in split)
        if isinstance(split, tuple)
        else as_batch(task.name, next(iter(split)))
    )


def _tried(model: torch.nn.Module, task: Task, split: str, batch: Batch) -> list[str]:
    """What is measured on a batch, and the size of each gradient, to three digits: machines differ in the last ones."""
    value = task.measure(split)(model, batch)
    if not isinstance(value, torch.Tensor):
        return [str(value)]
    sizes = [value.detach().double().sum()]
    if value.requires_grad and value.dim() == 0:
        params = [param for param in model.parameters() if param.requires_grad]
        grads = torch.autograd.grad(value, params, allow_unused=True)
        sizes += [grad.double().norm() for grad in grads if grad is not None]
    return [f"{float(size):.3g}" for size in sizes]


def _add(digest: Any, tensor: torch.Tensor) -> None:
    flat = tensor.detach().cpu().contiguous().flatten()
    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode() + flat.view(torch.uint8).numpy().tobytes())
