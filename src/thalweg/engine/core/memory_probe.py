"""Memory probe: read where and how hundreds of tensors lie in memory in one call of C.

Kernels read and write memory directly, so the addresses, shapes, strides and dtypes of all tensors must be checked
before each step. In Python this check would cost more than the step. `C_SOURCE` is part of every kernel: it calls the
stable C functions of libtorch and hashes the layouts of all tensors into one number, the fingerprint. They read no
memory of tensors, so tensors on CUDA devices are probed in the same way; for these the source is a library by itself.
"""

import ctypes
from array import array
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from thalweg.engine.core.object_ids import ids_of
from thalweg.engine.core.plain_tensors import addresses as addresses_of

# The functions of libtorch that `probe` calls, in the order of its argument `query`.
_QUERIES = ("data_ptr", "dtype", "device_type", "layout", "dim", "sizes", "strides", "device_index")

C_SOURCE = """\
#include <stdint.h>

static uint64_t mixed(uint64_t sum, uint64_t value) {
    sum = (sum ^ value) * 0x9E3779B97F4A7C15u;
    return sum ^ (sum >> 29);
}

/* Fetch into the cache what a step will read of tensors, and of the dictionaries that hold them: the objects, the
   memory that they point at, and the first pointers in it, which in a tensor of this torch are its storage, its
   gradient and its version. These are hints: only the objects and the tensors themselves are read. */
void prefetch(int64_t count, char *const *objects, int64_t offset, int64_t num_records, char *const *records) {
    for (int64_t k = 0; k < count; k++) __builtin_prefetch(objects[k]);
    for (int64_t k = 0; k < num_records; k++) __builtin_prefetch(records[k]);
    for (int64_t k = 0; k < count; k++) {
        char *impl = *(char **)(objects[k] + offset);
        for (int line = 0; line < 4; line++) __builtin_prefetch(impl + 64 * line);
    }
    for (int64_t k = 0; k < num_records; k++) {
        char *keys = ((char **)records[k])[4];
        for (int line = 0; line < 2; line++) __builtin_prefetch(keys + 64 * line);
    }
    for (int64_t k = 0; k < count; k++) {
        char **impl = *(char ***)(objects[k] + offset);
        __builtin_prefetch(impl[2]);
        __builtin_prefetch(impl[3]);
        __builtin_prefetch(impl[5]);
    }
}

/* Return a hash of the layouts of all tensors, and write their addresses to `at`; 0 if a tensor is not plain memory of
   the CPU (device 0) or of CUDA (device 1). */
uint64_t probe(int64_t count, char *const *objects, int64_t offset, int64_t keys,
              int (*const *query)(void *tensor, void *answer), void **at, int64_t threads) {
    uint64_t all = 1, unsupported = 0;
    #pragma omp parallel for num_threads((int)threads) schedule(static) reduction(+ : all) reduction(| : unsupported)
    for (int64_t k = 0; k < count; k++) {
        void *tensor = objects[k] + offset;
        /* Its index, its class (the word after the reference count), and its dispatch keys, negation included. */
        uint64_t sum = mixed(mixed(1, (uint64_t)k), ((uint64_t *)objects[k])[1]);
        sum = mixed(sum, *(uint64_t *)(*(char **)tensor + keys));
        int32_t dtype, device, device_index = 0, layout;
        int64_t dim, *sizes, *strides;
        /* In this order: a tensor on another device may have no address, and one that is not strided no strides. */
        if (query[1](tensor, &dtype) || query[2](tensor, &device) || query[3](tensor, &layout) || device < 0
            || device > 1 || (device && query[7](tensor, &device_index)) || layout || query[0](tensor, at + k)
            || query[4](tensor, &dim) || query[5](tensor, &sizes) || query[6](tensor, &strides)) {
            unsupported = 1;
            continue;
        }
        sum = mixed(mixed(mixed(sum, (uint64_t)dtype), (uint64_t)dim), 2 * (uint64_t)(uint32_t)device_index + device);
        for (int64_t d = 0; d < dim; d++) sum = mixed(mixed(sum, (uint64_t)sizes[d]), (uint64_t)strides[d]);
        all += sum;
    }
    return unsupported ? 0 : all | (all == 0);
}

/* Return 1 if one of these pieces of memory meets one of the spans, which are sorted and disjoint. */
int64_t meets(int64_t count, const uint64_t *at, const uint64_t *bytes, int64_t num_spans, const uint64_t *starts,
              const uint64_t *ends) {
    for (int64_t k = 0; k < count; k++) {
        int64_t low = 0, high = num_spans; /* the first span that ends behind the start of the piece */
        while (low < high) {
            int64_t middle = (low + high) / 2;
            if (ends[middle] > at[k]) high = middle; else low = middle + 1;
        }
        if (low < num_spans && starts[low] < at[k] + bytes[k]) return 1;
    }
    return 0;
}
"""


class MemoryProbe:
    """The functions of ``C_SOURCE`` in the library of a kernel.

    Args:
        library: The loaded library of any kernel.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        # These hold the GIL: the calls are too short to release it.
        probe = ctypes.PYFUNCTYPE(ctypes.c_uint64, number, pointer, number, number, pointer, pointer, number)
        prefetch = ctypes.PYFUNCTYPE(None, number, pointer, number, number, pointer)
        meets = ctypes.PYFUNCTYPE(number, number, pointer, pointer, number, pointer, pointer)
        self._probe, self._fetch = probe(("probe", library)), prefetch(("prefetch", library))
        self._meets = meets(("meets", library))

    def prefetch(self, objects: "array[int]", records: "array[int]") -> None:
        """Bring tensors and dictionaries into the processor's cache.

        Args:
            objects: The ids of the tensors.
            records: The ids of the dictionaries.
        """
        if (offsets := _offsets()) is not None:
            tensors, dictionaries = objects.buffer_info(), records.buffer_info()
            self._fetch(tensors[1], tensors[0], offsets[0], dictionaries[1], dictionaries[0])

    def meets(self, addresses: "array[int]", lengths: "array[int]", starts: "array[int]", ends: "array[int]") -> bool:
        """Return True if one of some pieces of memory meets one of some spans.

        Args:
            addresses: The addresses of the pieces.
            lengths: Their lengths in bytes.
            starts: The addresses of the spans, which are sorted and disjoint.
            ends: The addresses behind the spans.
        """
        pieces, spans = (addresses.buffer_info(), lengths.buffer_info()), (starts.buffer_info(), ends.buffer_info())
        return bool(self._meets(pieces[0][1], pieces[0][0], pieces[1][0], spans[0][1], spans[0][0], spans[1][0]))

    def __call__(self, objects: "array[int]", threads: int) -> tuple[int, "array[int]"]:
        """Read the layouts of tensors.

        Args:
            objects: The ids of the tensors.
            threads: The number of threads.

        Returns:
            The fingerprint of all layouts, 0 if it cannot be computed; and the address of each tensor.
        """
        addresses = array("Q", bytes(8 * len(objects)))
        offsets, functions = _offsets(), _functions()
        if offsets is None or functions is None:
            return 0, addresses
        pointers = objects.buffer_info()[0], *offsets, ctypes.addressof(functions), addresses.buffer_info()[0]
        return self._probe(len(addresses), *pointers, threads), addresses


class CachedCheck:
    """A check of tensors that is skipped while their layouts are those for which it last held."""

    def __init__(self) -> None:
        self._fingerprint = 0

    def addresses_if_valid(
        self,
        probe: MemoryProbe | None,
        tensors: Sequence[Tensor],
        check: Callable[[], bool],
        threads: int,
        ids: "array[int] | None" = None,
    ) -> "array[int] | None":
        """Return the addresses of tensors if the check holds.

        Args:
            probe: Reads the layouts. Without it, the check is made every time.
            tensors: The tensors to check.
            check: The check. Its result may depend only on what the fingerprint covers.
            threads: The number of threads that read layouts.
            ids: The ids of the tensors, if they are at hand.

        Returns:
            The addresses, in the order of the tensors; None if the check fails.
        """
        fingerprint, addresses = (
            (0, None) if probe is None else probe(ids or array("Q", ids_of(list(tensors))), threads)
        )
        if fingerprint and fingerprint == self._fingerprint:
            return addresses
        if not check():
            return None
        self._fingerprint = fingerprint
        return addresses if fingerprint else addresses_of(tensors)


_SEARCH_BYTES = 192  # of a C++ tensor, which is larger
# THPVariable in torch's python_variable.h: the C++ tensor follows the object's header; before torch 2.10, after a flag.
_TENSOR_OFFSETS = object.__basicsize__, object.__basicsize__ + 8


@cache
def _offsets() -> tuple[int, int] | None:
    """Return the offset of the C++ tensor in a Python tensor, and that of its dispatch keys in the C++ tensor.

    None if the layout of this torch is not a known one.
    """
    real, complex_ = torch.zeros(1, device="cpu"), torch.zeros(1, dtype=torch.complex64, device="cpu")
    samples = [real, torch._neg_view(real), complex_.conj()]
    tensor_offsets = [
        offset
        for offset in _TENSOR_OFFSETS
        if all(ctypes.c_void_p.from_address(id(sample) + offset).value == sample._cdata for sample in samples)
    ]
    words = [(ctypes.c_uint64 * (_SEARCH_BYTES // 8)).from_address(sample._cdata) for sample in samples]
    keys = [torch._C._dispatch_keys(sample).raw_repr() for sample in samples]
    keys_offsets = [8 * k for k, values in enumerate(zip(*words, strict=True)) if list(values) == keys]
    return (tensor_offsets[0], keys_offsets[0]) if len(tensor_offsets) == len(keys_offsets) == 1 else None


@cache
def _functions() -> "ctypes.Array[ctypes.c_void_p] | None":
    """Return the addresses of the functions that `probe` calls; None if this torch lacks one."""
    libtorch = ctypes.CDLL(torch._C.__file__)  # symbols of the libraries that it links are found through it
    try:
        functions = [getattr(libtorch, f"aoti_torch_get_{name}") for name in _QUERIES]
    except AttributeError:
        return None
    return (ctypes.c_void_p * len(_QUERIES))(*(ctypes.cast(function, ctypes.c_void_p) for function in functions))
