"""Call: the argument of every kernel, one struct by value. The C text and the structure of ctypes come from one table.

Addresses of gradients change from step to step, and so do scalars. They come by value, so a step copies nothing to the
device and waits for nothing. Everything else lies in tables on the device, which are written when a batch is bound.
"""

import ctypes
from functools import cache
from typing import Any, NamedTuple

# The largest argument of a kernel, in bytes: with drivers from CUDA 12.1 (sm_70 and newer), and with older ones.
MAX_CALL_BYTES = 32_764
MAX_CALL_BYTES_BEFORE_12_1 = 4_096


class Field(NamedTuple):
    """A field of the struct.

    Attributes:
        name: Its name, in C and in Python.
        c_type: Its type in C, or that of its elements.
        length: The macro with the number of its elements; "" for one number.
        meaning: The comment in the text.
    """

    name: str
    c_type: str
    length: str
    meaning: str


FIELDS = (
    Field("count", "int64_t", "", "tensors of the batch"),
    Field("first_tensor", "int64_t", "", "the tensor of grad[0], and of the first block of a launch over tensors"),
    Field("first_chunk", "int64_t", "", "the chunk of the first block of a launch over chunks"),
    Field("part", "int64_t", "", "the position of this batch among those that share reductions over the model"),
    Field("num_parts", "int64_t", "", "the number of these batches"),
    Field("model_numel", "int64_t", "", "the elements of all of them"),
    Field("sizes", "const int64_t *", "", "batches, rows, columns and elements of each tensor"),
    Field("chunks", "const Chunk *", "", "the tensor of each chunk, and the position of the chunk in it"),
    Field("at", "void *const *", "", "addresses of all tensors, column by column; those of gradients are not read"),
    Field("rows", "const double *", "", "a row of scalars for each tensor; null if all share `row`"),
    Field("model", "double *", "", "results of reductions over the model"),
    Field("parts", "double *", "", "their partial results: num_parts numbers for each"),
    Field("skip", "const float *", "", "if it points to a number other than 0, nothing is written; may be null"),
    Field("grad_factor", "const float *", "", "points to the factor of all gradients; null for 1"),
    Field("row", "double", "ROW", "the scalars of the step, if all tensors share them"),
    Field("grad", "void *", "GRADS", "addresses of the gradients, from that of `first_tensor`"),
)

_CTYPES: dict[str, Any] = {"int64_t": ctypes.c_int64, "double": ctypes.c_double}


def struct_text() -> str:
    """Return the struct in C. The macros ``ROW`` and ``GRADS`` are the lengths of its arrays."""
    lines = []
    for field in FIELDS:
        space = "" if field.c_type.endswith("*") else " "
        length = f"[{field.length}]" if field.length else ""
        lines.append(f"    {field.c_type}{space}{field.name}{length};  /* {field.meaning} */")
    return "\n".join(["struct Call {", *lines, "};"])


@cache
def call_structure(num_scalars: int, num_grads: int) -> type[ctypes.Structure]:
    """Return the struct as a structure of ctypes. Addresses are integers; 0 is null.

    Args:
        num_scalars: The number of scalars of a step.
        num_grads: The capacity of the text for gradients.

    Example:
        >>> call = call_structure(7, 448)()
        >>> call.first_tensor, call.rows, len(call.row), len(call.grad)
        (0, 0, 7, 448)
    """
    lengths = {"ROW": row_length(num_scalars), "GRADS": num_grads}
    fields = []
    for field in FIELDS:
        element = _CTYPES.get(field.c_type, ctypes.c_uint64)
        fields.append((field.name, element * lengths[field.length] if field.length else element))
    return type("Call", (ctypes.Structure,), {"_fields_": fields})


def row_length(num_scalars: int) -> int:
    """Return the length of a row of scalars: C has no array without elements."""
    return max(1, num_scalars)


def gradient_capacity(num_scalars: int, max_bytes: int = MAX_CALL_BYTES) -> int:
    """Return the largest number of gradients of one launch.

    Args:
        num_scalars: The number of scalars of a step.
        max_bytes: The largest argument of a kernel that the driver takes.

    Example:
        >>> gradient_capacity(7), gradient_capacity(7, MAX_CALL_BYTES_BEFORE_12_1)
        (4074, 491)
    """
    return (max_bytes - ctypes.sizeof(call_structure(num_scalars, 0))) // 8
