"""Our optimizers pass the conformance kit."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from cases.rules import CASES, Case
from thalweg import optim
from thalweg.testing import CHECKS, OptimizerFactory, check_optimizer

# Batches of matrices round differently from the loop, so the kit runs on them separately.
BATCHED = [case for case in CASES if case.rule.traits.scope == "matrix" and case.rule.traits.supports_vmap]


@pytest.mark.parametrize(
    ("case", "backend"), [*((case, None) for case in CASES), *((case, "batched") for case in BATCHED)], ids=str
)
def test_every_optimizer_of_ours_passes_the_whole_kit(case: Case, backend: str | None) -> None:
    def factory(backend: str | None) -> OptimizerFactory:
        return partial(case.optimizer, **case.settings, backend=backend)

    backends = [backend or "loop"]
    if case.rule.traits.scope == "tensor" and case.rule.traits.supports_vmap:
        backends += ["batched"]
    if case.rule.traits.scope == "elementwise":
        backends += ["flat", "compiled"] if case.has_kernel else ["flat"]
    result = check_optimizer(
        factory(backend),
        reference=lambda params: case.reference(params, **case.settings),
        tolerance=max(1e-12, case.reference_error),
        variants={backend: factory(backend) for backend in backends},
        shapes=case.shapes,
    )
    # The learning rate of Rprop is the size of its first step only, as in torch.optim.
    exempt = {"obeys_schedulers"} if case.optimizer is optim.Rprop else set()
    if not case.rule.traits.supports_complex:
        assert result["takes_complex_parameters"].outcome == "refused"
        exempt.add("takes_complex_parameters")
    if case.rule.traits.scope == "model":  # a first step depends on all parameters of the model
        exempt.add("gives_a_late_parameter_a_first_step")
    if case.rule.traits.min_dims:
        assert result["takes_single_numbers"].outcome == "refused"
        exempt.add("takes_single_numbers")
    if case.rule.traits.scope == "matrix":
        assert result["steps_alike_when_sharded"].outcome == "refused"
        exempt.add("steps_alike_when_sharded")
    assert [check for check in result.checks if check.outcome != "passed" and check.check not in exempt] == []
    assert len(result.checks) == len(CHECKS) >= 18
    assert result["waits_for_no_parameter"].number == 0
    assert result["dispatches_a_parameter"].number == 0 or "compiled" not in backends


def _is_one(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 0 and bool(value == 1)


def test_lamb_without_its_guard_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    check = "moves_parameters_that_start_at_zero"
    lamb = partial(optim.LAMB, lr=0.01, weight_decay=0.1, backend="loop")
    assert check_optimizer(lamb, only=[check])[check].outcome == "passed"
    # The guard is `torch.where(norms > 0, ratio, 1)`; without it the ratio itself remains.
    where = torch.where
    monkeypatch.setattr(
        torch,
        "where",
        lambda condition, ratio, other: ratio if _is_one(other) else where(condition, ratio, other),
    )
    assert check_optimizer(lamb, only=[check])[check].outcome == "failed"


def test_an_optimizer_that_needs_closures_gets_them() -> None:
    def needs_a_closure(params: Any) -> torch.optim.Optimizer:
        return optim.optimizer_for("sam(sgd)")(params, lr=0.05)

    result = check_optimizer(needs_a_closure)
    assert [str(check) for check in result.failures] == []
    assert result["accumulates_in_closures"].outcome == "passed"
