"""Check of sharded parameters: two processes that hold half of each parameter take the steps that one takes."""

import atexit
import pickle
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from threading import Timer
from typing import Any

import torch
from torch import Tensor

from thalweg.testing.kit import Kit, RefusedError, SkippedError, gradients, train

_NUM_STEPS = 5
_PATIENCE_S = 180


def steps_alike_when_sharded(kit: Kit) -> float:
    """Two gloo processes with DTensors, as `fully_shard` makes them, end where one does. Found: 13.8 % off, silently.

    The factory must be one that can be pickled: a function of a module, or a `functools.partial` of one.
    """
    try:
        sent = pickle.dumps(replace(kit, reference=None, variants={}))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise SkippedError(f"the factory cannot be sent to another process: {error}") from error
    if b"__main__" in sent:  # another process has another script there
        raise SkippedError("the factory cannot be sent to another process: it is defined in a script")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "path").write_bytes(pickle.dumps(sys.path))
        (Path(folder) / "kit").write_bytes(sent)
        _ranks().work(folder)
        ends = torch.load(Path(folder) / "ends", weights_only=True)
    params = kit.params()
    train(kit.made(params), params, range(_NUM_STEPS))
    errors = [
        float((end - param).norm() / (param - start).norm())
        for end, param, start in zip(ends, params, kit.params(), strict=True)
    ]
    assert max(errors) < 1e-5, f"the change is off by {max(errors):.3g} of its size"
    return max(errors)


class _Ranks:
    """The two processes. They are kept for the next check: starting them takes longer than a check."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        # As a script, since as a module it would be imported twice: by its package first.
        command = [sys.executable, "-P", __file__, self._folder.name]
        self._processes = [
            subprocess.Popen([*command, str(rank)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
            for rank in range(2)
        ]
        atexit.register(self.end)

    def work(self, folder: str) -> None:
        """Have the kit in a folder checked; what the processes say of it is raised."""
        late = Timer(_PATIENCE_S, self.end)
        late.start()
        try:
            for process in self._processes:
                assert process.stdin is not None
                process.stdin.write(folder + "\n")
                process.stdin.flush()
            said = [process.stdout.readline().strip() for process in self._processes if process.stdout]
        except OSError:
            said = [""]
        late.cancel()
        if said != ["done", "done"]:
            self.end()  # one of them may wait for the other for ever
            wrong = next((words for words in said if words and words != "done"), "a process ended, or was too slow")
            if "sharded" in wrong:
                raise RefusedError(wrong)
            raise AssertionError(wrong)

    def end(self) -> None:
        """End the processes; the next check starts new ones."""
        _ranks.cache_clear()
        atexit.unregister(self.end)
        for process in self._processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()
        self._folder.cleanup()


@cache
def _ranks() -> _Ranks:
    return _Ranks()


def _serve(folder: Path, rank: int) -> None:
    """What one of the two processes does: the checks whose folders it reads, one a line."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for line in sys.stdin:
        try:
            _check(Path(line.strip()), mesh, rank)
            said = "done"
        except Exception as error:  # whatever another's optimizer raises is what was found
            said = " ".join(f"{type(error).__name__}: {error}".split())
        print(said, flush=True)


def _check(folder: Path, mesh: Any, rank: int) -> None:
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    # The path first, on which the factory may lie. Both are written by our own other process.
    sys.path[:] = pickle.loads((folder / "path").read_bytes())  # noqa: S301
    kit = pickle.loads((folder / "kit").read_bytes())  # noqa: S301

    def sharded(tensor: Tensor) -> Any:
        return distribute_tensor(tensor.detach(), mesh, [Shard(0) if tensor.dim() else Replicate()])

    whole = kit.params()
    params = [sharded(param).requires_grad_() for param in whole]
    optimizer = kit.made(params)
    for step in range(_NUM_STEPS):
        for param, grad in zip(params, gradients(whole, step), strict=True):
            param.grad = sharded(grad)
        optimizer.step()
    ends = [param.detach().full_tensor() for param in params]
    if rank == 0:
        torch.save(ends, folder / "ends")


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]))
