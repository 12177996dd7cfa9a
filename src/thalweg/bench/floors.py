"""Floors: the least time of a step, from the bytes that it must move and the memory bandwidth of a device."""

from collections import Counter
from collections.abc import Iterable, Sequence

import torch

from thalweg.engine.core.batch import ParameterBatch
from thalweg.engine.core.program import Program
from thalweg.engine.kernels.kernel_spec import KernelSpec
from thalweg.engine.kernels.recording import UnknownOperationError
from thalweg.rules import Rule


def moved_bytes(
    rule: Rule, shapes: Iterable[Sequence[int]], dtype: torch.dtype = torch.float32
) -> tuple[int, int] | None:
    """Return the bytes that a step of a rule must read, and write, for parameters of these shapes.

    They are those of the parameter, gradient and state, each as often as a pass of the kernel reads or writes it.

    Args:
        rule: The rule.
        shapes: The shapes of the parameters.
        dtype: The dtype of the parameters and gradients. State has the dtype that the rule declares.

    Returns:
        The bytes read and written; None if the rule has no kernel, as rules of whole matrices.

    Example:
        >>> from thalweg.bench.floors import moved_bytes
        >>> from thalweg.rules import AdamW
        >>> moved_bytes(AdamW(), [(1000, 1000)])  # reads 4 numbers for each parameter, writes 3
        (16000000, 12000000)
    """
    if rule.traits.needs_whole_matrices or rule.traits.needs != "gradient":
        return None
    elements: Counter[int] = Counter()
    for shape in shapes:
        elements[max(1, len(shape))] += torch.Size(shape).numel()
    read = written = 0
    try:
        for dims, count in elements.items():
            example = torch.empty([1] * dims, dtype=dtype, device="cpu")
            per_element = KernelSpec(ParameterBatch(Program(rule), [example], {})).passes.moved_bytes()
            read, written = read + per_element[0] * count, written + per_element[1] * count
    except UnknownOperationError:
        return None
    return read, written
