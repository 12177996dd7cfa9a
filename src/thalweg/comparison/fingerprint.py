"""Fingerprint: whether two calls ask for the same comparison. Resuming looks a comparison up by it."""

import hashlib
import inspect
import json
from collections.abc import Sequence
from typing import Any

import torch

import thalweg
from thalweg.comparison.contenders import Contender
from thalweg.tasks import Task, TrainingFunction


def key_of(
    task: Task | TrainingFunction, contenders: Sequence[Contender], budget: str, seed: int, schedule: str
) -> str:
    """A hash of everything that decides the results: what is trained, by whom, how long, and by which software."""
    facts = {
        "task": _task(task),
        "contenders": [contender.described() for contender in contenders],
        "budget": budget.strip().lower(),
        "seed": seed,
        "schedule": schedule,
        "versions": [thalweg.__version__, torch.__version__],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _task(task: Task | TrainingFunction) -> dict[str, Any]:
    """What can be told of a task from outside: its text where there is one, its data, and the model it makes."""
    facts: dict[str, Any] = {"name": task.name, "source": task.source}
    if isinstance(task, TrainingFunction):
        facts["source"] = facts["source"] or _source(task.train)
        return facts
    digest = hashlib.sha256()
    for param in task.make_model(0).state_dict().values():
        digest.update(_bytes(param))
    for name in ("train", "validation", "test"):
        split = task.split(name)
        if isinstance(split, tuple):
            for tensor in split:
                digest.update(_bytes(tensor))
        elif split is not None:
            digest.update(str(len(getattr(split, "dataset", ()))).encode())
    return facts | {
        "content": digest.hexdigest(),
        "loss": _source(task.loss),
        "metric": _source(task.metric),
        "batch_size": task.batch_size,
        "passes": task.passes,
        "optimum": task.optimum,
    }


def _bytes(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().flatten()
    return f"{tensor.dtype}{tuple(tensor.shape)}".encode() + flat.view(torch.uint8).numpy().tobytes()


def _source(function: object) -> str:
    try:
        return inspect.getsource(function)  # type: ignore[arg-type]
    except (OSError, TypeError):  # typed at a prompt, or None
        return ""
