"""Kernels in captured steps, on a stub of a CUDA device."""

from typing import Any

import pytest
import torch

from cases import cuda_stub
from cases.wrappers import make_optimizer
from tests.optim.captured.twins import assert_equal, parameters, set_gradients
from thalweg import rules


@pytest.mark.parametrize(
    "rule", [rules.AdamW(lr=0.05), rules.LAMB(lr=0.05), rules.Prodigy()], ids=lambda rule: rule.name
)
def test_kernels_read_the_rows_the_scale_and_the_overflow_on_the_device(rule: rules.Rule) -> None:
    default = make_optimizer(rule, parameters([(40, 3), (5,), (300,)]), backend="loop")
    with cuda_stub.installed():
        captured = make_optimizer(rule, parameters([(40, 3), (5,), (300,)]), capturable=True, backend="compiled")
        for step in range(1, 7):
            for optimizer in (default, captured):
                set_gradients(optimizer.param_groups[0]["params"], step)
                optimizer.param_groups[0]["lr"] = 0.1 / step
            for param in captured.param_groups[0]["params"]:
                param.grad *= 4
            captured.grad_scale, captured.found_inf = torch.tensor(4.0), torch.tensor(float(step == 3))
            if step != 3:
                default.step()
            captured.step()
            assert_equal(default, captured)
        assert {param.choice.backend for param in captured.plan.parameters} == {"compiled"}


@pytest.mark.parametrize(
    "rule",
    [rules.NAdam(), rules.ScheduleFreeAdamW(lr=0.05), rules.PolyakAverage(rules.WarmRestarts(rules.Adam(), period=3))],
    ids=lambda rule: rule.name,
)
def test_the_scalar_kernel_takes_part_in_steps_of_every_rounding(rule: rules.Rule) -> None:
    """One launch computes the rows and one counts; no number is uploaded."""
    for rounding in ("nearest", "stochastic"):
        shapes, dtype = [(40, 3), (5,), (300,)], torch.bfloat16
        default = make_optimizer(rule, parameters(shapes, dtype), backend="loop", rounding=rounding, seed=7)
        with cuda_stub.installed() as stub:
            options: dict[str, Any] = {"rounding": rounding, "seed": 7, "capturable": True, "backend": "compiled"}
            captured = make_optimizer(rule, parameters(shapes, dtype), **options)
            for step in range(1, 9):
                for optimizer in (default, captured):
                    set_gradients(optimizer.param_groups[0]["params"], step)
                    optimizer.param_groups[0]["lr"] = 0.1 / step
                before = stub.num_launches, stub.num_uploads
                captured.found_inf = torch.tensor(float(step == 4))
                if step != 4:
                    default.step()
                captured.step()
                assert_equal(default, captured)
                if step > 1:  # at the first step kernels are tried
                    assert (stub.num_launches - before[0], stub.num_uploads - before[1]) == (3, 0)
