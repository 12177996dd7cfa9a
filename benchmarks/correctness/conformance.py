"""Run the conformance kit on released optimizers, ours among them.

`make rivals` installs the libraries; then `python benchmarks/correctness/conformance.py`.

Each optimizer is checked in its own process, at its defaults; a weight decay is switched on where there is one. The
record names the versions that were installed. Only a few of HeavyBall's optimizers are checked, without compilation:
the full set takes hours. `--only thalweg.optim` checks ours alone and keeps the results of the other libraries;
`--only thalweg.optim --names AdamW` checks one and keeps the rest. `--checks learns` runs one check on each optimizer
and keeps the results of the others.
"""

import argparse
import functools
import importlib
import inspect
import json
import subprocess
import sys
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RECORD = Path(__file__).parents[1] / "records" / "conformance.json"
TIMEOUT_S = 600
LIBRARIES = {
    "torch.optim": "torch",
    "pytorch_optimizer": "pytorch_optimizer",
    "schedulefree": "schedulefree",
    "heavyball": "heavyball",
    "prodigyopt": "prodigyopt",
    "optimi": "torch-optimi",
    "thalweg.optim": "thalweg",
}
SELECTED = {"heavyball": {"AdamW", "LaProp", "Muon", "PSGDPRO", "Scion", "SOAP"}}
# Rules for matrices get matrices only. An optimizer that refuses other shapes gets them too, without an entry here.
MATRICES_ONLY = {"Muon", "AdaMuon", "AdaGO", "Conda", "SpectralSphere"}
# The kit passes dense gradients; these need closures or sparse gradients (ours takes both), or are base classes.
NOT_CHECKED = {"LBFGS", "SparseAdam", "Optimizer", "RuleOptimizer"}
MATRIX_SHAPES = ((5, 3), (4, 6))
MIXED_SHAPES = ((5, 3), (4, 3, 3, 3), (7,))


def optimizer_classes(library: str) -> dict[str, type]:
    """Return the optimizers of a library that can be made from parameters alone, by name."""
    module = importlib.import_module(library)
    matches = {}
    for name, kind in inspect.getmembers(module, inspect.isclass):
        reexported = kind.__module__.startswith("torch.") and library != "torch.optim"
        if name not in SELECTED.get(library, {name}):
            continue
        if (
            (name in NOT_CHECKED and f"{library}.{name}" != "thalweg.optim.SparseAdam")
            or reexported
            or name.endswith("Closure")
            or name != kind.__name__
        ):
            continue
        if not issubclass(kind, torch.optim.Optimizer) and "ScheduleFree" not in name:
            continue
        if accepted_shapes(kind) is not None:
            matches[name] = kind
    return matches


def accepted_shapes(kind: type) -> tuple[tuple[int, ...], ...] | None:
    """Return the shapes of parameters to check an optimizer on; None if it cannot be made from parameters alone."""
    candidates = [MATRIX_SHAPES] if kind.__name__ in MATRICES_ONLY else [MIXED_SHAPES, MATRIX_SHAPES]
    for shapes in candidates:
        try:
            factory(kind)([torch.zeros(shape, requires_grad=True) for shape in shapes])
        except Exception:  # a library may raise anything
            continue
        return shapes
    return None


def factory(kind: type) -> Any:
    """Return a function from parameters to an optimizer, with the required learning rate and a weight decay set."""
    if kind.__name__.startswith("ScheduleFreeWrapper"):
        return functools.partial(wrapped_adam, kind)
    keywords = inspect.signature(kind).parameters
    settings: dict[str, Any] = {}
    if "lr" in keywords and (keywords["lr"].default in (None, inspect.Parameter.empty)):
        settings["lr"] = 1e-3
    if "weight_decay" in keywords and not keywords["weight_decay"].default:
        settings["weight_decay"] = 1e-2
    return functools.partial(kind, **settings)


def wrapped_adam(wrapper: Any, params: Any) -> Any:
    """Put a wrapper of schedulefree around Adam."""
    return wrapper(torch.optim.Adam(params, lr=1e-3))


def check(library: str, name: str, checks: list[str] | None) -> list[dict[str, Any]]:
    """Check one optimizer in this process and return its findings, from all checks or from some."""
    from thalweg.testing import check_optimizer

    if library == "heavyball":
        utils: Any = importlib.import_module("heavyball.utils")
        utils.compile_mode = None
    kind = getattr(importlib.import_module(library), name)
    if library == "thalweg.optim":
        from cases.curvature import SELF_ESTIMATING

        kind = SELF_ESTIMATING.get(kind, kind)
    shapes = accepted_shapes(kind)
    assert shapes is not None, f"{library}.{name} cannot be made from parameters alone"
    return [asdict(result) for result in check_optimizer(factory(kind), shapes=shapes, only=checks).checks]


def check_in_process(library: str, checks: list[str] | None, name: str) -> list[dict[str, Any]] | str:
    """Check one optimizer in a process of its own; return its findings, or the reason why there are none."""
    command = [sys.executable, "-W", "ignore", __file__, "--one", library, name]
    if checks:
        command += ["--checks", *checks]
    try:
        completed = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer in {TIMEOUT_S} s"
    if completed.returncode != 0:
        return (completed.stderr.strip().splitlines() or ["killed"])[-1][:200]
    return json.loads(completed.stdout.splitlines()[-1])


def merge(
    earlier: list[dict[str, Any]] | str | None, findings: list[dict[str, Any]] | str, checks: list[str]
) -> list[dict[str, Any]] | str:
    """Return the findings of all checks, the new ones in place of earlier ones, in the order of the kit."""
    from thalweg.testing import CHECKS

    if not isinstance(earlier, list):
        return findings
    if isinstance(findings, str):  # the reason why there are none
        failure = {"outcome": "failed", "detail": findings, "number": None}
        findings = [{"check": name, **failure} for name in checks]
    merged = {finding["check"]: finding for finding in (*earlier, *findings)}
    return [merged[name] for name in CHECKS if name in merged]


def main() -> None:
    """Check the libraries that the command line names, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--one", nargs=2, metavar=("LIBRARY", "NAME"), help="check one optimizer and print its findings"
    )
    parser.add_argument("--only", nargs="+", default=list(LIBRARIES), choices=LIBRARIES, metavar="LIBRARY")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="check these optimizers and keep other results")
    parser.add_argument("--checks", nargs="+", metavar="CHECK", help="run these checks and keep the results of others")
    parser.add_argument("--jobs", type=int, default=2, help="optimizers that are checked at the same time")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if arguments.one:
        print(json.dumps(check(*arguments.one, arguments.checks)))
        return
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {"libraries": {}}
    record["torch"] = torch.__version__
    for library in arguments.only:
        classes = optimizer_classes(library)
        names = sorted(set(arguments.names or classes) & set(classes))
        with ThreadPoolExecutor(arguments.jobs) as pool:
            check_one = functools.partial(check_in_process, library, arguments.checks)
            results = dict(zip(names, pool.map(check_one, names), strict=True))
        earlier = record["libraries"].get(library, {}).get("optimizers", {})
        if arguments.checks:
            results = {name: merge(earlier.get(name), result, arguments.checks) for name, result in results.items()}
        remaining = {name: findings for name, findings in earlier.items() if name in classes and arguments.names}
        record["libraries"][library] = {"version": version(LIBRARIES[library]), "optimizers": remaining | results}
        RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        findings = [finding for result in results.values() if isinstance(result, list) for finding in result]
        failures = Counter(finding["check"] for finding in findings if finding["outcome"] == "failed")
        print(f"{library}: {len(results)} optimizers checked", *failures.most_common(), sep="\n  ", flush=True)


if __name__ == "__main__":
    main()
