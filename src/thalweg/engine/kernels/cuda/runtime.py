"""Runtime: the text that every kernel for a GPU contains, around the functions that are printed for its passes.

The same text is compiled by NVRTC for NVIDIA, by hipRTC for AMD, and, with EMULATED defined, by a C++ compiler for the
CPU. There the threads of a block run one after the other, phase by phase: ``THREADS`` begins a phase, and ``TOGETHER``
ends it, where a GPU synchronizes the threads of a block. So the operations and their order are the same.
"""

# Macros that differ by compiler. `here` is the number of the block.
PLATFORM = """\
#ifndef EXPORTED
#define EXPORTED(name) name
#endif
#ifdef EMULATED
typedef __INT32_TYPE__ int32_t; typedef __UINT32_TYPE__ uint32_t; typedef __UINT16_TYPE__ uint16_t;
typedef __INT64_TYPE__ int64_t; typedef __UINT64_TYPE__ uint64_t;
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define sqrtf __builtin_sqrtf
#define sqrt __builtin_sqrt
#define DEVICE static inline
#define DEVICE_MEMBER inline
static int reversed, phase_open, unsynchronized;
static inline int begin_phase() { unsynchronized += phase_open; phase_open = 1; return 0; }
#define KERNEL(name) static void name##_block(const Call &call, int64_t here); \\
    extern "C" int EXPORTED(name)(const Call *call, int64_t blocks, int backwards) { \\
        reversed = backwards; unsynchronized = 0; \\
        for (int64_t k = 0; k < blocks; k++) { phase_open = 0; name##_block(*call, backwards ? blocks - 1 - k : k); } \\
        return unsynchronized; \\
    } \\
    static void name##_block(const Call &call, int64_t here)
#define SHARED static
#define THREADS for (int turn = begin_phase(), thread = 0; \\
    thread = reversed ? WIDTH - 1 - turn : turn, turn < WIDTH; turn++)
#define TOGETHER phase_open = 0;
#define OWN WIDTH
#define MINE thread
#define UNROLL
#define IN_GLOBAL(p)
DEVICE int32_t bits_of(float x) { int32_t y; __builtin_memcpy(&y, &x, 4); return y; }
DEVICE float float_of(int32_t x) { float y; __builtin_memcpy(&y, &x, 4); return y; }
#else
#ifdef __CUDACC_RTC__
typedef int int32_t; typedef unsigned uint32_t; typedef unsigned short uint16_t;
typedef long long int64_t; typedef unsigned long long uint64_t;
#endif
#undef INFINITY
#undef NAN
#define INFINITY __int_as_float(0x7F800000)
#define NAN __int_as_float(0x7FC00000)
#define DEVICE static __device__ __forceinline__
#define DEVICE_MEMBER __device__ __forceinline__
#ifdef __HIP__
#define BY_VALUE
#define IN_GLOBAL(p)
#else
#define BY_VALUE __grid_constant__  /* indexed where it is, without a copy */
#define IN_GLOBAL(p) __builtin_assume(__isGlobal(p))  /* or loads ask what kind of memory each address is */
#endif
#define KERNEL(name) extern "C" __global__ void BOUNDS EXPORTED(name)(const BY_VALUE Call call)
#define here ((int64_t)blockIdx.x)
#define SHARED __shared__
#define THREADS for (int thread = threadIdx.x, once = 1; once; once = 0)
#define TOGETHER __syncthreads();
#define OWN 1
#define MINE 0
#define UNROLL _Pragma("unroll")
DEVICE int32_t bits_of(float x) { return __float_as_int(x); }
DEVICE float float_of(int32_t x) { return __int_as_float(x); }
#ifndef __HIP__
struct Half {
    uint16_t bits;
    Half() = default;
    __device__ __forceinline__ Half(float x) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x)); }
    __device__ __forceinline__ operator float() const {
        float y;
        asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(bits));
        return y;
    }
};
#define _Float16 Half
#endif
#endif
#define ONE THREADS if (thread == 0)
#define SKIP if (call.skip && *call.skip != 0) return;
"""

# Numbers, vectors of them in memory, and sums of a block in a fixed order.
LIBRARY = """\
typedef uint16_t bfloat16;
DEVICE float widened(bfloat16 x) { return float_of((int32_t)((uint32_t)x << 16)); }
DEVICE bfloat16 narrowed(float x) {
    const uint32_t bits = (uint32_t)bits_of(x);
    return x != x ? (bfloat16)0x7FC0 : (bfloat16)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}
DEVICE float rescaled(float x, float factor) { return x * factor; }
DEVICE double rescaled(double x, float factor) { return x * (double)factor; }
DEVICE bfloat16 rescaled(bfloat16 x, float factor) { return narrowed(widened(x) * factor); }
DEVICE _Float16 rescaled(_Float16 x, float factor) { return (_Float16)((float)x * factor); }

template <class T> struct alignas(sizeof(T) * LANES < 16 ? sizeof(T) * LANES : 16) Pack { T x[LANES]; };
#if STREAMING && !defined(EMULATED)
template <int BYTES> struct Word;
template <> struct Word<4> { typedef int type; };
template <> struct Word<8> { typedef int2 type; };
template <> struct Word<16> { typedef int4 type; };
template <class P> DEVICE P load_pack(const void *from) {
    typedef typename Word<alignof(P)>::type W;
    union { P p; W w[sizeof(P) / sizeof(W)]; } both;
    UNROLL for (int k = 0; k < (int)(sizeof(P) / sizeof(W)); k++) both.w[k] = __ldcs((const W *)from + k);
    return both.p;
}
template <class P> DEVICE void store_pack(void *to, const P &p) {
    typedef typename Word<alignof(P)>::type W;
    union { P p; W w[sizeof(P) / sizeof(W)]; } both;
    both.p = p;
    UNROLL for (int k = 0; k < (int)(sizeof(P) / sizeof(W)); k++) __stcs((W *)to + k, both.w[k]);
}
#else
template <class P> DEVICE P load_pack(const void *from) { return *(const P *)from; }
template <class P> DEVICE void store_pack(void *to, const P &p) { *(P *)to = p; }
#endif
/* `some` elements of a vector are inside the tensor. FULL: all are, and the address is aligned. */
template <bool FULL, class T> DEVICE Pack<T> load(const T *from, int some, bool aligned) {
    if (FULL || (aligned && some == LANES)) return load_pack<Pack<T>>(from);
    Pack<T> p;
    UNROLL for (int j = 0; j < LANES; j++) p.x[j] = j < some ? from[j] : (T)0;
    return p;
}
template <bool FULL, class T> DEVICE void store(T *to, const Pack<T> &p, int some, bool aligned) {
    if (FULL || (aligned && some == LANES)) { store_pack(to, p); return; }
    UNROLL for (int j = 0; j < LANES; j++) if (j < some) to[j] = p.x[j];
}
template <class T> DEVICE bool is_aligned(const T *p) { return (uint64_t)p % alignof(Pack<T>) == 0; }
template <bool B> struct Flag { static constexpr bool value = B; };
DEVICE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Total {
    static DEVICE_MEMBER double identity() { return 0; }
    static DEVICE_MEMBER double join(double a, double b) { return a + b; }
};
struct Largest {
    static DEVICE_MEMBER double identity() { return -INFINITY; }
    static DEVICE_MEMBER double join(double a, double b) { return b > a || b != b ? b : a; }
};
/* The numbers of the threads, two by two: the result is in all[0]. */
template <class Op> DEVICE void join_threads(double *all) {
    TOGETHER
    for (int half = WIDTH / 2; half; half /= 2) {
        THREADS if (thread < half) all[thread] = Op::join(all[thread], all[thread + half]);
        TOGETHER
    }
}
/* Reduce term(r, k) over k < terms for each result r, and store it. The results are shared out over the slices. */
template <class Op, class Term, class Store>
DEVICE void reduce(int64_t results, int64_t terms, int slices, int slice, Term term, Store store) {
    SHARED double all[WIDTH];
    if (results < WARP) {  /* a block for a result */
        for (int64_t r = slice; r < results; r += slices) {
            THREADS {
                double total = Op::identity();
                for (int64_t k = thread; k < terms; k += WIDTH) total = Op::join(total, term(r, k));
                all[thread] = total;
            }
            join_threads<Op>(all);
            ONE store(r, all[0]);
            TOGETHER
        }
    } else if (terms >= WIDTH) {  /* neighbours load neighbours, and each warp a share of the terms */
        for (int64_t first = (int64_t)slice * WARP; first < results; first += (int64_t)slices * WARP) {
            THREADS {
                const int64_t r = first + thread % WARP;
                double total = Op::identity();
                if (r < results)
                    for (int64_t k = thread / WARP; k < terms; k += WIDTH / WARP) total = Op::join(total, term(r, k));
                all[thread] = total;
            }
            TOGETHER
            THREADS if (thread < WARP && first + thread < results) {
                double total = all[thread];
                for (int w = 1; w < WIDTH / WARP; w++) total = Op::join(total, all[thread + w * WARP]);
                store(first + thread, total);
            }
            TOGETHER
        }
    } else {  /* a thread for a result */
        THREADS for (int64_t r = (int64_t)slice * WIDTH + thread; r < results; r += (int64_t)slices * WIDTH) {
            double total = Op::identity();
            for (int64_t k = 0; k < terms; k++) total = Op::join(total, term(r, k));
            store(r, total);
        }
        TOGETHER
    }
}
struct Chunk { int32_t tensor, piece; };
"""

# After the struct of the argument.
SCALARS = """\
DEVICE double scalar(const Call &call, int64_t t, int k) {
    if (!call.rows) return call.row[k];
    const double *row = call.rows + t * ROW;
    IN_GLOBAL(row);
    return row[k];
}
"""
