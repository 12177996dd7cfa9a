"""Cases of distributed training, which two processes run together: `python -m ... FOLDER RANK`."""

import re
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from tests.integrations.process_pair import ROOT, Case, serve
from tests.integrations.sharded_training import (
    CPU,
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
from thalweg import optim, rules
from thalweg.errors import ParameterError, RoutingError, SettingWarning
from thalweg.registry import RULES

WORLD = dist.group
TOLERANCE = 1e-12  # relative; the sums of gradients are added up in another order


def check_close(actual: Tensor, expected: Tensor) -> None:
    error = float((actual - expected).abs().max() / expected.abs().max())
    assert error < TOLERANCE, error


def check_refused(words: str, create: Callable[[], Any], error: type[Exception] = ParameterError) -> None:
    """Check that an error has these words."""
    with pytest.raises(error, match=re.escape(words)):
        create()


def whole_values(params: Iterable[Any]) -> Tensor:
    """Return all elements of all parameters, in each process."""
    wholes = [param.full_tensor() if isinstance(param, DTensor) else param for param in params]
    return torch.cat([whole.detach().flatten() for whole in wholes])


# Training, evaluation, saving

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


# Sums over shards

SHAPES = ((5, 3), (4, 3, 2), (7,), (), (1, 3), (3, 1), (8, 4), (2, 2))  # on rank 1 some have no element
SUMMING: tuple[rules.Rule, ...] = (
    rules.Adafactor(lr=0.01),  # rows, columns and whole tensors
    rules.SM3(lr=0.01),  # the largest of each
    rules.Clip(rules.LAMB(lr=0.01), max_norm=0.5),  # tensors, and the whole model
    rules.SAM(rules.Prodigy()),  # the whole model, at two points
)


def _placements(tensor: Tensor) -> dict[str, tuple[tuple[int, ...], list[Any]]]:
    """Return ways to divide a tensor: the shape of the mesh, and a placement for each of its dimensions."""
    if tensor.dim() == 0:
        return dict.fromkeys(PLACEMENTS, ((2,), [Replicate()]))
    last = Shard(tensor.dim() - 1)
    return {
        "rows": ((2,), [Shard(0)]),
        "the last dimension": ((2,), [last]),
        "replicated groups of shards": ((1, 2), [Replicate(), Shard(0)]),
        "rows, divided twice, by the first": ((2, 1), [Shard(0), Shard(0)]),
        "rows, divided twice, by the second": ((1, 2), [Shard(0), Shard(0)]),
        "rows and columns": ((2, 1), [Shard(0), last]),
        "matrices only": ((2,), [Shard(0) if tensor.dim() > 1 else Replicate()]),
        "whole": ((2,), [Replicate()]),
    }


PLACEMENTS = (
    "rows",
    "the last dimension",
    "replicated groups of shards",
    "rows, divided twice, by the first",
    "rows, divided twice, by the second",
    "rows and columns",
    "matrices only",
    "whole",
)


def sums_cover_all_shards(placement: str, rank: int) -> None:
    meshes = {shape: init_device_mesh("cpu", shape) for shape in ((2,), (2, 1), (1, 2))}

    def shard(tensor: Tensor) -> Any:
        shape, places = _placements(tensor)[placement]
        return distribute_tensor(tensor.clone(), meshes[shape], places, src_data_rank=None)

    generator = torch.Generator().manual_seed(0)
    draws = [[torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES] for _ in range(3)]
    for rule in SUMMING:
        ends = []
        for place in (shard, torch.clone):
            params = [place(value).requires_grad_() for value in draws[0]]
            optimizer = optim.optimizer_for(rule)(params)
            for grads in draws[1:]:
                optimizer.step(partial(_set_gradients, params, [place(grad) for grad in grads]))
            ends.append(whole_values(params))
        check_close(*ends)


def _set_gradients(params: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad


def gradients_are_placed_as_parameters(rank: int) -> None:
    """In tensor parallelism, the gradient of a replicated parameter may come as the terms of a sum."""
    mesh = init_device_mesh("cpu", (2,))
    value, grad = torch.arange(12.0).view(4, 3), torch.arange(12.0).view(4, 3).cos()
    terms = DTensor.from_local(grad * (0.25 if rank == 0 else 0.75), mesh, [Partial()])
    for kind in (optim.AdamW, optim.LAMB):
        expected = value.clone().requires_grad_()
        expected.grad = grad.clone()
        kind([expected], lr=0.1).step()
        for place, placed in ((Replicate(), terms), (Shard(0), terms), (Shard(0), distribute_tensor(grad, mesh))):
            param = distribute_tensor(value.clone(), mesh, [place]).requires_grad_()
            param.grad = placed  # type: ignore[assignment]  # of another placement
            kind([param], lr=0.1).step()
            torch.testing.assert_close(whole_values([param]), whole_values([expected]), rtol=1e-6, atol=1e-6)


def tensor_parallel_trains_as_one_process(rank: int) -> None:
    inputs = make_batch(0)[0]
    mesh = init_device_mesh("cpu", (2,))

    def make(*, parallel: bool) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
        return parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()}) if parallel else model

    for kind in (optim.Prodigy, optim.LAMB, optim.AdaHessian):
        ends = []
        for parallel in (False, True):
            model = make(parallel=parallel)
            optimizer: Any = kind(model.parameters())
            for _ in range(3):
                optimizer.zero_grad()
                loss = model(inputs).square().mean()
                if kind is optim.AdaHessian:
                    optimizer.estimate_curvature(loss, process_group=None if parallel else "self")
                loss.backward()
                optimizer.step()
            ends.append(whole_values(model.parameters()))
        check_close(*reversed(ends))
    check_refused("must need no whole parameters", lambda: optim.Muon([make(parallel=True)[0].weight]))  # type: ignore[index]


def whole_dtensors_take_every_rule(rank: int) -> None:
    """A mesh dimension of one process divides nothing."""
    value = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ends = []
    for placements in (None, [Replicate(), Shard(0)]):
        param: Any = value.clone()
        if placements:
            param = distribute_tensor(param, init_device_mesh("cpu", (2, 1)), placements, src_data_rank=None)
        param.requires_grad_()
        optimizer = optim.optimizer_for("noisy(muon)")([param], lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            param.sin().sum().backward()
            optimizer.step()
        ends.append(whole_values([param]))
    assert torch.equal(*ends)


# Refusals


def every_rule_is_right_or_refused(rank: int) -> None:
    """The traits of each rule decide, and each rule has them from the start."""
    flat = FullyShardedDataParallel(nn.Linear(4, 4), device_id=CPU)
    sharded = fully_shard(nn.Linear(4, 4, bias=False))
    plain = nn.Linear(4, 4, bias=False)
    for rule_class in RULES.values():
        rule = rule_class()
        kind, traits = optim.optimizer_for(rule), rule.traits
        has_reach = traits.scope == "model" or traits.needs == "closure"
        _check_accepted(
            traits.scope == "elementwise" and not has_reach, partial(kind, flat.parameters()), f"{rule.name} in FSDP1"
        )
        _check_accepted(
            not traits.needs_whole_matrices and traits.needs != "closure",
            partial(kind, sharded.parameters()),
            f"{rule.name} in FSDP2",
        )
        _check_accepted(
            not has_reach
            and traits.needs == "gradient"
            and not traits.has_eval_params
            and not traits.uses_random_numbers,
            lambda kind=kind: ZeroRedundancyOptimizer(plain.parameters(), kind),  # type: ignore[misc]
            f"{rule.name} in ZeRO",
        )


def _check_accepted(expected: bool, create: Callable[[], Any], what: str) -> None:
    try:
        create()
        accepted = True
    except ParameterError:
        accepted = False
    assert accepted == expected, f"{what}: accepted is {accepted}"


def document_agrees(rank: int) -> None:
    """Each cell of the table in docs/distributed.md is what the constructor says."""
    lines = [line for line in (ROOT / "docs/distributed.md").read_text().splitlines() if line.startswith("| ")]
    columns, rows = _cells(lines[0])[2:], [_cells(line) for line in lines[1:]]
    ways: dict[str, Callable[[Any], Any]] = {
        "DDP": lambda kind: kind(DistributedDataParallel(_matrix()).parameters()),
        "FSDP2": lambda kind: kind(fully_shard(_matrix()).parameters()),
        "tensor parallelism": lambda kind: kind(
            [distribute_tensor(torch.ones(4, 4), init_device_mesh("cpu", (2,)), [Shard(1)]).requires_grad_()]
        ),
        "FSDP1": lambda kind: kind(FullyShardedDataParallel(_matrix(), device_id=CPU).parameters()),
        "ZeRO": lambda kind: ZeroRedundancyOptimizer(_matrix().parameters(), kind),
    }
    assert list(ways) == columns
    assert len(rows) > 8
    for row in rows:
        for name in (part.strip(" `") for part in row[1].split(",")):
            for column, cell in zip(columns, row[2:], strict=True):
                assert cell in ("yes", "no"), cell
                _check_accepted(
                    cell == "yes",
                    partial(ways[column], optim.optimizer_for(name)),
                    f"{name} in {column}, documented as {cell}",
                )


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("| ").split(" | ")]


def _matrix() -> nn.Module:
    return nn.Linear(4, 4, bias=False)


def refusals_cover_groups_wrappers_and_rounding(rank: int) -> None:
    flat = flatten_nested(make_model(), use_orig_params=True)
    vectors, matrices = list(flat.parameters())[:2], list(flat.parameters())[2:]
    optimizer = optim.optimizer_for("muon+adamw")(vectors)  # AdamW is the default
    check_refused("flattens", lambda: optimizer.add_param_group({"params": matrices, "rule": "muon"}))
    optimizer = optim.optimizer_for("lamb+adamw")(vectors)
    check_refused("must be elementwise", lambda: optimizer.add_param_group({"params": matrices, "rule": "lamb"}))
    assert len(optimizer.param_groups) == 1
    check_refused("must be elementwise", lambda: optim.optimizer_for("then(adam,lamb)")(flat.parameters()))
    check_refused(
        "random numbers",
        lambda: optim.AdamW(flatten_nested(make_model().bfloat16()).parameters(), rounding="stochastic"),
    )
    sharded = fully_shard_nested(make_model())
    blocks = rules.Split(rules.LAMB(), row_blocks=7)
    check_refused("must need no whole parameters", lambda: optim.optimizer_for(blocks)([sharded[0].weight]))  # type: ignore[index]
    check_refused("must need no whole parameters", lambda: optim.optimizer_for("then(adam,muon)")([sharded[0].weight]))  # type: ignore[index]
    check_refused("random numbers", lambda: optim.optimizer_for("noisy(sgd)")(sharded.parameters()))
    check_refused(
        "random numbers", lambda: optim.AdamW(fully_shard(make_model().bfloat16()).parameters(), rounding="stochastic")
    )
    optim.AdamW(fully_shard(make_model()).parameters(), rounding="stochastic")  # float64 is not rounded
    terms = DTensor.from_local(torch.ones(2), init_device_mesh("cpu", (2,)), [Partial()]).requires_grad_()
    check_refused("holds the terms of a sum", lambda: optim.AdamW([terms]))


def zero_hands_on_groups(rank: int) -> None:
    """Also a later group, and through a function that creates the optimizer."""
    create = lambda params, **settings: optim.Prodigy(params, **settings)  # noqa: E731
    check_refused("must not look at the whole", lambda: ZeroRedundancyOptimizer(make_model().parameters(), create))
    params = list(make_model().bfloat16().parameters())
    check_refused("random numbers", lambda: ZeroRedundancyOptimizer(params, optim.AdamW, rounding="stochastic"))
    params = list(make_model().parameters())
    optimizer = ZeroRedundancyOptimizer(params[:3], optim.optimizer_for("muon+adamw"), lr=0.1)
    optimizer.add_param_group({"params": params[3:], "lr": 0.2})
    assert [group["lr"] for group in optimizer.optim.param_groups] == [0.1, 0.2]
    optimizer = ZeroRedundancyOptimizer(params[:1], optim.AdamW)  # one rank has no parameter
    params[0].grad = torch.ones_like(params[0])
    optimizer.step()


# Models that change after their optimizers were created


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


# Routing


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


# Curvature


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
    check_close(run(DistributedDataParallel(make_model()), rank, WORLD.WORLD), expected)
    check_refused("got no process_group", lambda: run(DistributedDataParallel(make_model()), rank, None))
    for wrap in (fully_shard_nested, flatten_nested, partial(flatten_nested, use_orig_params=True)):
        for group in (None, "self", WORLD.WORLD):
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


CASES: dict[str, Case] = {
    **{
        f"{strategy}: {optimizer}": partial(trains_as_one_process, strategy, optimizer)
        for strategy in STRATEGIES
        for optimizer in OPTIMIZERS
    },
    **{f"sums: {placement}": partial(sums_cover_all_shards, placement) for placement in PLACEMENTS},
    **{
        case.__name__: case
        for case in (
            resumes_from_files,
            mixed_precision_steps_as_torch,
            gradients_are_placed_as_parameters,
            tensor_parallel_trains_as_one_process,
            whole_dtensors_take_every_rule,
            every_rule_is_right_or_refused,
            document_agrees,
            refusals_cover_groups_wrappers_and_rounding,
            zero_hands_on_groups,
            models_sharded_later_are_noticed,
            original_parameters_may_be_wrapped_later,
            plans_do_not_depend_on_wrappers,
            curvature_is_averaged,
            gauss_newton_is_right_in_every_way,
        )
    },
}


if __name__ == "__main__":
    serve(CASES, Path(sys.argv[1]), int(sys.argv[2]))
