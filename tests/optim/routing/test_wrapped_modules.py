"""Wrapped modules: a plan is the same before and after a model is compiled, checkpointed or run in parallel."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from tests.optim.routing.models import ARCHITECTURES, Recurrent
from thalweg import optim
from thalweg.errors import RoutingError
from thalweg.optim.routing import wrapped_modules

# torch.compile imports modules of torch that warn of others.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def each_child(wrap: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], nn.Module]:
    """Return a function that wraps each child of a model instead of the model."""

    def wrap_children(model: nn.Module) -> nn.Module:
        for name, child in list(model.named_children()):
            if not isinstance(child, nn.ModuleList | nn.ModuleDict):  # whose forward nothing calls
                setattr(model, name, wrap(child))
        return model

    return wrap_children


def compiled_in_parallel(model: nn.Module) -> nn.Module:
    return nn.DataParallel(torch.compile(nn.DataParallel(model)))


WRAPS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "in parallel": nn.DataParallel,
    "compiled in parallel": compiled_in_parallel,
    "children compiled": each_child(torch.compile),
    "children with checkpoints": each_child(checkpoint_wrapper),
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
@pytest.mark.parametrize("name", ["GPT-2", "BERT", "T5", "RNN", "ResNet, of a vision library"])
def test_a_plan_does_not_depend_on_wrappers(name: str, wrap: Callable[[nn.Module], nn.Module]) -> None:
    architecture = ARCHITECTURES[name]
    plans = []
    for put in (lambda model: model, wrap):
        torch.manual_seed(0)
        plans.append(str(optim.route(put(architecture.make()), "muon", roles=dict(architecture.answers))))
    assert plans[0] == plans[1]
    assert "muon" in plans[0]


def test_names_of_the_wrapped_model_answer_too() -> None:
    model = nn.DataParallel(torch.compile(Recurrent()))
    given = next(name for name, _ in model.named_parameters() if name.endswith("out.weight"))
    assert given == "module._orig_mod.out.weight"
    plan = optim.route(model, "muon", roles={given: "hidden matrix"})
    assert {param.name: param.role for param in plan.parameters}["out.weight"] == "hidden matrix"
    with pytest.raises(RoutingError, match=r"Did you mean out\.weight"):
        optim.route(model, "muon", roles={"module.ouput.weight": "head"})


def test_a_module_called_module_keeps_its_name() -> None:
    model = nn.Sequential()
    model.module = nn.Linear(4, 2)
    assert wrapped_modules.parameter_names(model)[id(model.module.weight)] == "module.weight"
    assert wrapped_modules.clean_name(model, "module.weight") == "module.weight"


def test_the_class_of_a_derived_module_is_that_of_its_author() -> None:
    class FSDPModule:
        """As `fully_shard` has one."""

    class Conv1D(nn.Module):
        """As transformers has one."""

    sharded = type("FSDPConv1D", (FSDPModule, Conv1D), {})
    assert wrapped_modules.class_name(sharded()) == "Conv1D"
    assert wrapped_modules.class_name(nn.utils.parametrizations.weight_norm(nn.GRU(2, 2), "weight_ih_l0")) == "GRU"
    assert wrapped_modules.class_name(nn.Linear(2, 2)) == "Linear"
