"""C source: the passes of a recording printed as C functions that step many tensors in one call.

A kernel equals the loop to the last bit. Sums are made in double precision and rounded once, as the loop makes them, so
that the order in which they are made does not show; it does not depend on the number of threads either.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from thalweg.engine.core import memory_probe
from thalweg.engine.kernels.c_operations import TYPES, assignment
from thalweg.engine.kernels.passes import Axes, Passes
from thalweg.engine.kernels.recording import Operation, RecordedReduction, RecordedValue, UnknownOperationError
from thalweg.rules import Max, Mean

_PRELUDE = """\
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bfloat16;

static inline float widened(bfloat16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

static inline bfloat16 narrowed(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bfloat16 even = (bfloat16)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
    return x != x ? 0x7FC0 : even;
}

static inline int32_t bits_of(float x) {
    int32_t y;
    memcpy(&y, &x, sizeof y);
    return y;
}

static inline float float_of(int32_t x) {
    float y;
    memcpy(&y, &x, sizeof y);
    return y;
}

typedef void block_of(const int64_t *size, int64_t block, void *const *at, int64_t count, const double *row,
                      const double *model);
typedef void end_of(const int64_t *size, void *const *at, int64_t count, const double *row, const double *model);
"""

# `sizes` has four numbers for each tensor: batches, rows, columns, elements. `at` holds the addresses of all tensors,
# column by column; `row_stride` is 0 where all tensors share one row. `model` holds the answers over the model: those
# of earlier calls, which are read, and the sums of these tensors, which are written.
_DRIVER = """
static void all_blocks(block_of *run, int64_t count, const int64_t *sizes, void *const *at, const double *rows,
                       int64_t row_stride, int64_t threads, const double *model) {
    int64_t all = 0;
    for (int64_t t = 0; t < count; t++) all += sizes[4 * t + 3];
    #pragma omp parallel for num_threads((int)threads) schedule(static)
    for (int64_t k = 0; k < threads; k++) {
        /* Each thread takes the blocks that begin in its share of all elements, wherever the tensors begin and end. */
        int64_t from = all * k / threads, to = all * (k + 1) / threads, start = 0;
        for (int64_t t = 0; t < count && start < to; start += sizes[4 * t++ + 3]) {
            const int64_t *size = sizes + 4 * t;
            if (start + size[3] <= from) continue;
            int64_t per = (size[1] + ROWS - 1) / ROWS;
            for (int64_t block = 0; block < size[0] * per; block++) {
                int64_t begin = start + (block / per * size[1] + block % per * ROWS) * size[2];
                if (begin >= to) break;
                if (begin >= from) run(size, block, at + t, count, rows + t * row_stride, model);
            }
        }
    }
}

static void all_ends(end_of *run, int64_t count, const int64_t *sizes, void *const *at, const double *rows,
                     int64_t row_stride, int64_t threads, const double *model) {
    #pragma omp parallel for num_threads((int)threads) schedule(static)
    for (int64_t t = 0; t < count; t++) run(sizes + 4 * t, at + t, count, rows + t * row_stride, model);
}

void step(int64_t first, int64_t last, int64_t count, const int64_t *sizes, void *const *at, const double *rows,
          int64_t row_stride, int64_t threads, double *model) {
    for (int64_t pass = first; pass <= last; pass++) {
        if (blocks[pass]) all_blocks(blocks[pass], count, sizes, at, rows, row_stride, threads, model);
        if (ends[pass]) all_ends(ends[pass], count, sizes, at, rows, row_stride, threads, model);
        gather(pass, count, at, model);
    }
}
"""


def c_source(passes: Passes) -> str:
    """A translation unit whose public functions are `step`, for whose arguments see `_DRIVER`, and `memory_probe`.

    The columns of `at` are the parameters, the gradients, the state in the order of the layout, and then, for each
    answer, room for it and for what blocks make for it. Parameters and state are written in place.
    """
    if any(one.dtype == torch.bool for one in passes.columns):  # a byte in memory, and four in C
        raise UnknownOperationError("truth values that are remembered")
    numbers = range(passes.last + 1)
    printed = [_Printed(passes, number) for number in numbers]
    blocks, ends = [one.block() for one in printed], [one.end() for one in printed]
    return "\n".join(
        [
            _PRELUDE,
            *(text for text in (*blocks, *ends) if text),
            _table("block", blocks),
            _table("end", ends),
            _gathering(passes),
            f"#define ROWS {passes.rows_in_block}",
            _DRIVER,
            memory_probe.C_SOURCE,
        ]
    )


def _table(name: str, texts: Sequence[str]) -> str:
    """Which function of a name each pass has; 0 where it has none."""
    functions = ", ".join(f"{name}{k}" if text else "0" for k, text in enumerate(texts))
    return f"static {name}_of *const {name}s[] = {{{functions}}};"


def _gathering(passes: Passes) -> str:
    """What all tensors of a call make for the answers over the model."""
    lines = ["static void gather(int64_t pass, int64_t count, void *const *at, double *model) {"]
    for k, answer in enumerate(passes.over_model):
        column = _column_of(passes, answer)
        lines += [
            f"    if (pass == {passes.asked_in(answer)}) {{",
            f"        double made = *(const double *)at[{column} * count];",
            "        for (int64_t t = 1; t < count; t++) {",
            f"            const double one = *(const double *)at[{column} * count + t];",
            f"            {_taken_in('made', 'one', answer)}",
            "        }",
            f"        model[{k}] = made;",
            "    }",
        ]
    return "\n".join([*lines, "}"])


def _column_of(passes: Passes, answer: RecordedReduction) -> int:
    """The column of `at` with the room for an answer; the next one is that for the blocks."""
    return 2 + len(passes.recording.state) + 2 * passes.answers.index(answer)


def _taken_in(into: str, value: str, answer: RecordedReduction) -> str:
    if answer.kind is Max:
        return f"{into} = {value} > {into} || {value} != {value} ? {value} : {into};"
    return f"{into} += {value};"


def _nothing(answer: RecordedReduction) -> str:
    return "-INFINITY" if answer.kind is Max else "0"


def _at(axes: Axes) -> str:
    """Where an element lies in what varies along these axes alone."""
    place = ""
    for axis in axes:
        place = f"({place}) * {axis.upper()} + {axis}" if place else axis
    return place or "0"


_SIZES = "    const int64_t B = size[0], N = size[1], M = size[2]; (void)B; (void)N; (void)M;"


class _Total(NamedTuple):
    """What is printed at each place of a block's loops to sum up a value, or to find the largest."""

    begun: Sequence[str] = ()
    row_begun: Sequence[str] = ()
    each: Sequence[str] = ()
    row_ended: Sequence[str] = ()
    ended: Sequence[str] = ()
    clause: str = ""


class _Printed:
    """One pass of a program, printed: what runs over a block of rows, and what follows when all blocks are done."""

    def __init__(self, passes: Passes, number: int) -> None:
        self.passes, self.number = passes, number
        self.asked, self.written = passes.asked(number), passes.written(number)

    # --- inputs -------------------------------------------------------------------------------------------------------

    def _inputs(self, wanted: set[int]) -> tuple[list[str], list[tuple[Axes, str]]]:
        """Where the inputs lie, and the inputs themselves, each with the axes along which it varies."""
        passes, pointers, loaded = self.passes, [], []
        for k, value in enumerate(passes.columns):
            if value.place in wanted or any(column == k for column, _ in self.written):
                pointers.append(f"    {TYPES[value.dtype]} *x{k} = at[{k} * count];")
            if value.place in wanted:
                axes = passes.along(value)
                where = "i" if axes == passes.axes else _at(axes)
                loaded.append((axes, f"const {TYPES[value.dtype]} v{value.place} = x{k}[{where}];"))
        for k, value in enumerate(passes.recording.coefficients.values()):
            if value.place in wanted:
                loaded.append(("", f"const double v{value.place} = row[{k}];"))
        element = passes.recording.element
        if element is not None and element.place in wanted:
            loaded.append((passes.axes, f"const int64_t v{element.place} = i;"))
        for answer in passes.answers:
            place, dtype, column = answer.result.place, TYPES[answer.result.dtype], _column_of(passes, answer)
            axes = passes.along(answer.result)
            if place in wanted and answer.over_model:
                loaded.append((axes, f"const {dtype} v{place} = ({dtype})model[{passes.over_model.index(answer)}];"))
            elif place in wanted:
                pointers.append(f"    const double *answers{place} = at[{column} * count];")
                loaded.append((axes, f"const {dtype} v{place} = ({dtype})answers{place}[{_at(axes)}];"))
        return pointers, loaded

    def _leveled(self, operations: Iterable[Operation], loaded: list[tuple[Axes, str]]) -> dict[str, list[str]]:
        """The assignments, by the innermost loop that they belong to; "" where that is none."""
        levels: dict[str, list[str]] = {axis: [] for axis in ("", *"bnm")}
        placed = [*loaded, *((self.passes.along(one.result), assignment(one)) for one in operations)]
        for axes, text in placed:
            levels[axes[-1:]].append(text)
        return levels

    # --- the block ----------------------------------------------------------------------------------------------------

    def block(self) -> str:
        """The loops over whole tensors, a block of rows at a time; empty if the pass has none."""
        passes, rows = self.passes, self.passes.rows_in_block
        answers, written = passes.of_whole(self.number)
        if not answers and not written:
            return ""
        operations, wanted = passes.needed([*(answer.of for answer in answers), *(value for _, value in written)])
        pointers, loaded = self._inputs(wanted)
        levels = self._leveled(operations, loaded)
        totals = [self._total(answer) for answer in answers]
        lines = [
            f"static void block{self.number}(const int64_t *size, int64_t block, void *const *at, int64_t count,",
            "                   const double *row, const double *model) {",
            _SIZES,
            f"    const int64_t per = (N + {rows - 1}) / {rows}, b = block / per, low = block % per * {rows};",
            f"    const int64_t high = low + {rows} < N ? low + {rows} : N;",
            *pointers,
            *(f"    {text}" for text in (*levels[""], *levels["b"])),
            *(f"    {text}" for total in totals for text in total.begun),
            "    for (int64_t n = low; n < high; n++) {",
            "        const int64_t start = (b * N + n) * M, left = size[3] - start, length = left < M ? left : M;",
            *(f"        {text}" for text in levels["n"]),
            *(f"        {text}" for total in totals for text in total.row_begun),
            "        " + " ".join(["#pragma omp simd", *(total.clause for total in totals if total.clause)]),
            "        for (int64_t m = 0; m < length; m++) {",
            "            const int64_t i = start + m;",
            *(f"            {text}" for text in levels["m"]),
            *(f"            {text}" for total in totals for text in total.each),
            *(f"            x{k}[i] = {_value(value)};" for k, value in written),
            "        }",
            *(f"        {text}" for total in totals for text in total.row_ended),
            "    }",
            *(f"    {text}" for total in totals for text in total.ended),
            "}",
        ]
        return "\n".join(lines)

    def _total(self, answer: RecordedReduction) -> _Total:
        """How a block makes its part of an answer."""
        form, place, column = self.passes.made_of(answer), answer.result.place, _column_of(self.passes, answer)
        value = f"(double){_value(answer.of)}"
        if form == "columns":
            return _Total(
                begun=[
                    f"double *columns{place} = (double *)at[{column + 1} * count] + block * M;",
                    f"for (int64_t m = 0; m < M; m++) columns{place}[m] = {_nothing(answer)};",
                ],
                each=[_taken_in(f"columns{place}[m]", value, answer)],
            )
        total = self._total_of_row(answer, value)
        made = f"made{place}"
        if form == "rows":
            pointer = f"double *answers{place} = at[{column} * count];"
            stored = f"answers{place}[{_at(self.passes.along(answer.result))}] = {self._finished(made, answer)};"
            return total._replace(begun=[pointer], row_ended=[*total.row_ended, stored])
        return total._replace(
            begun=[f"double all{place} = {_nothing(answer)};"],
            row_ended=[*total.row_ended, _taken_in(f"all{place}", made, answer)],
            ended=[f"((double *)at[{column + 1} * count])[block] = all{place};"],
        )

    def _total_of_row(self, answer: RecordedReduction, value: str) -> _Total:
        """How `made` is made of the elements of a row, in any order."""
        made, odd = (f"{name}{answer.result.place}" for name in ("made", "odd"))
        if answer.kind is Max:
            # What is compared in no order needs NaN told apart.
            return _Total(
                row_begun=[f"double {made} = -INFINITY;", f"int64_t {odd} = 0;"],
                each=[f"{made} = {value} > {made} ? {value} : {made};", f"{odd} |= {value} != {value};"],
                row_ended=[f"if ({odd}) {made} = NAN;"],
                clause=f"reduction(max:{made}) reduction(|:{odd})",
            )
        each = [_taken_in(made, value, answer)]
        return _Total(row_begun=[f"double {made} = 0;"], each=each, clause=f"reduction(+:{made})")

    def _finished(self, total: str, answer: RecordedReduction) -> str:
        """The answer, from the sum of all that it is of."""
        if answer.kind is not Mean or answer.over_model:  # whose elements others count
            return total
        passes = self.passes
        of, left = passes.along(answer.of), passes.along(answer.result)
        if of == passes.axes and not left:
            return f"{total} / size[3]"
        return f"{total} / ({' * '.join(axis.upper() for axis in of if axis not in left) or '1'})"

    # --- the end ------------------------------------------------------------------------------------------------------

    def end(self) -> str:
        """What follows for a tensor when all its blocks are done: answers, and values of fewer elements, if any."""
        lines = []
        for answer in self.asked:
            form = self.passes.made_of(answer)
            if form == "few":
                lines += self._reduced(answer)
            elif form != "rows":  # whose answers are complete
                lines += self._put_together(answer)
        small = [(k, value) for k, value in self.written if not self.passes.is_whole(value)]
        for axes in sorted({self.passes.along(value) for _, value in small}, key=len, reverse=True):
            targets = [(k, value) for k, value in small if self.passes.along(value) == axes]
            stored = [f"x{k}[{_at(axes)}] = {_value(value)};" for k, value in targets]
            lines += self._nest(axes, [value for _, value in targets], stored)
        if not lines:
            return ""
        head = f"static void end{self.number}(const int64_t *size, void *const *at, int64_t count, const double *row,"
        return "\n".join([head, "                 const double *model) {", _SIZES, *lines, "}"])

    def _put_together(self, answer: RecordedReduction) -> list[str]:
        """An answer from what the blocks have made for it."""
        passes, column = self.passes, _column_of(self.passes, answer)
        rows, left = passes.rows_in_block, passes.along(answer.result)
        width = "M" if "m" in left else "1"
        into = f"into[{'b * ' + width if 'b' in left else '0'} + m]"
        return [
            "    {",
            f"        const int64_t per = (N + {rows - 1}) / {rows};",
            f"        const double *made = at[{column + 1} * count];",
            *self._begun(answer),
            "        for (int64_t b = 0; b < B; b++)",
            "            for (int64_t k = 0; k < per; k++)",
            f"                for (int64_t m = 0; m < {width}; m++) {{",
            f"                    const double one = made[(b * per + k) * {width} + m];",
            f"                    {_taken_in(into, 'one', answer)}",
            "                }",
            *self._ended(answer),
            "    }",
        ]

    def _reduced(self, answer: RecordedReduction) -> list[str]:
        """An answer made of values that have fewer elements than the parameter."""
        into = f"into[{_at(self.passes.along(answer.result))}]"
        taken = _taken_in(into, f"(double){_value(answer.of)}", answer)
        loops = self._nest(self.passes.along(answer.of), [answer.of], [taken])
        return ["    {", *self._begun(answer), *loops, *self._ended(answer), "    }"]

    def _begun(self, answer: RecordedReduction) -> list[str]:
        column = _column_of(self.passes, answer)
        count = " * ".join(axis.upper() for axis in self.passes.along(answer.result)) or "1"
        return [
            f"        double *into = at[{column} * count];",
            f"        const int64_t results = {count};",
            f"        for (int64_t r = 0; r < results; r++) into[r] = {_nothing(answer)};",
        ]

    def _ended(self, answer: RecordedReduction) -> list[str]:
        if answer.kind is not Mean:
            return []
        return [f"        for (int64_t r = 0; r < results; r++) into[r] = {self._finished('into[r]', answer)};"]

    def _nest(self, axes: Axes, targets: list[RecordedValue], last: list[str]) -> list[str]:
        """Loops over these axes that compute values, and then do something with each."""
        operations, wanted = self.passes.needed(targets)
        pointers, loaded = self._inputs(wanted)
        levels = self._leveled(operations, loaded)
        lines = ["    {", *(f"    {text}" for text in (*pointers, *levels[""]))]
        for axis in axes:
            lines += [f"    for (int64_t {axis} = 0; {axis} < {axis.upper()}; {axis}++) {{", *levels[axis]]
        return [*lines, *last, "    }" * len(axes), "    }"]


def _value(value: RecordedValue) -> str:
    return f"v{value.place}"
