"""C runtime: the C text that every kernel contains, around the functions that `c_source` prints for its passes."""

PRELUDE = """\
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
# column by column. `rows` holds the coefficients; `row_stride` is 0 where all tensors share them. `model` holds the
# results of reductions over the model: a call reads those of earlier calls, and writes the sums of its own tensors.
DRIVER = """
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
