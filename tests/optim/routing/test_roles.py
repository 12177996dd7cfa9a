"""Roles: the role of every parameter of real architectures."""

import itertools
import warnings

import pytest
import torch
from torch import nn

from tests.optim.routing.models import ARCHITECTURES, Architecture, Gpt
from thalweg.errors import RoutingError
from thalweg.optim.routing import RoutingPlan, roles_of, route
from thalweg.tasks.catalogue import BUILT_IN

NEVER = {"embedding", "tied head", "head", "norm", "bias", "scale", "router", "depthwise convolution"}
each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)


def make(architecture: Architecture) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return architecture.make()


def of_role(plan: RoutingPlan, role: str | None) -> set[str]:
    return {assignment.name for assignment in plan.parameters if assignment.role == role}


@each_architecture
def test_only_hidden_matrices_get_the_matrix_rule(architecture: Architecture) -> None:
    model = make(architecture)
    plan = route(model, roles=dict(architecture.answers))
    assert (
        {assignment.name for assignment in plan.parameters if assignment.rule == "muon"}
        == architecture.hidden(model)
        != set()
    )
    # The types of modules agree.
    for path, module in model.named_modules():
        kind = type(module).__name__
        if isinstance(module, nn.Embedding) or "Norm" in kind:
            held = {f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)}
            assert {assignment.role for assignment in plan.parameters if assignment.name in held} <= NEVER, path
    assert all(
        assignment.rule == "adamw"
        for assignment in plan.parameters
        if assignment.role in NEVER or "bias" in assignment.name
    )
    if architecture.head:
        assert architecture.head in of_role(plan, "head")
    last = getattr(model, "get_output_embeddings", lambda: None)()
    assert last is None or all(
        assignment.rule == "adamw" for assignment in plan.parameters if assignment.param is last.weight
    )


@each_architecture
def test_every_parameter_is_in_exactly_one_group_and_steps_are_taken(architecture: Architecture) -> None:
    model = make(architecture)
    optimizer = route(model, roles=dict(architecture.answers), lr=0.01).optimizer()
    grouped = [id(param) for group in optimizer.param_groups for param in group["params"]]
    assert sorted(grouped) == sorted(id(param) for param in model.parameters())
    before = [param.detach().clone() for param in model.parameters()]
    for param in model.parameters():
        param.grad = torch.randn_like(param)
    optimizer.step()
    assert all(not torch.equal(param, old) for param, old in zip(model.parameters(), before, strict=True))


def test_ambiguous_roles_are_questions_and_answers_are_used() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 8)
            self.mixing = nn.Parameter(torch.randn(8, 8))
            self.attention = nn.Module()
            self.attention.qkv = nn.Linear(8, 16)

    plan = route(Plain())
    assert [assignment.name for assignment in plan.questions] == ["mixing", "second.weight", "attention.qkv.weight"]
    assert "Ambiguous: 3." in str(plan)
    with pytest.raises(RoutingError, match=r"got 3 ambiguous ones:\n    mixing  8x8: a parameter of its own") as e:
        plan.optimizer()
    assert "16 rows are not 3 x 8" in str(e.value)
    assert "no later one takes its 8 outputs" in str(e.value)
    answers = {"mixing": "hidden matrix", "*.qkv.weight": "hidden matrix", "second.*": "head"}
    plan = route(Plain(), roles=answers)
    assert not plan.questions
    assert of_role(plan, "head") == {"second.weight", "second.bias"}
    assert of_role(plan, "hidden matrix") == {"mixing", "first.weight", "attention.qkv.weight"}
    assert of_role(route(Plain(), roles=answers | {"second.*": "hidden matrix"}, headless=True), "head") == set()


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


# A model, its weights that are heads, and those that are ambiguous.
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
    "compiled": (holding(_orig_mod=Mlp(4, 8, 3)), {"fc2.weight"}, set()),
    "in parallel": (nn.DataParallel(Mlp(4, 8, 3)), {"fc2.weight"}, set()),
    "transformers', with several heads": (
        make(ARCHITECTURES["BERT, pretraining"]),
        {"cls.seq_relationship.weight"},
        set(),
    ),
    "transformers', a class of its own": (
        make(ARCHITECTURES["T5, questions"]),
        {"qa_outputs.weight"},
        set(),
    ),
}


@pytest.mark.parametrize(("model", "heads", "ambiguous"), ENDS.values(), ids=ENDS)
def test_last_layers_are_found_by_the_layers_that_take_their_outputs(
    model: nn.Module, heads: set[str], ambiguous: set[str]
) -> None:
    plan = route(model)
    assert {
        assignment.name for assignment in plan.parameters if assignment.role == "head" and "weight" in assignment.name
    } == heads
    assert {assignment.name for assignment in plan.questions} == ambiguous


def test_parametrized_weights_have_the_role_of_their_module() -> None:
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
    roles = {assignment.name: assignment.role for assignment in route(model).parameters}
    assert roles["table.parametrizations.weight.original"] == "embedding"
    assert roles["depthwise.parametrizations.weight.original1"] == "depthwise convolution"
    assert roles["hidden.parametrizations.weight.original0"] == "scale"
    assert roles["hidden.parametrizations.weight.original1"] == "hidden matrix"
    assert roles["old.weight_g"] == "scale"


def test_biases_and_single_rows_are_no_matrices_whatever_their_shape() -> None:
    model = holding(gate=nn.Linear(8, 1), head=nn.Linear(8, 3))
    model.several_bias = nn.Parameter(torch.zeros(4, 8))
    model.embed_images = nn.Linear(48, 8)
    roles = {assignment.name: (assignment.role, assignment.rule) for assignment in route(model).parameters}
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


def test_blocks_of_a_parameter_are_settings() -> None:
    blocks = {
        assignment.name: dict(assignment.overrides.settings)
        for assignment in route(make(ARCHITECTURES["Mixtral, a mixture of experts"])).parameters
    }
    assert blocks["model.layers.0.mlp.experts.down_proj"]["stacked"] is True
    recurrent = {
        assignment.name: dict(assignment.overrides.settings)
        for assignment in route(make(ARCHITECTURES["RNN"])).parameters
    }
    assert recurrent["lstm.weight_ih_l0"]["row_blocks"] == 4
    assert recurrent["gru.weight_hh_l0"]["row_blocks"] == 3
    gpt2 = {
        assignment.name: dict(assignment.overrides.settings)
        for assignment in route(make(ARCHITECTURES["GPT-2"])).parameters
    }
    assert gpt2["transformer.h.0.attn.c_attn.weight"]["column_blocks"] == 3  # kept as (in, out)
    residual = {
        assignment.name: dict(assignment.overrides.settings)
        for assignment in route(ARCHITECTURES["ResNet, of a vision library"].make()).parameters
    }
    assert residual["layer1.2.weight"]["row_blocks"] == 2
    assert {role.role for role in roles_of(nn.Conv1d(4, 4, 3, groups=4))} == {"depthwise convolution", "bias"}
