"""The proof of each rule: how near it comes to its reference, and which checks of the conformance kit it passes.

`python benchmarks/catalogue.py` writes `benchmarks/records/catalogue.json`; a few minutes. `table.py` makes
`docs/optimizers.md` of it.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for the cases, which the tests share

from tests import cases, wrapped  # noqa: E402
from tests.optim import test_lbfgs  # noqa: E402
from thalweg import optim, rules  # noqa: E402
from thalweg.engine.core.batch import ParameterBatch  # noqa: E402
from thalweg.engine.core.program import Program  # noqa: E402
from thalweg.engine.eager import batched, flat  # noqa: E402
from thalweg.engine.kernels import kernel, kernel_cache  # noqa: E402
from thalweg.testing import check_optimizer  # noqa: E402

RECORD = ROOT / "benchmarks" / "records" / "catalogue.json"


def ways(rule: rules.Rule, shape: tuple[int, ...]) -> list[str]:
    """How the rule can be run on a CPU."""
    program, param = Program(rule), torch.zeros(shape)
    state = program.init(param)
    batch = ParameterBatch(program, [param], {name: [getattr(state, name)] for name in state._fields})
    possible = {
        "loop": True,
        "flat": flat.why_not(batch) is None,
        "compiled": kernel.why_not(batch) is None and kernel_cache.started(batch).exception() is None,
        "batched": batched.why_not(batch, asked=True) is None,
        "population": rule.supports_vmap,
    }
    return [name for name, can in possible.items() if can]


def shown(rule: rules.Rule, shape: tuple[int, ...]) -> dict[str, Any]:
    """What is read off a rule."""
    explained = rules.explain(rule)
    return {
        "scope": explained.scope,
        "ways": ways(rule, shape),
        "state_bytes": explained.state_bytes,
        "semantics": explained.semantics,
        "departs": explained.departs,
    }


def source(theirs: Any) -> str:
    """What a reference is."""
    made = getattr(theirs, "func", theirs)
    module = made.__module__
    if module.startswith("tests.references"):
        return "transcription"
    if module == "tests.cases":
        return "schedulefree"
    return "torch.optim" if module.startswith("torch") else module.partition(".")[0]


def of_rule(case: cases.Case) -> dict[str, Any]:
    ours, theirs = (
        cases.change(kind, case.settings, torch.float64, shapes=case.shapes) for kind in (case.ours, case.theirs)
    )
    found = check_optimizer(partial(case.ours, **case.settings), shapes=case.shapes)
    outcomes = [one.outcome for one in found.findings]
    return {
        "name": case.ours.__name__,
        "reference": source(case.theirs),
        "error": cases.relative_error(ours, theirs),
        "checks": {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))},
        **shown(case.rule, case.shapes[0]),
    }


def of_lbfgs() -> dict[str, Any]:
    """L-BFGS asks a closure for gradients, so it has problems of its own, and the kit sees it with one iteration."""
    found = check_optimizer(test_lbfgs.one_iteration)
    outcomes = [one.outcome for one in found.findings]
    errors = []
    for problem, settings, steps in test_lbfgs.CASES:
        ours, theirs = (
            test_lbfgs.Training(kind, problem(), **settings).steps(steps)[-1]
            for kind in (optim.LBFGS, torch.optim.LBFGS)
        )
        errors.append(cases.relative_error(ours, theirs))
    return {
        "name": "LBFGS",
        "reference": "torch.optim",
        "error": max(errors),
        "checks": {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))},
        **shown(rules.LBFGS(), (5, 3)),
    }


def of_wrapper(case: wrapped.Case) -> dict[str, Any]:
    start = wrapped.vector(cases.parameters(torch.float64, case.shapes))
    ours, theirs = (
        found[: len(start)] for found in (wrapped.ends(case.rule, shapes=case.shapes), case.reference(case.rule))
    )
    return {
        "name": type(case.rule).__name__,
        "reference": f"around {case.rule.inner.name}",
        "error": cases.relative_error(ours - start, theirs - start),
        **shown(case.rule, case.shapes[0]),
    }


def main() -> None:
    entries = {}
    for case in cases.CASES:
        entry = of_rule(case)
        known = entries.get(entry["name"])
        # Of a rule with several cases the worst is shown.
        if known is None or entry["error"] > known["error"]:
            entries[entry["name"]] = entry
        print(entry["name"], entry["error"], entry["checks"], file=sys.stderr)
    entries["LBFGS"] = of_lbfgs()
    record = {
        "torch": torch.__version__,
        "rules": sorted(entries.values(), key=lambda one: one["name"].lower()),
        "wrappers": [of_wrapper(case) for case in wrapped.CASES],
    }
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
