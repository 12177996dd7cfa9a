"""Routing: the role of every parameter of real architectures, and the one optimizer that comes of it."""

import copy
import io
import itertools
import pickle
import re
import warnings

import pytest
import torch
from torch import Tensor, nn

from tests.optim.models import ARCHITECTURES, Architecture, Gpt
from thalweg import optim, rules
from thalweg.errors import KeywordError, ParameterError, ParameterTypeError, RoutingError, SettingError
from thalweg.optim.routing import Routing, roles_of, route
from thalweg.rules.named import WRAPPERS
from thalweg.tasks.catalogue import BUILT_IN

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
    assert [one.name for one in plan.questions] == ["mixing", "second.weight", "attention.qkv.weight"]
    assert "3 to be asked" in str(plan)
    with pytest.raises(RoutingError, match=r"got 3 that nothing tells:\n    mixing  8x8: a parameter of its own") as e:
        plan.optimizer()
    assert "16 rows are not 3 x 8" in str(e.value)
    assert "no later one takes its 8 outputs" in str(e.value)
    said = {"mixing": "hidden matrix", "*.qkv.weight": "hidden matrix", "second.*": "head"}
    plan = route(Plain(), roles=said)
    assert not plan.questions
    assert of_role(plan, "head") == {"second.weight", "second.bias"}
    assert of_role(plan, "hidden matrix") == {"mixing", "first.weight", "attention.qkv.weight"}
    assert of_role(route(Plain(), roles=said | {"second.*": "hidden matrix"}, headless=True), "head") == set()


class Mlp(nn.Module):
    """Layers by attributes."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        for k, (into, out) in enumerate(itertools.pairwise(widths), 1):
            setattr(self, f"fc{k}", nn.Linear(into, out))


def holding(**modules: nn.Module) -> nn.Module:
    model = nn.Module()
    for name, module in modules.items():
        setattr(model, name, module)
    return model


def blocks(*widths: int) -> nn.ModuleList:
    return nn.ModuleList(holding(linear=nn.Linear(*pair)) for pair in itertools.pairwise(widths))


def shared(model: nn.Module) -> nn.Module:
    model.ctc_head.weight = model.encoder.out.weight
    return model


# A model, and which of its weights are heads; those asked for.
ENDS = {
    "by attributes": (Mlp(4, 8, 8, 3), {"fc3.weight"}, set()),
    "a list": (holding(layers=nn.ModuleList([nn.Linear(4, 8), nn.Linear(8, 3)])), {"layers.1.weight"}, set()),
    "a list of blocks": (holding(blocks=blocks(4, 8, 8, 3)), {"blocks.2.linear.weight"}, set()),
    "a Sequential to the end": (
        nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Flatten())),
        {"1.1.weight"},
        set(),
    ),
    "the first of several is called a head": (
        holding(fc=nn.Linear(4, 8), final=nn.Linear(8, 3)),
        {"final.weight"},
        set(),
    ),
    "two heads": (
        holding(torso=Mlp(4, 8, 8), actor=nn.Linear(8, 2), value_head=nn.Linear(8, 1)),
        {"actor.weight", "value_head.weight"},
        set(),
    ),
    "two networks": (
        holding(generator=Mlp(4, 8, 16), discriminator=Mlp(16, 8, 1)),
        {"discriminator.fc2.weight"},
        {"generator.fc2.weight"},
    ),
    "several networks of one kind": (
        holding(members=nn.ModuleList([Mlp(4, 8, 3), Mlp(4, 8, 3)])),
        {"members.0.fc2.weight", "members.1.fc2.weight"},
        set(),
    ),
    "a backbone and a classifier": (
        holding(
            features=nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3)),
            classifier=nn.Sequential(nn.Linear(24, 8), nn.Linear(8, 2)),
        ),
        {"classifier.1.weight"},
        set(),
    ),
    "attention whose module is called heads": (
        holding(multi_head_attention=holding(q=nn.Linear(8, 8), o=nn.Linear(8, 8)), final=nn.Linear(8, 3)),
        {"final.weight"},
        set(),
    ),
    "a context as long as the width": (
        holding(position=nn.Embedding(64, 64), mix=nn.Linear(64, 64), final=nn.Linear(64, 3)),
        {"final.weight"},
        set(),
    ),
    "a head shared with a layer in the middle": (
        shared(
            holding(
                encoder=holding(out=nn.Linear(8, 30), back=nn.Linear(30, 8), norm=nn.LayerNorm(8)),
                ctc_head=nn.Linear(8, 30),
            )
        ),
        {"encoder.out.weight"},
        set(),
    ),
    "a tied head and another": (
        holding(lm=Gpt(), classifier=nn.Linear(8, 3)),
        {"classifier.weight"},
        set(),
    ),
    "back to as many as came in": (Mlp(8, 4, 8), set(), {"fc2.weight"}),
    "called so, where sizes do not tell": (holding(inner=nn.Linear(8, 8), out=nn.Linear(8, 8)), {"out.weight"}, set()),
    "two towers": (
        holding(image=Mlp(8, 8), image_projection=nn.Linear(8, 6), text=Mlp(6, 8), text_projection=nn.Linear(8, 6)),
        set(),
        {"image_projection.weight", "text_projection.weight"},
    ),
    "compiled": (holding(_orig_mod=Mlp(4, 8, 3)), {"_orig_mod.fc2.weight"}, set()),
    "in parallel": (nn.DataParallel(Mlp(4, 8, 3)), {"module.fc2.weight"}, set()),
    "transformers', with several heads": (
        made(ARCHITECTURES["BERT, pretraining"]),
        {"cls.seq_relationship.weight"},
        set(),
    ),
    "transformers', a class of its own": (
        made(ARCHITECTURES["T5, questions"]),
        {"qa_outputs.weight"},
        set(),
    ),
}


@pytest.mark.parametrize(("model", "heads", "asked"), ENDS.values(), ids=ENDS)
def test_last_layers_are_told_by_who_takes_their_outputs(model: nn.Module, heads: set[str], asked: set[str]) -> None:
    plan = route(model)
    assert {one.name for one in plan.parameters if one.role == "head" and "weight" in one.name} == heads
    assert {one.name for one in plan.questions} == asked


def test_owners_tell_what_parametrized_weights_are_for() -> None:
    normed = torch.nn.utils.parametrizations
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old weight_norm says that it is old
        old = torch.nn.utils.weight_norm(nn.Conv1d(8, 8, 3))
    model = holding(
        table=normed.spectral_norm(nn.Embedding(11, 8)),
        depthwise=normed.weight_norm(nn.Conv1d(8, 8, 3, groups=8)),
        old=old,
        hidden=normed.weight_norm(nn.Linear(8, 8)),
        head=nn.Linear(8, 3),
    )
    roles = {one.name: one.role for one in route(model).parameters}
    assert roles["table.parametrizations.weight.original"] == "embedding"
    assert roles["depthwise.parametrizations.weight.original1"] == "depthwise convolution"
    assert roles["hidden.parametrizations.weight.original0"] == "scale"
    assert roles["hidden.parametrizations.weight.original1"] == "hidden matrix"
    assert roles["old.weight_g"] == "scale"


def test_biases_and_single_rows_are_no_matrices_whatever_their_shape() -> None:
    model = holding(gate=nn.Linear(8, 1), head=nn.Linear(8, 3))
    model.several_bias = nn.Parameter(torch.zeros(4, 8))
    model.embed_images = nn.Linear(48, 8)
    roles = {one.name: (one.role, one.rule) for one in route(model).parameters}
    assert roles["several_bias"] == ("bias", "adamw")
    assert roles["gate.weight"][1] == "adamw"
    assert roles["embed_images.weight"][0] == "embedding"
    with pytest.raises(RoutingError, match="every parameter must have a shape, got 0.weight"):
        route(nn.Sequential(nn.LazyLinear(3)))


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_task_can_be_routed(name: str) -> None:
    task = BUILT_IN[name]()
    plan = route(task.make_model(0), roles=task.roles)
    assert not plan.questions, plan


def test_parts_of_a_parameter_are_told() -> None:
    blocks = {
        one.name: dict(one.treatment.settings)
        for one in route(made(ARCHITECTURES["Mixtral, a mixture of experts"])).parameters
    }
    assert blocks["model.layers.0.mlp.experts.down_proj"]["stacked"] is True
    recurrent = {one.name: dict(one.treatment.settings) for one in route(made(ARCHITECTURES["RNN"])).parameters}
    assert recurrent["lstm.weight_ih_l0"]["row_blocks"] == 4
    assert recurrent["gru.weight_hh_l0"]["row_blocks"] == 3
    gpt2 = {one.name: dict(one.treatment.settings) for one in route(made(ARCHITECTURES["GPT-2"])).parameters}
    assert gpt2["transformer.h.0.attn.c_attn.weight"]["column_blocks"] == 3  # kept as (in, out)
    residual = {
        one.name: dict(one.treatment.settings)
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
    one = route(gpt(), roles={"blocks.0.proj.weight": "embedding"}).optimizer()
    other = route(gpt(), roles={"blocks.1.proj.weight": "embedding"}).optimizer()
    with pytest.raises(ParameterError, match="must be one of the same routing, got blocks"):
        other.load_state_dict(one.state_dict())


def test_learning_rates_keep_the_ratio_of_the_defaults_unless_steps_are_of_one_size() -> None:
    def rates(*given: object, **settings: float) -> dict[str, float]:
        groups = route(gpt(), *given, **settings).optimizer().param_groups
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
        (lambda: route(gpt(), lr_scale={"embedding": "2"}), SettingError, "scale of embedding must be a number >= 0"),
        (lambda: route(gpt(), roles={3: "head"}), RoutingError, "must name trained parameters of the model, got 3"),
        (lambda: route(gpt(), roles={"ln_f.bias": "hidden matrix"}), RoutingError, "a matrix has two dimensions"),
        (lambda: route(gpt(), roles={"wte.weight": "experts"}), RoutingError, "experts have a matrix each"),
        (lambda: route(gpt(), roles={"wte.weight": "fused qkv"}), RoutingError, "3 blocks do not divide it"),
        (lambda: route(gpt(), roles={"wte.weight": "recurrent"}), RoutingError, "does not say how many blocks"),
        (lambda: route(gpt(), maximize=True), KeywordError, "maximize must be given to optimizer"),
        (lambda: route(gpt(), "(muon+adamw)"), LookupError, "a rule must read like adamw, cautious"),
        (lambda: route(gpt(), "muon+"), LookupError, "a rule must read like"),
        (lambda: route(gpt(), "muon+adamw+lion"), SettingError, "two different ones, got muon, adamw, lion"),
        (lambda: route(gpt(), "cautious(muon+adamw)+lion"), SettingError, "what has parts must be the whole"),
        (lambda: route(gpt(), momentun=0.9), KeywordError, "got 'momentun'. Did you mean momentum"),
        (lambda: route(gpt(), lr=-1), SettingError, "lr must be >= 0, got -1"),
        (lambda: route(gpt()).optimizer(lr=0.1), KeywordError, "got lr. Settings are given to route"),
        (lambda: route(gpt().requires_grad_(False)), RoutingError, "must have parameters that require a gradient"),
        (lambda: route(gpt(), "muon+adamw", "sgd"), SettingError, "rest must be left out"),
        (
            lambda: rules.Routed((rules.AdamW(), rules.AdamW())),
            SettingError,
            "two different ones, got adamw, adamw",
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
