"""The memory probe for parameters on devices."""

import ctypes
from array import array
from typing import Any

import pytest
import torch

from cases.cuda_stub import StubDevice
from tests.engine.kernels.cuda.stepped import filled, train
from thalweg import optim
from thalweg.engine.core import memory_probe
from thalweg.engine.core.memory_probe import MemoryProbe
from thalweg.engine.kernels.c_kernel import separate_memory_probe


def test_another_device_is_another_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `param.data = param.data.cuda(1)`. The answers of torch are replaced: there is no such device."""
    probe = separate_memory_probe()
    assert probe is not None
    param, place = torch.ones(2), {"type": 0, "index": -1}
    query = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int32))

    def answer(key: str) -> Any:
        def write(_: int, target: Any) -> int:
            target[0] = place[key]
            return 0

        return query(write)

    callbacks = {2: answer("type"), 7: answer("index")}
    functions = memory_probe._functions()
    assert functions is not None
    addresses = [
        ctypes.cast(callbacks[k], ctypes.c_void_p).value if k in callbacks else function
        for k, function in enumerate(functions)
    ]
    monkeypatch.setattr(memory_probe, "_functions", lambda: (ctypes.c_void_p * len(addresses))(*addresses))
    fingerprints = []
    for kind, index in ((0, -1), (1, 0), (1, 1)):  # the CPU, and two CUDA devices
        place.update(type=kind, index=index)
        fingerprint, read = probe(array("Q", [id(param)]), 1)
        assert list(read) == [param.data_ptr()]
        fingerprints.append(fingerprint)
    assert len(set(fingerprints)) == 3
    assert 0 not in fingerprints
    place.update(type=13, index=0)  # MPS, whose tensors have no address that a kernel may use
    assert probe(array("Q", [id(param)]), 1)[0] == 0


def test_the_memory_probe_is_a_library_by_itself(device: StubDevice) -> None:
    probe = separate_memory_probe()
    assert isinstance(probe, MemoryProbe)
    params = filled([(3,), (2, 2)])
    optimizer = optim.Adam(params, backend="compiled")
    train(optimizer, params, 1)
    (binding, *_) = {id(runner): runner for runner in optimizer._bindings.runners().values()}.values()
    assert binding.batch.memory_probe is probe
