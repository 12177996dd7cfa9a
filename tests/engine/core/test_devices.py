"""Devices: parsing, errors, random states and memory, without an accelerator."""

import os
import subprocess
import sys

import pytest
import torch

from cases.fake_accelerator import FakeAccelerator
from thalweg.engine.core import devices
from thalweg.errors import DeviceError
from thalweg.tasks import seeded


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeAccelerator:
    accelerator = FakeAccelerator(2)
    monkeypatch.setitem(devices.ACCELERATORS, "cuda", accelerator)
    return accelerator


@pytest.mark.parametrize("text", ["gpu", "cuda:-1", "cuda:x", "meta", "", 1, None, "auto"])
def test_what_is_no_device_is_refused_with_the_kinds_there_are(text: object) -> None:
    with pytest.raises(DeviceError, match="a device must be cpu, cuda, xpu, mps or one of them with a number"):
        devices.parse(text)


def test_a_device_has_an_index_only_if_the_user_gave_one() -> None:
    assert [str(devices.parse(text)) for text in ("cpu", "cpu:0", "cuda", "cuda:1", "mps", "xpu:2")] == [
        *("cpu", "cpu", "cuda", "cuda:1", "mps", "xpu:2")
    ]
    assert devices.parse(torch.device("cuda", 3)) == torch.device("cuda:3")


def test_a_device_that_does_not_exist_lists_those_that_do(fake: FakeAccelerator) -> None:
    assert devices.check("cuda") == torch.device("cuda:0")
    assert devices.check("cuda:1") == torch.device("cuda:1")
    assert devices.check("cpu") == devices.CPU
    with pytest.raises(DeviceError, match=r"must exist, got 'cuda:2'. This machine has cuda:0, cuda:1, cpu\."):
        devices.check("cuda:2")
    fake.number = 0
    with pytest.raises(DeviceError, match=r"must exist, got 'cuda'. This machine has cpu\."):
        devices.check("cuda")
    assert devices.hardware(devices.CPU) == "cpu"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            True,
        ),
        (MemoryError(), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_without_memory_are_known(error: Exception, expected: bool) -> None:
    assert devices.is_out_of_memory(error) == expected


def test_a_device_is_lost_if_it_cannot_even_wait(fake: FakeAccelerator) -> None:
    assert not devices.is_lost(torch.device("cuda:0"))
    fake.lost = True
    assert devices.is_lost(torch.device("cuda:0"))
    assert not devices.is_lost(devices.CPU)


def test_random_states_of_devices_in_use_are_restored(fake: FakeAccelerator) -> None:
    fake.initialized = True
    before = fake.random_states()
    with seeded(3):
        for generator in fake.generators:
            torch.rand(2, generator=generator)
        assert not any(map(torch.equal, before, fake.random_states()))
    assert all(map(torch.equal, before, fake.random_states()))


def test_the_seed_of_a_block_does_not_wait_for_the_first_use_of_a_device(fake: FakeAccelerator) -> None:
    torch.manual_seed(7)
    with seeded(3):
        assert torch.initial_seed() == 3
    assert torch.initial_seed() == 7
    assert [generator.initial_seed() for generator in fake.generators] == [7, 7]


def test_a_device_that_is_first_used_in_a_block_keeps_the_seed_of_the_block(fake: FakeAccelerator) -> None:
    with seeded(3):
        devices.place(torch.ones(1), torch.device("cuda:0"))
        fake.seed_at_first_use(3)
    assert [generator.initial_seed() for generator in fake.generators] == [3, 3]


def test_the_cpu_asks_no_accelerator() -> None:
    """In a process of its own, where any call fails that would start CUDA's driver."""
    program = """
import torch
def fail(*arguments): raise AssertionError("an accelerator was called")
for module in (torch.cuda, torch.xpu):
    module.device_count = module._lazy_init = module.is_available = module.synchronize = module.empty_cache = fail
from thalweg.engine.core import devices
from thalweg.tasks import load, seeded
task = load("quadratic").on("cpu")
with seeded(1):
    model = task.make_model(0)
devices.synchronize(devices.CPU), devices.release_memory(devices.CPU), devices.hardware(devices.CPU)
assert devices.peak_memory(devices.CPU) is None
"""
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ | {"PYTHONPATH": ":".join(sys.path)})
