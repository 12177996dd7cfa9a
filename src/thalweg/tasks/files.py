"""Modules of users' files, each imported anew under a name of its own: ``thalweg.tasks.files.STEM_HASH``.

Two files may have the same name, so the name includes a hash of the path. A process that is started by this one, such
as a worker of a DataLoader, imports the file by this name: this module is a package, which finds it in ``sys.path``.
"""

import hashlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType

from thalweg.tasks.reproducibility.seeded import seeded

FILE_MODULE = f"{__name__}."  # prefix of the names of modules that are imported from a user's file
__path__: list[str] = []  # a package: its modules are found by `_Finder`


class _Loader(SourceFileLoader):
    """Runs a file with the same random numbers at each import, so that a comparison can be resumed."""

    def exec_module(self, module: ModuleType) -> None:
        with seeded(0):
            super().exec_module(module)


class _Finder(MetaPathFinder):
    """Finds the file of a module in the folders of ``sys.path``, as a process that was started later needs it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(FILE_MODULE):
            return None
        stem = fullname.removeprefix(FILE_MODULE).rpartition("_")[0]
        files = [Path(folder) / f"{stem}.py" for folder in sys.path]
        return next((spec_of_file(file) for file in files if module_name(file) == fullname and file.is_file()), None)


def module_name(path: Path) -> str:
    """Return the name of the module of a file.

    Args:
        path: The file.
    """
    return f"{FILE_MODULE}{path.stem}_{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:8]}"


def spec_of_file(path: Path) -> ModuleSpec:
    """Return how the module of a file is imported.

    Args:
        path: The file.
    """
    name = module_name(path)
    spec = importlib.util.spec_from_file_location(name, path, loader=_Loader(name, str(path)))
    assert spec is not None
    return spec


if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
    sys.meta_path.append(_Finder())
