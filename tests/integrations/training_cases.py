"""Cases of trainings in two processes: they end as in one process, and where they were resumed to the bit."""

import copy
import warnings
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision, fully_shard
from torch.nn.parallel import DistributedDataParallel

from tests.integrations.distributed_checks import check_close, check_refused, whole_values
from tests.integrations.sharded_training import (
    OPTIMIZERS,
    STRATEGIES,
    flatten_nested,
    fully_shard_nested,
    loss_of,
    make_batch,
    make_model,
    start,
    start_alone,
)
from thalweg import optim
from thalweg.errors import RoutingError, SettingWarning

# What must refuse what, by a part of the message. All others are right.
REFUSED = {
    **{
        (strategy, optimizer): "must be elementwise"
        for strategy in ("FSDP1", "FSDP1, original parameters", "FSDP1, SHARD_GRAD_OP")
        for optimizer in ("Prodigy", "SAM(SGD)", "LAMB", "Clip(AdamW)")
    },
    **{
        (strategy, "Muon+AdamW"): "has flattened"
        for strategy in ("FSDP1", "FSDP1, original parameters", "FSDP1, SHARD_GRAD_OP")
    },
    **{(strategy, "Muon+AdamW"): "must need no whole parameters" for strategy in ("FSDP2", "FSDP2, not resharded")},
    ("ZeRO", "Prodigy"): "must not look at the whole model",
    ("ZeRO", "Clip(AdamW)"): "must not look at the whole model",
    ("ZeRO", "SAM(SGD)"): "must need gradients alone",
    ("ZeRO", "ScheduleFreeAdamW"): "must have no parameters for evaluation",
}


def trains_as_one_process(strategy: str, optimizer: str, rank: int) -> None:
    """Evaluate in the middle, save while training, and continue from there to the same bits."""
    divided, make_optimizer = STRATEGIES[strategy], OPTIMIZERS[optimizer]
    if (strategy, optimizer) in REFUSED:
        check_refused(REFUSED[strategy, optimizer], lambda: start(divided, make_optimizer, rank))
        return
    alone, training = start_alone(make_optimizer), start(divided, make_optimizer, rank)
    for trained in (alone, training):
        trained.run(range(3))
    check_close(training.evaluate(), alone.evaluate())
    checkpoint = training.save()
    for trained in (alone, training):
        trained.run([3, 4])
    after_evaluation = training.evaluate()
    check_close(after_evaluation, alone.evaluate())
    for trained in (alone, training):
        trained.run([5])
    end = training.evaluate()
    check_close(end, alone.evaluate())
    resumed = start(divided, make_optimizer, rank)
    resumed.load(checkpoint)
    resumed.run([3, 4])
    assert torch.equal(resumed.evaluate(), after_evaluation)
    resumed.run([5])
    assert torch.equal(resumed.evaluate(), end)


def resumes_from_files(rank: int) -> None:
    for name in ("AdamW", "Prodigy", "SAM(SGD)"):
        training = start(STRATEGIES["FSDP2"], OPTIMIZERS[name], rank)
        training.run(range(2))
        resumed = start(STRATEGIES["FSDP2"], OPTIMIZERS[name], rank)
        training.through_files(resumed)
        for trained in (training, resumed):
            trained.run([2, 3])
        assert torch.equal(training.evaluate(), resumed.evaluate()), name


def whole_checkpoints_of_an_evaluation_resume(rank: int) -> None:
    """A checkpoint that holds whole tensors, saved between eval() and train(), goes on to the same bits."""
    options = StateDictOptions(full_state_dict=True)
    for name in ("AdamW", "ScheduleFreeAdamW"):
        training, resumed = (start(STRATEGIES["FSDP2"], OPTIMIZERS[name], rank) for _ in range(2))
        training.run(range(3))
        training.optimizer.eval()
        of_model, of_optimizer = copy.deepcopy(get_state_dict(training.model, training.optimizer, options=options))
        training.optimizer.train()
        set_state_dict(
            resumed.model,
            resumed.optimizer,
            model_state_dict=of_model,
            optim_state_dict=of_optimizer,
            options=options,
        )
        resumed.optimizer.train()
        for trained in (training, resumed):
            trained.run([3, 4])
        assert torch.equal(training.evaluate(), resumed.evaluate()), name


def mixed_precision_steps_as_torch(rank: int) -> None:
    """The flat parameters stay float32, so AdamW takes torch's steps."""
    ends = []
    for kind in (optim.AdamW, torch.optim.AdamW):
        precision = MixedPrecision(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        model = flatten_nested(make_model().float(), mixed_precision=precision)
        optimizer = kind(model.parameters(), lr=0.01)
        for step in range(3):
            optimizer.zero_grad()
            inputs, targets = (tensor.float()[rank::2] for tensor in make_batch(step))
            (model(inputs) - targets).square().mean().backward()
            optimizer.step()
        ends.append(whole_values(model.parameters()))
    assert float((ends[0] - ends[1]).abs().max()) < 1e-6


def models_sharded_later_are_noticed(rank: int) -> None:
    for shard_some in (fully_shard, lambda model: fully_shard(model[3])):
        model = make_model()
        optimizer = optim.AdamW(model.parameters())
        shard_some(model)
        loss_of(model, 0, rank).backward()
        check_refused("fully_shard has replaced", optimizer.step)
        check_refused(
            "fully_shard has replaced", lambda optimizer=optimizer: optim.AdamW(optimizer.param_groups[0]["params"])
        )  # type: ignore[misc]
    model = make_model()
    optimizer = optim.AdamW(model.parameters())
    flattened = flatten_nested(model)
    loss_of(flattened, 0, rank).backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error", SettingWarning)
        check_refused("create it again from model.parameters()", optimizer.step, SettingWarning)
    model = make_model()
    optimizer = optim.LAMB(model.parameters())
    flattened = flatten_nested(model, use_orig_params=True)
    loss_of(flattened, 0, rank).backward()
    check_refused("must be elementwise", optimizer.step)
    model = make_model()
    optimizer = optim.Muon([model[0].weight, model[3].weight])  # type: ignore[index]
    optimizer.param_groups[0]["params"] = [param for param in fully_shard(model).parameters() if param.dim() > 1]
    loss_of(model, 0, rank).backward()
    check_refused("must need no whole parameters", optimizer.step)


def original_parameters_may_be_wrapped_later(rank: int) -> None:
    ends = []
    for wrap in (lambda model: model, partial(flatten_nested, use_orig_params=True)):
        model = make_model()
        plan = optim.route(model, "adamw", lr=0.1, weight_decay=0.5)
        model = wrap(model)
        optimizer = plan.optimizer()
        for step in range(2):
            optimizer.zero_grad()
            loss_of(model, step, rank if isinstance(model, FullyShardedDataParallel) else None).backward()
            optimizer.step()
        ends.append(model(make_batch(9)[0]))
    check_close(*reversed(ends))


def plans_do_not_depend_on_wrappers(rank: int) -> None:
    expected = str(optim.route(make_model(), "muon"))
    for name, strategy in STRATEGIES.items():
        model = strategy.wrap(make_model())
        if name in ("FSDP1", "FSDP1, original parameters", "FSDP1, SHARD_GRAD_OP"):
            check_refused("has flattened", lambda model=model: optim.route(model, "adamw"), RoutingError)  # type: ignore[misc]
        else:
            assert str(optim.route(model, "muon")) == expected, name
    recurrent = nn.Sequential(nn.LSTM(4, 6), nn.Linear(6, 2))
    expected = str(optim.route(recurrent, "muon"))
    fully_shard(recurrent[0])
    assert str(optim.route(fully_shard(recurrent), "muon")) == expected
    model = DistributedDataParallel(make_model())
    plan = optim.route(model, "muon", roles={"module.3.weight": "head"})
    assert [param.name for param in plan.parameters if param.rule == "muon"] == ["0.weight"]
    model = flatten_nested(make_model(), use_orig_params=True)
    with FullyShardedDataParallel.summon_full_params(model):
        plan = optim.route(model, "adamw")
        assert str(plan) == str(optim.route(make_model(), "adamw"))


def curvature_is_averaged(rank: int) -> None:
    def run(model: nn.Module, rank: int | None, group: Any) -> Tensor:
        optimizer = optim.AdaHessian(model.parameters(), lr=0.01)
        for step in range(3):
            loss = loss_of(model, step, rank)
            optimizer.estimate_curvature(loss, process_group=group)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return whole_values(model.parameters())

    expected = run(make_model(), None, "self")
    check_close(run(DistributedDataParallel(make_model()), rank, dist.group.WORLD), expected)
    check_refused("got no process_group", lambda: run(DistributedDataParallel(make_model()), rank, None))
    for wrap in (fully_shard_nested, flatten_nested, partial(flatten_nested, use_orig_params=True)):
        for group in (None, "self", dist.group.WORLD):
            check_refused("absorb_gauss_newton", lambda: run(wrap(make_model()), rank, group))  # noqa: B023


def gauss_newton_is_right_in_every_way(rank: int) -> None:
    def run(model: nn.Module, rank: int | None) -> Tensor:
        optimizer = optim.Sophia(model.parameters(), lr=0.01, rho=1.0)
        for step in range(3):
            optimizer.zero_grad()
            loss_of(model, step, rank).backward()
            optimizer.absorb_gauss_newton(num_examples=8)
            optimizer.step()
        return model(make_batch(9)[0])

    expected = run(make_model(), None)
    for name, strategy in STRATEGIES.items():
        if name != "ZeRO":
            check_close(run(strategy.wrap(make_model()), rank), expected)
