"""Forked processes: their steps end, and so do their own large operations, whatever the parent has computed before.

Each scenario is a function of `fork_scenarios`, which runs as a script with several threads.
"""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from thalweg.engine.core import threads

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


Results = dict[str, dict[str, str]]


def run_scenarios(names: str, *args: str, **variables: str) -> Results:
    """Run scenarios in one process; return how their children ended."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.engine.core.fork_scenarios", names, *args]
    environment = os.environ | {"OMP_NUM_THREADS": "4"} | variables
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert run.returncode == 0, run.stderr
    print(run.stderr)
    results: Results = json.loads(run.stdout)
    return results


@pytest.fixture(scope="module")
def results() -> Results:
    """One process for the scenarios of a parent that has imported thalweg: imports take longer than all else."""
    return run_scenarios("small_models after_openmp multiprocessing")


def test_small_models_start_no_threads_that_a_fork_would_lose(results: Results) -> None:
    assert results["small_models"] == {"threads": "0", "large operation": "well"}


def test_children_of_a_parent_that_used_openmp_train_and_compute(results: Results) -> None:
    assert len(results["after_openmp"]) == 12
    assert set(results["after_openmp"].values()) == {"well"}, results["after_openmp"]


def test_workers_of_data_loaders_and_processes_that_share_parameters_train(results: Results) -> None:
    assert results["multiprocessing"] == {
        "first epoch": "[0, 1]",
        "second epoch": "[0, 1]",
        "fork": "code 0",
        "moved after fork": "True",
        "spawn": "code 0",
        "moved after spawn": "True",
    }


def test_a_child_trains_that_imports_thalweg_after_the_fork() -> None:
    assert run_scenarios("forked_before_import") == {"forked_before_import": {"child": "well"}}


def test_a_child_that_is_forked_while_a_kernel_is_compiled_compiles_its_own(tmp_path: Path) -> None:
    waiting = tmp_path / "cc"
    waiting.write_text(f'#!/bin/sh\nwhile [ ! -e {tmp_path}/go ]; do sleep 0.05; done\nexec cc "$@"\n')
    waiting.chmod(0o755)
    results = run_scenarios("while_compiling", str(tmp_path), CC=str(waiting), XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert results["while_compiling"] == {"child": "well", "parent": "flat: until", "parent at last": "compiled"}


def test_a_process_that_inherited_a_team_computes_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert threads.num_threads(threads.MIN_NUMEL_FOR_THREADS - 1) == 1
    assert threads.num_threads(threads.MIN_NUMEL_FOR_THREADS) == 4
    monkeypatch.setattr(threads, "inherited_team", True)
    assert threads.num_threads(threads.MIN_NUMEL_FOR_THREADS) == 1


def test_a_fork_that_cannot_end_the_team_leaves_a_child_with_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with an OpenMP before version 5, or in a process that has inherited a team itself."""
    hooks: dict[str, object] = {}
    monkeypatch.setattr(os, "register_at_fork", lambda **functions: hooks.update(functions))
    ends: list[int] = []

    def child_is_safe() -> bool:
        for name in ("before", "after_in_child"):
            hooks[name]()  # type: ignore[operator]
        safe = not threads.inherited_team
        threads.inherited_team = False
        return safe

    for end_team, safe in ((None, False), (lambda kind: ends.append(kind) or 0, True), (lambda _: -1, False)):
        threads._end_team_before_forks(end_team)
        assert child_is_safe() == safe
    threads._end_team_before_forks(lambda kind: ends.append(kind) or 0)
    threads.inherited_team = True
    assert not child_is_safe()
    # A fork in C may call the second hook alone; an earlier fork of this thread says nothing about it.
    assert child_is_safe()
    hooks["before"]()  # type: ignore[operator]
    hooks["after_in_parent"]()  # type: ignore[operator]
    hooks["before"] = lambda: None
    assert not child_is_safe()
    assert ends == [1, 1, 1]
    other = threading.Thread(target=lambda: ends.append(child_is_safe()))
    other.start()
    other.join()
    assert ends[-1] is False
