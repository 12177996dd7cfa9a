"""Settings of the process that an optimizer must leave as they are, because the rest of a program depends on them."""

import os
import random
import signal
from typing import Any

import torch

_AN_UNLIKELY_SEED = 7_310_229_311


def snapshot() -> dict[str, Any]:
    """Return the settings of this process by name. Two snapshots are equal if nothing was changed between them."""
    return {
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "number of threads": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "flushing of subnormal numbers": bool(torch.tensor(1e-40) * 1 == 0),
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "seed of torch": torch.initial_seed(),
        "working directory": os.getcwd(),
        "handler of SIGINT": signal.getsignal(signal.SIGINT),
        "handler of SIGTERM": signal.getsignal(signal.SIGTERM),
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return the names of the settings that differ between two snapshots."""
    return [name for name, value in before.items() if after[name] != value]


def seed_generators(seed: int) -> None:
    """Seed the global generators of torch and of Python."""
    torch.manual_seed(_AN_UNLIKELY_SEED + seed)
    random.seed(_AN_UNLIKELY_SEED + seed)


def generator_states() -> dict[str, Any]:
    """Return the states of the global generators of torch and of Python, by name."""
    return {"torch": torch.get_rng_state().tolist(), "random": random.getstate()}
