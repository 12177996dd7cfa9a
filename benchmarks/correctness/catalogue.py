"""Measure how near each rule comes to its reference, and which checks of the conformance kit it passes.

`python benchmarks/correctness/catalogue.py` writes `benchmarks/records/catalogue.json`; a few minutes. With names of
optimizers (`python benchmarks/correctness/catalogue.py AdamW`) it measures these alone and keeps the rest of the
record. The registry says which optimizers and wrappers there are; an error names those that have no case in `tests/`.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cases import closure_problems
from cases import rules as rule_cases
from cases import wrappers as wrapper_cases
from thalweg import optim, rules
from thalweg.engine.backends import BatchRunner
from thalweg.engine.core.batch import ParameterBatch
from thalweg.engine.core.program import Program
from thalweg.engine.eager import batched, flat
from thalweg.registry import RULES, WRAPPERS
from thalweg.testing import check_optimizer
from thalweg.testing.conformance import CheckResult

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "benchmarks" / "records" / "catalogue.json"


def supported_backends(rule: rules.Rule, shape: tuple[int, ...]) -> list[str]:
    """Return the backends that can run a rule on a CPU."""
    program, param = Program(rule), torch.zeros(shape)
    state = program.init(param)
    batch = ParameterBatch(program, [param], {name: [getattr(state, name)] for name in state._fields})
    supported = {
        "loop": True,
        "flat": flat.unsupported_reason(batch) is None,
        "compiled": BatchRunner(batch).resolve(wait=True).backend == "compiled",
        "batched": batched.unsupported_reason(batch, requested=True) is None,
        "population": rule.traits.supports_vmap,
    }
    return [name for name, is_supported in supported.items() if is_supported]


def declared(rule: rules.Rule, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the facts that follow from the declarations of a rule."""
    explanation = rules.explain(rule)
    return {
        "scope": explanation.scope,
        "ways": supported_backends(rule, shape),
        "state_bytes": explanation.state_bytes,
        "semantics": explanation.semantics,
        "departs": explanation.departs,
    }


def source(reference: Any) -> str:
    """Return the origin of a reference: a library, or a transcription of the formula."""
    module = getattr(reference, "func", reference).__module__
    if module.startswith("cases.references"):
        return "transcription"
    if module == "cases.rules":
        return "schedulefree"
    return "torch.optim" if module.startswith("torch") else module.partition(".")[0]


def counts(checks: Sequence[CheckResult]) -> dict[str, int]:
    """Return the number of checks by outcome."""
    outcomes = Counter(str(result.outcome) for result in checks)
    return {outcome: outcomes[outcome] for outcome in sorted(outcomes)}


def entry_of_rule(case: rule_cases.Case) -> dict[str, Any]:
    """Measure a rule beside its reference, run the conformance kit on it and return the entry of the record."""
    ours, theirs = (
        rule_cases.parameter_change(kind, case.settings, torch.float64, shapes=case.shapes)
        for kind in (case.optimizer, case.reference)
    )
    conformance = check_optimizer(partial(case.optimizer, **case.settings), shapes=case.shapes)
    return {
        "name": case.optimizer.__name__,
        "reference": source(case.reference),
        "error": rule_cases.relative_error(ours, theirs),
        "checks": counts(conformance.checks),
        **declared(case.rule, case.shapes[0]),
    }


def entry_of_lbfgs() -> dict[str, Any]:
    """Return the entry of L-BFGS. It calls a closure, so it has problems of its own; the kit checks one iteration."""
    conformance = check_optimizer(closure_problems.one_iteration)
    errors = []
    for problem, settings, steps in closure_problems.CASES:
        ours, theirs = (
            closure_problems.Training(kind, problem(), **settings).steps(steps)[-1]
            for kind in (optim.LBFGS, torch.optim.LBFGS)
        )
        errors.append(rule_cases.relative_error(ours, theirs))
    return {
        "name": "LBFGS",
        "reference": "torch.optim",
        "error": max(errors),
        "checks": counts(conformance.checks),
        **declared(rules.LBFGS(), (5, 3)),
    }


def entry_of_wrapper(case: wrapper_cases.Case) -> dict[str, Any]:
    """Measure a wrapper beside its reference and return the entry of the record."""
    start = wrapper_cases.flatten(rule_cases.parameters(torch.float64, case.shapes))
    ours, theirs = (
        parameters[: len(start)]
        for parameters in (wrapper_cases.final_parameters(case.rule, shapes=case.shapes), case.reference(case.rule))
    )
    return {
        "name": type(case.rule).__name__,
        "reference": f"around {case.rule.inner.name}",
        "error": rule_cases.relative_error(ours - start, theirs - start),
        **declared(case.rule, case.shapes[0]),
    }


def without_case() -> list[str]:
    """Return the optimizers and wrappers of the registry that no case tests."""
    tested = {rules.LBFGS, *(type(case.rule) for case in rule_cases.CASES)}
    tested |= {type(case.rule) for case in wrapper_cases.CASES}
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
        if not selected(case.optimizer):
            continue
        entry = entry_of_rule(case)
        previous = entries.get(entry["name"])
        # A rule with several cases has the entry of its worst case.
        if previous is None or entry["error"] > previous["error"]:
            entries[entry["name"]] = entry
        print(entry["name"], entry["error"], entry["checks"], file=sys.stderr)
    if selected(optim.LBFGS):
        entries["LBFGS"] = entry_of_lbfgs()
    wrappers = [entry_of_wrapper(case) for case in wrapper_cases.CASES if selected(type(case.rule))]
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
