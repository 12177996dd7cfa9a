"""Cases of refusals in two processes: each rule is right, or refused when its optimizer is created."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from tests.integrations.distributed_checks import check_refused
from tests.integrations.process_pair import ROOT
from tests.integrations.sharded_training import (
    CPU,
    flatten_nested,
    fully_shard_nested,
    make_model,
)
from thalweg import optim, rules
from thalweg.errors import ParameterError
from thalweg.registry import RULES


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
    """Each cell of the table in docs/running/distributed.md is what the constructor says."""
    page = (ROOT / "docs/running/distributed.md").read_text()
    table = page[page.index("| rules |") :].partition("\n\n")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
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
    optimizer = optim.optimizer_for("muon+adamw")([{"params": vectors, "rule": "adamw"}])
    check_refused("flattens", lambda: optimizer.add_param_group({"params": matrices, "rule": "muon"}))
    optimizer = optim.optimizer_for("lamb+adamw")([{"params": vectors, "rule": "adamw"}])
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
    groups = [{"params": params[:3], "rule": "adamw"}]
    optimizer = ZeroRedundancyOptimizer(groups, optim.optimizer_for("muon+adamw"), lr=0.1)
    optimizer.add_param_group({"params": params[3:], "rule": "adamw", "lr": 0.2})
    assert [group["lr"] for group in optimizer.optim.param_groups] == [0.1, 0.2]
    optimizer = ZeroRedundancyOptimizer(params[:1], optim.AdamW)  # one rank has no parameter
    params[0].grad = torch.ones_like(params[0])
    optimizer.step()
