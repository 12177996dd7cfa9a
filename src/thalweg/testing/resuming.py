"""Checks of checkpoints, copies and pickles: training continues as if it had never been interrupted."""

import copy
import io
import pickle
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from thalweg.testing.fixtures import (
    SkippedError,
    Subject,
    assert_identical,
    clone_params,
    set_eval_mode,
    set_in_groups,
    set_train_mode,
    train,
)


def _check_resuming(subject: Subject, dtype: torch.dtype, save: Callable[[Any], Any]) -> None:
    """Compare 20 steps with 10 steps, a checkpoint that goes through ``save``, and 10 steps."""
    expected, params = subject.params(dtype), subject.params(dtype)
    train(subject.optimizer(expected), expected, range(20))
    optimizer = subject.optimizer(params)
    train(optimizer, params, range(10))
    saved = save(optimizer.state_dict())
    resumed_params = clone_params(params)
    resumed = subject.optimizer(resumed_params)
    resumed.load_state_dict(saved)
    set_train_mode(resumed)
    train(resumed, resumed_params, range(10, 20))
    assert_identical(resumed_params, expected, "10 steps, a checkpoint and 10 steps are not 20 steps")


def _through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def _through_a_distributed_checkpoint(state: Any) -> Any:
    from torch.distributed.checkpoint.state_dict_loader import load  # a slow import
    from torch.distributed.checkpoint.state_dict_saver import save

    flat = {f"state.{index}.{key}": value for index, entry in state["state"].items() for key, value in entry.items()}
    with tempfile.TemporaryDirectory() as folder:
        save(flat, checkpoint_id=folder, no_dist=True)
        loaded = {key: torch.zeros_like(value) if isinstance(value, Tensor) else value for key, value in flat.items()}
        load(loaded, checkpoint_id=folder, no_dist=True)
    entries: dict[Any, dict[str, Any]] = {index: {} for index in state["state"]}
    for name, value in loaded.items():
        index, key = name.removeprefix("state.").split(".", 1)
        entries[int(index)][key] = value
    return {"state": entries, "param_groups": state["param_groups"]}


def resumes_exactly(subject: Subject) -> None:
    """A float32 run continues from ``torch.save`` to the last bit, and the file loads with ``weights_only=True``."""
    _check_resuming(subject, torch.float32, _through_a_file)


def resumes_exactly_in_bfloat16(subject: Subject) -> None:
    """The same with bfloat16 parameters. Known defect: never exact, in all 37 optimizers of one library."""
    _check_resuming(subject, torch.bfloat16, _through_a_file)


def resumes_from_a_distributed_checkpoint(subject: Subject) -> None:
    """The same through ``torch.distributed.checkpoint``, which can only write tensors and plain values."""
    _check_resuming(subject, torch.float32, _through_a_distributed_checkpoint)


def resumes_exactly_from_an_evaluation(subject: Subject) -> None:
    """The same if it is saved between ``eval()`` and ``train()``, as trainers do. Known defect: it was refused."""
    params = subject.params()
    optimizer = subject.optimizer(params)
    train(optimizer, params, range(10))
    set_eval_mode(optimizer)
    resumed_params, saved = clone_params(params), _through_a_file(optimizer.state_dict())
    set_train_mode(optimizer)
    train(optimizer, params, range(10, 20))
    resumed = subject.optimizer(resumed_params)
    resumed.load_state_dict(saved)
    set_train_mode(resumed)
    train(resumed, resumed_params, range(10, 20))
    assert_identical(resumed_params, params, "a checkpoint of an evaluation, against no interruption")


def keeps_float32_state_of_bfloat16_parameters(subject: Subject) -> None:
    """A checkpoint keeps float32 moments of bfloat16 parameters. Known defect: cast to bfloat16 (pytorch#43706)."""
    params = subject.params(torch.bfloat16)
    optimizer = subject.optimizer(params)
    train(optimizer, params, range(2))
    saved = copy.deepcopy(optimizer.state_dict())
    for entry in saved["state"].values():
        for key, value in entry.items():
            if isinstance(value, Tensor) and value.dtype == torch.bfloat16:
                entry[key] = value.float()
    resumed = subject.optimizer(clone_params(params))
    resumed.load_state_dict(copy.deepcopy(saved))
    for index, entry in resumed.state_dict()["state"].items():
        for key, value in entry.items():
            if isinstance(value, Tensor):
                before = saved["state"][index][key].dtype
                assert value.dtype == before, f"{key} went in as {before} and came out as {value.dtype}"


def follows_the_lr_after_resuming(subject: Subject) -> None:
    """A new learning rate takes effect after resuming. Known defect: closures kept the old groups."""
    params = subject.params()
    optimizer = subject.optimizer(params)
    if "lr" not in optimizer.param_groups[0]:
        raise SkippedError("no lr in its groups")
    train(optimizer, params, range(3))
    start, resumed_params = clone_params(params), clone_params(params)
    resumed = subject.optimizer(resumed_params)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    set_train_mode(resumed)
    for trained, trained_params in ((optimizer, params), (resumed, resumed_params)):
        set_in_groups(trained, lr=trained.param_groups[0]["lr"] * 0.25)
        train(trained, trained_params, range(3, 6))
    assert_identical(resumed_params, params, "a changed lr after a resume, against one without")
    assert not any(map(torch.equal, resumed_params, start)), "nothing moved"


def copies_go_on_alike(subject: Subject) -> None:
    """``deepcopy`` gives an optimizer with its own parameters that continues as the original does."""
    _check_copy(subject, copy.deepcopy, "the copy")


def pickles_go_on_alike(subject: Subject) -> None:
    """The same for ``pickle``, with which processes and clusters send objects."""
    _check_copy(subject, lambda optimizer: pickle.loads(pickle.dumps(optimizer)), "the pickle")  # noqa: S301  (our own)


def _check_copy(
    subject: Subject, duplicate: Callable[[torch.optim.Optimizer], torch.optim.Optimizer], description: str
) -> None:
    params = subject.params()
    optimizer = subject.optimizer(params)
    train(optimizer, params, range(3))
    duplicated = duplicate(optimizer)
    train(optimizer, params, range(3, 6))
    duplicated_params = [param for group in duplicated.param_groups for param in group["params"]]
    train(duplicated, duplicated_params, range(3, 6))
    assert_identical(duplicated_params, params, description)
