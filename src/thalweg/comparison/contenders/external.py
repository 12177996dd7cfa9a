"""Foreign: an optimizer that is no rule of ours, and what may be set of it.

It has the form of `torch.optim`: a class or a function, called with parameters and keywords. Its settings are those of
its keywords that are numbers or switches; a tuple of numbers is taken apart (`betas` is `beta1` and `beta2`). Keywords
that our rules know by the same name are searched where those are; the others where the user says.
"""

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from thalweg import rules
from thalweg.errors import KeywordError, SettingError, UnknownNameError, nearest
from thalweg.optim import keywords
from thalweg.rules import Hyper, Range, Rule
from thalweg.rules.core.hyper import Bound
from thalweg.tasks.catalogue import module_of_file

# Where a keyword of this name is searched, and how soon.
_KNOWN: dict[str, Hyper] = {}
for _rule in (rules.AdamW, rules.RMSprop, rules.SGD):
    _KNOWN |= _rule().hypers()
_DECADES = 2.5  # that a learning rate is searched to either side of its default
_LR_WITHOUT_DEFAULT = 1e-3
_ANY = Bound("(-inf, inf)")


@dataclass(frozen=True, eq=False)
class ExternalOptimizer:
    """An optimizer from elsewhere at some settings; with the part of a rule's interface that contenders use."""

    make: Callable[..., torch.optim.Optimizer]
    path: str
    declared: Mapping[str, Hyper]
    changed: Mapping[str, Any] = field(default_factory=dict)

    def hypers(self) -> Mapping[str, Hyper]:
        """What is declared of each setting."""
        return self.declared

    def settings(self) -> dict[str, Any]:
        """The value of each setting."""
        return {name: one.default for name, one in self.declared.items()} | dict(self.changed)

    def with_(self, **settings: Any) -> Self:
        """The same with some settings changed; an unknown one raises KeywordError."""
        for name, value in settings.items():
            if name not in self.declared:
                raise KeywordError(
                    f"{self.path}: the settings are {', '.join(self.declared)}, got {name!r}. "
                    f"{nearest(name, self.declared)}"
                )
            bound, default = self.declared[name].bound, self.declared[name].default
            if (bound is None) != isinstance(value, bool) or (bound is not None and value not in bound):
                wanted = "true or false" if bound is None else f"a number {bound}"
                raise SettingError(f"{self.path}: {name} must be {wanted}, got {value!r}.")
            if isinstance(default, int) and not isinstance(default, bool):
                settings[name] = round(value)
        return replace(self, changed={**self.changed, **settings})

    def optimizer(self, params: Iterable[Any]) -> torch.optim.Optimizer:
        """The optimizer at these settings. What nobody changed is left to its own default."""
        all_of_them = keywords.values_by_keyword(self.declared, self.settings())
        names = keywords.names_by_keyword(self.declared)
        given = {key: value for key, value in all_of_them.items() if key == "lr" or self.changed.keys() & names[key]}
        return self.make(params, **given)

    def state_numel(self, shape: torch.Size) -> int:
        """How many numbers it remembers for a parameter of this shape, counted after a step; single ones left out."""
        return _state_numel(self, shape)

    def source(self) -> str:
        """What it is made of, as far as can be read: who edits it, or installs another version, means another one."""
        try:
            # The whole file: a function calls what stands beside it.
            text = Path(inspect.getfile(self.make)).read_text()
        except (OSError, TypeError, UnicodeDecodeError):
            text = ""
        inside = inspect.getclosurevars(self.make).nonlocals if inspect.isfunction(self.make) else {}
        package = self.path.partition(":")[0].partition(".")[0]
        try:
            version = metadata.version(package)
        except (metadata.PackageNotFoundError, ValueError):
            version = ""
        return hashlib.sha256(f"{text}{sorted(inside.items())!r}{version}".encode()).hexdigest()


@cache
def _state_numel(external: ExternalOptimizer, shape: torch.Size) -> int:
    param = nn.Parameter(torch.ones(shape))
    param.grad = torch.full_like(param, 0.1)
    try:
        optimizer = external.optimizer([param])
        set_training_mode(optimizer, True)
        optimizer.step()
    except Exception as error:
        raise SettingError(
            f"{external.path}: it must be callable with parameters and make an optimizer that steps without a closure, "
            f"got {type(error).__name__}: {error}. Wrap it in a function (params, lr=...) that does."
        ) from error
    kept = (value for value in optimizer.state.get(param, {}).values() if isinstance(value, torch.Tensor))
    return sum(value.numel() for value in kept if value.numel() > 1)


def set_training_mode(optimizer: torch.optim.Optimizer, training: bool) -> None:
    """Tell an optimizer that trains at other weights than it is evaluated at (Schedule-Free) which are wanted."""
    switch = getattr(optimizer, "train" if training else "eval", None)
    if callable(switch):
        switch()


def external_optimizer(make: Callable[..., Any], path: str) -> ExternalOptimizer:
    """What is read off the signature of a class or function. Raises SettingError if it cannot be an optimizer's."""
    try:
        first, *others = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):
        raise SettingError(f"{path}: it must be callable as (params, lr=...), got {make!r:.80}.") from None
    declared: dict[str, Hyper] = {}
    for one in others:
        value = one.default
        if one.name == "lr" and (value is None or value is inspect.Parameter.empty):
            value = _LR_WITHOUT_DEFAULT
        if isinstance(value, bool | int | float):
            declared[one.name] = _declared(one.name, None, value)
        elif isinstance(value, tuple) and value and all(isinstance(part, int | float) for part in value):
            for k, part in enumerate(value, 1):
                name = f"{one.name.removesuffix('s')}{k}"
                declared[name] = _declared(name, one.name, part)
    if "lr" not in declared:
        raise SettingError(f"{path}: it must take lr, since schedules set it, got {first.name} and {list(declared)}.")
    return ExternalOptimizer(make, path, declared)


def _declared(name: str, keyword: str | None, value: float | bool) -> Hyper:
    if isinstance(value, bool):
        return Hyper(value, "", "", None, "", None, 3, False, keyword)
    if name == "lr":
        around = Range(value * 10**-_DECADES, value * 10**_DECADES, "log") if value > 0 else _KNOWN["lr"].search
        return Hyper(value, "", "", Bound(">= 0"), "", around, 1, False, keyword)
    if known := _KNOWN.get(name):
        return replace(known, default=value, keyword=keyword)
    return Hyper(value, "", "", _ANY, "", None, 3, False, keyword)


def load_optimizer(text: str) -> ExternalOptimizer | Rule:
    """What `module:Name` or `path/to/file.py:name` means; a rule of the user's is one of ours."""
    home, _, name = text.rpartition(":")
    if home.endswith(".py"):
        module = module_of_file(Path(home))
    else:
        try:
            module = import_module(home)
        except (ImportError, ValueError, TypeError) as error:
            raise UnknownNameError(
                f"thalweg: {text!r} must be a module and a class in it, got {error}. Write torch.optim:NAdam, say."
            ) from error
    made = getattr(module, name, None)
    if not callable(made):
        names = [key for key, value in vars(module).items() if inspect.isclass(value) or inspect.isfunction(value)]
        raise UnknownNameError(f"{home}: there is no optimizer {name!r}. {nearest(name, names)}")
    return made() if inspect.isclass(made) and issubclass(made, Rule) else external_optimizer(made, text)


def path_of(make: Callable[..., Any]) -> str:
    """The `module:Name` under which a class or function may be found again; raises SettingError if it has no name."""
    name = getattr(make, "__qualname__", None)
    if name is None or "<lambda>" in name:
        raise SettingError(
            f"thalweg: an optimizer must be a class or a function with a name, got {make!r:.60}. "
            "Write def mine(params, lr=...): return ..."
        )
    return f"{make.__module__}:{name}"
