"""Routing: the plan, and the optimizer that it creates."""

import copy
import io
import pickle
import re

import pytest
import torch
from torch import Tensor, nn

from tests.optim.routing.models import TOKENS, Gpt, gpt, train
from thalweg import optim, rules
from thalweg.errors import KeywordError, ParameterError, ParameterTypeError, RoutingError, SettingError
from thalweg.optim.routing import route
from thalweg.registry import WRAPPERS


def apart(model: Gpt, lr: float) -> None:
    """Take four steps with separate optimizers, with Q, K and V as separate parameters."""
    named = dict(model.named_parameters())
    fused = [param for name, param in named.items() if "qkv.weight" in name]
    whole = [param for name, param in named.items() if "proj.weight" in name]
    pieces = [nn.Parameter(rows.detach().clone()) for param in fused for rows in param.chunk(3)]
    others = {name: param for name, param in named.items() if all(param is not matrix for matrix in (*fused, *whole))}
    decayed = [param for name, param in others.items() if name in ("wte.weight", "pos")]
    rest = [param for name, param in others.items() if name not in ("wte.weight", "pos")]
    adamw = torch.optim.AdamW(
        [{"params": decayed}, {"params": rest, "weight_decay": 0.0}], lr=lr, betas=(0.8, 0.95), weight_decay=0.05
    )
    muon = optim.Muon(whole + pieces, lr=lr, weight_decay=0.05, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        model.zero_grad()
        model(TOKENS).square().mean().backward()
        for piece, rows in zip(pieces, (rows for param in fused for rows in param.grad.chunk(3)), strict=True):
            piece.grad = rows.clone()
        adamw.step()
        muon.step()
        with torch.no_grad():
            for k, param in enumerate(fused):
                param.copy_(torch.cat(pieces[3 * k : 3 * k + 3]))


def difference(first: nn.Module, second: nn.Module) -> float:
    return max(
        float((a - b).detach().abs().max()) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


def test_a_routed_optimizer_does_what_two_side_by_side_do() -> None:
    ours, theirs = gpt().double(), gpt().double()
    plan = route(ours, lr=0.01, weight_decay=0.05, momentum=0.9, adamw_betas=(0.8, 0.95))
    train(ours, plan.optimizer())
    apart(theirs, 0.01)
    assert difference(ours, theirs) < 1e-8  # tiny gradients over their own size make much of rounding
    assert difference(ours, gpt().double()) > 1e-3


def test_factors_of_roles_and_rules_are_in_the_groups() -> None:
    plan = route(
        gpt(),
        lr=0.01,
        weight_decay=0.1,
        lr_scale={"tied head": 20, "adamw": 0.5},
        decay_scale={"tied head": 0, "bias": 1},
    )
    groups = {name: group for group in plan.optimizer().param_groups for name in group["param_names"]}
    assert groups["wte.weight"]["lr"] == pytest.approx(0.1)
    assert groups["wte.weight"]["weight_decay"] == 0
    assert groups["ln_f.weight"]["lr"] == 0.005
    assert groups["ln_f.weight"]["weight_decay"] == 0
    assert groups["blocks.0.proj.bias"]["weight_decay"] == 0.1
    assert groups["blocks.0.proj.weight"]["lr"] == 0.01
    assert groups["blocks.0.proj.weight"]["rule"] == "muon"


def test_one_state_dict_holds_it_all() -> None:
    whole, halved = gpt(), gpt()
    uninterrupted, interrupted = route(whole, lr=0.01).optimizer(), route(halved, lr=0.01).optimizer()
    train(whole, uninterrupted, 6)
    train(halved, interrupted, 3)
    file = io.BytesIO()
    torch.save(interrupted.state_dict(), file)
    file.seek(0)
    resumed = route(halved, lr=0.5).optimizer()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    train(halved, resumed, 3)
    assert difference(whole, halved) == 0
    assert (
        type(pickle.loads(pickle.dumps(resumed)))
        is type(copy.deepcopy(resumed))
        is type(resumed)
        is type(uninterrupted)
    )
    with pytest.raises(ParameterError, match="the checkpoint must be one of Muon"):
        resumed.load_state_dict(
            torch.optim.AdamW(gpt().parameters()).state_dict() | {"param_groups": groups_of_another_kind(resumed)}
        )


def groups_of_another_kind(optimizer: torch.optim.Optimizer) -> list[dict[str, object]]:
    """Return groups as an optimizer of another kind saves them."""
    return [{"params": group["params"], "lr": 0.1} for group in optimizer.state_dict()["param_groups"]]


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10),
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10),
        lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0),
        lambda optimizer: torch.optim.lr_scheduler.CyclicLR(optimizer, 1e-3, 0.1),
        lambda optimizer: torch.optim.lr_scheduler.SequentialLR(
            optimizer,
            [
                torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2),
                torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9),
            ],
            [2],
        ),
    ],
)
def test_schedules_act_on_every_group(scheduler) -> None:
    model = gpt()
    optimizer = route(model, lr=0.01).optimizer()
    schedule = scheduler(optimizer)
    seen = []
    for _ in range(4):
        train(model, optimizer, 1)
        schedule.step(*([1.0] if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau) else []))
        seen.append([group["lr"] for group in optimizer.param_groups])
    assert all(len(set(lrs)) == 1 for lrs in seen)
    assert len({lrs[0] for lrs in seen}) > 1


def test_what_is_around_the_whole_sees_the_whole() -> None:
    ours, theirs = gpt().double(), gpt().double()
    route(ours, "clip(muon+adamw)", lr=0.01, max_norm=1e-3).optimizer().step(lambda: loss_of(ours))
    loss_of(theirs)
    torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1e-3)
    route(theirs, "muon+adamw", lr=0.01).optimizer().step()
    assert difference(ours, theirs) < 1e-12


# Those that take a closure, that are put around matrices already, or that are not for Muon as it is.
NOT_BY_NAME = ("sam", "asam", "split", "galore", "mars", *(name for name in WRAPPERS if name.endswith("_decay")))


@pytest.mark.parametrize("wrapper", [name for name in WRAPPERS if name not in NOT_BY_NAME])
def test_wrappers_with_a_memory_go_around_parameters_that_are_split(wrapper: str) -> None:
    for spec in (f"{wrapper}(muon+adamw)", f"{wrapper}(muon)+adamw"):
        model = gpt()
        optimizer = route(model, spec, lr=0.01).optimizer()
        train(model, optimizer, 3)
        with optimizer.evaluating():
            assert all(param.isfinite().all() for param in model.parameters())
        assert difference(model, gpt()) > 0


def test_blocks_are_clipped_by_the_norm_of_all() -> None:
    model = gpt().double()
    loss_of(model)
    fused = [param for name, param in model.named_parameters() if re.search(r"(qkv|proj).weight", name)]
    norm = torch.linalg.vector_norm(torch.cat([param.grad.flatten() for param in fused]))
    optimizer = route(model, "clip(heavy_ball)+adamw", max_norm=float(norm) / 10, lr=1.0, momentum=0.0).optimizer()
    before = [param.detach().clone() for param in fused]
    optimizer.step()
    for param, old in zip(fused, before, strict=True):
        assert torch.allclose(old - param, param.grad / 10, atol=1e-6)


def test_a_checkpoint_of_another_routing_is_refused() -> None:
    first = route(gpt(), roles={"blocks.0.proj.weight": "embedding"}).optimizer()
    second = route(gpt(), roles={"blocks.1.proj.weight": "embedding"}).optimizer()
    with pytest.raises(ParameterError, match="must be one of the same routing, got blocks"):
        second.load_state_dict(first.state_dict())


def test_learning_rates_keep_the_ratio_of_the_defaults_unless_steps_are_of_one_size() -> None:
    def rates(*rules_of_plan: object, **settings: float) -> dict[str, float]:
        groups = route(gpt(), *rules_of_plan, **settings).optimizer().param_groups
        return {group["rule"]: group["lr"] for group in groups}

    assert rates("shampoo") == {"shampoo": 0.1, "adamw": pytest.approx(1e-3)}
    assert rates("shampoo", lr=1.0) == {"shampoo": 1.0, "adamw": pytest.approx(1e-2)}
    assert rates("muon", lr=0.02) == {"muon": 0.02, "adamw": 0.02}
    assert rates("muon", "prodigy") == {"muon": 1e-3, "prodigy": pytest.approx(1.0)}
    assert rates(rules.Muon(lr=0.02), rules.AdamW(lr=3e-4)) == {"muon": 0.02, "adamw": pytest.approx(3e-4)}
    assert rates(rules.Routed((rules.Muon(lr=0.02), rules.AdamW(lr=3e-4)))) == {
        "muon": 0.02,
        "adamw": pytest.approx(3e-4),
    }


def loss_of(model: nn.Module) -> Tensor:
    model.zero_grad()
    loss = model(TOKENS).square().mean()
    loss.backward()
    return loss


def test_rules_are_named_given_or_put_together() -> None:
    model = gpt()
    assert type(route(model, "lion").optimizer()) is optim.Lion
    assert type(route(model, rules.AdamW).optimizer()) is optim.AdamW
    assert {assignment.rule for assignment in route(model, "soap", "lion").parameters} == {"soap", "lion"}
    original = rules.Routed((rules.Muon(adjust_lr_fn="original"), rules.SGD(momentum=0.9)))
    plan = route(model, original)
    assert plan.optimizer().param_groups[0]["adjust_lr_fn"] == "original"
    assert plan.optimizer().param_groups[0]["sgd_momentum"] == 0.9
    assert route(model).optimizer().param_groups[0]["adjust_lr_fn"] == "match_rms_adamw"
    for spec in ("cautious(muon)", "cautious(muon+adamw)", "schedule_free_adamw", "normuon", "scion", "shampoo+sgd"):
        model = gpt()
        optimizer = route(model, spec, lr=0.01).optimizer()
        train(model, optimizer)
        with optimizer.evaluating():
            assert all(param.isfinite().all() for param in model.parameters())


def test_a_layer_frozen_at_first_is_trained_as_if_it_had_never_been_frozen() -> None:
    unfrozen, frozen = gpt(), gpt()
    frozen.blocks[0].requires_grad_(False)
    expected, plan = route(unfrozen, lr=0.02), route(frozen, lr=0.02)
    assert [(param.name, param.role, param.rule, param.overrides) for param in plan.parameters] == [
        (param.name, param.role, param.rule, param.overrides) for param in expected.parameters
    ]
    num_frozen = len(list(frozen.blocks[0].parameters()))
    assert (plan.frozen, sum(param.frozen for param in plan.parameters)) == (num_frozen, num_frozen)
    assert f"{num_frozen} frozen, stepped once they require a gradient" in str(plan)
    optimizer = plan.optimizer()
    train(frozen, optimizer)
    block = list(frozen.blocks[0].parameters())
    assert not any(optimizer.state.get(param) for param in block)  # no memory until they are trained
    before = [param.detach().clone() for param in block]
    frozen.blocks[0].requires_grad_(True)
    train(frozen, optimizer)
    assert all(not torch.equal(param, start) for param, start in zip(block, before, strict=True))


def test_a_frozen_parameter_of_ambiguous_role_is_no_question_and_gets_the_second_rule() -> None:
    model = nn.Module()
    model.first, model.second = nn.Linear(4, 8), nn.Linear(8, 8)
    model.mixing = nn.Parameter(torch.zeros(8, 8))
    asked = {param.name for param in route(model).questions}
    assert asked
    model.requires_grad_(False)
    plan = route(model)
    assert plan.questions == []
    assert {param.rule for param in plan.parameters if param.name in asked} == {"adamw"}
    assert len(plan.optimizer().param_groups) > 0


def test_quantized_weights_are_left_out_of_a_plan() -> None:
    model = gpt()
    model.blocks[0].codes = nn.Parameter(torch.zeros(8, 8, dtype=torch.uint8), requires_grad=False)
    plan = route(model)
    assert "blocks.0.codes" not in {param.name for param in plan.parameters}
    assert (plan.left_out, "1 of integers left out" in str(plan)) == (1, True)
    train(model, plan.optimizer())


def test_the_plan_reads_as_a_table() -> None:
    lines = str(route(gpt(), lr=0.02)).splitlines()
    assert lines[0].split() == ["parameter", "shape", "role", "rule", "lr", "weight", "decay", "why"]
    (fused,) = [line for line in lines if "qkv.weight" in line]
    assert fused.split()[:9] == ["blocks.0-1.qkv.weight", "(2)", "24x8", "fused", "qkv", "muon,", "3", "blocks", "0.02"]
    assert lines[-1] == "16 parameters, 752 numbers."


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: route([torch.zeros(2, 2)]), ParameterTypeError, "route: model must be a module, .* got list"),
        (lambda: route(gpt(), "muonn"), LookupError, "no rule is called 'muonn'. Did you mean muon"),
        (lambda: route(gpt(), 3), SettingError, "route: a rule must be a name or a rule, got 3"),
        (lambda: route(gpt(), roles={"wte.weight": "table"}), RoutingError, "a role must be one of .* got 'table'"),
        (
            lambda: route(gpt(), roles={"wtf.weight": "head"}),
            RoutingError,
            "which matches none. Did you mean wte.weight",
        ),
        (lambda: route(gpt(), lr_scale={"emedding": 2}), SettingError, "got 'emedding'. Did you mean embedding"),
        (lambda: route(gpt(), lr_scale={"embedding": "2"}), SettingError, "scale of embedding must be a number >= 0"),
        (lambda: route(gpt(), roles={3: "head"}), RoutingError, "must name parameters of the model, got 3"),
        (lambda: route(gpt(), roles={"ln_f.bias": "hidden matrix"}), RoutingError, "a matrix has two dimensions"),
        (lambda: route(gpt(), roles={"wte.weight": "experts"}), RoutingError, "experts have a matrix each"),
        (lambda: route(gpt(), roles={"wte.weight": "fused qkv"}), RoutingError, "3 blocks do not divide it"),
        (lambda: route(gpt(), roles={"wte.weight": "recurrent"}), RoutingError, "does not say how many blocks"),
        (lambda: route(gpt(), maximize=True), KeywordError, "maximize must be given to optimizer"),
        (lambda: route(gpt(), "(muon+adamw)"), LookupError, "a rule must read like adamw, cautious"),
        (lambda: route(gpt(), "muon+"), LookupError, "a rule must read like"),
        (lambda: route(gpt(), "muon+adamw+lion"), SettingError, "two different rules, got muon, adamw, lion"),
        (lambda: route(gpt(), "cautious(muon+adamw)+lion"), SettingError, "no member may be a Routed rule"),
        (lambda: route(gpt(), momentun=0.9), KeywordError, "got 'momentun'. Did you mean momentum"),
        (lambda: route(gpt(), lr=-1), SettingError, "lr must be >= 0, got -1"),
        (lambda: route(gpt()).optimizer(lr=0.1), KeywordError, "got lr. Settings are given to route"),
        (lambda: route(nn.ReLU()), RoutingError, "must have parameters that can be trained, got none"),
        (lambda: route(gpt(), "muon+adamw", "sgd"), SettingError, "rest must be left out"),
        (
            lambda: rules.Routed((rules.AdamW(), rules.AdamW())),
            SettingError,
            "two different rules, got adamw, adamw",
        ),
        (lambda: rules.Routed((rules.SAM(rules.SGD()), rules.AdamW())), SettingError, "needs second gradient"),
    ],
)
def test_mistakes_get_a_clear_error(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_rule_of_matrices_refuses_what_it_cannot_split() -> None:
    with pytest.raises(SettingError, match="3 blocks must divide dimension 0 of a parameter, got one of shape"):
        optim.optimizer_for(rules.Split(rules.Muon()))([torch.zeros(4, 2)], row_blocks=3)
    with pytest.raises(SettingError, match="at most one of row_blocks, column_blocks and stacked must differ"):
        rules.Split(rules.Muon(), row_blocks=2, stacked=True)
