"""What the conformance kit finds in released libraries: `make rivals`, then `python benchmarks/conformance.py`.

Each optimizer is checked in a process of its own, at its defaults but for a weight decay where it takes one. The
record says which of their versions were installed. Of HeavyBall a few are checked, with its compilation off: the
whole of it takes hours.
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

RECORD = Path(__file__).parent / "records" / "conformance.json"
PATIENCE_S = 600
LIBRARIES = {
    "torch.optim": "torch",
    "pytorch_optimizer": "pytorch_optimizer",
    "schedulefree": "schedulefree",
    "heavyball": "heavyball",
    "prodigyopt": "prodigyopt",
    "optimi": "torch-optimi",
    "thalweg.optim": "thalweg",
}
A_FEW = {"heavyball": {"AdamW", "LaProp", "Muon", "PSGDPRO", "Scion", "SOAP"}}
# Rules for matrices get matrices.
ONLY_MATRICES = {"Muon", "AdaMuon", "AdaGO", "Conda", "SpectralSphere"}
# The kit gives gradients, and neither closures nor models.
NOT_ASKED = {"LBFGS", "SparseAdam", "Optimizer", "RuleOptimizer"}


def classes(library: str) -> dict[str, type]:
    """The optimizers of a library that can be made from parameters alone, by name."""
    module = importlib.import_module(library)
    found = {}
    for name, one in inspect.getmembers(module, inspect.isclass):
        foreign = one.__module__.startswith("torch.") and library != "torch.optim"
        if name not in A_FEW.get(library, {name}):
            continue
        if name in NOT_ASKED or foreign or name.endswith("Closure") or name != one.__name__:
            continue
        if not issubclass(one, torch.optim.Optimizer) and "ScheduleFree" not in name:
            continue
        try:
            settings_of(one)(matrices_or_not(name))
        except Exception:
            continue
        found[name] = one
    return found


def matrices_or_not(name: str) -> list[torch.Tensor]:
    """Parameters to try an optimizer on."""
    shapes = ((5, 3), (4, 6)) if name in ONLY_MATRICES else ((5, 3), (4, 3, 3, 3), (7,))
    return [torch.zeros(shape, requires_grad=True) for shape in shapes]


def settings_of(one: type) -> Any:
    """The class with a learning rate and a weight decay where it takes them; what makes an optimizer of parameters."""
    if one.__name__.startswith("ScheduleFreeWrapper"):
        return functools.partial(wrapped, one)
    takes = inspect.signature(one).parameters
    given: dict[str, Any] = {}
    if "lr" in takes and (takes["lr"].default in (None, inspect.Parameter.empty)):
        given["lr"] = 1e-3
    if "weight_decay" in takes and not takes["weight_decay"].default:
        given["weight_decay"] = 1e-2
    return functools.partial(one, **given)


def wrapped(wrapper: Any, params: Any) -> Any:
    """The wrapper of schedulefree around Adam."""
    return wrapper(torch.optim.Adam(params, lr=1e-3))


def check_one(library: str, name: str) -> list[dict[str, Any]]:
    """All findings on one optimizer, in this process."""
    from thalweg.testing import check_optimizer

    if library == "heavyball":
        importlib.import_module("heavyball.utils").compile_mode = None
    one = getattr(importlib.import_module(library), name)
    shapes = [tuple(param.shape) for param in matrices_or_not(name)]
    return [asdict(finding) for finding in check_optimizer(settings_of(one), shapes=shapes).findings]


def in_a_process(library: str, name: str) -> list[dict[str, Any]] | str:
    """All findings on one optimizer, or why there are none."""
    command = [sys.executable, "-W", "ignore", __file__, "--one", library, name]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer in {PATIENCE_S} s"
    if ended.returncode != 0:
        return (ended.stderr.strip().splitlines() or ["killed"])[-1][:200]
    return json.loads(ended.stdout.splitlines()[-1])


def main() -> None:
    """Check everything that is asked for, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--one", nargs=2, metavar=("LIBRARY", "NAME"), help="check one optimizer and print its findings"
    )
    parser.add_argument("--only", nargs="+", default=list(LIBRARIES), choices=LIBRARIES, metavar="LIBRARY")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if asked.one:
        print(json.dumps(check_one(*asked.one)))
        return
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {"libraries": {}}
    record["torch"] = torch.__version__
    for library in asked.only:
        names = sorted(classes(library))
        with ThreadPoolExecutor(2) as pool:
            found = dict(zip(names, pool.map(functools.partial(in_a_process, library), names), strict=True))
        record["libraries"][library] = {"version": version(LIBRARIES[library]), "optimizers": found}
        RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        listed = [finding for one in found.values() if isinstance(one, list) for finding in one]
        failures = Counter(finding["check"] for finding in listed if finding["outcome"] == "failed")
        print(f"{library}: {len(found)} optimizers", *failures.most_common(), sep="\n  ", flush=True)


if __name__ == "__main__":
    main()
