"""Grid: how tensors are cut into chunks for the blocks of a GPU, and the memory that the sums of the chunks need."""

from collections.abc import Sequence
from dataclasses import dataclass

from thalweg.engine.kernels.passes import Passes
from thalweg.engine.kernels.recording import RecordedReduction

WIDTH = 256  # threads in a block
WARP = 32  # threads that run together, and the columns of threads in a tile
TILE_ROWS = 32  # rows in a tile; a warp computes one at a time
LANES = 4  # elements in one access to memory: 16 bytes of float32
CHUNK = 8192  # elements in a chunk of a tensor that is one axis
SMALL_MATRIX = 64  # the most elements of a matrix that one thread computes, where a tensor has many of them
SLICES = 16  # blocks that complete the sums of one tensor, where it has rows and columns

Sizes = tuple[int, int, int, int]  # batches, rows, columns, elements


@dataclass(frozen=True)
class Tuning:
    """Numbers that change the speed of a kernel, but no bit of its results in float32.

    Attributes:
        chunk: The elements in a chunk of a tensor that is one axis; a multiple of ``WIDTH * LANES * vectors``.
        vectors: The vectors of ``LANES`` elements that a thread loads before it computes.
        streaming: True to tell the cache that the data will not be read again soon.
        min_blocks: The least number of blocks that a multiprocessor must hold, which limits registers; 0 for any.
    """

    chunk: int = CHUNK
    vectors: int = 2
    streaming: bool = False
    min_blocks: int = 0

    @property
    def tile_columns(self) -> int:
        """The columns in a tile: each of the threads of a warp owns some vectors of them."""
        return WARP * LANES * self.vectors


DEFAULT_TUNING = Tuning()


def is_tiled(passes: Passes) -> bool:
    """Return True if chunks are tiles of rows and columns; False if a tensor is one axis."""
    return passes.axes != "m"


def sizes(passes: Passes, shape: Sequence[int]) -> Sizes:
    """Return the batches, rows, columns and elements of a tensor.

    Args:
        passes: The passes of a recording.
        shape: The shape of a parameter.

    Returns:
        The sizes; a tensor that is one axis is one row.

    Example:
        A parameter of shape (4, 3, 5) whose last dimension is reduced alone: 1 batch, 12 rows, 5 columns, 60 elements.
    """
    batches, rows, columns, numel = passes.sizes(shape or (1,))
    return (batches, rows, columns, numel) if is_tiled(passes) else (1, 1, numel, numel)


def num_chunks(passes: Passes, tensor: Sizes, tuning: Tuning = DEFAULT_TUNING) -> int:
    """Return the number of chunks of a tensor of these sizes."""
    batches, rows, columns, numel = tensor
    if not is_tiled(passes):
        return -(-numel // tuning.chunk)
    if passes.axes == "bnm" and rows <= TILE_ROWS and rows * columns <= SMALL_MATRIX:
        return -(-batches // WIDTH) if numel else 0
    return _num_tiles(tensor, tuning)


def _num_tiles(tensor: Sizes, tuning: Tuning) -> int:
    """Return the number of tiles; a matrix that one thread computes counts as one."""
    batches, rows, columns, _ = tensor
    return batches * -(-rows // TILE_ROWS) * -(-columns // tuning.tile_columns)


def reduction_lengths(passes: Passes, tensor: Sizes, tuning: Tuning = DEFAULT_TUNING) -> list[int]:
    """Return the numbers in float64 that the reductions of a tensor need on the device.

    Args:
        passes: The passes of a recording.
        tensor: The sizes of a tensor.
        tuning: The tuning of the text.

    Returns:
        For each reduction, the length of its results and that of its partial results. These are the last columns of
        the table of addresses, in this order.
    """
    lengths = []
    for reduction in passes.reductions:
        lengths.append(passes.num_results(reduction, tensor))
        lengths.append(_num_partials(passes, reduction, tensor, tuning))
    return lengths


def _num_partials(passes: Passes, reduction: RecordedReduction, tensor: Sizes, tuning: Tuning) -> int:
    """Return the number of partial results: one a chunk or tile, one a row of each tile, or one a column."""
    batches, rows, columns, _ = tensor
    form = passes.form_of(reduction)
    if form == "few":
        return 0
    if form == "rows":
        return batches * -(-columns // tuning.tile_columns) * rows
    if form == "columns":
        return batches * -(-rows // TILE_ROWS) * columns
    return num_chunks(passes, tensor, tuning) if not is_tiled(passes) else _num_tiles(tensor, tuning)
