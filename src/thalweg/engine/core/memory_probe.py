"""Look: hundreds of tensors looked at in one call, since a look at each would cost more than its step.

Kernels read and write memory directly, so before each step someone must see where and how all tensors lie. `C_SOURCE`
is part of every kernel: it asks libtorch through its stable C functions, and sums up in one number how tensors lie.
"""

import ctypes
from array import array
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

# The functions of libtorch that are asked, in the order of `ask` below.
_ASKED = ("data_ptr", "dtype", "device_type", "layout", "dim", "sizes", "strides")

C_SOURCE = """\
static uint64_t mixed(uint64_t sum, uint64_t value) {
    sum = (sum ^ value) * 0x9E3779B97F4A7C15u;
    return sum ^ (sum >> 29);
}

/* Fetch into the cache what a step will read of tensors, and of the dictionaries that hold them: the objects, what
   these point at, and what that points at first, which in a tensor of today is its storage, its gradient and its
   version. All of it is a hint: nothing is read but the objects and the tensors themselves. */
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

/* A sum over how tensors lie, and in `at` where; 0 if one of them is not plain memory of the CPU. */
uint64_t probe(int64_t count, char *const *objects, int64_t offset, int64_t keys,
              int (*const *ask)(void *tensor, void *answer), void **at, int64_t threads) {
    uint64_t all = 1, odd = 0;
    #pragma omp parallel for num_threads((int)threads) schedule(static) reduction(+ : all) reduction(| : odd)
    for (int64_t k = 0; k < count; k++) {
        void *tensor = objects[k] + offset;
        /* Its place, its class, which follows the reference count, and what torch dispatches on, negation included. */
        uint64_t sum = mixed(mixed(1, (uint64_t)k), ((uint64_t *)objects[k])[1]);
        sum = mixed(sum, *(uint64_t *)(*(char **)tensor + keys));
        int32_t dtype, device, layout;
        int64_t dim, *sizes, *strides;
        /* In this order: what is on another device may have no address, and what is not strided no strides. */
        if (ask[1](tensor, &dtype) || ask[2](tensor, &device) || ask[3](tensor, &layout) || device || layout
            || ask[0](tensor, at + k) || ask[4](tensor, &dim) || ask[5](tensor, &sizes) || ask[6](tensor, &strides)) {
            odd = 1;
            continue;
        }
        sum = mixed(mixed(sum, (uint64_t)dtype), (uint64_t)dim);
        for (int64_t d = 0; d < dim; d++) sum = mixed(mixed(sum, (uint64_t)sizes[d]), (uint64_t)strides[d]);
        all += sum;
    }
    return odd ? 0 : all | (all == 0);
}
"""


class MemoryProbe:
    """The function above, as one kernel has it."""

    def __init__(self, path: str) -> None:
        library = ctypes.PyDLL(path)  # both are too short to let other threads of Python go on
        self._probe, self._fetch = library.probe, library.prefetch
        self._probe.restype = ctypes.c_uint64
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._probe.argtypes = [number, pointer, number, number, pointer, pointer, number]
        self._fetch.restype, self._fetch.argtypes = None, [number, pointer, number, number, pointer]

    def prefetch(self, objects: "array[int]", records: "array[int]") -> None:
        """Bring tensors and dictionaries, by their ids, into the cache: hundreds at a time, not one by one."""
        if _offset_of_keys() is not None:
            first, *more = objects.buffer_info(), records.buffer_info()
            self._fetch(first[1], first[0], _OFFSET, more[0][1], more[0][0])

    def __call__(self, objects: "array[int]") -> tuple[int, "array[int]"]:
        """How tensors, by their ids, lie, as a number that is 0 if it cannot be told, and where."""
        at = array("Q", bytes(8 * len(objects)))
        keys = _offset_of_keys()
        if keys is None:
            return 0, at
        where = objects.buffer_info()[0], _OFFSET, keys, ctypes.addressof(_functions()), at.buffer_info()[0]
        return self._probe(len(at), *where, torch.get_num_threads()), at


class CachedCheck:
    """A check of tensors that is not made again as long as they lie as they did when it held."""

    def __init__(self) -> None:
        self._lay = 0

    def where(
        self,
        look: MemoryProbe | None,
        tensors: Sequence[Tensor],
        check: Callable[[], bool],
        ids: "array[int] | None" = None,
    ) -> "array[int] | None":
        """Where tensors lie, if `check()` holds; it may depend on what the C function sums up alone.

        `ids` are those of the tensors, if they are at hand.
        """
        lie, at = (0, None) if look is None else look(ids or array("Q", map(id, tensors)))
        if lie and lie == self._lay:
            return at
        if not check():
            return None
        self._lay = lie
        return at if lie else array("Q", map(Tensor.data_ptr, tensors))


_SEARCHED = 192  # bytes of a C++ tensor, which is larger
_OFFSET = object.__basicsize__  # THPVariable in torch's python_variable.h: the C++ tensor follows the object's header


@cache
def _offset_of_keys() -> int | None:
    """Where a C++ tensor has its dispatch keys; None if it, or they, are not found in this torch."""
    probes = [torch.zeros(1), torch._neg_view(torch.zeros(1)), torch.zeros(1, dtype=torch.complex64).conj()]
    if any(ctypes.c_void_p.from_address(id(one) + _OFFSET).value != one._cdata for one in probes):
        return None
    words = [(ctypes.c_uint64 * (_SEARCHED // 8)).from_address(one._cdata) for one in probes]
    wanted = [torch._C._dispatch_keys(one).raw_repr() for one in probes]
    found = [8 * k for k, values in enumerate(zip(*words, strict=True)) if list(values) == wanted]
    return found[0] if len(found) == 1 else None


@cache
def _functions() -> "ctypes.Array[ctypes.c_void_p]":
    libtorch = ctypes.CDLL(torch._C.__file__)  # what it is linked with is found through it
    addresses = [ctypes.cast(getattr(libtorch, f"aoti_torch_get_{name}"), ctypes.c_void_p) for name in _ASKED]
    return (ctypes.c_void_p * len(addresses))(*addresses)
