"""Shards: which parameters are divided over processes, and over which groups. `tests/integrations` sums over them."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from thalweg import optim
from thalweg.engine.core import shards
from thalweg.errors import ParameterError


class Split:
    """A placement that splits a dimension."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def is_replicate(self) -> bool:
        return False


class Whole:
    """A placement that copies a tensor."""

    def is_replicate(self) -> bool:
        return True


def placed(placements: list, sizes: tuple[int, ...]) -> SimpleNamespace:
    """Return what is read of a DTensor of shape (6, 4) on a mesh of these sizes, whose groups are numbers."""
    return SimpleNamespace(
        to_local=None,
        shape=torch.Size([6, 4]),
        dim=lambda: 2,
        placements=placements,
        device_mesh=SimpleNamespace(size=sizes.__getitem__, get_group=lambda k: k),
    )


@pytest.mark.parametrize(
    ("placements", "sizes", "groups"),
    [
        ([Split(0)], (2,), {-2: (0,)}),
        ([Split(0), Split(0)], (2, 2), {-2: (0, 1)}),  # `fully_shard` of a tensor-parallel layer
        ([Split(0), Split(1)], (2, 2), {-2: (0,), -1: (1,)}),
        ([Whole(), Split(1)], (2, 2), {-1: (1,)}),
        ([Split(0), Split(0)], (2, 1), {-2: (0,)}),
        ([Split(0), Split(1)], (1, 1), {}),
        ([Whole()], (2,), {}),
    ],
)
def test_groups_of_a_dtensor(placements: list, sizes: tuple[int, ...], groups: dict) -> None:
    param = placed(placements, sizes)
    placement = shards.shards_of(param)
    assert placement is not None
    assert placement.groups == groups
    assert sorted(placement.all_groups) == sorted(k for split in groups.values() for k in split)
    assert shards.is_split(param) == bool(groups)


def flattened(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    """Return parameters that share memory and bear the mark of `FullyShardedDataParallel`."""
    sizes = [torch.Size(shape).numel() for shape in shapes]
    memory = torch.zeros(sum(sizes))
    params = [nn.Parameter(part.view(shape)) for part, shape in zip(memory.split(sizes), shapes, strict=True)]
    for param in params:
        param._fsdp_flattened = True
    return params


def ids(params: list[Tensor]) -> list[int]:
    return list(map(id, params))


def test_a_matrix_shows_that_its_flat_parameter_is_whole() -> None:
    whole, pieces = flattened((3, 2), (3,)), flattened((6,), (3,), (0,))
    assert ids(shards.flat_pieces([*whole, *pieces, nn.Parameter(torch.ones(2))])) == ids(pieces)
    assert ids(shards.flat_pieces(whole[1:])) == ids(whole[1:])


def test_groups_of_vectors_are_whole_beside_the_matrices_of_another_group() -> None:
    matrix, vector = flattened((3, 2), (3,))
    optim.LAMB([{"params": [vector]}, {"params": [matrix]}])
    optimizer = optim.LAMB([matrix])
    optimizer.add_param_group({"params": [vector]})
    with pytest.raises(ParameterError, match="must be elementwise, got LAMB and a part of shape"):
        optim.LAMB([vector])
    with pytest.raises(ParameterError, match="must be elementwise, got LAMB and a part of shape"):
        optimizer.add_param_group({"params": flattened((4,))})
    assert len(optimizer.param_groups) == 2


def test_a_single_tensor_as_a_group_is_checked() -> None:
    optimizer = optim.Muon([nn.Parameter(torch.ones(2, 2))])
    with pytest.raises(ParameterError, match="2 dimensions or more"):
        optimizer.add_param_group({"params": nn.Parameter(torch.ones(2))})


def test_sam_takes_a_step_without_closure_where_nothing_is_perturbed() -> None:
    """`torch.distributed.checkpoint` takes such a step to create the state of a new optimizer."""
    param = nn.Parameter(torch.ones(2))
    optimizer = optim.optimizer_for("sam(adam)")([param], lr=0.0)
    param.grad = torch.zeros(2)
    optimizer.step()
    assert optimizer.state[param]["exp_avg"].tolist() == [0.0, 0.0]
    param.grad = torch.tensor([0.0, 1.0])
    with pytest.raises(ParameterError, match="needs a second gradient, got no closure"):
        optimizer.step()
