"""Checks of what is kept: checkpoints, copies and pickles go on as if nothing had happened."""

import copy
import io
import pickle
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from thalweg.testing.kit import Kit, SkippedError, assert_same, copied, put, ready, train


def _resumed(kit: Kit, dtype: torch.dtype, save: Callable[[Any], Any]) -> None:
    whole, halved = kit.params(dtype), kit.params(dtype)
    train(kit.made(whole), whole, range(20))
    begun = kit.made(halved)
    train(begun, halved, range(10))
    saved = save(begun.state_dict())
    params = copied(halved)
    resumed = kit.made(params)
    resumed.load_state_dict(saved)
    ready(resumed)
    train(resumed, params, range(10, 20))
    assert_same(params, whole, "10 steps, a checkpoint and 10 steps are not 20 steps")


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


def resumes_exactly(kit: Kit) -> None:
    """A float32 run resumed from `torch.save` goes on to the last bit; the file loads with `weights_only=True`."""
    _resumed(kit, torch.float32, _through_a_file)


def resumes_exactly_in_bfloat16(kit: Kit) -> None:
    """The same with bfloat16 parameters. Found: never exact, in all 37 optimizers of one library."""
    _resumed(kit, torch.bfloat16, _through_a_file)


def resumes_from_a_distributed_checkpoint(kit: Kit) -> None:
    """The same through `torch.distributed.checkpoint`, which can write tensors and plain values only."""
    _resumed(kit, torch.float32, _through_a_distributed_checkpoint)


def keeps_float32_state_of_bfloat16_parameters(kit: Kit) -> None:
    """float32 moments of bfloat16 parameters come out of a checkpoint as float32. Found: cast (pytorch#43706)."""
    params = kit.params(torch.bfloat16)
    begun = kit.made(params)
    train(begun, params, range(2))
    saved = copy.deepcopy(begun.state_dict())
    for entry in saved["state"].values():
        for key, value in entry.items():
            if isinstance(value, Tensor) and value.dtype == torch.bfloat16:
                entry[key] = value.float()
    resumed = kit.made(copied(params))
    resumed.load_state_dict(copy.deepcopy(saved))
    for index, entry in resumed.state_dict()["state"].items():
        for key, value in entry.items():
            if isinstance(value, Tensor):
                before = saved["state"][index][key].dtype
                assert value.dtype == before, f"{key} went in as {before} and came out as {value.dtype}"


def follows_the_lr_after_resuming(kit: Kit) -> None:
    """A changed learning rate acts after a resume. Found: no effect, since closures kept the old groups."""
    params = kit.params()
    begun = kit.made(params)
    if "lr" not in begun.param_groups[0]:
        raise SkippedError("no lr in its groups")
    train(begun, params, range(3))
    copies = copied(params)
    resumed = kit.made(copies)
    resumed.load_state_dict(copy.deepcopy(begun.state_dict()))
    ready(resumed)
    unchanged = copied(params)
    for optimizer, trained in ((begun, params), (resumed, copies)):
        put(optimizer, lr=optimizer.param_groups[0]["lr"] * 0.25)
        train(optimizer, trained, range(3, 6))
    assert_same(copies, params, "a changed lr after a resume, against one without")
    assert not any(map(torch.equal, copies, unchanged)), "nothing moved"


def copies_go_on_alike(kit: Kit) -> None:
    """`deepcopy` gives an optimizer of its own parameters that goes on as the original does."""
    params = kit.params()
    optimizer = kit.made(params)
    train(optimizer, params, range(3))
    other = copy.deepcopy(optimizer)
    train(optimizer, params, range(3, 6))
    copies = [param for group in other.param_groups for param in group["params"]]
    train(other, copies, range(3, 6))
    assert_same(copies, params, "the copy")


def pickles_go_on_alike(kit: Kit) -> None:
    """The same for `pickle`, which processes and clusters send objects with."""
    params = kit.params()
    optimizer = kit.made(params)
    train(optimizer, params, range(3))
    other = pickle.loads(pickle.dumps(optimizer))  # noqa: S301  (our own)
    train(optimizer, params, range(3, 6))
    copies = [param for group in other.param_groups for param in group["params"]]
    train(other, copies, range(3, 6))
    assert_same(copies, params, "the pickle")
