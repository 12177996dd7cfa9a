"""Devices: everything that is asked of one, and that differs between CPUs, CUDA, XPU and MPS.

Importing this module and using the CPU never calls an accelerator's library: a process that has used CUDA cannot use it
again after a fork.
"""

import gc
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from thalweg.errors import DeviceError

CPU = torch.device("cpu")
AUTO = "auto"

_Placeable = TypeVar("_Placeable", bound=torch.Tensor | torch.nn.Module)

# Messages of errors that mean "no memory is left", beside torch.OutOfMemoryError: of the CPU's allocator, of MPS, and
# of the libraries for products and convolutions, which allocate by themselves.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "_STATUS_ALLOC_FAILED")


class Accelerator:
    """A kind of device beside the CPU, through the functions that torch has for it.

    Args:
        kind: ``"cuda"``, ``"xpu"`` or ``"mps"``. AMD's GPUs are ``"cuda"`` in torch.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    @property
    def _module(self) -> Any:  # torch.cuda, torch.xpu or torch.mps, which share only a part of their interface
        return getattr(torch, self.kind)

    def count(self) -> int:
        """Return the number of devices of this kind. Where the driver allows, processes may still be forked."""
        if self.kind == "mps":
            return int(torch.backends.mps.is_available())
        return int(self._module.device_count())

    def name(self, device: torch.device) -> str:
        """Return the name of the hardware."""
        if self.kind == "mps":
            return f"{platform.processor() or platform.machine()} (Metal)"
        return str(self._module.get_device_name(device))

    def place(self, value: _Placeable, device: torch.device) -> _Placeable:
        """Return a tensor or a module on a device; a module is changed in place."""
        return value.to(device)  # type: ignore[return-value]  # of the same type

    def is_initialized(self) -> bool:
        """Return True if this process has used devices of this kind, and is no fork of one that has."""
        if self.kind == "mps":  # its generator can be read at any time
            return self.count() > 0 and not self._module._is_in_bad_fork()
        return bool(self._module.is_initialized())

    def use(self, device: torch.device) -> None:
        """Make a device the current one of its kind, which code that names no index uses."""
        if self.kind != "mps":
            self._module.set_device(device)

    def synchronize(self, device: torch.device) -> None:
        """Wait until a device has done all work that was given to it."""
        if self.kind == "mps":
            self._module.synchronize()
        else:
            self._module.synchronize(device)

    def release_memory(self) -> None:
        """Give memory back that no tensor uses."""
        self._module.empty_cache()

    def random_states(self) -> list[torch.Tensor]:
        """Return the states of all default generators of this kind."""
        if self.kind == "mps":
            return [self._module.get_rng_state()]
        return [self._module.get_rng_state(index) for index in range(self.count())]

    def restore_random_states(self, states: Iterable[torch.Tensor]) -> None:
        """Set the states that ``random_states`` returned."""
        for index, state in enumerate(states):
            if self.kind == "mps":
                self._module.set_rng_state(state)
            else:
                self._module.set_rng_state(state, index)

    def seed_at_first_use(self, seed: int) -> None:
        """Choose the seed that the generators get when this process first uses a device of this kind."""
        if self.kind != "mps":
            self._module.manual_seed_all(seed)

    def start_memory_count(self, device: torch.device) -> None:
        """Begin to count the largest number of bytes that tensors take."""
        if self.kind != "mps":  # which counts no maximum
            self._module.reset_peak_memory_stats(device)

    def peak_memory(self, device: torch.device) -> int:
        """Return the largest number of bytes since ``start_memory_count``; of MPS, the bytes that are in use now."""
        if self.kind == "mps":
            return int(self._module.current_allocated_memory())
        return int(self._module.max_memory_allocated(device))


# In the order in which ``auto`` looks for one. Tests replace entries.
ACCELERATORS: dict[str, Accelerator] = {kind: Accelerator(kind) for kind in ("cuda", "xpu", "mps")}


def available() -> list[torch.device]:
    """Return all devices of this machine, accelerators first; the last is the CPU.

    Example:
        >>> from thalweg.engine.core import devices
        >>> devices.available()[-1]
        device(type='cpu')
    """
    return [device for kind in ACCELERATORS for device in devices_of(kind)] + [CPU]


def devices_of(kind: str) -> list[torch.device]:
    """Return all devices of a kind (``"cuda"``), each with its index."""
    if kind == "cpu":
        return [CPU]
    return [torch.device(kind, index) for index in range(ACCELERATORS[kind].count())]


def parse(text: str | torch.device) -> torch.device:
    """Return a device as the user wrote it, with its index only if the user gave one. Nothing is asked of the machine.

    Args:
        text: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"xpu"``, ``"mps"``, or such a device of torch.

    Raises:
        DeviceError: If it is no device that thalweg knows.

    Example:
        >>> from thalweg.engine.core import devices
        >>> devices.parse("cuda:1")
        device(type='cuda', index=1)
    """
    kinds = ["cpu", *ACCELERATORS]
    try:
        device = torch.device(text) if isinstance(text, str | torch.device) else None
    except RuntimeError:
        device = None
    if device is None or device.type not in kinds:
        raise DeviceError(
            f"thalweg: a device must be {', '.join(kinds)} or one of them with a number, as cuda:1, got {text!r:.80}."
        )
    return CPU if device.type == "cpu" else device


def check(text: str | torch.device) -> torch.device:
    """Return a device that exists in this process, with its index; without an index, the first of its kind.

    Args:
        text: A device as in ``parse``.

    Raises:
        DeviceError: If there is no such device; the message lists the devices there are.
    """
    device = parse(text)
    if device.type == "cpu":
        return CPU
    present = devices_of(device.type)
    if (device.index or 0) < len(present):
        return present[device.index or 0]
    raise DeviceError(f"thalweg: the device must exist, got {str(device)!r}. {_list_available(device.type)}")


def _list_available(kind: str) -> str:
    """Return the devices there are as a sentence, and what to do if torch was built without a kind of them."""
    sentence = f"This machine has {', '.join(map(str, available()))}."
    if kind == "cuda" and torch.version.cuda is None and torch.version.hip is None:
        sentence += " This torch was built without CUDA. Install a CUDA build to use a GPU of NVIDIA."
    return sentence


def hardware(device: torch.device) -> str:
    """Return the kind and the name of a device, ``"cuda NVIDIA H100 80GB HBM3"``; of the CPU ``"cpu"``."""
    return "cpu" if device.type == "cpu" else f"{device.type} {ACCELERATORS[device.type].name(device)}"


def place(value: _Placeable, device: torch.device) -> _Placeable:
    """Return a tensor or a module on a device. A tensor that is there already is returned as it is."""
    return value.to(device) if device.type == "cpu" else ACCELERATORS[device.type].place(value, device)  # type: ignore[return-value]


def use(device: torch.device) -> None:
    """Make a device the current one of its kind. The CPU needs no call."""
    if device.type != "cpu":
        ACCELERATORS[device.type].use(device)


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all its work; at once on the CPU."""
    if device.type != "cpu":
        ACCELERATORS[device.type].synchronize(device)


def release_memory(device: torch.device) -> None:
    """Give memory of a device back that no tensor uses, also memory that only a cycle of objects holds."""
    if device.type != "cpu":
        gc.collect()
        ACCELERATORS[device.type].release_memory()


def start_memory_count(device: torch.device) -> None:
    """Begin to count the largest number of bytes that tensors take on a device."""
    if device.type != "cpu":
        ACCELERATORS[device.type].start_memory_count(device)


def peak_memory(device: torch.device) -> int | None:
    """Return the largest number of bytes since ``start_memory_count``; None on the CPU, where nobody counts."""
    return None if device.type == "cpu" else ACCELERATORS[device.type].peak_memory(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error says that a device, or the computer, has no memory left.

    Example:
        >>> from thalweg.engine.core import devices
        >>> devices.is_out_of_memory(RuntimeError("MPS backend out of memory")), devices.is_out_of_memory(ValueError())
        (True, False)
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def is_lost(device: torch.device) -> bool:
    """Return True if a device no longer works in this process.

    After some errors, such as an access to an illegal address, each later call of CUDA fails until the process ends.
    """
    try:
        synchronize(device)
    except Exception:  # the kind of error depends on the version of torch
        return True
    return False


def is_capturing() -> bool:
    """Return True if the work on the current CUDA stream is captured. It neither waits nor initializes CUDA."""
    is_initialized: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # of torch
    return is_initialized and torch.cuda.is_current_stream_capturing()


@contextmanager
def restored_random_states() -> Iterator[None]:
    """Restore the random states of the CPU and of all accelerators in use at the end of a ``with`` block.

    ``torch.manual_seed`` inside seeds all devices. Accelerators that this process has not used are not called.
    """
    in_use = {kind: accelerator for kind, accelerator in ACCELERATORS.items() if accelerator.is_initialized()}
    states = {kind: accelerator.random_states() for kind, accelerator in in_use.items()}
    cpu_state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(cpu_state)
        for kind, accelerator in ACCELERATORS.items():
            if kind in states:
                accelerator.restore_random_states(states[kind])
            elif not accelerator.is_initialized():
                # torch keeps the last seed for the first use of a device. That of the block must not remain.
                accelerator.seed_at_first_use(torch.initial_seed())
