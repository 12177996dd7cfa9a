"""A training runs as if alone: nothing that it changes in its process reaches the next."""

import gc
import io
import logging
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from thalweg.comparison.contenders.named import CONTENDERS
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.workload import as_workload
from thalweg.tasks import as_task
from thalweg.tasks.reproducibility.isolation import _SETTINGS, apply_settings, isolated, portable_settings


def ignore(*_: object) -> None:
    """Ignore everything."""


_GUARDS: list[torch.inference_mode] = []  # the mode ends with its guard


def leave_inference_mode() -> None:
    _GUARDS.append(torch.inference_mode())
    _GUARDS[-1].__enter__()


def leave_autocast() -> None:
    torch.autocast("cpu", dtype=torch.bfloat16).__enter__()


CHANGES: dict[str, Callable[[], object]] = {
    "grad mode": lambda: torch.set_grad_enabled(False),
    "inference mode": leave_inference_mode,
    "anomaly mode": lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "default device": lambda: torch.set_default_device("meta"),
    "number of threads": lambda: torch.set_num_threads(3),
    "precision of products": lambda: torch.set_float32_matmul_precision("medium"),
    "subnormal numbers": lambda: torch.set_flush_denormal(True),
    "autocast": leave_autocast,
    "cuDNN": lambda: torch.backends.cudnn.set_flags(_benchmark=True),
    "module hooks": lambda: register_module_forward_hook(ignore),
    "errors of numpy": lambda: np.seterr(all="raise"),
    "environment": lambda: os.environ.update(HOME="/nowhere", A_NEW_ONE="1"),
    "working directory": lambda: os.chdir("/"),
    "umask": lambda: os.umask(0o777),
    "paths of modules": lambda: sys.path.insert(0, "/nowhere"),
    "arguments": lambda: sys.argv.append("--more"),
    "standard streams": lambda: setattr(sys, "stdout", io.StringIO()),
    "recursion limit": lambda: sys.setrecursionlimit(5000),
    "garbage collector": gc.disable,
    "thresholds of the collector": lambda: gc.set_threshold(1),
    "exception hook": lambda: setattr(sys, "excepthook", ignore),
    "logging": lambda: logging.disable(logging.CRITICAL),
    "signal handlers": lambda: (signal.signal(signal.SIGTERM, ignore), signal.signal(signal.SIGINT, signal.SIG_IGN)),
    "timer": lambda: (signal.signal(signal.SIGALRM, ignore), signal.setitimer(signal.ITIMER_REAL, 1000.0)),
}


def state() -> dict[str, Any]:
    """Return all settings, and what ``isolated`` restores by other means."""
    return {name: setting.read() for name, setting in _SETTINGS.items()} | {
        "filters": list(warnings.filters),
        "random": (random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()),  # type: ignore[index]
    }


@pytest.mark.parametrize("name", [*CHANGES, "filters", "random"])
def test_what_a_block_changes_is_restored(name: str) -> None:
    changes = CHANGES | {
        "filters": lambda: warnings.simplefilter("ignore"),
        "random": lambda: (random.random(), torch.rand(1), np.random.rand()),
    }
    before = state()
    with isolated():
        changes[name]()
        assert state()[name] != before[name]
    after = state()
    assert after == before
    assert float(nn.Linear(2, 1)(torch.ones(1, 2)).sum().detach()) is not None  # and torch computes


def test_a_block_of_autocast_that_is_left_open_keeps_no_cast_weights() -> None:
    """The end of the outermost block would forget them, and never comes."""
    layer = nn.Linear(1, 1, bias=False)
    with isolated():
        leave_autocast()
        layer(torch.ones(1, 1))
    values = []
    for weight in (1.0, 2.0):
        with torch.no_grad():
            layer.weight.fill_(weight)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            values.append(float(layer(torch.ones(1, 1)).detach()))
    assert values == [1.0, 2.0]


def test_every_setting_is_tried() -> None:
    assert CHANGES.keys() == _SETTINGS.keys()


def test_an_error_restores_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one setting that cannot be restored, such as a folder that is gone, keeps no other from it."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    with pytest.raises(SystemExit), isolated():
        gone.rmdir()
        os.chdir("/")
        torch.set_default_dtype(torch.float64)
        sys.argv.append("--more")
        sys.exit()
    assert torch.get_default_dtype() == torch.float32
    assert sys.argv[-1] != "--more"


def test_portable_settings_can_be_applied_elsewhere() -> None:
    with isolated():
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        there = portable_settings()
    with isolated():
        apply_settings(there)
        assert torch.get_default_dtype() == torch.float64
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_default_dtype() == torch.float32


def test_a_training_finds_nothing_of_the_one_before() -> None:
    seen: list[tuple[torch.dtype, bool, float]] = []

    def train(make_optimizer: Callable[..., Any], report: Callable[..., None]) -> None:
        seen.append((torch.get_default_dtype(), torch.is_grad_enabled(), torch.rand(()).item()))
        model = nn.Linear(2, 1)
        make_optimizer(model)
        report(1.0)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)

    workload = as_workload(as_task(train))
    schedule = TrainingSchedule(steps=1, schedule="constant", num_evaluations=1)
    for _ in range(2):
        (result,) = workload.train(CONTENDERS["sgd"], [Trial({}, 5)], schedule)
        assert result.status == "ok"
    assert seen[0] == seen[1]
    assert seen[0][:2] == (torch.float32, True)
