"""Isolation: settings of the process that one training changes do not reach the next."""

import gc
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.modules import module as torch_module

from thalweg.tasks.reproducibility.seeded import restored_random_states


@dataclass(frozen=True)
class _Setting:
    """A setting of the process.

    Attributes:
        read: Returns its value, which does not change when the setting does.
        write: Sets such a value.
        is_portable: True if a value can be sent to a fresh process, and has a meaning there.
    """

    read: Callable[[], Any]
    write: Callable[[Any], object]
    is_portable: bool = False


def _write_grad_mode(is_enabled: bool) -> None:
    torch.set_grad_enabled(is_enabled)


_INFERENCE_MODES: list[Any] = []  # that nobody leaves: there is no other way to switch it


def _write_inference_mode(is_enabled: bool) -> None:
    _INFERENCE_MODES.append(torch.inference_mode(is_enabled))
    _INFERENCE_MODES[-1].__enter__()


def _read_anomaly_mode() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


def _read_determinism() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _write_determinism(values: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(values[0], warn_only=values[1])


def _write_default_device(device: torch.device) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)


def _read_flushing() -> bool:
    return float(torch.full((), 1e-40, dtype=torch.float32, device="cpu") * 1) == 0.0


def _read_autocast() -> tuple[int, dict[str, tuple[bool, torch.dtype]]]:
    """Return the number of autocast blocks that are open, and what is enabled for each kind of device."""
    torch.autocast_increment_nesting()
    depth: int = torch.autocast_decrement_nesting()
    return depth, {kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda")}


def _write_autocast(values: tuple[int, Mapping[str, tuple[bool, torch.dtype]]]) -> None:
    depth, kinds = values
    while _read_autocast()[0] > depth:
        torch.autocast_decrement_nesting()
    while _read_autocast()[0] < depth:
        torch.autocast_increment_nesting()
    torch.clear_autocast_cache()  # which the end of an outermost block would do: it holds weights, cast
    for kind, (is_enabled, dtype) in kinds.items():
        torch.set_autocast_enabled(kind, is_enabled)
        torch.set_autocast_dtype(kind, dtype)


def _read_cudnn() -> tuple[bool, bool, bool]:
    cudnn = torch.backends.cudnn
    return cudnn.enabled, cudnn.benchmark, cudnn.deterministic


def _write_cudnn(values: tuple[bool, bool, bool]) -> None:
    # Its attributes cannot be set once somebody has called disable_global_flags.
    set_flags: Any = torch.backends.cudnn.set_flags  # untyped
    set_flags(*values[:2], _deterministic=values[2])


def _read_module_hooks() -> dict[str, dict[Any, Any]]:
    """Return the hooks of all modules: what ``register_module_forward_hook`` and its like leave."""
    return {
        name: dict(value)
        for name, value in vars(torch_module).items()
        if name.startswith("_global_") and isinstance(value, dict)
    }


def _write_module_hooks(values: Mapping[str, Mapping[Any, Any]]) -> None:
    for name, value in values.items():
        hooks = getattr(torch_module, name)
        hooks.clear()
        hooks.update(value)


def _write_environment(values: Mapping[str, str]) -> None:
    for name in set(os.environ) - set(values):
        del os.environ[name]
    for name, value in values.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


# torch keeps its own handler of SIGCHLD from the first DataLoader on; what cannot be caught has none.
_SIGNALS = sorted(signal.valid_signals() - {getattr(signal, name, None) for name in ("SIGCHLD", "SIGKILL", "SIGSTOP")})


def _read_signal_handlers() -> list[Any]:
    return [signal.getsignal(number) for number in _SIGNALS]


def _write_signal_handlers(values: list[Any]) -> None:
    for number, handler in zip(_SIGNALS, values, strict=True):
        if signal.getsignal(number) is not handler and handler is not None:  # None: not installed from Python
            signal.signal(number, handler)


def _read_timer() -> bool:
    return hasattr(signal, "getitimer") and signal.getitimer(signal.ITIMER_REAL)[0] > 0


def _write_timer(is_running: bool) -> None:
    if not is_running:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def _read_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # somebody has deleted it
        return ""


def _read_umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _read_logging() -> tuple[int, int, list[Any]]:
    return logging.root.level, logging.root.manager.disable, list(logging.root.handlers)


def _write_logging(values: tuple[int, int, list[Any]]) -> None:
    logging.root.setLevel(values[0])
    logging.disable(values[1])
    logging.root.handlers[:] = values[2]


def _write_list(target: list[str], values: list[str]) -> None:
    target[:] = values


def _write_streams(values: tuple[Any, Any, Any]) -> None:
    sys.stdin, sys.stdout, sys.stderr = values


# The timer stands before the handlers of signals: it must not ring where nobody answers it.
_SETTINGS: dict[str, _Setting] = {
    "timer": _Setting(_read_timer, _write_timer),
    "signal handlers": _Setting(_read_signal_handlers, _write_signal_handlers),
    "grad mode": _Setting(torch.is_grad_enabled, _write_grad_mode),
    "inference mode": _Setting(torch.is_inference_mode_enabled, _write_inference_mode),
    "anomaly mode": _Setting(_read_anomaly_mode, lambda values: torch.autograd.set_detect_anomaly(*values), True),
    "deterministic algorithms": _Setting(_read_determinism, _write_determinism, True),
    "default dtype": _Setting(torch.get_default_dtype, torch.set_default_dtype, True),
    "default device": _Setting(torch.get_default_device, _write_default_device, True),
    "number of threads": _Setting(torch.get_num_threads, torch.set_num_threads),
    "precision of products": _Setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, True),
    "subnormal numbers": _Setting(_read_flushing, torch.set_flush_denormal, True),
    "autocast": _Setting(_read_autocast, _write_autocast, True),
    "cuDNN": _Setting(_read_cudnn, _write_cudnn, True),
    "module hooks": _Setting(_read_module_hooks, _write_module_hooks),
    "errors of numpy": _Setting(np.geterr, lambda values: np.seterr(**values), True),
    "environment": _Setting(lambda: dict(os.environ), _write_environment),
    "working directory": _Setting(_read_directory, os.chdir),
    "umask": _Setting(_read_umask, os.umask),
    "paths of modules": _Setting(lambda: list(sys.path), lambda values: _write_list(sys.path, values)),
    "arguments": _Setting(lambda: list(sys.argv), lambda values: _write_list(sys.argv, values), True),
    "standard streams": _Setting(lambda: (sys.stdin, sys.stdout, sys.stderr), _write_streams),
    "recursion limit": _Setting(sys.getrecursionlimit, sys.setrecursionlimit, True),
    "garbage collector": _Setting(gc.isenabled, lambda is_on: gc.enable() if is_on else gc.disable(), True),
    "thresholds of the collector": _Setting(gc.get_threshold, lambda values: gc.set_threshold(*values)),
    "exception hook": _Setting(lambda: sys.excepthook, lambda hook: setattr(sys, "excepthook", hook)),
    "logging": _Setting(_read_logging, _write_logging),
}


def portable_settings() -> dict[str, Any]:
    """Return the settings of this process that a fresh process must have too, by name."""
    return {name: setting.read() for name, setting in _SETTINGS.items() if setting.is_portable}


def apply_settings(values: Mapping[str, Any]) -> None:
    """Give this process the settings that ``portable_settings`` returned in another one."""
    _write_changes(values)


@contextmanager
def isolated() -> Iterator[None]:
    """Restore, at the end of a ``with`` block, the settings of the process that code in it may have changed.

    These are torch's modes, threads and default types, random states, the environment, the working directory, handlers
    of signals, filters of warnings, and the other settings of ``_SETTINGS``. It takes less than a millisecond.

    Example:
        >>> import torch
        >>> from thalweg.tasks.reproducibility.isolation import isolated
        >>> with isolated():
        ...     torch.set_default_dtype(torch.float64)
        >>> torch.get_default_dtype()
        torch.float32
    """
    values = {name: setting.read() for name, setting in _SETTINGS.items()}
    with restored_random_states(), warnings.catch_warnings():
        try:
            yield
        finally:
            _write_changes(values)


def _write_changes(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        setting = _SETTINGS[name]
        # A working directory may be gone, and only the main thread sets handlers: the rest is restored all the same.
        with suppress(OSError, ValueError, RuntimeError):
            if setting.read() != value:
                setting.write(value)
