"""Routing: the role of every parameter of real architectures, and the one optimizer that comes of it."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import Tensor, nn

from tests.optim.models import ARCHITECTURES, Architecture, Gpt
from thalweg import optim, rules
from thalweg.errors import KeywordError, ParameterError, ParameterTypeError, RoutingError, SettingError
from thalweg.optim.routing import Routing, roles_of, route

NEVER = {"embedding", "tied head", "head", "norm", "bias", "scale", "router", "depthwise convolution"}
WORDS = torch.randint(0, 11, (4, 5), generator=torch.Generator().manual_seed(0))
each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)


def made(architecture: Architecture) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return architecture.make()


def of_role(plan: Routing, role: str | None) -> set[str]:
    return {one.name for one in plan.parameters if one.role == role}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 4) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(WORDS).square().mean().backward()
        optimizer.step()


def gpt(seed: int = 0) -> Gpt:
    torch.manual_seed(seed)
    return Gpt()


# --- roles ------------------------------------------------------------------------------------------------------------


@each_architecture
def test_hidden_matrices_alone_go_to_the_rule_of_matrices(architecture: Architecture) -> None:
    model = made(architecture)
    plan = route(model, roles=dict(architecture.said))
    assert {one.name for one in plan.parameters if one.rule == "muon"} == architecture.hidden(model) != set()
    # What the modules are says the same, whoever reads it.
    for path, module in model.named_modules():
        kind = type(module).__name__
        if isinstance(module, nn.Embedding) or "Norm" in kind:
            held = {f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)}
            assert {one.role for one in plan.parameters if one.name in held} <= NEVER, path
    assert all(one.rule == "adamw" for one in plan.parameters if one.role in NEVER or "bias" in one.name)
    if architecture.head:
        assert architecture.head in of_role(plan, "head")
    last = getattr(model, "get_output_embeddings", lambda: None)()
    assert last is None or all(one.rule == "adamw" for one in plan.parameters if one.param is last.weight)


@each_architecture
def test_every_parameter_is_in_exactly_one_group_and_steps_are_taken(architecture: Architecture) -> None:
    model = made(architecture)
    optimizer = route(model, roles=dict(architecture.said), lr=0.01).optimizer()
    grouped = [id(param) for group in optimizer.param_groups for param in group["params"]]
    assert sorted(grouped) == sorted(id(param) for param in model.parameters())
    before = [param.detach().clone() for param in model.parameters()]
    for param in model.parameters():
        param.grad = torch.randn_like(param)
    optimizer.step()
    assert all(not torch.equal(param, old) for param, old in zip(model.parameters(), before, strict=True))


def test_what_cannot_be_told_is_asked_and_the_answers_are_taken() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 8)
            self.mixing = nn.Parameter(torch.randn(8, 8))
            self.attention = nn.Module()
            self.attention.qkv = nn.Linear(8, 16)

    plan = route(Plain())
    assert [one.name for one in plan.questions] == ["mixing", "first.weight", "second.weight", "attention.qkv.weight"]
    assert "4 to be asked" in str(plan)
    with pytest.raises(RoutingError, match=r"got 4 that nothing tells:\n    mixing  8x8: a parameter of its own") as e:
        plan.optimizer()
    assert "16 rows are not 3 x 8" in str(e.value)
    assert "nothing tells which layer is the last" in str(e.value)
    said = {"mixing": "hidden matrix", "*.qkv.weight": "hidden matrix", "second.*": "head"}
    plan = route(Plain(), roles=said)
    assert not plan.questions
    assert of_role(plan, "head") == {"second.weight", "second.bias"}
    assert of_role(plan, "hidden matrix") == {"mixing", "first.weight", "attention.qkv.weight"}
    assert of_role(route(Plain(), roles=said | {"second.*": "hidden matrix"}, headless=True), "head") == set()


def test_a_last_layer_in_a_list_is_asked_for() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)])

    assert len(route(Listed()).questions) == 3
    assert of_role(route(Listed(), roles={"layers.2.weight": "head"}), "hidden matrix") == {
        "layers.0.weight",
        "layers.1.weight",
    }


def test_heads_are_told_by_sequence_by_vocabulary_and_by_place() -> None:
    class Words(nn.Module):
        def __init__(self, words: int) -> None:
            super().__init__()
            self.tokens, self.mix = nn.Embedding(53, 8), nn.Linear(8, 8)
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)) for _ in range(2))
            self.to_words = nn.Linear(8, words)

    assert of_role(route(Words(53)), "head") == {"to_words.weight"}
    assert {one.name for one in route(Words(7)).questions} == {"mix.weight", "to_words.weight"}
    one = Words(7)
    one.mix = nn.Identity()
    assert of_role(route(one), "head") == {"to_words.weight"}
    layers = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1), nn.Flatten()))
    assert of_role(route(layers), "head") == {"1.1.weight"}
    vgg = nn.Module()
    vgg.features, vgg.classifier = nn.Sequential(nn.Conv2d(3, 4, 3)), nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    assert of_role(route(vgg), "head") == {"classifier.1.weight"}
    assert of_role(route(vgg), "hidden matrix") == {"classifier.0.weight"}


def test_parts_of_a_parameter_are_told() -> None:
    blocks = {
        one.name: dict(one.treatment.followed)
        for one in route(made(ARCHITECTURES["Mixtral, a mixture of experts"])).parameters
    }
    assert blocks["model.layers.0.mlp.experts.down_proj"]["stacked"] is True
    recurrent = {one.name: dict(one.treatment.followed) for one in route(made(ARCHITECTURES["RNN"])).parameters}
    assert recurrent["lstm.weight_ih_l0"]["row_blocks"] == 4
    assert recurrent["gru.weight_hh_l0"]["row_blocks"] == 3
    gpt2 = {one.name: dict(one.treatment.followed) for one in route(made(ARCHITECTURES["GPT-2"])).parameters}
    assert gpt2["transformer.h.0.attn.c_attn.weight"]["column_blocks"] == 3  # kept as (in, out)
    residual = {
        one.name: dict(one.treatment.followed)
        for one in route(ARCHITECTURES["ResNet, of a vision library"].make()).parameters
    }
    assert residual["layer1.2.weight"]["row_blocks"] == 2
    assert {part.role for part in roles_of(nn.Conv1d(4, 4, 3, groups=4))} == {"depthwise convolution", "bias"}


# --- the optimizer ----------------------------------------------------------------------------------------------------


def apart(model: Gpt, lr: float) -> None:
    """Four steps by torch's own classes side by side: Q, K and V as parameters of their own."""
    named = dict(model.named_parameters())
    fused = [param for name, param in named.items() if "qkv.weight" in name]
    whole = [param for name, param in named.items() if "proj.weight" in name]
    pieces = [nn.Parameter(rows.detach().clone()) for param in fused for rows in param.chunk(3)]
    others = {name: param for name, param in named.items() if all(param is not one for one in (*fused, *whole))}
    decayed = [param for name, param in others.items() if name in ("wte.weight", "pos")]
    rest = [param for name, param in others.items() if name not in ("wte.weight", "pos")]
    adamw = torch.optim.AdamW(
        [{"params": decayed}, {"params": rest, "weight_decay": 0.0}], lr=lr, betas=(0.8, 0.95), weight_decay=0.05
    )
    muon = optim.Muon(whole + pieces, lr=lr, weight_decay=0.05, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        model.zero_grad()
        model(WORDS).square().mean().backward()
        for own, rows in zip(pieces, (rows for param in fused for rows in param.grad.chunk(3)), strict=True):
            own.grad = rows.clone()
        adamw.step()
        muon.step()
        with torch.no_grad():
            for k, param in enumerate(fused):
                param.copy_(torch.cat(pieces[3 * k : 3 * k + 3]))


def difference(one: nn.Module, other: nn.Module) -> float:
    return max(float((a - b).detach().abs().max()) for a, b in zip(one.parameters(), other.parameters(), strict=True))


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
        lr_scale={"tied head": 10, "adamw": 0.5},
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
    one, two = route(whole, lr=0.01).optimizer(), route(halved, lr=0.01).optimizer()
    train(whole, one, 6)
    train(halved, two, 3)
    file = io.BytesIO()
    torch.save(two.state_dict(), file)
    file.seek(0)
    resumed = route(halved, lr=0.5).optimizer()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    train(halved, resumed, 3)
    assert difference(whole, halved) == 0
    assert type(pickle.loads(pickle.dumps(resumed))) is type(copy.deepcopy(resumed)) is type(resumed) is type(one)
    with pytest.raises(ParameterError, match="the checkpoint must be one of Muon"):
        resumed.load_state_dict(
            torch.optim.AdamW(gpt().parameters()).state_dict() | {"param_groups": one_group(resumed)}
        )


def one_group(optimizer: torch.optim.Optimizer) -> list[dict[str, object]]:
    """Groups as of an optimizer of another kind."""
    return [{"params": group["params"], "lr": 0.1} for group in optimizer.state_dict()["param_groups"]]


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda one: torch.optim.lr_scheduler.OneCycleLR(one, max_lr=0.1, total_steps=10),
        lambda one: torch.optim.lr_scheduler.CosineAnnealingLR(one, 10),
        lambda one: torch.optim.lr_scheduler.ReduceLROnPlateau(one, patience=0),
        lambda one: torch.optim.lr_scheduler.CyclicLR(one, 1e-3, 0.1),
        lambda one: torch.optim.lr_scheduler.SequentialLR(
            one,
            [
                torch.optim.lr_scheduler.LinearLR(one, 0.1, total_iters=2),
                torch.optim.lr_scheduler.ExponentialLR(one, 0.9),
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


def loss_of(model: nn.Module) -> Tensor:
    model.zero_grad()
    loss = model(WORDS).square().mean()
    loss.backward()
    return loss


def test_rules_are_named_given_or_put_together() -> None:
    model = gpt()
    assert type(route(model, "lion").optimizer()) is optim.Lion
    assert type(route(model, rules.AdamW).optimizer()) is optim.AdamW
    assert {one.rule for one in route(model, "soap", "lion").parameters} == {"soap", "lion"}
    original = rules.Routed((rules.Muon(adjust_lr_fn="original"), rules.SGD(momentum=0.9)))
    plan = route(model, original)
    assert plan.optimizer().param_groups[0]["adjust_lr_fn"] == "original"
    assert plan.optimizer().param_groups[0]["sgd_momentum"] == 0.9
    assert route(model).optimizer().param_groups[0]["adjust_lr_fn"] == "match_rms_adamw"
    for spec in ("cautious(muon)", "cautious(muon+adamw)", "schedule_free_adamw", "normuon", "scion", "shampoo+sgd"):
        one = gpt()
        optimizer = route(one, spec, lr=0.01).optimizer()
        train(one, optimizer)
        with optimizer.evaluating():
            assert all(param.isfinite().all() for param in one.parameters())


def test_frozen_parameters_are_left_out() -> None:
    model = gpt()
    model.wte.requires_grad_(False)
    plan = route(model)
    assert "wte.weight" not in {one.name for one in plan.parameters}
    assert "1 frozen" in str(plan)


def test_the_plan_reads_as_a_table() -> None:
    lines = str(route(gpt(), lr=0.02)).splitlines()
    assert lines[0].split() == ["parameter", "shape", "role", "rule", "lr", "weight", "decay", "why"]
    (fused,) = [line for line in lines if "qkv.weight" in line]
    assert fused.split()[:9] == ["blocks.0-1.qkv.weight", "(2)", "24x8", "fused", "qkv", "muon,", "3", "blocks", "0.02"]
    assert lines[-1] == "16 parameters, 752 numbers."


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        (lambda: route([torch.zeros(2, 2)]), ParameterTypeError, "route: model must be a module, .* got list"),
        (lambda: route(gpt(), "muonn"), LookupError, "no rule is called 'muonn'. Did you mean muon"),
        (lambda: route(gpt(), 3), SettingError, "route: a rule must be a name or a rule, got 3"),
        (lambda: route(gpt(), roles={"wte.weight": "table"}), RoutingError, "a role must be one of .* got 'table'"),
        (
            lambda: route(gpt(), roles={"wtf.weight": "head"}),
            RoutingError,
            "which none goes by. Did you mean wte.weight",
        ),
        (lambda: route(gpt(), lr_scale={"emedding": 2}), SettingError, "got 'emedding'. Did you mean embedding"),
        (lambda: route(gpt(), momentun=0.9), KeywordError, "got 'momentun'. Did you mean momentum"),
        (lambda: route(gpt(), lr=-1), SettingError, "lr must be >= 0, got -1"),
        (lambda: route(gpt()).optimizer(lr=0.1), KeywordError, "got lr. Settings are given to route"),
        (lambda: route(gpt().requires_grad_(False)), RoutingError, "must have parameters that require a gradient"),
        (lambda: route(gpt(), "muon+adamw", "sgd"), SettingError, "rest must be left out"),
        (
            lambda: rules.Routed((rules.AdamW(), rules.AdamW())),
            SettingError,
            "two or more different ones, got adamw, adamw",
        ),
        (lambda: rules.Routed((rules.SAM(rules.SGD()), rules.AdamW())), SettingError, "needs second gradient"),
    ],
)
def test_mistakes_are_told(wrong, error, said) -> None:
    with pytest.raises(error, match=said):
        wrong()


def test_a_rule_of_matrices_refuses_what_it_cannot_split() -> None:
    with pytest.raises(SettingError, match="3 blocks must divide dimension 0 of a parameter, got one of shape"):
        optim.optimizer_for(rules.Split(rules.Muon()))([torch.zeros(4, 2)], row_blocks=3)
    with pytest.raises(SettingError, match="one of row_blocks, column_blocks and stacked must say how to split"):
        rules.Split(rules.Muon(), row_blocks=2, stacked=True)
