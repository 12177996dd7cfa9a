"""Checkpoints with one thing wrong: what a cut file, another program or an attacker may leave.

Each mutation changes a copy of a valid checkpoint. It is refused with an error of thalweg, and nothing of the optimizer
changes; or it loads, and training goes on as from the checkpoint itself.
"""

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch

from thalweg import optim
from thalweg.errors import SettingWarning, ThalwegError

Saved = dict[str, Any]
LoadResult = Literal["refused", "same", "anew", "loaded"]


@dataclass(frozen=True)
class Mutation:
    """A change of a checkpoint.

    Attributes:
        name: The change, in words.
        change: Changes a checkpoint in place, or returns another object in its place.
        allowed: The outcomes that are right.
    """

    name: str
    change: Callable[[Saved], Any]
    allowed: tuple[LoadResult, ...] = ("refused",)


def _setter(*path: Any, to: Any) -> Callable[[Saved], None]:
    def change(saved: Saved) -> None:
        holder: Any = saved
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = to

    return change


def _remover(*path: Any) -> Callable[[Saved], None]:
    def change(saved: Saved) -> None:
        holder: Any = saved
        for key in path[:-1]:
            holder = holder[key]
        del holder[path[-1]]

    return change


def _wrong_tensors(entry: torch.Tensor) -> dict[str, Any]:
    """Return values that cannot stand in place of a tensor of a record."""
    wrong = {
        "None": None,
        "text": "exp_avg",
        "a list": entry.tolist() if entry.dim() else [entry.item()],
        "a dictionary": {"data": entry},
        "an object": object(),
        "a sparse tensor": torch.ones(3, 3).to_sparse(),
        "a nested tensor": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        "another shape": torch.ones(*entry.shape, 2),
        "no elements": torch.ones(0),
        "complex numbers": entry.to(torch.complex64),
        "whole numbers": entry.to(torch.int64),
        "truth values": entry.to(torch.bool),
        "no values": entry.to("meta"),
    }
    if entry.dim():
        wrong["a number"] = 1.0
    return wrong


def _equal_tensors(entry: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return tensors of another kind with the same values."""
    with torch.inference_mode():
        inference = entry.clone()
    return {
        "in double precision": entry.double(),
        "with other strides": torch.stack([entry, entry], dim=-1)[..., 0],
        "a parameter": torch.nn.Parameter(entry.clone()),
        "an inference tensor": inference,
    }


WRONG_STEPS = {
    "negative": -1,
    "not a number": math.nan,
    "infinite": math.inf,
    "huge": 1e300,
    "huge and whole": 10**400,
    "fractional": 2.5,
    "a fractional tensor": torch.tensor(2.5),
    "a NaN tensor": torch.tensor(math.nan),
    "two numbers": torch.tensor([3.0, 3.0]),
    "no number": torch.tensor([]),
    "complex": torch.tensor(3 + 0j),
    "a truth value": True,
    "text": "3",
    "a list": [3],
    "None": None,
    "on the meta device": torch.tensor(3.0, device="meta"),
    "sparse": torch.tensor([3.0]).to_sparse(),
}


def of_records(saved: Saved) -> Iterator[Mutation]:
    """Yield mutations of the state of one parameter."""
    index = next(iter(saved["state"]))
    record, path = saved["state"][index], ("state", index)
    for value, name in ((None, "None"), ([], "a list"), ("text", "text"), (torch.ones(3), "a tensor"), (3, "a number")):
        yield Mutation(f"record: {name}", _setter(*path, to=value))
    for key, entry in record.items():
        is_scalar = key == "step" or entry.dtype == torch.float64
        yield Mutation(f"{key}: missing", _remover(*path, key), ("refused", "anew"))
        yield Mutation(f"{key}: requires gradients", _setter(*path, key, to=entry.clone().requires_grad_()), ("same",))
        if is_scalar:
            yield Mutation(f"{key}: text", _setter(*path, key, to="3"))
            yield Mutation(f"{key}: infinite", _setter(*path, key, to=math.inf))
            yield Mutation(f"{key}: a list", _setter(*path, key, to=[1.0]))
            yield Mutation(f"{key}: two numbers", _setter(*path, key, to=torch.ones(2)))
            yield Mutation(f"{key}: a plain number", _setter(*path, key, to=float(entry)), ("same",))
        else:
            for name, value in _wrong_tensors(entry).items():
                allowed: tuple[LoadResult, ...] = ("refused", "anew") if name == "None" else ("refused",)
                yield Mutation(f"{key}: {name}", _setter(*path, key, to=value), allowed)
            yield Mutation(f"{key}: NaN", _setter(*path, key, to=torch.full_like(entry, math.nan)), ("loaded", "same"))
            for name, value in _equal_tensors(entry).items():
                yield Mutation(f"{key}: {name}", _setter(*path, key, to=value), ("same",))
    for name, value in WRONG_STEPS.items():
        yield Mutation(f"step: {name}", _setter(*path, "step", to=value))
    yield Mutation("step: a whole number", _setter(*path, "step", to=int(record["step"])), ("same",))
    yield Mutation("step: a number of shape (1,)", _setter(*path, "step", to=record["step"].reshape(1)), ("same",))
    for name, value in (("a note", "kept"), ("containers", {"a": [(torch.ones(2), {"b": None})]}), ("a set", {1, 2})):
        yield Mutation(f"another entry: {name}", _setter(*path, "note", to=value), ("same", "refused"))
    yield Mutation("another entry: without a name", _setter(*path, 5, to=torch.ones(2)), ("same", "refused"))


def of_groups(saved: Saved) -> Iterator[Mutation]:
    """Yield mutations of the first group."""
    group, path = saved["param_groups"][0], ("param_groups", 0)
    for value, name in ((None, "None"), ([], "a list"), ("text", "text"), ({}, "empty")):
        yield Mutation(f"group: {name}", _setter(*path, to=value))
    for key, setting in group.items():
        if key == "param_names":
            continue
        optional: tuple[LoadResult, ...] = ("refused", "same") if key in ("rounding", "seed") else ("refused",)
        yield Mutation(f"{key}: missing", _remover(*path, key), optional)
        if key != "params":
            yield Mutation(f"{key}: text", _setter(*path, key, to="?"))
            yield Mutation(f"{key}: an object", _setter(*path, key, to=object()))
        if isinstance(setting, float):
            for value in (math.nan, [1.0], torch.ones(2), -2.0 if key != "beta2_decay" else math.inf):
                yield Mutation(f"{key}: {value}", _setter(*path, key, to=value))
        if isinstance(setting, tuple):
            yield Mutation(f"{key}: too short", _setter(*path, key, to=setting[:-1]))
            yield Mutation(f"{key}: a list", _setter(*path, key, to=list(setting)), ("same",))
    params = group["params"]
    for name, value in (
        ("None", None),
        ("a number", 0),
        ("too short", params[:-1]),
        ("too long", [*params, 99]),
        ("twice", [params[0]] * len(params)),
        ("fractions", [index + 0.5 for index in params]),
        ("a list in a list", [params]),
        ("lists", [[index] for index in params]),
    ):
        if name != "twice" or len(params) > 1:
            yield Mutation(f"params: {name}", _setter(*path, "params", to=value))
    yield Mutation("group: a key of the user", _setter(*path, "name", to="decayed"), ("same", "refused"))


def _renumber(saved: Saved) -> None:
    for group in saved["param_groups"]:
        group["params"] = [f"layer.{index}" for index in group["params"]]
    saved["state"] = {f"layer.{index}": record for index, record in saved["state"].items()}


def of_structure(saved: Saved) -> Iterator[Mutation]:
    """Yield mutations of the checkpoint as a whole."""
    for value in (None, [], "text", 3, torch.ones(3), {}, {"state": {}}):
        yield Mutation(f"checkpoint: {value!r:.30}", lambda saved, value=value: value)
    for key in ("state", "param_groups"):
        for value in (None, [None], "text", 3, torch.ones(3)):
            yield Mutation(f"{key}: {value!r:.30}", _setter(key, to=value))
    for value in (5, ["AdamW"], "AdamWW", {"AdamW": 1}, True, b"AdamW", torch.ones(2)):
        yield Mutation(f"rule: {value!r:.30}", _setter("rule", to=value))
    yield Mutation("rule: missing", _remover("rule"), ("same",))  # as torch.distributed.checkpoint leaves it
    yield Mutation(
        "groups: one more", lambda saved: saved["param_groups"].append(copy.deepcopy(saved["param_groups"][0]))
    )
    yield Mutation("groups: one fewer", lambda saved: saved["param_groups"].pop())
    yield Mutation("state: of a parameter that is not there", _setter("state", 99, to={"step": torch.tensor(1.0)}))
    yield Mutation("state: of the whole optimizer", _setter("state", "note", to={"a": 1}), ("same", "refused"))
    yield Mutation("parameters by name", _renumber, ("same",))
    yield Mutation("another key", _setter("epoch", to=3), ("same",))
    if "param_names" in saved["param_groups"][0]:
        names = saved["param_groups"][0]["param_names"]
        for name, value in (("None", None), ("text", "abc"), ("too short", names[:-1]), ("others", ["x"] * len(names))):
            yield Mutation(f"param_names: {name}", _setter("param_groups", 0, "param_names", to=value))
        wrapped = [f"_orig_mod.module.{name}" for name in names]
        yield Mutation("param_names: wrapped", _setter("param_groups", 0, "param_names", to=wrapped), ("same",))


def mutations(saved: Saved) -> list[Mutation]:
    """Return all mutations of a checkpoint."""
    return [*of_structure(saved), *of_groups(saved), *of_records(saved)]


Make = Callable[[], optim.RuleOptimizer]


class Trial:
    """The trial of mutations on one kind of optimizer.

    Args:
        make: Creates an optimizer, each time with the same parameters of its own.
    """

    def __init__(self, make: Make) -> None:
        self._make = make
        self._saving = self._begun()
        self.saved = self._saving.state_dict()
        resumed = self._make()
        self._copy_params(resumed)
        resumed.load_state_dict(copy.deepcopy(self.saved))
        self._expected = self._stepped(resumed)
        self._untouched = self._stepped(self._begun())

    def _begun(self) -> optim.RuleOptimizer:
        optimizer = self._make()
        for step in range(3):
            take_step(optimizer, step)
        return optimizer

    def _copy_params(self, optimizer: optim.RuleOptimizer) -> None:
        with torch.no_grad():
            for param, source in zip(_params(optimizer), _params(self._saving), strict=True):
                param.copy_(source)

    def _stepped(self, optimizer: optim.RuleOptimizer) -> list[torch.Tensor]:
        for step in (3, 4):
            take_step(optimizer, step)
        return [param.detach().clone() for param in _params(optimizer)]

    def run(self, mutation: Mutation) -> str | None:
        """Try one mutation and return what is wrong, or None."""
        broken = copy.deepcopy(self.saved)
        returned = mutation.change(broken)
        if returned is not None or mutation.name.startswith("checkpoint"):
            broken = returned
        outcome, problem = self._load(broken)
        if problem is None and outcome not in mutation.allowed:
            problem = f"{outcome}, which is not right"
        return problem and f"{mutation.name}: {problem}"

    def _load(self, broken: Any) -> tuple[LoadResult, str | None]:
        optimizer = self._begun()
        before = copy.deepcopy(optimizer.state_dict())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                optimizer.load_state_dict(broken)
            except ThalwegError:
                if not _equal(optimizer.state_dict(), before):
                    return "refused", "the refusal changed the optimizer"
                same = all(map(torch.equal, self._stepped(optimizer), self._untouched))
                return "refused", None if same else "the next step is another one"
            except Exception as error:
                return "refused", f"{type(error).__name__}: {error!s:.80}"
            has_warned = any(issubclass(warning.category, SettingWarning) for warning in caught)
            try:
                stepped = self._stepped(optimizer)
            except Exception as error:
                return "loaded", f"loads, then {type(error).__name__}: {error!s:.80}"
        if has_warned:
            return "anew", None
        return "same" if all(map(torch.equal, stepped, self._expected)) else "loaded", None


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first.nan_to_num(), second.nan_to_num())
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_equal(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(_equal, first, second))
    return bool(first == second)


def _params(optimizer: optim.RuleOptimizer) -> list[torch.Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def take_step(optimizer: optim.RuleOptimizer, step: int) -> None:
    """Take a step with gradients that depend on its number."""
    generator = torch.Generator().manual_seed(step)
    for param in _params(optimizer):
        param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)
    optimizer.step()


def _of(kind: type[optim.RuleOptimizer], dtype: torch.dtype = torch.float32, **settings: Any) -> Make:
    def make() -> optim.RuleOptimizer:
        params = [torch.linspace(-1, 1, 6).view(2, 3).to(dtype), torch.linspace(1, 2, 4).to(dtype)]
        return kind([param.requires_grad_() for param in params], **settings, backend="loop")

    return make


def _routed() -> optim.RuleOptimizer:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    return optim.route(model, "muon+adamw", lr=0.01).optimizer(backend="loop")


OPTIMIZERS: dict[str, Make] = {
    "AdamW": _of(optim.AdamW, amsgrad=True),
    "SGD": _of(optim.SGD, momentum=0.9),
    "NAdam": _of(optim.NAdam),
    "Prodigy": _of(optim.Prodigy),
    "ScheduleFreeAdamW": _of(optim.ScheduleFreeAdamW, warmup_steps=2),
    "AdamW in bfloat16": _of(optim.AdamW, torch.bfloat16, rounding="kahan"),
    "moving_average(clip(sgd))": _of(optim.optimizer_for("moving_average(clip(sgd))")),
    "muon+adamw": _routed,
    "Adafactor": _of(optim.Adafactor),
    "SOAP": _of(optim.SOAP),
    "LAMB": _of(optim.LAMB),
    "Lion": _of(optim.Lion),
    "cautious(adan)": _of(optim.optimizer_for("cautious(adan)")),
    "RMSprop": _of(optim.RMSprop, momentum=0.9, centered=True),
    "SM3": _of(optim.SM3),
    "AdaGrad": _of(optim.AdaGrad),
}
