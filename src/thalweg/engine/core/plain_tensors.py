"""Plain tensors: which tensors have memory of their own, and where it is.

Kernels read and write memory. Fake tensors, meta tensors, wrappers of other tensors and those under `torch.func` have
none: their steps run on the loop, which only calls operations of PyTorch.
"""

from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

# Other tensor classes may have no memory of their own.
PLAIN_TENSOR_TYPES = frozenset({Tensor, torch.nn.Parameter})


def addresses(tensors: Sequence[Tensor]) -> "array[int]":
    """Return the address of each tensor; 0 for one without memory of its own.

    Example:
        >>> addresses([torch.ones(2, device="meta")])
        array('Q', [0])
    """
    if PLAIN_TENSOR_TYPES.issuperset(map(type, tensors)):
        try:
            return array("Q", map(Tensor.data_ptr, tensors))
        except RuntimeError:  # one is a wrapper of torch.func
            pass
    return array("Q", map(address, tensors))


def address(tensor: Tensor) -> int:
    """Return the address of a tensor; 0 if it has no memory of its own."""
    if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return 0  # operations on it go to its class: its memory is elsewhere, or nowhere
    try:
        return tensor.data_ptr()
    except RuntimeError:
        return 0


def write_count(tensor: Tensor) -> int:
    """Return how often a tensor was written to, as autograd counts. Tensors of the inference mode have no count."""
    return 0 if tensor.is_inference() else tensor._version


def fake_mode_is_active() -> bool:
    """Return True under torch's FakeTensorMode, in which tensors have shapes but no numbers."""
    try:
        return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None
    except AttributeError:  # another version of torch
        return type(torch.empty(())) is not Tensor
