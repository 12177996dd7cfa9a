"""Cases of DTensors in two processes: sums cover all shards."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.distributed.tensor.placement_types import _StridedShard

from cases.references.wrapping import set_gradients
from tests.integrations.distributed_checks import check_close, check_refused, whole_values
from tests.integrations.sharded_training import make_batch
from thalweg import optim, rules

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
        "rows, interleaved": ((2,), [_StridedShard(0, split_factor=2)]),  # of a tensor-parallel layer in `fully_shard`
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
    "rows, interleaved",
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
                optimizer.step(partial(set_gradients, params, [place(grad) for grad in grads]))
            ends.append(whole_values(params))
        check_close(*ends)


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
