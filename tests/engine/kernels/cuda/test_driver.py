"""The driver and the compiler through ctypes: NVRTC from pip, and a library with the functions of the CUDA driver."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from thalweg.engine.kernels.cuda import driver
from thalweg.engine.kernels.cuda.compiler import Architecture, RuntimeCompiler, runtime_compiler
from thalweg.engine.kernels.cuda.driver import CudaDevice, CudaError, Driver, KernelLaunch
from thalweg.engine.kernels.kernel_spec import MissingToolError, UnavailableError

# As in cuda.h. An image is its result; `log` holds the calls, and the first number of the argument of a launch.
FAKE_DRIVER = r"""
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
char calls[4096];
int version = 12080, launch_result = 0;
static long contexts[8], depth;
#define LOG(...) snprintf(calls + strlen(calls), sizeof calls - strlen(calls), __VA_ARGS__)
int cuDriverGetVersion(int *v) { *v = version; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 10 + ordinal; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)(long)(100 * device); return 0; }
int cuCtxPushCurrent_v2(void *context) { contexts[depth++] = (long)context; return 0; }
int cuCtxPopCurrent_v2(void **context) { *context = (void *)contexts[--depth]; return 0; }
int cuModuleLoadData(void **module, const void *image) {
    LOG("load in %ld;", depth ? contexts[depth - 1] : -1);
    *module = (void *)0x7700000000000001;
    return atoi(image);
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
    LOG("get %s;", name);
    *function = (void *)0x7700000000000002;
    return module == (void *)0x7700000000000001 ? strcmp(name, "block0") ? 500 : 0 : 400;
}
int cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **arguments, void **extra) {
    LOG("launch %lx %u.%u.%u %u.%u.%u %u %lx %ld %d in %ld;", (long)f, gx, gy, gz, bx, by, bz, shared, (long)stream,
        *(long *)arguments[0], extra == 0, depth ? contexts[depth - 1] : -1);
    return launch_result;
}
int cuGetErrorName(int code, const char **name) {
    *name = code == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : code == 222 ? "CUDA_ERROR_UNSUPPORTED_PTX_VERSION" : 0;
    return *name ? 0 : 1;
}
int cuGetErrorString(int code, const char **text) { *text = code == 700 ? "an illegal address" : 0; return 0; }
int cuThreadExchangeStreamCaptureMode(int *mode) { int old = 0; LOG("mode %d;", *mode); *mode = old; return 0; }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The library of a driver that logs its calls."""
    folder = tmp_path_factory.mktemp("driver")
    (folder / "fake.c").write_text(FAKE_DRIVER)
    subprocess.run(["cc", "-shared", "-fPIC", "-w", "fake.c", "-o", "libcuda.so"], cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "libcuda.so"))


def take_calls(library: ctypes.CDLL) -> list[str]:
    """Return the calls since the last time."""
    log = (ctypes.c_char * 4096).in_dll(library, "calls")
    calls = log.value.decode().split(";")[:-1]
    log.value = b""
    return calls


@pytest.fixture
def device(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> Iterator[CudaDevice]:
    """Device 1 of that driver."""

    class Properties:
        major, minor = 9, 0

    class Stream:
        cuda_stream = 0x7FFF00000001

    monkeypatch.setattr(driver, "_library", lambda: library)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Stream)
    take_calls(library)
    yield CudaDevice(1)
    ctypes.c_int.in_dll(library, "launch_result").value = 0
    ctypes.c_int.in_dll(library, "version").value = 12080


def test_a_launch_has_all_bits_of_its_addresses(library: ctypes.CDLL, device: CudaDevice) -> None:
    function = device.load(b"0").function("block0")
    argument = ctypes.c_int64(-5)
    arguments = (ctypes.c_void_p * 1)(ctypes.addressof(argument))
    launches = [KernelLaunch(function, 1_000_000, arguments), KernelLaunch(function, 1, arguments)]
    device.launch(launches, 256, device.stream())
    assert take_calls(library) == [
        "load in 1100",
        "get block0",
        "launch 7700000000000002 1000000.1.1 256.1.1 0 7fff00000001 -5 1 in 1100",
        "launch 7700000000000002 1.1.1 256.1.1 0 7fff00000001 -5 1 in 1100",
    ]


def test_errors_of_the_driver_have_their_names(library: ctypes.CDLL, device: CudaDevice) -> None:
    function = device.load(b"0").function("block0")
    ctypes.c_int.in_dll(library, "launch_result").value = 700
    with pytest.raises(CudaError, match=r"cuLaunchKernel failed: CUDA_ERROR_ILLEGAL_ADDRESS \(700\): an illegal"):
        device.launch([KernelLaunch(function, 1, (ctypes.c_void_p * 1)(ctypes.addressof(ctypes.c_int64())))], 256, 0)
    with pytest.raises(CudaError, match=r"cuModuleGetFunction\(gone\) failed: an unknown error \(500\)"):
        device.load(b"0").function("gone")
    with pytest.raises(UnavailableError, match=r"the kernel cannot be loaded: an unknown error \(2\)") as caught:
        device.load(b"2")  # out of memory
    assert not isinstance(caught.value, MissingToolError)
    with pytest.raises(MissingToolError, match=r"the driver \(CUDA 12.8\) cannot load compiled kernels: CUDA_ERR"):
        device.load(b"222")
    ctypes.c_int.in_dll(library, "launch_result").value = 0
    take_calls(library)
    device.load(b"0")
    assert take_calls(library) == ["load in 1100"]  # no failed call has left its context behind


def test_old_drivers_take_small_arguments(library: ctypes.CDLL, device: CudaDevice) -> None:
    assert device.parameter_bytes == 32_764
    ctypes.c_int.in_dll(library, "version").value = 12000
    assert CudaDevice(1).parameter_bytes == 4_096


def test_a_driver_without_a_function_is_too_old() -> None:
    with pytest.raises(MissingToolError, match="the driver is too old for kernels"):
        Driver(ctypes.CDLL(None))


def test_a_thread_may_do_more_while_a_graph_is_captured(library: ctypes.CDLL, device: CudaDevice) -> None:
    assert device.driver.exchange_capture_mode(2) == 0
    assert take_calls(library) == ["mode 2"]


def test_without_a_driver_or_a_compiler_there_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_library", lambda: None)
    with pytest.raises(MissingToolError, match="the library of the driver was not found"):
        CudaDevice(0)
    monkeypatch.setattr(driver, "_library", lambda: ctypes.CDLL(None))
    monkeypatch.setattr(driver, "runtime_compiler", lambda: None)
    with pytest.raises(MissingToolError, match="NVRTC was not found"):
        CudaDevice(0)


# --- NVRTC ------------------------------------------------------------------------------------------------------------

SOURCE = 'extern "C" __global__ void f(float *x) { x[0] = x[1] * x[2] + x[3]; }'


@cache
def nvrtc() -> RuntimeCompiler:
    """Return the compiler of pip's package."""
    compiler = runtime_compiler()
    if compiler is None and sys.platform != "linux":
        pytest.skip("pip has no NVRTC for this system")
    assert compiler is not None
    return compiler


def test_nvrtc_compiles_without_fused_operations() -> None:
    assert nvrtc().compile(SOURCE, Architecture("sm_90"))[:4] == b"\x7fELF"
    text = nvrtc().compile(SOURCE, Architecture("compute_90", is_text=True))
    assert b"mul.rn.f32" in text
    assert b"fma" not in text
    assert text.endswith(b"\0")  # the driver reads up to here


def test_a_text_that_is_no_program_is_an_error_with_the_log() -> None:
    with pytest.raises(UnavailableError, match=r"nvrtc \d+.\d+ failed: NVRTC_ERROR_COMPILATION: .*identifier \"y\""):
        nvrtc().compile(SOURCE.replace("x[3]", "y"), Architecture("sm_90"))


@pytest.mark.parametrize(
    ("capability", "known", "expected"),
    [
        ((9, 0), [80, 90, 100], Architecture("sm_90")),
        ((8, 6), [80, 90], Architecture("sm_80")),  # an image runs on later devices of its generation
        ((12, 0), [80, 90, 100], Architecture("compute_100", is_text=True)),
        ((7, 5), [75, 80], Architecture("sm_75")),
    ],
)
def test_the_architecture_of_a_device(
    capability: tuple[int, int], known: list[int], expected: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RuntimeCompiler, "supported", known)
    assert nvrtc().architecture(capability) == expected


def test_a_device_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {80, 90, 100} <= set(nvrtc().supported)
    monkeypatch.setattr(RuntimeCompiler, "supported", [75, 80])
    with pytest.raises(MissingToolError, match=r"nvrtc \d+.\d+ makes no code for devices of capability 6.1"):
        nvrtc().architecture((6, 1))


def test_the_name_of_an_image_depends_on_all_that_chooses_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [nvrtc().image_name(SOURCE, Architecture(name)) for name in ("sm_80", "sm_90")]
    names.append(nvrtc().image_name(SOURCE + " ", Architecture("sm_90")))
    monkeypatch.setattr(nvrtc(), "version", "nvrtc 99.0")
    names.append(nvrtc().image_name(SOURCE, Architecture("sm_90")))
    assert len(set(names)) == 4


def test_nvrtc_is_found_in_the_folder_that_a_variable_names(tmp_path: Path) -> None:
    library = Path(nvrtc()._library._name)
    folder = library.parent if library.is_absolute() else None
    if folder is None:
        pytest.skip("the loader of this system finds NVRTC itself")
    (tmp_path / "lib64").symlink_to(folder)
    script = (
        "from pathlib import Path; from thalweg.engine.kernels.cuda import compiler\n"
        "folders = compiler._folders\n"
        f"compiler._folders = lambda: [f for f in folders() if {str(tmp_path)!r} in str(f)]\n"
        "print(compiler.runtime_compiler()._library._name)"
    )
    environment = os.environ | {"CUDA_HOME": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.startswith(str(tmp_path))
