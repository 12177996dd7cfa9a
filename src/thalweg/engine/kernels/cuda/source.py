"""CUDA source: the passes of a recording printed as kernels that step many tensors in a few launches.

A kernel equals the loop to the last bit, as the C kernel does: operations come from the same table, and sums are made
in double precision, in an order that depends on the shapes alone. The text must be compiled without fused multiply-add
(``--fmad=false``), with correctly rounded divisions and roots, which are the default.

The kernels of one text run in the order of ``launches``. Each takes one argument by value, the struct of ``call``.
"""

from typing import Literal, NamedTuple

import torch

from thalweg.engine.kernels.cuda import grid
from thalweg.engine.kernels.cuda.blocks import block_kernel
from thalweg.engine.kernels.cuda.call import row_length, struct_text
from thalweg.engine.kernels.cuda.ends import combine_kernel, end_kernel, gather_kernel, write_kernels
from thalweg.engine.kernels.cuda.grid import CHUNK, DEFAULT_TUNING, WIDTH, Tuning
from thalweg.engine.kernels.cuda.runtime import LIBRARY, PLATFORM, SCALARS
from thalweg.engine.kernels.passes import Passes
from thalweg.engine.kernels.recording import UnknownOperationError

__all__ = ["CHUNK", "NUM_GRADS", "NVRTC_OPTIONS", "WIDTH", "PrintedKernel", "cuda_source", "launches"]

# What NVRTC must be told, beside the architecture: no fused multiply-add, and lambdas that run on the device.
NVRTC_OPTIONS = ("--std=c++17", "--fmad=false", "-default-device", "--disable-warnings")

NUM_GRADS = 448  # gradients of one launch, whose argument then fits the 4 KB of old drivers

Extent = Literal["chunks", "slices", "once", "shared"]


class PrintedKernel(NamedTuple):
    """A kernel of a text, and the blocks of its grid.

    Attributes:
        name: The name of the kernel.
        extent: ``"chunks"``: a block for each chunk, from ``first_chunk``. ``"slices"``: ``blocks_per_tensor`` blocks
            for each tensor, from ``first_tensor``. ``"once"``: one block for the batch. ``"shared"``: one block for all
            batches that share reductions over the model, launched after the ``"once"`` of the last one, and only if
            there are several.
        number: The number of the pass. Kernels of a pass must see what all those of earlier passes have written.
        blocks_per_tensor: The blocks of each tensor; 0 unless the extent is ``"slices"``.
    """

    name: str
    extent: Extent
    number: int
    blocks_per_tensor: int = 0


def cuda_source(passes: Passes, num_grads: int = NUM_GRADS, tuning: Tuning = DEFAULT_TUNING) -> str:
    """Print passes as CUDA text.

    Args:
        passes: The passes of a recording.
        num_grads: The capacity for gradients of one launch. A batch of more tensors takes several.
        tuning: Numbers that change the speed alone.

    Returns:
        The text.

    Raises:
        UnknownOperationError: If a GPU cannot compute the recording with the bits of the loop.
    """
    if any(value.dtype == torch.bool for value in passes.columns):  # one byte in memory, but four in the kernel
        raise UnknownOperationError("booleans in the state")
    if passes.reductions and passes.recording.param.dtype == torch.float64:
        raise UnknownOperationError("sums in float64, whose bits depend on the order of the terms")
    head = _macros(passes, num_grads, tuning)
    kernels = [text for number in range(passes.last + 1) for text in _kernels(passes, number).values()]
    return "\n".join([head, PLATFORM, LIBRARY, struct_text(), SCALARS, *kernels, ""])


def launches(passes: Passes) -> list[PrintedKernel]:
    """Return the kernels of the text in the order in which they run."""
    slices = _slices(passes)
    printed: list[PrintedKernel] = []
    for number in range(passes.last + 1):
        for name in _kernels(passes, number):
            extent = _extent(name)
            printed.append(PrintedKernel(name, extent, number, slices if extent == "slices" else 0))
    return printed


def _kernels(passes: Passes, number: int) -> dict[str, str]:
    """Return the kernels of a pass by name, in the order in which they run."""
    texts = {
        f"block{number}": block_kernel(passes, number),
        f"end{number}": end_kernel(passes, number),
        **write_kernels(passes, number),
        f"gather{number}": gather_kernel(passes, number),
        f"combine{number}": combine_kernel(passes, number),
    }
    return {name: text for name, text in texts.items() if text}


def _extent(name: str) -> Extent:
    kind = name.rstrip("0123456789_")
    extents: dict[str, Extent] = {"block": "chunks", "gather": "once", "combine": "shared"}
    return extents.get(kind, "slices")


def _slices(passes: Passes) -> int:
    return grid.SLICES if grid.is_tiled(passes) else 1


def _macros(passes: Passes, num_grads: int, tuning: Tuning) -> str:
    bounds = f", {tuning.min_blocks}" if tuning.min_blocks else ""
    values = {
        "WIDTH": grid.WIDTH,
        "WARP": grid.WARP,
        "LANES": grid.LANES,
        "VECTORS": tuning.vectors,
        "CHUNK": tuning.chunk,
        "TILE_ROWS": grid.TILE_ROWS,
        "TILE_COLUMNS": tuning.tile_columns,
        "SMALL_MATRIX": grid.SMALL_MATRIX,
        "SLICES": _slices(passes),
        "STREAMING": int(tuning.streaming),
        "ROW": row_length(len(passes.recording.coefficients)),
        "GRADS": num_grads,
        "BOUNDS": f"__launch_bounds__(WIDTH{bounds})",
    }
    return "\n".join(f"#define {name} {value}" for name, value in values.items())
