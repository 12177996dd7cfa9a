"""External optimizers: optimizers of other libraries and of the user, and their settings.

An external optimizer has the form of ``torch.optim``: a class or a function, called with parameters and keywords. Its
settings are the keywords whose defaults are numbers or switches; a tuple of numbers becomes several settings (``betas``
is ``beta1`` and ``beta2``). A keyword that our rules know by the same name is searched in their range; the user gives
ranges for the others.
"""

import hashlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

import torch
from torch import nn

from thalweg import rules
from thalweg.errors import KeywordError, SettingError, UnknownNameError, nearest, nearest_setting
from thalweg.optim import keywords
from thalweg.rules import Hyper, Range, Rule
from thalweg.rules.core.hyper import Bound
from thalweg.tasks.catalogue import module_of_file

# Declarations of keywords that are known by name; a later rule replaces the declarations of an earlier one.
_KNOWN: dict[str, Hyper] = {}
for _rule in (rules.AdamW, rules.RMSprop, rules.SGD):
    _KNOWN |= _rule().hypers()
_DECADES = 2.5  # a learning rate is searched this far to either side of its default
_LR_WITHOUT_DEFAULT = 1e-3
_ANY = Bound("(-inf, inf)")


@dataclass(frozen=True, eq=False)
class ExternalOptimizer:
    """An external optimizer at some settings, with the part of a rule's interface that contenders use.

    Attributes:
        make: The class or function ``(params, lr=...)``.
        path: Name under which it can be found, ``module:Name`` or ``path/to/file.py:name``.
        declared: Declaration of each setting, read from the signature.
        changed: Settings that differ from the optimizer's own defaults.
        optional_switches: Keywords of ``torch.optim`` whose default lets torch decide, such as ``fused``. They become
            settings when they are set.
        text_keywords: Keywords whose default is a text or None. They become settings when they are set to a text.
    """

    make: Callable[..., torch.optim.Optimizer]
    path: str
    declared: Mapping[str, Hyper]
    changed: Mapping[str, Any] = field(default_factory=dict)
    optional_switches: frozenset[str] = frozenset()
    text_keywords: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The path, which stands for the name of a rule in messages."""
        return self.path

    def hypers(self) -> Mapping[str, Hyper]:
        """Return the declaration of each setting."""
        return self.declared

    def settings(self) -> dict[str, Any]:
        """Return the value of each setting."""
        return {name: hyper.default for name, hyper in self.declared.items()} | dict(self.changed)

    def with_(self, **settings: Any) -> Self:
        """Return the same optimizer with some settings changed; counts are rounded to whole numbers.

        Raises:
            KeywordError: If a setting is unknown.
            SettingError: If a value is out of bounds or of the wrong type.
        """
        switches = {name: Hyper(False, "") for name in settings.keys() & self.optional_switches - self.declared.keys()}
        if switches:
            return replace(self, declared={**self.declared, **switches}).with_(**settings)
        texts = {name: value for name, value in settings.items() if name in self.text_keywords}
        if texts:
            defaults = inspect.signature(self.make).parameters
            declared = {
                name: Hyper(defaults[name].default, "", kind="choice", options=(value,))
                for name, value in texts.items()
            }
            numbers = {name: value for name, value in settings.items() if name not in texts}
            changed = replace(self, declared={**self.declared, **declared}, changed={**self.changed, **texts})
            return changed.with_(**numbers)
        for name, value in settings.items():
            if name not in self.declared:
                raise KeywordError(
                    f"{self.path}: the settings are {', '.join(self.declared)}, got {name!r}. "
                    f"{nearest_setting(name, self.declared)}"
                )
            bound = self.declared[name].bound
            if (bound is None) != isinstance(value, bool) or (bound is not None and value not in bound):
                allowed = "true or false" if bound is None else f"a number {bound}"
                raise SettingError(f"{self.path}: {name} must be {allowed}, got {value!r}.")
            if self.declared[name].kind == "count":
                settings[name] = round(value)
        return replace(self, changed={**self.changed, **settings})

    def parse_text(self, name: str, text: str) -> str | None:
        """Return the value of a setting that is a text; None for ``none``.

        Raises:
            SettingError: If the signature lists the allowed texts, and this is none of them; or if the optimizer cannot
                be made with it.
        """
        default = inspect.signature(self.make).parameters[name].default
        value = None if text.lower() == "none" and default is None else text
        allowed = _texts_of(self.make, name)
        if allowed and value is not None and value not in allowed:
            raise SettingError(
                f"{self.path}: {name} must be one of {', '.join(allowed)}, got {text!r}. {nearest(text, allowed)}"
            )
        try:
            replace(self, changed={**self.changed, name: value}).with_(**{name: value}).optimizer(
                [nn.Parameter(torch.ones(2, 2))]
            )
        except Exception as error:
            raise SettingError(
                f"{self.path}: {name} must be a text that the optimizer accepts, got {text!r}: "
                f"{type(error).__name__}: {str(error).rstrip('.')}."
            ) from error
        return value

    def optimizer(self, params: Iterable[Any]) -> torch.optim.Optimizer:
        """Return the optimizer at these settings. Unchanged keywords, except ``lr``, are not passed."""
        values = keywords.values_by_keyword(self.declared, self.settings())
        names = keywords.names_by_keyword(self.declared)
        passed = {key: value for key, value in values.items() if key == "lr" or self.changed.keys() & names[key]}
        return self.make(params, **passed)

    def state_numel(self, shape: torch.Size) -> int:
        """Return the numbers of state for a parameter of this shape, counted after a step; single numbers are left out.

        Raises:
            SettingError: If the optimizer cannot be made from parameters alone, or needs a closure.
        """
        return _state_numel(self, shape)

    def source(self) -> str:
        """Return a hash of the optimizer's file, closure and package version: an edited optimizer is another one."""
        try:
            # The whole file: a function calls others in it.
            text = Path(inspect.getfile(self.make)).read_text()
        except (OSError, TypeError, UnicodeDecodeError):
            text = ""
        nonlocals = inspect.getclosurevars(self.make).nonlocals if inspect.isfunction(self.make) else {}
        package = self.path.partition(":")[0].partition(".")[0]
        try:
            version = metadata.version(package)
        except (metadata.PackageNotFoundError, ValueError):
            version = ""
        return hashlib.sha256(
            f"{text}{sorted(nonlocals.items())!r}{version}".encode("utf-8", "surrogatepass")
        ).hexdigest()


# How torch's optimizers run. Their state has the same shapes; on the CPU some of these cannot be had.
_EXECUTION_SWITCHES = frozenset({"fused", "foreach", "capturable"})


@cache
def _state_numel(external: ExternalOptimizer, shape: torch.Size) -> int:
    param = nn.Parameter(torch.ones(shape))
    param.grad = torch.full_like(param, 0.1)
    try:
        settings = {name: value for name, value in external.changed.items() if name not in _EXECUTION_SWITCHES}
        optimizer = replace(external, changed=settings).optimizer([param])
        set_training_mode(optimizer, True)
        optimizer.step()
    except Exception as error:
        remedy = "Wrap it in a function (params, lr=...) that does."
        if "closure" in str(error):
            remedy = "An optimizer that needs one takes part if thalweg has it: L-BFGS is lbfgs."
        raise SettingError(
            f"{external.path}: it must be callable with parameters and make an optimizer that steps without a closure, "
            f"got {type(error).__name__}: {error}. {remedy}"
        ) from error
    tensors = (value for value in optimizer.state.get(param, {}).values() if isinstance(value, torch.Tensor))
    return sum(tensor.numel() for tensor in tensors if tensor.numel() > 1)


def set_training_mode(optimizer: torch.optim.Optimizer, training: bool) -> None:
    """Switch an optimizer between the weights it trains and those it evaluates, if they differ (Schedule-Free)."""
    switch = getattr(optimizer, "train" if training else "eval", None)
    if callable(switch):
        switch()


def external_optimizer(make: Callable[..., Any], path: str) -> ExternalOptimizer:
    """Read the settings of an external optimizer from its signature.

    Args:
        make: A class or function ``(params, lr=...)``.
        path: Name under which it can be found.

    Raises:
        SettingError: If the signature cannot be an optimizer's.

    Example:
        >>> external = external_optimizer(torch.optim.RMSprop, "torch.optim:RMSprop")
        >>> external.settings()["alpha"]
        0.99
    """
    try:
        first, *arguments = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):
        raise SettingError(f"{path}: it must be callable as (params, lr=...), got {make!r:.80}.") from None
    declared: dict[str, Hyper] = {}
    hints = _hints_of(make)
    switches = frozenset(
        argument.name for argument in arguments if argument.name in _EXECUTION_SWITCHES and argument.default is None
    )
    for argument in arguments:
        value = argument.default
        if argument.name == "lr" and (value is None or value is inspect.Parameter.empty):
            value = _LR_WITHOUT_DEFAULT
        if isinstance(value, bool | int | float):
            declared[argument.name] = _declare(argument.name, None, value, hints.get(argument.name))
        elif isinstance(value, tuple) and value and all(isinstance(part, int | float) for part in value):
            for k, part in enumerate(value, 1):
                name = f"{argument.name.removesuffix('s')}{k}"
                declared[name] = _declare(name, argument.name, part)
    if "lr" not in declared:
        raise SettingError(f"{path}: it must take lr, since schedules set it, got {first.name} and {list(declared)}.")
    texts = frozenset(
        argument.name
        for argument in arguments
        if (argument.default is None or isinstance(argument.default, str)) and argument.name not in switches | {"lr"}
    )
    return ExternalOptimizer(make, path, declared, optional_switches=switches, text_keywords=texts)


def _declare(name: str, keyword: str | None, value: float | bool, hint: Any = float) -> Hyper:
    """Return the declaration of an argument; `hint` is its annotation, None if it has none."""
    if isinstance(value, bool):
        return Hyper(value, "", keyword=keyword)
    if name == "lr":
        around = Range(value * 10**-_DECADES, value * 10**_DECADES, "log") if value > 0 else _KNOWN["lr"].search
        return Hyper(float(value), "", bound=Bound(">= 0"), search=around, order=1, keyword=keyword)
    if known := _KNOWN.get(name):
        return replace(known, default=float(value), keyword=keyword)
    if _is_count(value, hint):
        return Hyper(value, "", bound=_ANY, keyword=keyword, kind="count")
    return Hyper(float(value), "", bound=_ANY, keyword=keyword)


def _is_count(value: float, hint: Any) -> bool:
    """Return True if an argument is a whole number: its annotation says so, or its default if it has none.

    A default of 0 or 1 without an annotation says nothing: `momentum=0` is no whole number.
    """
    allowed = get_args(hint) or (hint,)
    return type(value) is int and ((int in allowed and float not in allowed) or (hint is None and value > 1))


def _texts_of(make: Callable[..., Any], name: str) -> list[str]:
    """Return the texts that the annotation of a keyword allows; none if it does not list them."""
    annotation = _hints_of(make).get(name)
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return [text for part in parts if get_origin(part) is Literal for text in get_args(part) if isinstance(text, str)]


def _hints_of(make: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of the arguments; none if they hold names that only a type checker can resolve."""
    try:
        return get_type_hints(make.__init__ if inspect.isclass(make) else make)
    except Exception:
        return {}


def load_optimizer(text: str) -> ExternalOptimizer | Rule:
    """Load an optimizer by its path.

    Args:
        text: ``module:Name`` or ``path/to/file.py:name``.

    Returns:
        The external optimizer; a rule, if the class is a subclass of ``Rule``.

    Raises:
        UnknownNameError: If the module cannot be imported or has no such name.
        SettingError: If it cannot be an optimizer.
        TaskError: If the file cannot be read.
    """
    path, _, name = text.rpartition(":")
    if path.endswith(".py"):
        module = module_of_file(Path(path))
    else:
        try:
            module = import_module(path)
        except (ImportError, ValueError, TypeError) as error:
            raise UnknownNameError(
                f"thalweg: {text!r} must be a module and a class in it, got {error}. Write torch.optim:NAdam, say."
            ) from error
    make = getattr(module, name, None)
    if not callable(make):
        names = [key for key, value in vars(module).items() if inspect.isclass(value) or inspect.isfunction(value)]
        raise UnknownNameError(f"{path}: there is no optimizer {name!r}. {nearest(name, names)}")
    return make() if inspect.isclass(make) and issubclass(make, Rule) else external_optimizer(make, text)


def path_of(make: Callable[..., Any]) -> str:
    """Return the path ``module:Name`` under which a class or function can be found again.

    Raises:
        SettingError: If it has no name, as a lambda has none.
    """
    name = getattr(make, "__qualname__", None)
    if name is None or "<lambda>" in name:
        raise SettingError(
            f"thalweg: an optimizer must be a class or a function with a name, got {make!r:.60}. "
            "Write def mine(params, lr=...): return ..."
        )
    module = make.__module__
    parents = [module[:end] for end, mark in enumerate(module) if mark == "."]
    # The shortest one: torch.optim.AdamW is defined in torch.optim.adamw.
    public = (parent for parent in parents if getattr(sys.modules.get(parent), name, None) is make)
    return f"{next(public, module)}:{name}"
