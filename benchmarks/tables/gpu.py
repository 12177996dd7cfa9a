"""GPUs: predicted floors of steps, the parts of `make gpu`, and the state of their proofs."""

import json
from pathlib import Path

import torch

from benchmarks.gpu.parts import PARTS
from benchmarks.tables import markdown
from thalweg import rules
from thalweg.bench.floors import moved_bytes
from thalweg.bench.sets import SETS, SETS_FOR_DEVICE

RECORDS = Path(__file__).parents[1] / "records"


# Copies reach about nine tenths of the 3.35 TB/s that NVIDIA specifies for the H100 SXM.
H100_COPY_BYTES_S = 3.0e12


_L2_BYTES = 50e6  # of the same GPU


_PREDICTED = (
    (rules.AdamW(), torch.float32),
    (rules.AdamW(), torch.bfloat16),
    (rules.SGD(momentum=0.9), torch.float32),
    (rules.Lion(), torch.float32),
    (rules.Adan(), torch.float32),
    (rules.LAMB(), torch.float32),
)


def predicted_floors() -> str:
    """Return the predicted floors of steps on a GPU: the bytes of each rule, divided by the bandwidth of a copy."""
    rows = []
    for set_name in SETS_FOR_DEVICE:
        shapes = SETS[set_name]()
        numel = sum(torch.Size(shape).numel() for shape in shapes)
        cells = []
        for rule, dtype in _PREDICTED:
            moved = sum(moved_bytes(rule, shapes, dtype) or ())
            in_cache = moved < _L2_BYTES
            cells.append("in the cache" if in_cache else f"{1e3 * moved / H100_COPY_BYTES_S:.2f} ms")
        rows.append([f"{set_name}, {numel / 1e6:,.1f} M in {len(shapes)} tensors", *cells])
    heads = []
    for rule, dtype in _PREDICTED:
        per_number = sum(moved_bytes(rule, [(1000, 1000)], dtype) or ()) / 1e6
        heads.append(f"{rule.name} {str(dtype).removeprefix('torch.')}, {per_number:g} B")
    note = (
        "**Predicted, not measured**: the bytes that a step must read and write for each parameter, divided by "
        f"{H100_COPY_BYTES_S / 1e12:g} TB/s, the bandwidth of a copy on an H100. State is float32. Parameters that fit "
        "into the cache have no such floor; there the host limits a step."
    )
    return "\n".join([markdown.table(["parameters", *heads], rows), "", note])


def gpu_line() -> str:
    """Return the state of the proofs on a GPU: the records that exist, or that there are none."""
    files = [RECORDS / f"gpu_{name}.json" for name in PARTS]
    records = [json.loads(file.read_text()) for file in files if file.exists()]
    measured = [record for record in records if not record["stub"] and record["outcome"] == "finished"]
    if not measured:
        return (
            "**Not yet measured on a GPU.** CUDA kernels exist and no GPU was at hand. Proved without one: the text of "
            "every kernel, compiled for the CPU, gives the bits of the reference loop; NVRTC compiles it for three "
            "architectures; the whole path to the driver runs against a stub."
        )
    hardware = measured[0]["hardware"]
    counts = ", ".join(f"{record['part']} {record['passed']}" for record in measured)
    failed = sum(len(record["failed"]) for record in records)
    missed = sum(not target["reached"] for record in measured for target in record["targets"])
    return (
        f"Measured on {hardware['gpu']} (driver {hardware['driver']}, CUDA {hardware['cuda']}, PyTorch "
        f"{hardware['torch']}, {hardware['date'][:10]}). Checks passed: {counts}; failed: {failed}. Bounds missed: "
        f"{missed}."
    )


def gpu_parts() -> str:
    """Return the parts of `make gpu`."""
    rows = [[f"`{name}`", part.content, f"{part.seconds} s"] for name, part in PARTS.items()]
    return markdown.table(["part", "content", "at most"], rows)
