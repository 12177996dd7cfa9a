"""The extra ``lab``: the packages of choosing and of the command line, and the error if one of them is missing."""

from collections.abc import Iterable
from importlib.util import find_spec

from thalweg.errors import MissingPackageError

# What pip calls each package, by the name that is imported. CONTRIBUTING.md has the reason for each.
LAB = {
    "click": "click",
    "cloudpickle": "cloudpickle",
    "jinja2": "jinja2",
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "optuna": "optuna",
    "PIL": "pillow",
    "rich": "rich",
    "sklearn": "scikit-learn",
    "scipy": "scipy",
    "sqlalchemy": "sqlalchemy",
}


def missing_packages(modules: Iterable[str] = LAB) -> list[str]:
    """Return those modules of the extra ``lab`` that cannot be imported. None is imported here."""
    return [module for module in modules if not _is_installed(module)]


def require_lab(who: str, modules: Iterable[str] = LAB) -> None:
    """Check that packages of the extra ``lab`` are installed.

    Args:
        who: The package or command that needs them, for the error message.
        modules: The modules that it imports. Defaults to all of the extra.

    Raises:
        MissingPackageError: If one is missing; the message says how to install it.
    """
    if missing := missing_packages(modules):
        names = ", ".join(LAB[module] for module in missing)
        raise MissingPackageError(
            f"{who}: the packages of the extra 'lab' must be installed, got none of {names}. "
            "Run: pip install 'thalweg[lab]'",
            name=missing[0],
        )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # an import hook forbids it, or something else has taken its name
        return False
