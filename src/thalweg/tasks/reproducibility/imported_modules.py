"""Imported modules: the texts of the user's own modules that a function uses, which lie beside its file."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

_INSTALLED = frozenset(["site-packages", "dist-packages"])


def imported_texts(function: Callable[..., Any]) -> dict[str, str]:
    """Return the texts of modules that the file of a function has imported from its folder, or from folders in it.

    Modules that these import count too. Installed packages do not, nor what is imported while a function runs.

    Args:
        function: A function of the user's.

    Returns:
        The texts by path, relative to the folder of the function's file; empty if the function has no file.
    """
    code = getattr(function, "__code__", None)
    if code is None or not Path(code.co_filename).is_file():
        return {}
    file = Path(code.co_filename).resolve()
    texts: dict[str, str] = {}
    waiting, seen = [function.__globals__], {file}
    while waiting:
        for value in list(waiting.pop().values()):
            name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            module = sys.modules.get(name) if isinstance(name, str) else None
            path = _own_path(module, file.parent)
            if module is None or path is None or path in seen:
                continue
            seen.add(path)
            texts[path.relative_to(file.parent).as_posix()] = path.read_text(errors="replace")
            waiting.append(vars(module))
    return dict(sorted(texts.items()))


def _own_path(module: ModuleType | None, folder: Path) -> Path | None:
    """Return the file of a module if it lies in a folder and is no installed package, else None."""
    name = getattr(module, "__file__", None)
    if not isinstance(name, str) or not name.endswith(".py"):
        return None
    path = Path(name).resolve()
    if not path.is_relative_to(folder) or _INSTALLED & set(path.parts) or not path.is_file():
        return None
    return path
