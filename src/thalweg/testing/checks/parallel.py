"""Checks of optimizers in several processes: forked ones, and those that share parameters and state."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

from thalweg.testing.fixtures import SkippedError, Subject, assert_identical
from thalweg.testing.process_pair import run_in_pair

_TIMEOUT_S = 40
_NO_FORK = "a forked process cannot use the device of its parent"
_NUM_THREADS = 2
_LARGE = 300_000  # elements, enough for torch to use several threads


def steps_in_a_forked_process(subject: Subject) -> None:
    """A forked process trains, though its parent has used threads, which it does not have.

    DataLoader workers and Hogwild training fork. Known defect: a step that waits for a thread waits for ever.
    """
    subject.require_cpu(_NO_FORK)
    run_in_pair(_train_in_a_fork, subject)


def leaves_threads_to_forked_processes(subject: Subject) -> None:
    """A forked process computes with threads, though its parent has trained a small model.

    Known defect: the parent's step starts threads at any size, and the first large operation of a child waits for ever.
    """
    subject.require_cpu(_NO_FORK)
    run_in_pair(_compute_in_a_fork, subject)


def _train_in_a_fork(subject: Subject, rank: int) -> None:
    def use_threads_then_train() -> None:
        _use_threads()
        _fork_and_wait("the child", lambda: assert_identical(_train(subject), expected, "its steps"), _TIMEOUT_S / 2)

    if rank == 0:
        expected = _train(subject)
        # A process of its own, because threads that were used once stay.
        _fork_and_wait("after a large operation, training", use_threads_then_train, leads_group=True)


def _compute_in_a_fork(subject: Subject, rank: int) -> None:
    def train_then_compute() -> None:
        torch.set_num_threads(_NUM_THREADS)
        _train(subject)
        _fork_and_wait("the child", _use_threads, _TIMEOUT_S / 2)

    if rank == 0:
        _fork_and_wait("after training, a large operation", train_then_compute, leads_group=True)


def _train(subject: Subject) -> list[Tensor]:
    params = subject.params()
    subject.train(subject.optimizer(params), params, range(3))
    return params


def _use_threads() -> None:
    torch.set_num_threads(_NUM_THREADS)
    torch.ones(_LARGE).exp()


def counts_steps_in_shared_memory(subject: Subject) -> None:
    """Processes that share parameters and state share the number of steps, as Hogwild training needs."""
    subject.require_cpu(_NO_FORK)
    if not hasattr(os, "fork"):
        raise SkippedError("this system has no fork")
    expected, params = subject.params(), subject.params()
    subject.train(subject.optimizer(expected), expected, range(5))
    optimizer = subject.optimizer(params)
    for param in params:
        param.share_memory_()  # type: ignore[no-untyped-call]  # untyped in torch
    subject.train(optimizer, params, range(1))
    for entry in optimizer.state.values():
        for value in entry.values():
            if isinstance(value, Tensor):
                value.share_memory_()  # type: ignore[no-untyped-call]
    _fork_and_wait("a process that shares the state", lambda: subject.train(optimizer, params, range(1, 3)))
    subject.train(optimizer, params, range(3, 5))
    assert_identical(params, expected, "5 steps, 2 of them by another process")


def _fork_and_wait(
    description: str, function: Callable[[], object], timeout_s: float | None = None, *, leads_group: bool = False
) -> None:
    """Run a function in a forked process. Fail if it raises or does not end.

    Args:
        description: What the process does, for the message.
        function: The function.
        timeout_s: The time limit.
        leads_group: If true, all processes that it has forked are ended with it.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if leads_group:
                os.setpgid(0, 0)
            function()
            message = b""
        except BaseException as error:
            message = f"{type(error).__name__}: {error}".encode()
        os.write(writer, message or b"\0")
        os._exit(0)
    os.close(writer)
    timeout_s = timeout_s or _TIMEOUT_S
    deadline = time.monotonic() + timeout_s
    try:
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                with suppress(ProcessLookupError):
                    (os.killpg if leads_group else os.kill)(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise AssertionError(f"{description} did not end in {timeout_s:g} s")
            time.sleep(0.002)
        reply = os.read(reader, 10_000)
    finally:
        os.close(reader)
    assert reply, f"{description} ended without a reply"
    assert reply == b"\0", f"{description}: {reply.decode(errors='replace')}"
