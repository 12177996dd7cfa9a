"""Check of sharded parameters: two processes, each with half of each parameter, take the steps of one process."""

import atexit
import os
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

from thalweg.testing.fixtures import RefusedError, SkippedError, Subject, make_gradients, train

_NUM_STEPS = 5
_TIMEOUT_S = 180
_DONE = "done"


def steps_alike_when_sharded(subject: Subject) -> float:
    """Two gloo processes with DTensors, as from ``fully_shard``, end where one does. Known defect: 13.8 % off.

    The factory must be one that can be pickled: a function of a module, or a ``functools.partial`` of one.
    """
    try:
        pickled = pickle.dumps(replace(subject, reference=None, variants={}))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise SkippedError(f"the factory cannot be sent to another process: {error}") from error
    if b"__main__" in pickled:  # in another process this is another script
        raise SkippedError("the factory cannot be sent to another process: it is defined in a script")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "path").write_bytes(pickle.dumps(sys.path))
        (Path(folder) / "subject").write_bytes(pickled)
        _processes().run(folder)
        ends = torch.load(Path(folder) / "ends", weights_only=True)
    params = subject.params()
    train(subject.optimizer(params), params, range(_NUM_STEPS))
    errors = [
        float((end - param).norm() / (param - start).norm())
        for end, param, start in zip(ends, params, subject.params(), strict=True)
    ]
    assert max(errors) < 1e-5, f"the change is off by {max(errors):.3g} of its size"
    return max(errors)


class _ProcessPair:
    """The two processes. They stay for later checks, because to start them takes longer than a check."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        # Run as a script: run as a module it would be imported twice, the first time by its package.
        command = [sys.executable, "-P", __file__, self._folder.name]
        self._processes = [
            subprocess.Popen([*command, str(rank)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
            for rank in range(2)
        ]
        atexit.register(self.close)

    def run(self, folder: str) -> None:
        """Run the check whose files lie in a folder, and raise the error that a process reports."""
        timer = Timer(_TIMEOUT_S, self.close)
        timer.start()
        try:
            for process in self._processes:
                assert process.stdin is not None
                process.stdin.write(folder + "\n")
                process.stdin.flush()
            replies = [process.stdout.readline().strip() for process in self._processes if process.stdout]
        except OSError:
            replies = [""]
        timer.cancel()
        if replies != [_DONE, _DONE]:
            self.close()  # one process may wait for the other without end
            message = next((reply for reply in replies if reply and reply != _DONE), "a process ended, or was too slow")
            if "sharded" in message:
                raise RefusedError(message)
            raise AssertionError(message)

    def close(self) -> None:
        """End the processes. The next check starts new ones."""
        _processes.cache_clear()
        atexit.unregister(self.close)
        for process in self._processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()
        self._folder.cleanup()


@cache
def _processes() -> _ProcessPair:
    return _ProcessPair()


def _serve(folder: Path, rank: int) -> None:
    """Run in one of the two processes: read the folder of a check from each line of stdin, and reply on stdout."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what others print is no reply: optimizers, and gloo before torch 2.9
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for line in sys.stdin:
        try:
            _train_sharded(Path(line.strip()), mesh, rank)
            reply = _DONE
        except Exception as error:  # an optimizer of another library may raise anything; all of it is a failure
            reply = " ".join(f"{type(error).__name__}: {error}".split())
        print(reply, file=replies, flush=True)


def _train_sharded(folder: Path, mesh: Any, rank: int) -> None:
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    # The import path first, because the factory may lie on it. Our own parent process wrote both files.
    sys.path[:] = pickle.loads((folder / "path").read_bytes())  # noqa: S301
    subject = pickle.loads((folder / "subject").read_bytes())  # noqa: S301

    def shard(tensor: Tensor) -> Any:
        return distribute_tensor(tensor.detach(), mesh, [Shard(0) if tensor.dim() else Replicate()])

    whole = subject.params()
    params = [shard(param).requires_grad_() for param in whole]
    optimizer = subject.optimizer(params)
    for step in range(_NUM_STEPS):
        for param, grad in zip(params, make_gradients(whole, step), strict=True):
            param.grad = shard(grad)
        optimizer.step()
    ends = [param.detach().full_tensor() for param in params]
    if rank == 0:
        torch.save(ends, folder / "ends")


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]))
