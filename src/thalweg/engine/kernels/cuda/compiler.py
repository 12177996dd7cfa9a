"""CUDA compiler: compile CUDA text for a device in this process, with NVRTC or, for AMD's devices, with hipRTC.

Both are libraries without a process of their own, which CUDA builds of torch bring along. They need neither a device
nor a driver. The name of a compiled image is a hash of the text, the options, the architecture and the version of the
compiler.
"""

import ctypes
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from thalweg.engine.kernels.cuda.source import NVRTC_OPTIONS
from thalweg.engine.kernels.kernel_spec import MissingToolError, UnavailableError

# As `NVRTC_OPTIONS`. Never tried on a device.
_AMD_OPTIONS = ("-std=c++17", "-O3", "-ffp-contract=off")
_MAX_MESSAGE_CHARS = 500


class Architecture(NamedTuple):
    """The code that a device gets.

    Attributes:
        name: The name for the compiler: ``sm_90``, ``compute_90`` for PTX, which the driver compiles, or ``gfx90a``.
        is_text: True for PTX.
    """

    name: str
    is_text: bool = False


class RuntimeCompiler:
    """NVRTC, or hipRTC, which has the same functions.

    Args:
        library: The loaded library.
        prefix: The first part of the names of its functions.
    """

    def __init__(self, library: ctypes.CDLL, prefix: str) -> None:
        self._library, self._prefix = library, prefix
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("Version", ctypes.byref(major), ctypes.byref(minor))
        self.version = f"{prefix} {major.value}.{minor.value}"
        self.supports_large_parameters = prefix == "nvrtc" and (major.value, minor.value) >= (12, 1)

    def _call(self, name: str, *args: object) -> None:
        """Call a function; raise UnavailableError if it fails."""
        if code := self._code_of(name, *args):
            raise UnavailableError(f"{self._prefix}{name} failed: {self._error_name(code)}")

    def _code_of(self, name: str, *args: object) -> int:
        try:
            return int(getattr(self._library, self._prefix + name)(*args))
        except AttributeError:
            raise MissingToolError(f"the library of {self._prefix} has no function {self._prefix}{name}") from None

    def _error_name(self, code: int) -> str:
        function = getattr(self._library, f"{self._prefix}GetErrorString")
        function.restype = ctypes.c_char_p
        return (function(code) or b"?").decode(errors="replace")

    @property
    def supported(self) -> list[int]:
        """The compute capabilities that NVRTC knows, as ``[75, 80, 86, 89, 90, ...]``."""
        count = ctypes.c_int()
        self._call("GetNumSupportedArchs", ctypes.byref(count))
        known = (ctypes.c_int * count.value)()
        self._call("GetSupportedArchs", known)
        return sorted(known)

    def architecture(self, capability: tuple[int, int]) -> Architecture:
        """Return the architecture of NVIDIA's that suits a device.

        Args:
            capability: The compute capability of the device, as ``(9, 0)``.

        Raises:
            MissingToolError: If the compiler is too new for the device.

        Example:
            A device that is newer than the compiler gets PTX of the newest architecture that the compiler knows.
        """
        version, known = 10 * capability[0] + capability[1], self.supported
        older = [number for number in known if number <= version]
        if not older:
            raise MissingToolError(f"{self.version} makes no code for devices of capability {version / 10:.1f}")
        best = older[-1]
        if best // 10 == version // 10:  # an image runs on later devices of the same generation
            return Architecture(f"sm_{best}")
        return Architecture(f"compute_{best}", is_text=True)

    def options(self, architecture: Architecture) -> list[str]:
        """Return the options for an architecture."""
        first = "--gpu-architecture" if self._prefix == "nvrtc" else "--offload-arch"
        more = NVRTC_OPTIONS if self._prefix == "nvrtc" else _AMD_OPTIONS
        return [f"{first}={architecture.name}", *more]

    def image_name(self, source: str, architecture: Architecture) -> str:
        """Return the name of the file of a compiled image."""
        text = "\n".join([source, *self.options(architecture), self.version])
        return hashlib.sha256(text.encode()).hexdigest()[:32] + ".cubin"

    def compile(self, source: str, architecture: Architecture) -> bytes:
        """Compile a text.

        Args:
            source: The CUDA text.
            architecture: The architecture of the device.

        Returns:
            The image, which the driver loads: a cubin, or PTX.

        Raises:
            UnavailableError: If the compiler refuses the text; the message holds the end of its log.
        """
        program = ctypes.c_void_p()
        options = [option.encode() for option in self.options(architecture)]
        self._call("CreateProgram", ctypes.byref(program), source.encode(), b"thalweg.cu", 0, None, None)
        try:
            code = self._code_of("CompileProgram", program, len(options), (ctypes.c_char_p * len(options))(*options))
            if code:
                log = self._read(program, "ProgramLog").rstrip(b"\0").decode(errors="replace").strip()
                raise UnavailableError(
                    f"{self.version} failed: {self._error_name(code)}: {log[-_MAX_MESSAGE_CHARS:] or 'no message'}"
                )
            kind = "Code" if self._prefix == "hiprtc" else "PTX" if architecture.is_text else "CUBIN"
            return self._read(program, kind)
        finally:
            self._call("DestroyProgram", ctypes.byref(program))

    def _read(self, program: ctypes.c_void_p, kind: str) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"Get{kind}Size", program, ctypes.byref(size))
        content = ctypes.create_string_buffer(size.value)
        self._call(f"Get{kind}", program, content)
        return content.raw


# --- the library ------------------------------------------------------------------------------------------------------


@cache
def runtime_compiler() -> RuntimeCompiler | None:
    """Return the compiler that suits this torch; None if there is none. A library that torch has loaded is used."""
    prefix = "hiprtc" if torch.version.hip else "nvrtc"
    for candidate in _candidates(prefix):
        with suppress(OSError, UnavailableError):
            for companion in _companions(candidate):
                with suppress(OSError):
                    ctypes.CDLL(companion, mode=getattr(ctypes, "RTLD_GLOBAL", 0))
            return RuntimeCompiler(ctypes.CDLL(candidate), prefix)
    return None


def _candidates(prefix: str) -> Iterator[str]:
    """Yield names and paths of libraries: first the name by which torch may have loaded one."""
    majors = [torch.version.cuda.partition(".")[0]] if torch.version.cuda else ["13", "12"]
    if sys.platform == "win32":
        names = ["hiprtc*.dll"] if prefix == "hiprtc" else [f"nvrtc64_{major}0_0.dll" for major in majors]
    elif prefix == "hiprtc":
        names = ["libhiprtc.so"]
    else:
        names = [f"libnvrtc.so.{major}" for major in majors]
    yield from (name for name in names if "*" not in name)
    for folder in _folders():
        # Wheels of torch may add a hash to the name.
        for pattern in (*names, *(name.replace("nvrtc.so", "nvrtc-*.so") for name in names if "nvrtc.so" in name)):
            yield from (str(path) for path in sorted(folder.glob(pattern)) if "builtins" not in path.name)


def _folders() -> Iterable[Path]:
    """Return the folders in which torch, pip, conda and the system keep the library."""
    torch_folder = Path(torch.__file__).parent
    packages = torch_folder.parent
    yield torch_folder / "lib"
    for pattern in ("nvidia/cuda_nvrtc/lib", "nvidia/cu*/lib", "nvidia/cuda_nvrtc/bin", "nvidia/cu*/bin/*"):
        yield from sorted(packages.glob(pattern), reverse=True)
    yield Path(sys.prefix, "lib")
    for variable in ("CUDA_HOME", "CUDA_PATH", "ROCM_HOME", "ROCM_PATH"):
        if os.environ.get(variable):
            yield from (Path(os.environ[variable], name) for name in ("lib64", "lib", "bin"))
    yield from (Path("/usr/local/cuda/lib64"), Path("/opt/rocm/lib"))


def _companions(candidate: str) -> list[str]:
    """Return libraries in the folder of NVRTC that it opens itself, by a name that may not be in its search path."""
    folder = Path(candidate).parent
    return [str(path) for path in sorted(folder.glob("*nvrtc-builtins*"))] if folder != Path() else []
