"""Measure how near each rule comes to its reference, and which checks of the conformance kit it passes.

`python benchmarks/catalogue.py` writes `benchmarks/records/catalogue.json`; a few minutes. With names of optimizers
(`python benchmarks/catalogue.py AdamW`) it measures these alone and keeps the rest of the record. The registry says
which optimizers and wrappers there are; an error names those that have no case in `tests/`.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cases import rules as rule_cases
from cases import wrappers as wrapper_cases
from tests.optim import test_lbfgs
from thalweg import optim, rules
from thalweg.engine.core.batch import ParameterBatch
from thalweg.engine.core.program import Program
from thalweg.engine.eager import batched, flat
from thalweg.engine.kernels import kernel, kernel_cache
from thalweg.registry import RULES, WRAPPERS
from thalweg.testing import check_optimizer

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "benchmarks" / "records" / "catalogue.json"


def ways(rule: rules.Rule, shape: tuple[int, ...]) -> list[str]:
    """How the rule can be run on a CPU."""
    program, param = Program(rule), torch.zeros(shape)
    state = program.init(param)
    batch = ParameterBatch(program, [param], {name: [getattr(state, name)] for name in state._fields})
    possible = {
        "loop": True,
        "flat": flat.unsupported_reason(batch) is None,
        "compiled": kernel.unsupported_reason(batch) is None
        and kernel_cache.compile_in_background(batch).exception() is None,
        "batched": batched.unsupported_reason(batch, requested=True) is None,
        "population": rule.traits.supports_vmap,
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
    if module.startswith("cases.references"):
        return "transcription"
    if module == "cases.rules":
        return "schedulefree"
    return "torch.optim" if module.startswith("torch") else module.partition(".")[0]


def of_rule(case: rule_cases.Case) -> dict[str, Any]:
    ours, theirs = (
        rule_cases.change(kind, case.settings, torch.float64, shapes=case.shapes) for kind in (case.ours, case.theirs)
    )
    found = check_optimizer(partial(case.ours, **case.settings), shapes=case.shapes)
    outcomes = [one.outcome for one in found.findings]
    return {
        "name": case.ours.__name__,
        "reference": source(case.theirs),
        "error": rule_cases.relative_error(ours, theirs),
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
        errors.append(rule_cases.relative_error(ours, theirs))
    return {
        "name": "LBFGS",
        "reference": "torch.optim",
        "error": max(errors),
        "checks": {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))},
        **shown(rules.LBFGS(), (5, 3)),
    }


def of_wrapper(case: wrapper_cases.Case) -> dict[str, Any]:
    start = wrapper_cases.vector(rule_cases.parameters(torch.float64, case.shapes))
    ours, theirs = (
        found[: len(start)] for found in (wrapper_cases.ends(case.rule, shapes=case.shapes), case.reference(case.rule))
    )
    return {
        "name": type(case.rule).__name__,
        "reference": f"around {case.rule.inner.name}",
        "error": rule_cases.relative_error(ours - start, theirs - start),
        **shown(case.rule, case.shapes[0]),
    }


def without_case() -> list[str]:
    """Return the optimizers and wrappers of the registry that no case tests."""
    tested = {type(case.rule) for case in [*rule_cases.CASES, *wrapper_cases.CASES]} | {rules.LBFGS}
    return sorted(kind.__name__ for kind in {*RULES.values(), *WRAPPERS.values()} - tested)


def main() -> None:
    """Measure the optimizers that the command line names, or all, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a class of thalweg.optim or a wrapper [default: all]")
    names = parser.parse_args().names
    if missing := without_case():
        sys.exit(
            f"catalogue: {', '.join(missing)}: no case. Add one to cases/rules.py, of a wrapper to cases/wrappers.py."
        )
    earlier = json.loads(RECORD.read_text()) if names else {"rules": [], "wrappers": []}

    def selected(kind: type) -> bool:
        return not names or kind.__name__ in names

    entries: dict[str, dict[str, Any]] = {}
    for case in rule_cases.CASES:
        if not selected(case.ours):
            continue
        entry = of_rule(case)
        known = entries.get(entry["name"])
        # Of a rule with several cases the worst is shown.
        if known is None or entry["error"] > known["error"]:
            entries[entry["name"]] = entry
        print(entry["name"], entry["error"], entry["checks"], file=sys.stderr)
    if selected(optim.LBFGS):
        entries["LBFGS"] = of_lbfgs()
    wrappers = [of_wrapper(case) for case in wrapper_cases.CASES if selected(type(case.rule))]
    measured = {entry["name"] for entry in wrappers}
    entries = {entry["name"]: entry for entry in earlier["rules"]} | entries
    wrappers += [entry for entry in earlier["wrappers"] if entry["name"] not in measured]
    record = {
        "torch": torch.__version__,
        "rules": sorted(entries.values(), key=lambda entry: entry["name"].lower()),
        "wrappers": sorted(wrappers, key=lambda entry: entry["name"].lower()),
    }
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
