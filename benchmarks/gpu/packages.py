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
    """Unpack those wheels of a folder whose modules are missing, and return where; None if nothing is missing."""
    target, is_used = folder.parent / "gpu-packages", False
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            names = {name.split("/")[0].removesuffix(".py") for name in archive.namelist()}
            if not missing(tuple(name for name in names if name.isidentifier())):
                continue
            is_used = True
            archive.extractall(target)
    return target if is_used else None


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
