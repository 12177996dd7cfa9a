"""The hardware of a record: the GPU, its driver, and the versions."""

import platform
import subprocess
from datetime import UTC, datetime
from typing import Any

import torch

from thalweg.bench.device_meter import DeviceMeter
from thalweg.bench.records import machine


def describe(device: torch.device, *, stub: bool) -> dict[str, Any]:
    """Return the facts about a device and its machine. Of the stub only those about the machine."""
    facts = machine() | {"system": platform.platform(), "date": datetime.now(UTC).isoformat(timespec="seconds")}
    if stub:
        return facts | {"gpu": None, "device": "the driver stub, on the CPU"}
    return facts | DeviceMeter(device).describe() | {"driver": _driver()}


def _driver() -> str | None:
    """Return the version of NVIDIA's driver."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.splitlines()[0].strip() if answer.stdout.strip() else None
