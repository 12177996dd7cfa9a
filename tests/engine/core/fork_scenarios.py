"""Scenarios of `test_forks.py`, run as a script: each forks processes, and the script prints how each scenario ended.

A forked process whose OpenMP threads have stayed with its parent waits for them for ever as soon as it computes on
several threads. So each child has a time limit, after which it is killed, and "hangs" is printed for it.
"""

import json
import os
import sys
import threading
import time
import traceback
from array import array
from collections.abc import Callable
from typing import Any

import torch

NUM_THREADS = 4
LARGE = 300_000  # elements, for which torch and kernels use several threads
LIMIT_S = 120.0


def ending(pid: int) -> str:
    """Return how a child ended: "well", "hangs", or its exit code."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return "well" if code == 0 else f"code {code}"
        time.sleep(0.02)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return "hangs"


def forked(work: Callable[[], object]) -> str:
    """Run a function in a forked process; return how it ended."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return ending(pid)


def ones(size: int) -> torch.Tensor:
    """Return a vector of 1, made on one thread whatever its size."""
    return torch.frombuffer(array("f", [1.0]) * size, dtype=torch.float32)


def compute() -> None:
    """Compute on several threads of OpenMP."""
    torch.randn(LARGE).exp()


def train(sizes: list[int], name: str = "SGD", **settings: Any) -> None:
    """Train with gradients of 1: SGD moves each parameter from 1 to 0.75."""
    from thalweg import optim

    params = [ones(size).requires_grad_() for size in sizes]
    for param in params:
        param.grad = ones(len(param))
    getattr(optim, name)(params, lr=0.25, **settings).step()
    for param in params:
        values = set(param.tolist())
        assert values == {0.75} if name == "SGD" else all(-9 < value < 1 for value in values), values


def train_matrix() -> None:
    """Train a matrix that is multiplied."""
    from thalweg import optim

    param = ones(120_000).view(400, 300).requires_grad_()
    param.grad = ones(120_000).view(400, 300)
    optim.Muon([param]).step()
    assert all(-9 < value < 1 for row in param.tolist() for value in row)


TRAININGS: dict[str, Callable[[], None]] = {
    "one small tensor": lambda: train([1000]),
    "a large tensor": lambda: train([LARGE, 10]),
    "many small tensors": lambda: train([1000] * 50),
    "on flat": lambda: train([1000] * 50, backend="flat"),
    "a large tensor on loop": lambda: train([LARGE], backend="loop"),
    "sums over tensors": lambda: train([LARGE, 7], "Adafactor"),
    "sums over the model": lambda: train([LARGE, 7], "Prodigy"),
    "matrices": train_matrix,
}


def num_system_threads() -> int:
    """Return the number of threads that the system sees."""
    return len(os.listdir("/proc/self/task"))


def small_models() -> dict[str, str]:
    """A parent that trains small models, on kernels that it compiles and then on cached ones, starts no thread."""
    import thalweg.optim  # noqa: F401
    from thalweg.engine.kernels import kernel_cache

    before = num_system_threads()
    for _ in ("compiled", "cached"):
        kernel_cache._KERNELS.clear()
        for name in ("SGD", "Adam", "Adafactor", "Prodigy"):
            train([1000, 10], name, backend="compiled")
        train([1000] * 30, backend="compiled")
    deadline = time.monotonic() + LIMIT_S
    while num_system_threads() > before and time.monotonic() < deadline:
        time.sleep(0.02)  # the threads that compiled and tried the kernels are ending
    return {"threads": str(num_system_threads() - before), "large operation": forked(compute)}


def after_openmp() -> dict[str, str]:
    """A parent computes on several threads, then its children train."""
    from thalweg import optim

    param = torch.ones(LARGE, requires_grad=True)
    optimizer = optim.SGD([param], lr=0.25)
    param.grad = torch.ones_like(param)
    optimizer.step()

    def go_on() -> None:
        optimizer.step()
        assert torch.equal(param, torch.full_like(param, 0.5))

    def nested() -> None:
        compute()
        assert forked(lambda: train([LARGE])) == "well"

    results = {}
    for name, work in {**TRAININGS, "the parent's optimizer": go_on, "a child of a child": nested}.items():
        compute()
        results[name] = forked(work)
    compute()
    results["large operation"] = forked(compute)
    in_thread: list[str] = []

    def fork_in_thread() -> None:
        compute()
        in_thread.append(forked(lambda: train([LARGE])))

    thread = threading.Thread(target=fork_in_thread)
    thread.start()
    thread.join()
    compute()
    return results | {"forked by a thread": in_thread[0]}


def forked_before_import() -> dict[str, str]:
    """A parent that does not import thalweg computes on several threads; its child imports it, and trains."""
    assert not any(name.startswith("thalweg") for name in sys.modules)
    compute()

    def child() -> None:
        for name, work in TRAININGS.items():
            print(name, file=sys.stderr, flush=True)  # the last one is the one that hangs
            work()
        assert torch.get_num_threads() == NUM_THREADS

    return {"child": forked(child)}


class Examples(torch.utils.data.Dataset[int]):
    """A data set that trains in its workers."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        train([LARGE, 10])
        train([1000], "Adam")
        return index


def hogwild(params: list[torch.Tensor]) -> None:
    """Train shared parameters."""
    from thalweg import optim

    optimizer = optim.SGD(params, lr=0.25)
    for param in params:
        param.grad = ones(len(param))
    optimizer.step()


def multiprocessing() -> dict[str, str]:
    """Workers of a DataLoader, and processes that share parameters."""
    import torch.multiprocessing as mp

    results = {}
    loader = torch.utils.data.DataLoader(Examples(), num_workers=2, multiprocessing_context="fork", timeout=LIMIT_S)
    for run in ("first epoch", "second epoch"):
        compute()
        results[run] = str(sorted(int(index) for index in loader))
    for method in ("fork", "spawn"):
        params = [ones(LARGE).share_memory_().requires_grad_() for _ in range(2)]
        compute()
        process = mp.get_context(method).Process(target=hogwild, args=(params,))
        process.start()
        process.join(LIMIT_S)
        results[method] = f"code {process.exitcode}"  # None if it hangs
        if process.exitcode is None:
            process.kill()
            process.join()
        results[f"moved after {method}"] = str(all((param == 0.75).all() for param in params))
    return results


def while_compiling() -> dict[str, str]:
    """A parent forks while its compiler waits for the file "go" in the folder that is the second argument."""
    from thalweg import optim

    go = os.path.join(sys.argv[2], "go")
    param = torch.ones(10, requires_grad=True)
    param.grad = torch.ones(10)
    optimizer = optim.SGD([param], lr=0.25)
    optimizer.step()
    assert str(optimizer.plan).startswith("flat: until")
    compute()

    def child() -> None:
        os.environ.pop("CC")
        optimizer.step()
        assert str(optimizer.prepare()).startswith("compiled"), optimizer.plan
        optimizer.step()
        assert str(optim.SGD([param]).prepare()).startswith("compiled")
        optimizer.step()
        assert torch.equal(param, torch.full((10,), 0.0))

    results = {"child": forked(child), "parent": str(optimizer.plan)[:11]}
    with open(go, "w"):
        pass
    results["parent at last"] = str(optimizer.prepare())[:8]
    return results


if __name__ == "__main__":
    torch.set_num_threads(NUM_THREADS)
    print(json.dumps({name: globals()[name]() for name in sys.argv[1].split()}))
