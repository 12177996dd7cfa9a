"""Environment: the versions and the machine of a comparison. Stored beside its results and shown in the report."""

import os
import platform
from typing import Any

import torch

import thalweg


def describe() -> dict[str, Any]:
    """Return versions, machine and threads as plain JSON."""
    return {
        "thalweg": thalweg.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:  # not Linux
        names = []
    return names[0] if names else platform.processor()
