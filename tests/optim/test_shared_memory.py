"""State in shared memory: processes that train one model count the same steps and move the same moments."""

from typing import Any

import pytest
import torch
import torch.multiprocessing as mp

from cases.rules import Case
from tests.optim.process_training import take_steps
from tests.optim.training import each_case, fresh
from thalweg import optim


def begun(kind: Any) -> tuple[list[torch.Tensor], torch.optim.Optimizer]:
    params = [torch.linspace(0, 1, size).requires_grad_() for size in (3, 5)]
    return params, kind(params, lr=0.05)


def in_a_process(context: str, params: list[torch.Tensor], optimizer: torch.optim.Optimizer) -> None:
    process = mp.get_context(context).Process(target=take_steps, args=(params, optimizer, 3))
    process.start()
    process.join(300)
    assert process.exitcode == 0


@pytest.mark.parametrize("shares", ["method", "entries"])
@pytest.mark.parametrize("kind", [optim.Adam, optim.NAdam, optim.ScheduleFreeSGD], ids=lambda kind: kind.__name__)
def test_a_forked_process_steps_with_the_state_of_its_parent(kind: type[optim.RuleOptimizer], shares: str) -> None:
    params, optimizer = begun(kind)
    twin_params, twin = begun(kind)
    if shares == "method":
        optimizer.share_memory()
    else:
        for running, tensors in ((optimizer, params), (twin, twin_params)):
            take_steps(tensors, running, 1)
        for record in optimizer.state.values():
            for entry in record.values():
                entry.share_memory_()
    for param in params:
        param.share_memory_()
    for _ in range(2):
        in_a_process("fork", params, optimizer)
    take_steps(params, optimizer, 2)
    take_steps(twin_params, twin, 8)
    for param, expected in zip(params, twin_params, strict=True):
        assert torch.equal(param, expected)
        assert optimizer.state[param].keys() == twin.state[expected].keys()
        for key, entry in twin.state[expected].items():
            assert torch.equal(optimizer.state[param][key], entry), key
            assert optimizer.state[param][key].is_shared(), key


def test_a_spawned_process_steps_with_the_state_of_its_parent() -> None:
    params, optimizer = begun(optim.Adam)
    twin_params, twin = begun(optim.Adam)
    optimizer.share_memory()
    for param in params:
        param.share_memory_()
    in_a_process("spawn", params, optimizer)
    assert [int(optimizer.state[param]["step"]) for param in params] == [3, 3]
    take_steps(params, optimizer, 1)
    take_steps(twin_params, twin, 4)
    assert all(map(torch.equal, params, twin_params))


def test_entries_that_a_subclass_shares_are_the_state() -> None:
    class SharedAdam(optim.Adam):  # as users of A3C write it
        def __init__(self, params: Any, **settings: Any) -> None:
            super().__init__(params, **settings)
            for group in self.param_groups:
                for param in group["params"]:
                    self.state[param] = {
                        "step": torch.zeros(1).share_memory_(),
                        "exp_avg": torch.zeros_like(param).detach().share_memory_(),
                        "exp_avg_sq": torch.zeros_like(param).detach().share_memory_(),
                    }

    params, optimizer = begun(SharedAdam)
    entries = {param: dict(record) for param, record in optimizer.state.items()}
    take_steps(params, optimizer, 2)
    for param, record in entries.items():
        assert int(record["step"]) == 2
        for key, entry in record.items():
            assert optimizer.state[param][key] is entry
            assert bool(entry.any())


@each_case
def test_the_state_of_every_rule_can_be_shared_before_its_first_step(case: Case) -> None:
    if case.rule.traits.needs in ("curvature", "closure"):
        pytest.skip("its state starts with an estimate or a closure")
    params, alone = fresh(shapes=case.shapes), fresh(shapes=case.shapes)
    shared, private = (case.optimizer(tensors, **case.settings, backend="loop") for tensors in (params, alone))
    shared.share_memory()
    assert all(entry.is_shared() for record in shared.state.values() for entry in record.values())
    for optimizer, tensors in ((shared, params), (private, alone)):
        take_steps(tensors, optimizer, 3)
    assert all(map(torch.equal, params, alone))


def test_adagrad_has_state_before_its_first_step_as_torchs() -> None:
    params = fresh()
    theirs = torch.optim.Adagrad(params, initial_accumulator_value=0.25)
    ours = optim.Adagrad(params, initial_accumulator_value=0.25)
    for param in params:
        assert ours.state[param].keys() == theirs.state[param].keys()
        for key, entry in theirs.state[param].items():
            assert torch.equal(ours.state[param][key], entry)
    added = torch.ones(3, requires_grad=True)
    ours.add_param_group({"params": [added], "initial_accumulator_value": 0.5})
    assert torch.equal(ours.state[added]["sum"], torch.full((3,), 0.5))
    optim.Adagrad([torch.ones(2, device="meta"), torch.nn.UninitializedParameter()])  # they have no values yet


def test_a_frozen_parameter_that_only_stores_numbers_has_no_state() -> None:
    stored = torch.nn.Parameter(torch.zeros(3).to(torch.float8_e4m3fn), requires_grad=False)
    for kind in (optim.Adam, optim.Adagrad):
        param = torch.ones(3, requires_grad=True)
        optimizer = kind([param, stored])
        optimizer.share_memory()
        assert stored not in optimizer.state
        assert param in optimizer.state
