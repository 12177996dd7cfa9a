"""Captured steps: `capturable=True` takes the steps of the default, to the bit, without a number from the host."""

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR

from cases import rules as rule_cases
from cases import wrappers as wrapper_cases
from cases.recorded_graph import HostAccessError, RecordedGraph
from cases.wrappers import make_optimizer
from tests.optim.captured.twins import Shapes, assert_equal, parameters, set_gradients
from thalweg import optim, rules
from thalweg.errors import KeywordError
from thalweg.optim.captured.steps import check_rule


def can_be_captured(rule: rules.Rule) -> bool:
    try:
        check_rule(rule)
    except KeywordError:
        return False
    return rule.traits.needs == "gradient"


CASES: list[tuple[rules.Rule, Shapes]] = [
    *((case.rule, case.shapes) for case in rule_cases.CASES if can_be_captured(case.rule)),
    *((case.rule, case.shapes) for case in wrapper_cases.CASES if can_be_captured(case.rule)),
]
CASES += [(rules.AdamW(lr=0.01), ((5, 3), (7,), ()))]
each_case = pytest.mark.parametrize(("rule", "shapes"), CASES, ids=[f"{k}-{r.name}" for k, (r, _) in enumerate(CASES)])


@each_case
def test_a_replayed_step_follows_every_setting_and_equals_the_default(rule: rules.Rule, shapes: Shapes) -> None:
    """Each setting changes before each step, as far as its bound allows."""
    default, captured = (
        make_optimizer(rule, parameters(shapes), backend="loop"),
        make_optimizer(rule, parameters(shapes), capturable=True, backend="loop"),
    )
    all_params = [optimizer.param_groups[0]["params"] for optimizer in (default, captured)]
    graph = RecordedGraph()
    for step in range(1, 9):
        for params in all_params:
            set_gradients(params, step)
        for optimizer in (default, captured):
            group = optimizer.param_groups[0]
            group["lr"] = rule.settings()["lr"] * (1 + 0.1 * step)
            if "betas" in group and "lr" in rule.hypers():
                group["betas"] = (group["betas"][0] * 0.99, *group["betas"][1:])
        default.step()
        if step < 4:
            captured.step()
        elif step == 4:
            with graph:
                captured.step()
        else:
            graph.replay()
        assert_equal(default, captured)


SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda k: 0.95**k),
    "multiplicative": lambda o: lr_scheduler.MultiplicativeLR(o, lambda k: 0.97),
    "step": lambda o: lr_scheduler.StepLR(o, 7, 0.5),
    "multi step": lambda o: lr_scheduler.MultiStepLR(o, [5, 20], 0.3),
    "constant": lambda o: lr_scheduler.ConstantLR(o, 0.5, 9),
    "linear": lambda o: lr_scheduler.LinearLR(o, 0.2, total_iters=30),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.95),
    "polynomial": lambda o: lr_scheduler.PolynomialLR(o, 60, 2.0),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 40),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 6, 2),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.05, step_size_up=5, cycle_momentum=True),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.05, total_steps=60),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=5), lr_scheduler.ExponentialLR(o, 0.9)], [5]
    ),
    "chained": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.5, 4), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1, factor=0.5),
    "averaging": lambda o: SWALR(o, 0.01, anneal_epochs=9),
}


@pytest.mark.parametrize("as_tensor", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_of_torchs_works_in_a_replayed_step(name: str, as_tensor: bool) -> None:
    kinds: list[Any] = [(optim.AdamW, {"weight_decay": 0.1}), (optim.SGD, {"momentum": 0.9, "nesterov": True})]
    for kind, settings in kinds:
        optimizers = []
        for options in ({}, {"capturable": True}):
            lr = torch.tensor(0.02) if as_tensor else 0.02
            optimizers.append(kind(parameters([(4, 3), (5,)]), lr=lr, **settings, **options, backend="loop"))
        schedules = [SCHEDULES[name](optimizer) for optimizer in optimizers]
        default, captured = optimizers
        graph = RecordedGraph()
        for step in range(1, 51):
            for optimizer in optimizers:
                set_gradients(optimizer.param_groups[0]["params"], step)
            default.step()
            if step == 1:
                captured.step()
            elif step == 2:
                with graph:
                    captured.step()
            else:
                graph.replay()
            for schedule in schedules:
                schedule.step(*([1.0] if name == "plateau" else []))
            assert_equal(default, captured)


@pytest.mark.parametrize("clips", [False, True], ids=["plain", "clipped"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "rule",
    [
        rules.AdamW(lr=0.05),
        rules.Prodigy(),
        rules.LAMB(lr=0.05),
        rules.MovingAverage(rules.NAdam()),
        rules.Muon(lr=0.02),
    ],
    ids=lambda rule: rule.name,
)
def test_a_scaler_skips_the_same_steps_without_a_wait(rule: rules.Rule, dtype: torch.dtype, clips: bool) -> None:
    optimizers = [
        make_optimizer(rule, parameters([(4, 3), (5, 3)], dtype), backend="loop"),
        make_optimizer(rule, parameters([(4, 3), (5, 3)], dtype), capturable=True, backend="loop"),
    ]
    scalers = [torch.amp.GradScaler("cpu", init_scale=1000.0, growth_interval=3, growth_factor=1.5) for _ in optimizers]
    overflows = (1, 5, 6, 20)
    for step in range(1, 31):
        for optimizer, scaler in zip(optimizers, scalers, strict=True):
            params = optimizer.param_groups[0]["params"]
            set_gradients(params, step)
            factor = scaler.scale(torch.ones(()))
            for param in params:
                param.grad = (param.grad * factor).to(dtype)
            if step in overflows:
                params[1].grad[0, 0] = math.inf
            if clips:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(params, 0.5)
            before = [param.grad.clone() for param in params]
            if optimizer is optimizers[1]:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(scaler, "_maybe_opt_step", None)  # which reads `found_inf`
                    scaler.step(optimizer)
                assert all(torch.equal(a, b.grad) or step in overflows for a, b in zip(before, params, strict=True))
                assert not hasattr(optimizer, "found_inf")
            else:
                scaler.step(optimizer)
            scaler.update()
        if step > 1:
            assert_equal(*optimizers)
    (count,) = {int(record["step"]) for record in optimizers[1].state.values()}
    assert count == 30 - len(overflows)


def test_a_step_with_a_scaler_can_be_replayed() -> None:
    default, captured = optim.Adam(parameters([(4, 3)])), optim.Adam(parameters([(4, 3)]), capturable=True)
    set_gradients(captured.param_groups[0]["params"], 0)
    set_gradients(default.param_groups[0]["params"], 0)
    default.step()
    captured.step()
    captured.grad_scale, captured.found_inf = torch.tensor(8.0), torch.tensor(0.0)
    graph = RecordedGraph()
    with graph:
        captured.step()
    for found_inf in (0.0, 1.0, 0.0):
        set_gradients(captured.param_groups[0]["params"], 3)
        captured.found_inf.fill_(found_inf)
        captured.grad_scale.fill_(4.0)
        before = copy.deepcopy(captured.state_dict()["state"])
        graph.replay()
        after = captured.state_dict()["state"]
        for key, entry in after[0].items():
            assert torch.equal(entry, before[0][key]) == bool(found_inf), key
    assert captured.state[captured.param_groups[0]["params"][0]]["step"] == 4


def test_no_number_enters_or_leaves_and_the_check_would_see_it() -> None:
    optimizer = optim.Adam(parameters([(4, 3)]), lr=torch.tensor(0.1))
    set_gradients(optimizer.param_groups[0]["params"], 1)
    optimizer.step()
    with pytest.raises(HostAccessError), RecordedGraph():
        optimizer.step()
    with pytest.raises(HostAccessError), RecordedGraph():
        torch.tensor(1.0)


@pytest.mark.parametrize("rounding", ["nearest", "kahan", "stochastic"])
def test_half_precision_and_groups_and_late_parameters(rounding: str) -> None:
    optimizers = []
    for options in ({}, {"capturable": True}):
        params = parameters([(4, 3), (5,), (), (0, 3), (6,)], torch.bfloat16)
        split = [{"params": params[:2], "lr": 0.05}, {"params": params[2:], "betas": (0.5, 0.9)}]
        optimizers.append(optim.AdamW(split, lr=0.02, rounding=rounding, seed=3, **options))
    for step in range(1, 13):
        for optimizer in optimizers:
            params = [param for group in optimizer.param_groups for param in group["params"]]
            set_gradients(params, step)
            if step < 4 or step == 8:
                params[1].grad = None
            optimizer.step()
    one, other = optimizers
    for a, b in zip(one.state.values(), other.state.values(), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    "rule", [rules.Prodigy(d0=0.01), rules.DAdaptSGD(d0=0.01), rules.PolyakAverage(rules.SGD(momentum=0.9))], ids=str
)
def test_missed_steps_and_groups_of_rules_over_the_model(rule: rules.Rule) -> None:
    optimizers = []
    for options in ({}, {"capturable": True}):
        params = parameters([(4, 3), (5,), (6,)])
        split = [{"params": params[:2], "lr": 0.5}, {"params": params[2:], "lr": 0.25}]
        optimizers.append(make_optimizer(rule, split, **options, backend="loop"))
    for step in range(1, 10):
        for optimizer in optimizers:
            params = [param for group in optimizer.param_groups for param in group["params"]]
            set_gradients(params, step)
            if step in (1, 5, 6):
                params[step % 3].grad = None
            optimizer.param_groups[1]["lr"] = 0.25 * step
            optimizer.step()
        assert_equal(*optimizers)
    for optimizer in optimizers:
        optimizer.eval()
    assert_equal(*optimizers)


def test_checkpoints_load_both_ways_and_from_torch() -> None:
    def run(optimizer: torch.optim.Optimizer, first: int) -> None:
        for step in range(first, first + 6):
            set_gradients(optimizer.param_groups[0]["params"], step)
            optimizer.step()

    straight = optim.Adam(parameters([(4, 3)]), lr=0.05)
    run(straight, 1)
    run(straight, 7)
    for saves, loads in [({"capturable": True}, {}), ({}, {"capturable": True}), ({"capturable": True},) * 2]:
        first = optim.Adam(parameters([(4, 3)]), lr=0.05, **saves)
        run(first, 1)
        buffer = io.BytesIO()
        torch.save(first.state_dict(), buffer)
        buffer.seek(0)
        second = optim.Adam([first.param_groups[0]["params"][0]], lr=0.9, **loads)
        second.load_state_dict(torch.load(buffer, weights_only=True))
        assert second.param_groups[0]["lr"] == 0.05
        assert second.param_groups[0].get("capturable", False) == loads.get("capturable", False)
        run(second, 7)
        assert_equal(straight, second)
    theirs = torch.optim.Adam(parameters([(4, 3)]), lr=0.05)
    run(theirs, 1)
    saved = theirs.state_dict()
    saved["param_groups"][0]["capturable"] = True
    ours = optim.Adam(theirs.param_groups[0]["params"], lr=0.05, capturable=True)
    ours.load_state_dict(saved)
    run(ours, 7)
    assert torch.allclose(ours.param_groups[0]["params"][0], straight.param_groups[0]["params"][0], rtol=1e-5)
    torch.optim.Adam(parameters([(4, 3)]), lr=0.05).load_state_dict(ours.state_dict())
    assert copy.deepcopy(ours).param_groups[0]["lr"] == 0.05
