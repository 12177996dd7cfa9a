"""Calls of constructors with unusual values. Each call must work or raise an error of thalweg.

Such values come from configuration files, other libraries and mistakes: fractions, huge integers, arrays, texts, and
objects whose own methods fail.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import torch

from thalweg import optim, registry, rules
from thalweg.optim.settings import keywords


class Hostile:
    """An object whose methods fail."""

    def _fail(self, *_: Any) -> Any:
        raise RuntimeError("a method of the user's object")

    __float__ = __int__ = __index__ = __bool__ = __eq__ = __lt__ = __len__ = __iter__ = __repr__ = __str__ = _fail
    __hash__ = object.__hash__


class ConfigList(Sequence[Any]):
    """A sequence that is neither a list nor a tuple, as those of configuration libraries are."""

    def __repr__(self) -> str:  # without an address, since ids of tests must be the same in every process
        return "ConfigList"

    def __init__(self, *members: Any) -> None:
        self._members = members

    def __getitem__(self, index: Any) -> Any:
        return self._members[index]

    def __len__(self) -> int:
        return len(self._members)


class HostileFloat(float):
    """A number whose own methods fail."""

    def __float__(self) -> float:
        raise RuntimeError("a method of the user's number")


class Call(NamedTuple):
    """A call with its description."""

    description: str
    run: Callable[[], Any]


def values() -> list[Any]:
    """Return values for one setting."""
    numbers = [
        0,
        1,
        -1,
        0.5,
        -0.0,
        1e-320,
        1e300,
        float("nan"),
        float("inf"),
        -float("inf"),
        10**20,
        10**400,
        -(10**400),
    ]
    numbers += [2**63, 10**5000, 1j, True, False, Fraction(1, 3), Fraction(10**400, 3), Decimal("0.1"), Decimal("NaN")]
    arrays = [
        np.float32(0.5),
        np.float64(0.5),
        np.int64(2),
        np.bool_(True),
        np.array(0.5),
        np.array([0.5]),
        np.str_("a"),
    ]
    arrays += [
        np.array([0.1, 0.2]),
        np.array([]),
        np.longdouble("0.25"),
        np.array("x"),
        np.array([None]),
        np.complex64(1),
    ]
    tensors = [torch.tensor(0.5), torch.tensor([0.5]), torch.tensor([0.1, 0.2]), torch.tensor(2), torch.tensor(True)]
    tensors += [torch.tensor(0.5, requires_grad=True), torch.empty((), device="meta"), torch.zeros(2).to_sparse()]
    tensors += [torch.ones(1).to_sparse(), torch.tensor(0.5, dtype=torch.bfloat16), torch.tensor(1j), torch.empty(0)]
    objects = [None, "no", "0.1", "", "x" * 10_000, b"0.1", [], (), [0.9, 0.99], (0.9, 0.99), {0.9, 0.99}, {"a": 1}]
    objects += [
        ConfigList(0.9, 0.99),
        ConfigList(0.9, Hostile()),
        (Fraction(1, 2), np.float32(0.9)),
        (0.9, "b"),
        [None, 1],
    ]
    objects += [
        (x for x in (0.9, 0.99)),
        range(2),
        object(),
        Hostile(),
        HostileFloat(0.5),
        float,
        lambda: 0.1,
        ...,
        [[0.9]],
    ]
    return [*numbers, *arrays, *tensors, *objects]


def parameters() -> list[Any]:
    """Return what may be passed as parameters."""
    leaf = torch.ones(2, 2, requires_grad=True)
    frozen = [torch.zeros(2, dtype=dtype) for dtype in (torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn)]
    return [
        [],
        [leaf],
        (leaf,),
        iter([leaf]),
        {leaf},
        leaf,
        None,
        3,
        "ab",
        b"ab",
        {},
        {"params": [leaf]},
        [None],
        [3.0],
        [[leaf]],
        [leaf * 2],
        [leaf, *frozen],
        frozen,
        [("a", leaf)],
        [("a", leaf), torch.ones(2)],
        [("a",)],
        [(leaf,)],
        [{"params": [leaf]}, {"params": [leaf]}],
        [{"params": leaf}],
        [{"params": {leaf}}],
        [{"params": None}],
        [{}],
        [{"lr": 1}],
        [{"params": [leaf], 3: 4}],
        [{"params": [leaf], Hostile(): 1}],
        [{"params": []}],
        [Hostile()],
        Hostile(),
        [torch.ones(2).to_sparse().requires_grad_()],
        [torch.empty(2, device="meta", requires_grad=True)],
        np.ones(2),
        [torch.ones(2, dtype=torch.float8_e5m2)],
        [torch.nn.Parameter(torch.ones(2).to(torch.float8_e4m3fn))],
        [{"params": [("a", leaf)]}, {"params": []}],
        [1, leaf],
        [{"params": [leaf]}, leaf],
        [leaf, {"params": [leaf]}],
    ]


_OPTIMIZERS = [getattr(optim, name) for name in optim.__all__ if isinstance(getattr(optim, name), type)]
OPTIMIZERS = [kind for kind in _OPTIMIZERS if issubclass(kind, optim.RuleOptimizer) and kind is not optim.RuleOptimizer]
COMMON = ("maximize", "rounding", "seed", "backend", "foreach", "fused", "capturable", "differentiable")
EXPRESSIONS: list[Any] = [
    "",
    " ",
    "(",
    ")",
    "((((",
    "adamw)",
    "(adamw",
    "adamw()",
    "()",
    "+",
    "adamw+",
    "+adamw",
    "adamw+sgd+lion",
    "then()",
    "then(adam)",
    "then(adam,sgd",
    "then(adam,sgd,lion)",
    "clip(clip(adamw))",
    "clip(" * 500 + "adamw" + ")" * 500,
    "cautious(" * 20 + "adamw" + ")" * 20,
    "a" * 100_000,
    "+".join(["adamw"] * 200),
    "adamw\n",
    "ådamw",
    "adamw:lr=1",
    "muon+adamw",
    "clip(muon+adamw)",
    "sam(muon+adamw)",
    "lbfgs+adamw",
    "then(lbfgs,sgd)",
    "wrapper",
    "rule",
    "__class__",
    "thalweg.rules.AdamW",
    "clip(\x00)",
    "adamw,sgd",
    "then(then(adam,sgd),lion)",
    b"adamw",
    3,
    None,
    ["adamw"],
    object(),
    int,
    rules.Rule,
    rules.Wrapper,
    rules.Clip,
    Hostile(),
    "(" * 900,
    "sgd" + " " * 990,
    "split(adamw)",
    "mechanic(prodigy)",
]


def calls(seed: int) -> Iterator[Call]:
    """Yield calls without end, the same ones for the same seed."""
    draw = random.Random(seed)  # noqa: S311 (no secret)
    kinds = (
        _setting,
        _setting,
        _group_setting,
        _written_setting,
        _common,
        _params,
        _rule,
        _wrapper,
        _expression,
        _route,
    )
    while True:
        yield draw.choice((*kinds, _transfer))(draw)


def _leaf() -> torch.Tensor:
    return torch.full((3, 2), 0.5, requires_grad=True)


def _train(optimizer: torch.optim.Optimizer) -> None:
    """Take three steps and save."""
    for count in range(3):
        for param in (param for group in optimizer.param_groups for param in group["params"]):
            if param.requires_grad and param.is_leaf:
                param.grad = torch.full_like(param, 0.1 * (count + 1))
        if optimizer.rule.traits.needs == "curvature":  # type: ignore[attr-defined]
            optimizer.absorb_gauss_newton(1)  # type: ignore[attr-defined]
        optimizer.step(lambda: torch.tensor(1.0))
    optimizer.state_dict()


def _keyword(draw: random.Random, kind: type[optim.RuleOptimizer]) -> str:
    return draw.choice(list(keywords.members(kind.rule)))


def _setting(draw: random.Random) -> Call:
    kind, value = draw.choice(OPTIMIZERS), draw.choice(values())
    keyword = _keyword(draw, kind)
    return Call(
        f"{kind.__name__}({keyword}={_text(value)})",
        lambda: _train(kind([_leaf()], **{"backend": "loop", keyword: value})),
    )


def _group_setting(draw: random.Random) -> Call:
    kind, value = draw.choice(OPTIMIZERS), draw.choice(values())
    keyword = draw.choice([_keyword(draw, kind), *COMMON[:3]])
    group = {"params": [_leaf()], keyword: value}
    return Call(f"{kind.__name__}([{{{keyword}: {_text(value)}}}])", lambda: _train(kind([group], backend="loop")))


def _written_setting(draw: random.Random) -> Call:
    kind, value = draw.choice(OPTIMIZERS), draw.choice(values())
    keyword = draw.choice([_keyword(draw, kind), *COMMON[:3]])

    def run() -> None:
        optimizer = kind([_leaf()], backend="loop")
        if optimizer.rule.traits.needs != "curvature":
            _train(optimizer)
        optimizer.param_groups[0][keyword] = value
        _train(optimizer)

    return Call(f"{kind.__name__}.param_groups[0][{keyword!r}] = {_text(value)}", run)


def _common(draw: random.Random) -> Call:
    kind, keyword, value = draw.choice(OPTIMIZERS), draw.choice(COMMON), draw.choice(values())
    return Call(
        f"{kind.__name__}({keyword}={_text(value)})",
        lambda: _train(kind([_leaf()], **{"backend": "loop", keyword: value})),
    )


def _params(draw: random.Random) -> Call:
    kind, params = draw.choice(OPTIMIZERS), draw.choice(parameters())
    return Call(f"{kind.__name__}({_text(params)})", lambda: _train(kind(params, backend="loop")))


def _rule(draw: random.Random) -> Call:
    kind, value = draw.choice(list(registry.RULES.values())), draw.choice(values())
    name = draw.choice(list(kind.declared_hypers()))
    return Call(
        f"rules.{kind.__name__}({name}={_text(value)})",
        lambda: _train(optim.optimizer_for(kind(**{name: value}))([_leaf()], backend="loop")),
    )


def _wrapper(draw: random.Random) -> Call:
    kind, value = draw.choice(list(registry.WRAPPERS.values())), draw.choice(values())
    names = [*kind.declared_hypers(), "inner"]
    name, inner = draw.choice(names), draw.choice(list(registry.RULES.values()))
    arguments = {"inner": value} if name == "inner" else {"inner": inner(), name: value}
    return Call(
        f"rules.{kind.__name__}({inner.__name__}(), {name}={_text(value)})",
        lambda: _train(optim.optimizer_for(kind(**arguments))([_leaf()], backend="loop")),
    )


def _expression(draw: random.Random) -> Call:
    text = draw.choice(EXPRESSIONS)
    if draw.random() < 0.4:
        letters = ["adamw", "clip(", "muon", "sgd", "then(", "(", ")", "+", ",", " ", "sam(", "split("]
        text = "".join(draw.choices(letters, k=draw.randint(1, 12)))
    return Call(f"optimizer_for({_text(text)})", lambda: optim.optimizer_for(text)([_leaf()]))


def _route(draw: random.Random) -> Call:
    value, model = draw.choice(values()), torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2))
    keyword = draw.choice(["lr", "weight_decay", "roles", "lr_scale", "decay_scale", "adamw_betas", "momentum", "rest"])
    keyword = draw.choice([keyword, keyword, "rule", "model", "headless"])
    arguments: dict[str, Any] = {"model": model, "rule": "muon", keyword: value}
    if keyword in ("roles", "lr_scale", "decay_scale") and draw.random() < 0.7:
        key = draw.choice(["0.weight", "*", "embedding", "muon", 3, Hostile()])
        arguments[keyword] = {key: draw.choice([value, "head", 2.0])}
    return Call(
        f"route({keyword}={_text(arguments[keyword])})",
        lambda: _train(optim.route(**arguments).optimizer(backend="loop")),
    )


def _transfer(draw: random.Random) -> Call:
    value = draw.choice([*values(), *EXPRESSIONS])
    position = draw.choice(["source", "target", "params", "gradients", "match"])
    arguments: dict[str, Any] = {"source": "adamw", "target": "lion", position: value}
    return Call(f"transfer({position}={_text(value)})", lambda: optim.transfer(**arguments))


def _text(value: Any) -> str:
    return f"an object of {type(value).__name__}" if isinstance(value, Hostile) else _short(value)


def _short(value: Any) -> str:
    try:
        return f"{value!r:.60}"
    except (RuntimeError, ValueError, TypeError):
        return f"an object of {type(value).__name__}"
