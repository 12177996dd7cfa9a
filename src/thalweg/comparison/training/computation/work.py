"""Work of a gradient, counted: the same numbers on every machine and at every load."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

COUNTED = 8  # members of the population whose work is counted; a larger one has as much for each member
# The largest number of numbers that the operations of a population's gradient may compute, by members: the largest
# size that fits is used. Below, a population is 2 to 30 times as fast as one by one; a few times above, slower
# (lab/LOG.md, 2026-11-27).
MOST_NUMBERS = {128: 2_000_000, 32: 3_000_000, 8: 1_000_000}
CALL_S, OPERATION_S, NUMBER_S = 2e-4, 1e-5, 2.5e-9  # of a step, of each operation, of each number: the same record


@dataclass(frozen=True)
class Work:
    """Operations of a gradient, and the size of their results.

    Attributes:
        operations: Calls of operations of PyTorch that compute; views are left out.
        numbers: Numbers in their results.
        flops: Multiplications and additions of products and convolutions.
    """

    operations: int
    numbers: int
    flops: int


class CountWork(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations in a ``with`` block, below ``vmap`` and the derivatives.

    Example:
        >>> with CountWork() as counter:
        ...     product = torch.ones(2, 3) @ torch.ones(3, 4)
        >>> counter.work
        Work(operations=3, numbers=26, flops=48)
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._operations = self._numbers = self._flops = 0

    @property
    def work(self) -> Work:
        """The work so far."""
        return Work(self._operations, self._numbers, self._flops)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view:
            return result
        self._operations += 1
        self._numbers += sum(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
        packet = func._overloadpacket
        if packet in flop_registry:
            self._flops += int(flop_registry[packet](*args, **(kwargs or {}), out_val=result))
        return result


def counted_members(single: Work, population: Work) -> int | str:
    """Return the size of a population that pays, or why none does.

    One by one, small operations cost their calls. A population has fewer calls, but its results leave the cache.

    Args:
        single: The work of a gradient of one training.
        population: The work of a gradient of a population of ``COUNTED`` members.

    Example:
        >>> counted_members(Work(20, 18_521, 0), Work(60, 257_798, 0))
        32
    """
    if population.operations > COUNTED / 2 * single.operations:
        return "vmap repeats operations of the model for each member"
    for members, most in MOST_NUMBERS.items():
        if population.numbers * members <= most * COUNTED:
            return members
    return (
        f"its operations are large: a gradient of {COUNTED} members computes {population.numbers:,} numbers, more than "
        f"{MOST_NUMBERS[COUNTED]:,}"
    )


def nominal_seconds(work: Work) -> float:
    """Return the seconds of a step by its work, on a machine that no load slows down."""
    return CALL_S + work.operations * OPERATION_S + work.numbers * NUMBER_S
