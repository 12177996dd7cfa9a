"""Packages that a machine without a network lacks: those of wheels beside the code, and placeholders for references."""

import sys
import zipfile
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

WHEELS = Path(__file__).parents[2] / "build" / "gpu-wheels"  # filled by `make gpu-wheels`


def unpack_wheels(folder: Path = WHEELS) -> Path | None:
    """Unpack the wheels of a folder beside it and return where; None if there are none."""
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        return None
    target = folder.parent / "gpu-packages"
    for wheel in wheels:
        marker = target / f".{wheel.stem}"
        if marker.exists():
            continue
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
        marker.touch()
    return target


def missing(modules: tuple[str, ...]) -> list[str]:
    """Return those modules that cannot be imported."""
    absent = []
    for module in modules:
        try:
            absent += [] if find_spec(module) else [module]
        except (ImportError, ValueError):
            absent.append(module)
    return absent


def add_placeholders(modules: tuple[str, ...]) -> list[str]:
    """Put a placeholder where a module is missing, and return the names of those."""
    absent = missing(modules)
    for name in absent:
        sys.modules[name] = _Placeholder(name)
    return absent


class _Placeholder(ModuleType):
    """A module whose classes can be named and not made."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.__version__ = "missing"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(self: Any, *args: Any, **settings: Any) -> None:
            raise ImportError(f"{name} is missing on this machine")

        return type(name, (), {"__init__": refuse, "__module__": self.__name__})
