"""Blocks: the kernels that sweep whole tensors. A block of threads takes a chunk of a tensor.

A tensor that is one axis is cut into chunks of ``CHUNK`` elements. Any other tensor is cut into tiles of rows and
columns: a warp computes a row at a time, and each of its threads owns some columns. Of a batch of small matrices, such
as the filters of a convolution, a thread computes a matrix. Sums are made in double precision and in a fixed order,
without atomics, so results repeat.
"""

from collections.abc import Sequence
from typing import NamedTuple

from thalweg.engine.kernels.c_operations import TYPES, assignment
from thalweg.engine.kernels.cuda import grid
from thalweg.engine.kernels.cuda.inputs import (
    GRAD_FACTOR,
    SIZES,
    by_axes,
    operator_of,
    partials_of,
    pointer,
    small_inputs,
    whole_columns,
)
from thalweg.engine.kernels.expressions import term, variable
from thalweg.engine.kernels.passes import Axes, Passes
from thalweg.engine.kernels.recording import Operation, RecordedReduction, RecordedValue, UnknownOperationError

# Bytes of shared memory that a kernel may declare, less those of the runtime.
_MAX_SHARED_BYTES = 48 * 1024 - 2048


def block_kernel(passes: Passes, number: int) -> str:
    """Return the kernel that sweeps whole tensors in a pass; "" if the pass needs none."""
    reductions, writes = passes.whole_results_of(number)
    if not reductions and not writes:
        return ""
    sweep = _Sweep(passes, reductions, writes)
    return sweep.tile(f"block{number}") if grid.is_tiled(passes) else sweep.chunk(f"block{number}")


class _Vector(NamedTuple):
    """A column of whole tensors, and what happens to it: its name in the text is that of its number."""

    column: int
    value: RecordedValue
    is_read: bool

    @property
    def dtype(self) -> str:
        return TYPES[self.value.dtype]


class _Sweep:
    """Prints the loops over the elements of a chunk."""

    def __init__(
        self, passes: Passes, reductions: Sequence[RecordedReduction], writes: Sequence[tuple[int, RecordedValue]]
    ) -> None:
        self.passes, self.reductions, self.writes = passes, reductions, writes
        targets = [*(reduction.operand for reduction in reductions), *(value for _, value in writes)]
        operations, places = passes.dependencies(targets)
        self.vectors = [
            _Vector(k, value, value.place in places)
            for k, value in whole_columns(passes, places, (k for k, _ in writes))
        ]
        self.pointers, inputs = small_inputs(passes, places)
        self.operations: list[Operation] = [o for o in operations if passes.is_whole(o.result)]
        small = [operation for operation in operations if not passes.is_whole(operation.result)]
        self.small = by_axes(passes, inputs, small)
        element = passes.recording.element
        self.element = None if element is None or element.place not in places else element
        self.reads_grad = passes.recording.grad.place in places
        # Values along the columns are computed once for all rows of a tile.
        self.column_values = [item.value for item in inputs if item.axes.endswith("m")]
        self.column_values += [o.result for o in small if passes.axes_of(o.result).endswith("m")]

    # --- parts of both kinds ------------------------------------------------------------------------------------------

    def _pointers(self, start: str) -> list[str]:
        """Return pointers to the elements of the chunk, and those to small values."""
        lines = []
        for vector in self.vectors:
            lines += [pointer(self.passes, vector.column, vector.value).replace(";", f" + {start};", 1)]
        aligned = " && ".join(f"is_aligned(x{vector.column})" for vector in self.vectors)
        grad = [GRAD_FACTOR] if self.reads_grad else []
        return [*lines, *self.pointers, *grad, f"    const bool aligned = {aligned};"]

    def _small(self, *axes: Axes) -> list[str]:
        return [text for name in axes for text in self.small.get(name, ())]

    def _loads(self, offset: str) -> list[str]:
        """Return the loads of the vectors in flight, of which ``some(v)`` elements are inside."""
        read = [vector for vector in self.vectors if vector.is_read]
        lines = [f"Pack<{vector.dtype}> p{vector.column}[VECTORS];" for vector in read]
        lines += ["UNROLL for (int v = 0; v < VECTORS; v++) {"]
        lines += [f"    p{a.column}[v] = load<FULL>(x{a.column} + {offset}, some(v), aligned);" for a in read]
        return [*lines, "}"]

    def _elements(self, number: str, offset: str, column_values: Sequence[str] = ()) -> list[str]:
        """Return the loops over the elements of the vectors in flight.

        Args:
            number: The number of element ``j`` of vector ``v`` in the tensor.
            offset: The offset of vector ``v`` in the chunk.
            column_values: Declarations of values along the columns.
        """
        lines = [
            "UNROLL for (int v = 0; v < VECTORS; v++) {",
            *(f"    Pack<{TYPES[value.dtype]}> n{k};" for k, value in self.writes),
            "    UNROLL for (int j = 0; j < LANES; j++) {",
        ]
        for vector in self.vectors:
            if vector.is_read:
                loaded = self._loaded(vector, f"p{vector.column}[v].x[j]")
                lines.append(f"        const {vector.dtype} v{vector.value.place} = {loaded};")
        if self.element is not None:
            lines.append(f"        const int64_t v{self.element.place} = {number};")
        lines += [f"        {text}" for text in (*column_values, *map(assignment, self.operations))]
        for reduction in self.reductions:
            target = self._accumulator(reduction)
            join = f"{operator_of(reduction)}::join({target}, {term(reduction)})"
            lines.append(f"        if (FULL || j < some(v)) {target} = {join};")
        lines += [f"        n{k}.x[j] = {variable(value)};" for k, value in self.writes]
        lines += ["    }", *(f"    store<FULL>(x{k} + {offset}, n{k}, some(v), aligned);" for k, _ in self.writes), "}"]
        return lines

    @staticmethod
    def _loaded(vector: _Vector, source: str) -> str:
        """Return an element as the rule sees it: that of a gradient may have been scaled."""
        return f"scaled ? rescaled({source}, factor) : {source}" if vector.column == 1 else source

    def _accumulator(self, reduction: RecordedReduction) -> str:
        place = reduction.result.place
        return f"column{place}[MINE][v * LANES + j]" if self._form(reduction) == "columns" else f"total{place}"

    def _form(self, reduction: RecordedReduction) -> str:
        return self.passes.form_of(reduction)

    def _of_form(self, form: str) -> list[RecordedReduction]:
        return [reduction for reduction in self.reductions if self._form(reduction) == form]

    def _begin_all(self) -> list[str]:
        return [f"double total{r.result.place} = {operator_of(r)}::identity();" for r in self._of_form("all")]

    def _end_all(self) -> list[str]:
        """Return the text that makes one number of those of the threads."""
        lines = []
        for reduction in self._of_form("all"):
            name = f"all{reduction.result.place}"
            lines += [
                f"    join_threads<{operator_of(reduction)}>({name});",
                f"    ONE ({partials_of(self.passes, reduction)})[chunk.piece] = {name}[0];",
            ]
            lines += ["    TOGETHER"]
        return lines

    # --- a tensor that is one axis ------------------------------------------------------------------------------------

    def chunk(self, name: str) -> str:
        """Return the kernel of chunks of a tensor that is one axis."""
        all_sums = self._of_form("all")
        step = "i + v * LANES * WIDTH"
        return "\n".join(
            [
                f"KERNEL({name}) {{",
                "    SKIP",
                "    const Chunk chunk = call.chunks[call.first_chunk + here];",
                "    const int64_t t = chunk.tensor, start = (int64_t)chunk.piece * CHUNK;",
                SIZES,
                "    const int length = (int)(size[3] - start < CHUNK ? size[3] - start : CHUNK);",
                *self._pointers("start"),
                *(f"    {text}" for text in self._small("")),
                *(f"    SHARED double all{reduction.result.place}[WIDTH];" for reduction in all_sums),
                "    THREADS {",
                *(f"        {text}" for text in self._begin_all()),
                "        const auto sweep = [&](auto full) {",
                "            constexpr bool FULL = decltype(full)::value;",
                "            for (int i = LANES * thread; i < length; i += VECTORS * LANES * WIDTH) {",
                f"                const auto some = [&](int v) {{ const int left = length - ({step});",
                "                    return FULL || left > LANES ? LANES : left; };",
                *(f"                {text}" for text in self._loads(step)),
                *(f"                {text}" for text in self._elements(f"start + {step} + j", step)),
                "            }",
                "        };",
                "        if (aligned && length == CHUNK) sweep(Flag<true>()); else sweep(Flag<false>());",
                *(f"        all{r.result.place}[thread] = total{r.result.place};" for r in all_sums),
                "    }",
                *self._end_all(),
                "}",
            ]
        )

    # --- rows and columns ---------------------------------------------------------------------------------------------

    def tile(self, name: str) -> str:
        """Return the kernel of tiles of rows and columns."""
        self._check_shared_memory()
        rows, columns, all_sums = (self._of_form(form) for form in ("rows", "columns", "all"))
        step = "y * M + (v * WARP + lane) * LANES"
        number = "(b * N + n) * M + left + (v * WARP + lane) * LANES + j"
        kept = [f"const {TYPES[v.dtype]} {variable(v)} = kept{v.place}[v * LANES + j];" for v in self.column_values]
        return "\n".join(
            [
                f"KERNEL({name}) {{",
                "    SKIP",
                "    const Chunk chunk = call.chunks[call.first_chunk + here];",
                "    const int64_t t = chunk.tensor;",
                SIZES,
                *(self._small_matrices() if self.passes.axes == "bnm" else []),
                "    const int64_t across = ceil_div(M, TILE_COLUMNS), down = ceil_div(N, TILE_ROWS);",
                "    const int64_t b = chunk.piece / (down * across), tile_row = chunk.piece / across % down;",
                "    const int64_t tile_column = chunk.piece % across;",
                "    const int64_t low = tile_row * TILE_ROWS, left = tile_column * TILE_COLUMNS;",
                "    const int height = (int)(N - low < TILE_ROWS ? N - low : TILE_ROWS);",
                "    const int width = (int)(M - left < TILE_COLUMNS ? M - left : TILE_COLUMNS);",
                *self._pointers("(b * N + low) * M + left"),
                *(f"    {text}" for text in self._small("", "b")),
                *(f"    SHARED double all{r.result.place}[WIDTH];" for r in all_sums),
                *(f"    SHARED double rows{r.result.place}[TILE_ROWS][WARP + 1];" for r in rows),
                *(["    SHARED double columns[WIDTH / WARP][TILE_COLUMNS];"] if columns else []),
                *(f"    double column{r.result.place}[OWN][VECTORS * LANES];" for r in columns),
                "    THREADS {",
                "        const int lane = thread % WARP;",
                *(f"        {text}" for text in self._begin_all()),
                *self._begin_columns(columns),
                *self._keep_column_values(),
                "        const auto sweep = [&](auto full) {",
                "            constexpr bool FULL = decltype(full)::value;",
                "            const auto some = [&](int v) { const int inside = width - (v * WARP + lane) * LANES;",
                "                return FULL || inside > LANES ? LANES : inside; };",
                "            for (int64_t y = thread / WARP; y < height; y += WIDTH / WARP) {",
                "                const int64_t n = low + y; (void)n;",
                *(f"                {text}" for text in self._small("n", "bn")),
                *(f"                double total{r.result.place} = {operator_of(r)}::identity();" for r in rows),
                *(f"                {text}" for text in (*self._loads(step), *self._elements(number, step, kept))),
                *(f"                rows{r.result.place}[y][lane] = total{r.result.place};" for r in rows),
                "            }",
                "        };",
                "        if (aligned && width == TILE_COLUMNS && M % LANES == 0) sweep(Flag<true>());",
                "        else sweep(Flag<false>());",
                *(f"        all{r.result.place}[thread] = total{r.result.place};" for r in all_sums),
                "    }",
                *self._end_all(),
                *(text for reduction in rows for text in self._end_rows(reduction)),
                *(text for reduction in columns for text in self._end_columns(reduction)),
                "}",
            ]
        )

    def _small_matrices(self) -> list[str]:
        """Return the text for a batch of small matrices: each is the tile of one thread."""
        passes = self.passes
        rows, columns, all_sums = (self._of_form(form) for form in ("rows", "columns", "all"))
        partials = [
            f"double *partials{r.result.place} = {partials_of(passes, r)}; IN_GLOBAL(partials{r.result.place});"
            for r in self.reductions
        ]
        loads = []
        for vector in self.vectors:
            if vector.is_read:
                source = f"x{vector.column}[i]"
                loads.append(f"const {vector.dtype} {variable(vector.value)} = {self._loaded(vector, source)};")
        if self.element is not None:
            loads.append(f"const int64_t {variable(self.element)} = i;")
        targets = {r.result.place: f"total{r.result.place}" for r in self.reductions}
        targets |= {r.result.place: f"partials{r.result.place}[b * M + m]" for r in columns}
        joins = [
            f"{targets[r.result.place]} = {operator_of(r)}::join({targets[r.result.place]}, {term(r)});"
            for r in self.reductions
        ]
        identities = [
            f"for (int64_t m = 0; m < M; m++) {targets[r.result.place]} = {operator_of(r)}::identity();"
            for r in columns
        ]
        element = [*self._small("m", "bm"), *loads, *map(assignment, self.operations), *joins]
        element += [f"x{k}[i] = {variable(value)};" for k, value in self.writes]
        return [
            "    if (N <= TILE_ROWS && N * M <= SMALL_MATRIX) {",
            *(f"        {text.strip()}" for text in self._pointers("0")),
            "        (void)aligned;",
            *(f"        {text}" for text in partials),
            "        THREADS {",
            "            const int64_t b = (int64_t)chunk.piece * WIDTH + thread;",
            "            if (b < B) {",
            *(f"                {text}" for text in (*self._small("", "b"), *self._begin_all())),
            *(f"                {text}" for text in identities),
            "                for (int64_t n = 0; n < N; n++) {",
            *(f"                    {text}" for text in self._small("n", "bn")),
            *(f"                    double total{r.result.place} = {operator_of(r)}::identity();" for r in rows),
            "                    for (int64_t m = 0; m < M; m++) {",
            "                        const int64_t i = (b * N + n) * M + m;",
            *(f"                        {text}" for text in element),
            "                    }",
            *(f"                    partials{r.result.place}[b * N + n] = total{r.result.place};" for r in rows),
            "                }",
            *(f"                partials{r.result.place}[b] = total{r.result.place};" for r in all_sums),
            "            }",
            "        }",
            "        return;",
            "    }",
        ]

    def _check_shared_memory(self) -> None:
        numbers = len(self._of_form("all")) * grid.WIDTH + len(self._of_form("rows")) * grid.TILE_ROWS * (grid.WARP + 1)
        if self._of_form("columns"):
            numbers += grid.WIDTH // grid.WARP * grid.DEFAULT_TUNING.tile_columns
        if 8 * numbers > _MAX_SHARED_BYTES:
            raise UnknownOperationError("more reductions of one tensor at a time than a block of a GPU has memory for")

    def _begin_columns(self, columns: Sequence[RecordedReduction]) -> list[str]:
        return [
            f"        UNROLL for (int c = 0; c < VECTORS * LANES; c++) "
            f"column{r.result.place}[MINE][c] = {operator_of(r)}::identity();"
            for r in columns
        ]

    def _keep_column_values(self) -> list[str]:
        """Return the text that computes values along the columns, for all columns that the thread owns."""
        if not self.column_values:
            return []
        return [
            *(f"        {TYPES[v.dtype]} kept{v.place}[VECTORS * LANES];" for v in self.column_values),
            "        UNROLL for (int c = 0; c < VECTORS * LANES; c++) {",
            "            const int64_t column = left + (c / LANES * WARP + lane) * LANES + c % LANES;",
            "            const int64_t m = column < M ? column : M - 1;",
            *(f"            {text}" for text in self._small("m", "bm")),
            *(f"            kept{v.place}[c] = {variable(v)};" for v in self.column_values),
            "        }",
        ]

    def _end_rows(self, reduction: RecordedReduction) -> list[str]:
        place, operator = reduction.result.place, operator_of(reduction)
        target = f"({partials_of(self.passes, reduction)})[(b * across + tile_column) * N + low + thread]"
        return [
            "    TOGETHER",
            "    THREADS if (thread < height) {",
            f"        double total = rows{place}[thread][0];",
            f"        for (int k = 1; k < WARP; k++) total = {operator}::join(total, rows{place}[thread][k]);",
            f"        {target} = total;",
            "    }",
        ]

    def _end_columns(self, reduction: RecordedReduction) -> list[str]:
        place, operator = reduction.result.place, operator_of(reduction)
        target = f"({partials_of(self.passes, reduction)})[(b * down + tile_row) * M + left + m]"
        return [
            "    TOGETHER",
            "    THREADS {",
            "        const int warp = thread / WARP, lane = thread % WARP;",
            "        UNROLL for (int c = 0; c < VECTORS * LANES; c++)",
            f"            columns[warp][(c / LANES * WARP + lane) * LANES + c % LANES] = column{place}[MINE][c];",
            "    }",
            "    TOGETHER",
            "    THREADS for (int m = thread; m < width; m += WIDTH) {",
            "        double total = columns[0][m];",
            f"        for (int w = 1; w < WIDTH / WARP; w++) total = {operator}::join(total, columns[w][m]);",
            f"        {target} = total;",
            "    }",
        ]
