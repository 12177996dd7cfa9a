"""An accelerator that tests can do without: its tensors lie on the CPU, and it counts what is asked of it."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.engine.core import devices


class FakeAccelerator(devices.Accelerator):
    """Devices of one kind that are memory of the CPU.

    Args:
        count: Number of devices.
        kind: The kind whose place it takes.

    Attributes:
        moved: The device of each tensor or module that was placed, in order.
        synchronizations: Number of waits.
        releases: Number of times that memory was given back.
        used: The devices that were made the current ones.
        generators: One for each device, in place of torch's.
        lost: True after an error that ends all use in this process.
        initialized: True once something was placed.
    """

    def __init__(self, count: int = 1, kind: str = "cuda") -> None:
        super().__init__(kind)
        self.number = count
        self.moved: list[tuple[str, str]] = []
        self.synchronizations = self.releases = 0
        self.used: list[str] = []
        self.generators = [torch.Generator().manual_seed(index) for index in range(count)]
        self.lost = self.initialized = False

    def count(self) -> int:
        return self.number

    def name(self, device: torch.device) -> str:
        return f"Fake {device.index}"

    def place(self, value: Any, device: torch.device) -> Any:
        self._check(device)
        self.initialized = True
        self.moved.append((type(value).__name__, str(device)))
        return value.clone() if isinstance(value, Tensor) else value

    def _check(self, device: torch.device) -> None:
        assert device.index is not None
        assert 0 <= device.index < self.number
        if self.lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def is_initialized(self) -> bool:
        return self.initialized

    def use(self, device: torch.device) -> None:
        self.used.append(str(device))

    def synchronize(self, device: torch.device) -> None:
        self._check(device)
        self.synchronizations += 1

    def release_memory(self) -> None:
        self.releases += 1

    def random_states(self) -> list[Tensor]:
        return [generator.get_state() for generator in self.generators]

    def restore_random_states(self, states: Iterable[Tensor]) -> None:
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state)

    def seed_at_first_use(self, seed: int) -> None:
        for generator in self.generators:
            generator.manual_seed(seed)


class FakeDeviceModel:
    """A model function of a task that has a fake accelerator in each process, and fails at some seeds.

    Args:
        count: Number of devices.
        out_of_memory_at: Seeds at which no memory is left.
        lost_at: Seeds at which the device is lost.
    """

    def __init__(self, count: int, out_of_memory_at: Iterable[int] = (), lost_at: Iterable[int] = ()) -> None:
        self.count, self.out_of_memory_at, self.lost_at = count, set(out_of_memory_at), set(lost_at)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Bring the fake to a worker process, before anything is placed there."""
        self.__dict__.update(state)
        devices.ACCELERATORS["cuda"] = FakeAccelerator(self.count)

    def __call__(self) -> nn.Module:
        seed = torch.initial_seed()
        model = nn.Sequential(nn.Linear(3, 1))
        if seed in self.out_of_memory_at:
            model.append(_Failing(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB."), False))
        if seed in self.lost_at:
            model.append(_Failing(RuntimeError("CUDA error: an illegal memory access was encountered"), True))
        return model


class _Failing(nn.Module):
    def __init__(self, error: Exception, is_loss: bool) -> None:
        super().__init__()
        self.error, self.is_loss = error, is_loss

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():  # an evaluation
            return x
        accelerator = devices.ACCELERATORS["cuda"]
        if isinstance(accelerator, FakeAccelerator):
            accelerator.lost = self.is_loss
        raise self.error
