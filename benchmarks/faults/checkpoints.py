"""Wrong checkpoints, and those of other libraries: `python -m benchmarks.faults.checkpoints` (some minutes, one core).

All mutations of `cases/checkpoint_mutations.py` on all its optimizers: each is refused without a change, or training
goes on right. Then the checkpoints of all optimizers of the installed libraries (`make rivals`), loaded by each of our
rules: each is refused, or both libraries go on to the same parameters. The record holds what was tried and survived.
"""

import argparse
import contextlib
import copy
import importlib
import io
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cases.checkpoint_mutations import OPTIMIZERS, Trial, mutations, take_step
from thalweg import optim, rules
from thalweg.bench.records import machine
from thalweg.errors import ThalwegError

RECORD = Path(__file__).parents[1] / "records" / "faults_checkpoints.json"
LIBRARIES = (
    "torch.optim",
    "schedulefree",
    "prodigyopt",
    "optimi",
    "pytorch_optimizer",
    "heavyball",
    "transformers.optimization",
)
TOLERANCE = 1e-6  # of the change of the parameters; some libraries keep float32 numbers of float64 parameters
TOLERANCES = {"Muon by Muon": 0.05}  # torch orthogonalizes in bfloat16

Make = Callable[[list[Tensor]], torch.optim.Optimizer]


def try_mutations() -> dict[str, Any]:
    """Return how many mutations of each optimizer's checkpoint were tried and survived, and what is wrong."""
    result = {}
    for name, make in OPTIMIZERS.items():
        trial = Trial(make)
        tried = mutations(trial.saved)
        problems = [problem for mutation in tried if (problem := trial.run(mutation))]
        result[name] = {"tried": len(tried), "survived": len(tried) - len(problems), "problems": problems}
        print(f"{name:28} {len(tried):4} tried, {len(problems)} problems", *problems, sep="\n    ")
    return result


def optimizers_of(library: str) -> Iterator[tuple[str, Make]]:
    """Yield all optimizers of a library with their names."""
    try:
        module = importlib.import_module(library)
    except ImportError:
        print(f"{library} is not installed")
        return
    if library == "heavyball":
        module.utils.compile_mode = None  # its compiler takes minutes
    for name, kind in sorted(vars(module).items()):
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer:
            yield name, with_lr(kind)
            if library == "torch.optim" and name in ("NAdam", "RAdam"):
                yield f"{name} decoupled", lambda params, kind=kind: kind(params, decoupled_weight_decay=True)


def with_lr(kind: Callable[..., torch.optim.Optimizer]) -> Make:
    """Return a function that creates an optimizer, with a learning rate if it has no default."""

    def make(params: list[Tensor]) -> torch.optim.Optimizer:
        try:
            return kind(params)
        except TypeError:
            return kind(params, lr=0.01)

    return make


def parameters() -> list[Tensor]:
    """Return two matrices: all rules and all libraries take them."""
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in ((4, 4), (5, 3))]


def begin(make: Make) -> tuple[list[Tensor], torch.optim.Optimizer] | None:
    """Return parameters and an optimizer after three steps; None if it needs more than parameters and gradients."""
    params = parameters()
    with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
        optimizer = make(params)
        if callable(getattr(optimizer, "train", None)):
            optimizer.train()
        for step in range(3):
            take_step(optimizer, step)
        copy.deepcopy(optimizer.state_dict())
        return params, optimizer
    return None


def load(optimizer: optim.RuleOptimizer, saved: Any) -> str:
    """Return "refused", "loaded", or what is wrong with the refusal."""
    before = copy.deepcopy(optimizer.state_dict())
    try:
        optimizer.load_state_dict(copy.deepcopy(saved))
    except ThalwegError:
        return "refused" if str(optimizer.state_dict()) == str(before) else "refused, but changed"
    except Exception as error:
        return f"{type(error).__name__}: {error!s:.80}"
    return "loaded"


def difference(theirs: torch.optim.Optimizer, params: list[Tensor], ours: optim.RuleOptimizer) -> float:
    """Return how far both end apart after three more steps, over the change of the parameters."""
    start = [param.detach().clone() for param in params]
    own = [param for group in ours.param_groups for param in group["params"]]
    with torch.no_grad():
        for param, source in zip(own, start, strict=True):
            param.copy_(source)
    for step in range(3, 6):
        take_step(theirs, step)
        take_step(ours, step)
    apart = sum(float((first - second).detach().norm()) for first, second in zip(own, params, strict=True))
    return apart / max(
        1e-300, sum(float((first.detach() - second).norm()) for first, second in zip(params, start, strict=True))
    )


def try_libraries() -> dict[str, Any]:
    """Return what our rules do with the checkpoints of each library."""
    kinds = [optim.optimizer_for(rule) for rule in vars(rules).values() if is_rule(rule)]
    result: dict[str, Any] = {}
    for library in LIBRARIES:
        count: Counter[str] = Counter()
        loaded, problems = {}, []
        for name, make in optimizers_of(library):
            if (begun := begin(make)) is None:
                count["not begun"] += 1
                continue
            saved = copy.deepcopy(begun[1].state_dict())
            for kind in kinds:
                pair, ours = f"{name} by {kind.__name__}", kind(parameters(), backend="loop")
                outcome = load(ours, saved)
                count["tried"] += 1
                if outcome == "loaded":
                    params, theirs = begin(make) or begun
                    error = difference(theirs, params, ours)
                    loaded[pair] = error
                    if not error <= TOLERANCES.get(pair, TOLERANCE):
                        problems.append(f"{pair}: goes on {error:.1e} apart")
                elif outcome == "refused":
                    count["refused"] += 1
                else:
                    problems.append(f"{pair}: {outcome}")
        result[library] = {**count, "loaded": loaded, "problems": problems}
        print(library, dict(count), *loaded.items(), *problems, sep="\n    ")
    return result


def is_rule(value: Any) -> bool:
    """Return True for the rule of an optimizer, which is no wrapper and no composite."""
    return isinstance(value, type) and issubclass(value, rules.Rule) and hasattr(optim, value.__name__)


def main() -> None:
    """Try everything and write the record."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    record = {"mutations": try_mutations(), "libraries": try_libraries(), "machine": machine()}
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    results = [*record["mutations"].values(), *record["libraries"].values()]
    print(
        sum(result.get("tried", 0) for result in results),
        "tried,",
        sum(len(result["problems"]) for result in results),
        "wrong",
    )


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
