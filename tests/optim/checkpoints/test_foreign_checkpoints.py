"""Checkpoints of other libraries: converted exactly, or refused before anything changes."""

import copy
import math
from collections.abc import Callable
from typing import Any, ClassVar

import prodigyopt
import pytest
import schedulefree
import torch
from torch import Tensor

from cases.references import elementwise
from tests.optim.training import assert_same, fresh, train
from thalweg import optim
from thalweg.errors import ParameterError

Groups = list[dict[str, Any]]


def in_groups(params: list[Tensor], lr: tuple[float, float], **settings: Any) -> Groups:
    return [{"params": params[:2], "lr": lr[0], **settings}, {"params": params[2:], "lr": lr[1], **settings}]


def adam_schedule_free(params: list[Tensor]) -> torch.optim.Optimizer:
    settings = {"betas": (0.8, 0.97), "weight_decay": 0.05, "warmup_steps": 15, "r": 0.5, "weight_lr_power": 1.5}
    optimizer = schedulefree.AdamWScheduleFree(in_groups(params, (0.01, 0.02), eps=1e-3, **settings))
    optimizer.train()
    return optimizer


def sgd_schedule_free(params: list[Tensor]) -> torch.optim.Optimizer:
    settings = {"momentum": 0.8, "weight_decay": 0.05, "warmup_steps": 3, "r": 0.5, "weight_lr_power": 1.5}
    optimizer = schedulefree.SGDScheduleFree(in_groups(params, (0.01, 0.02), foreach=False, **settings))
    optimizer.train()
    return optimizer


def prodigy(params: list[Tensor]) -> torch.optim.Optimizer:
    settings = {"betas": (0.8, 0.97), "eps": 1e-3, "weight_decay": 0.05, "d_coef": 0.8, "d0": 1e-2}
    with torch.no_grad():
        params[2].zero_()  # whose start the library stores as one zero
    return prodigyopt.Prodigy(in_groups(params, (0.7, 0.7)), **settings)


class ForeignAdan(elementwise.Adan):
    """The transcription of Adan with the checkpoints of another library."""

    def state_dict(self) -> dict[str, Any]:
        keys, names = self.keys, {"m": "exp_avg", "v": "exp_avg_diff", "n": "exp_avg_sq"}
        saved = super().state_dict()
        steps = {self.state[group["params"][0]]["step"] for group in self.param_groups}
        for index, record in saved["state"].items():
            renamed = {name: record[key].clone() for key, name in names.items()}
            saved["state"][index] = renamed | {self.last: -record["last"]}
        saved["param_groups"] = [group | keys | {"step": max(steps)} for group in saved["param_groups"]]
        return saved


class AuthorsAdan(ForeignAdan):
    keys: ClassVar = {"no_prox": False, "max_grad_norm": 0.0, "foreach": True, "fused": False}
    last = "neg_pre_grad"


class TimmAdan(ForeignAdan):
    keys: ClassVar = {"no_prox": False, "caution": False, "foreach": None}
    last = "neg_pre_grad"


class OtherAdan(ForeignAdan):
    keys: ClassVar = {"weight_decouple": False, "max_grad_norm": 0.0, "foreach": None}
    last = "previous_grad"


def adan(kind: type[ForeignAdan]) -> Callable[[list[Tensor]], torch.optim.Optimizer]:
    settings = {"betas": (0.8, 0.7, 0.97), "eps": 1e-3, "weight_decay": 0.05}
    return lambda params: kind(in_groups(params, (0.01, 0.02), **settings))


CONVERTED = {
    "AdamWScheduleFree": (adam_schedule_free, optim.ScheduleFreeAdamW),
    "SGDScheduleFree": (sgd_schedule_free, optim.ScheduleFreeSGD),
    "Prodigy": (prodigy, optim.Prodigy),
    "the authors' Adan": (adan(AuthorsAdan), optim.Adan),
    "timm's Adan": (adan(TimmAdan), optim.Adan),
    "pytorch_optimizer's Adan": (adan(OtherAdan), optim.Adan),
}


@pytest.mark.parametrize(("saving", "loading"), CONVERTED.values(), ids=CONVERTED)
def test_a_converted_checkpoint_goes_on_as_in_the_other_library(
    saving: Callable[[list[Tensor]], torch.optim.Optimizer], loading: type[optim.RuleOptimizer]
) -> None:
    params = fresh(torch.float64)
    theirs = saving(params)
    train(theirs, 10)
    resumed = [param.detach().clone().requires_grad_() for param in params]
    ours = loading([{"params": resumed[:2]}, {"params": resumed[2:]}])
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    assert [group["lr"] for group in ours.param_groups] == [group["lr"] for group in theirs.param_groups]
    saved_again = copy.deepcopy(ours.state_dict())
    start = [param.detach().clone() for param in params]
    train(theirs, 10, skip=10)
    train(ours, 10, skip=10)
    assert_same(resumed, params, rtol=1e-10, atol=1e-12)
    moved = [float((param.detach() - before).abs().max()) for param, before in zip(params, start, strict=True)]
    assert min(moved) > 1e-3
    # A checkpoint of the loaded state is one of ours.
    ours.load_state_dict(saved_again)
    assert saved_again["rule"] == ours.rule.name


def _changed(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda saved: [group.update(changes) for group in saved["param_groups"]] and None


def _with_entry(saved: dict[str, Any]) -> None:
    saved["state"][0]["exp_grad_norm"] = torch.ones(())


def _without_entry(saved: dict[str, Any]) -> None:
    del saved["state"][0]["exp_avg_sq" if "exp_avg_sq" in saved["state"][0] else "z"]


def _without_step(saved: dict[str, Any]) -> None:
    group = saved["param_groups"][0]
    group["step" if "step" in group else "k"] = None


EVERYWHERE: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "an unknown setting": (_changed(cautious=True), "got one with cautious, which it does not use"),
    "an unknown entry": (_with_entry, "got exp_grad_norm, too"),
    "no entry": (_without_entry, "got none of"),
    "no step": (_without_step, "must be a whole number of steps"),
}
UNEQUAL = {
    "AdamWScheduleFree": {"train_mode": False},
    "SGDScheduleFree": {"train_mode": False},
    "Prodigy": {"use_bias_correction": True, "safeguard_warmup": True, "decouple": False, "slice_p": 11},
    "the authors' Adan": {"no_prox": True, "max_grad_norm": 1.0},
    "timm's Adan": {"no_prox": True, "caution": True},
    "pytorch_optimizer's Adan": {"weight_decouple": True, "max_grad_norm": 1.0},
}
REFUSED = [
    (name, f"{key}={value}", _changed(**{key: value}), f"to be continued exactly, got {key}={value}.")
    for name, settings in UNEQUAL.items()
    for key, value in settings.items()
] + [
    (name, what, change, message)
    for name in UNEQUAL
    for what, (change, message) in EVERYWHERE.items()
    if (name, what) not in (("Prodigy", "no step"), ("SGDScheduleFree", "no entry"))  # they have no other entry
]


@pytest.mark.parametrize(("name", "what", "change", "message"), REFUSED, ids=[f"{row[0]}: {row[1]}" for row in REFUSED])
def test_what_would_not_go_on_exactly_is_refused(
    name: str, what: str, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    saving, loading = CONVERTED[name]
    theirs = saving(fresh(torch.float64))
    train(theirs, 2)
    saved = copy.deepcopy(theirs.state_dict())
    change(saved)
    params = fresh(torch.float64)
    ours = loading([{"params": params[:2]}, {"params": params[2:]}])
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises(ParameterError) as error:
        ours.load_state_dict(saved)
    assert message in str(error.value)
    assert ours.state_dict() == before


def test_a_form_of_decay_does_not_matter_without_decay() -> None:
    params = fresh(torch.float64)
    theirs = prodigyopt.Prodigy(params, decouple=False)
    train(theirs, 2)
    ours = optim.Prodigy(fresh(torch.float64))
    ours.load_state_dict(theirs.state_dict())
    assert ours.param_groups[0]["beta3"] == 0.0
    assert 1e30 < ours.param_groups[0]["growth_rate"] < math.inf  # theirs is infinite


def test_another_algorithm_with_the_same_keys_is_refused() -> None:
    theirs = schedulefree.AdamWScheduleFreePaper(fresh())
    theirs.train()
    train(theirs, 3)
    with pytest.raises(ParameterError, match="got AdamWScheduleFreePaper, which has another formula"):
        optim.ScheduleFreeAdamW(fresh()).load_state_dict(theirs.state_dict())


def test_a_key_of_the_user_must_be_in_both_optimizers() -> None:
    params = fresh()
    theirs = torch.optim.AdamW([{"params": params, "name": "all"}])
    train(theirs, 2)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(theirs, 0.1, total_steps=10)
    saved = theirs.state_dict()
    with pytest.raises(ParameterError, match="got one with name, which it does not use"):
        optim.AdamW(fresh()).load_state_dict(saved)
    ours = optim.AdamW([{"params": fresh(), "name": "first"}])
    ours.load_state_dict(saved)
    assert ours.param_groups[0]["name"] == "all"
    assert ours.param_groups[0]["max_lr"] == 0.1  # the scheduler's
    del scheduler


@pytest.mark.parametrize("kind", ["NAdam", "RAdam"])
def test_the_form_of_decay_of_torchs_checkpoints_is_that_of_the_rule(kind: str) -> None:
    for decoupled in (True, False):
        params = fresh()
        theirs = getattr(torch.optim, kind)(params, weight_decay=0.1, decoupled_weight_decay=decoupled)
        train(theirs, 2)
        right, wrong = (f"{kind}W", kind) if decoupled else (kind, f"{kind}W")
        getattr(optim, right)(fresh()).load_state_dict(theirs.state_dict())
        with pytest.raises(ParameterError, match=f"Load it into {right}"):
            getattr(optim, wrong)(fresh()).load_state_dict(theirs.state_dict())


@pytest.mark.parametrize("name", ["AdamWScheduleFree", "SGDScheduleFree"])
def test_a_parameter_that_would_join_at_a_later_step_of_its_group_is_refused(name: str) -> None:
    params = [torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)]
    theirs = getattr(schedulefree, name)(params)
    theirs.train()
    params[0].grad = torch.ones(3)
    theirs.step()
    ours = optim.ScheduleFreeAdamW if name.startswith("AdamW") else optim.ScheduleFreeSGD
    with pytest.raises(ParameterError, match="must have state to be continued exactly.* got none of 1"):
        ours(params).load_state_dict(theirs.state_dict())
