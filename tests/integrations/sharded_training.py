"""Trainings of one model, divided over processes in each of PyTorch's ways, beside the same training in one process."""

import copy
import io
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from thalweg import optim

CPU = torch.device("cpu")
WORLD_SIZE = 2

MakeOptimizer = Callable[[nn.Module, "Create"], torch.optim.Optimizer]
Create = Callable[..., torch.optim.Optimizer]  # of parameters, an optimizer class and settings


def make_model() -> nn.Module:
    """Return the model at its first values, the same in each process. No dimension is even."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 7), nn.LayerNorm(7), nn.ReLU(), nn.Linear(7, 7), nn.Tanh(), nn.Linear(7, 3)
    ).double()


def make_batch(step: int) -> tuple[Tensor, Tensor]:
    """Return the inputs and targets of a step, for all processes together."""
    generator = torch.Generator().manual_seed(step)
    return tuple(torch.randn(8, size, generator=generator, dtype=torch.float64) for size in (5, 3))  # type: ignore[return-value]


def loss_of(model: nn.Module, step: int, rank: int | None) -> Tensor:
    """Return the loss on the examples of a rank, or on all if there is one process."""
    inputs, targets = make_batch(step)
    if rank is not None:
        inputs, targets = inputs[rank::WORLD_SIZE], targets[rank::WORLD_SIZE]
    return (model(inputs) - targets).square().mean()


def fully_shard_nested(model: Any, **settings: Any) -> nn.Module:
    """Shard a model and, by itself, one of its layers, as one does with the blocks of a transformer."""
    fully_shard(model[3], **settings)
    return fully_shard(model, **settings)


def flatten_nested(model: Any, **settings: Any) -> nn.Module:
    """Do the same with `FullyShardedDataParallel`."""
    model[3] = FullyShardedDataParallel(model[3], device_id=CPU, **settings)
    return FullyShardedDataParallel(model, device_id=CPU, **settings)


@dataclass(frozen=True)
class Strategy:
    """A way to divide a training over processes.

    Attributes:
        wrap: A function that distributes a model.
        create: A function that creates an optimizer of parameters.
    """

    wrap: Callable[[nn.Module], nn.Module]
    create: Create = lambda params, kind, **settings: kind(params, **settings)


STRATEGIES = {
    "DDP": Strategy(DistributedDataParallel),
    "DDP, gradients as views": Strategy(partial(DistributedDataParallel, gradient_as_bucket_view=True)),
    "FSDP2": Strategy(fully_shard_nested),
    "FSDP2, not resharded": Strategy(partial(fully_shard_nested, reshard_after_forward=False)),
    "FSDP1": Strategy(flatten_nested),
    "FSDP1, original parameters": Strategy(partial(flatten_nested, use_orig_params=True)),
    "FSDP1, SHARD_GRAD_OP": Strategy(
        partial(flatten_nested, use_orig_params=True, sharding_strategy=ShardingStrategy.SHARD_GRAD_OP)
    ),
    "FSDP1, NO_SHARD": Strategy(
        partial(flatten_nested, use_orig_params=True, sharding_strategy=ShardingStrategy.NO_SHARD)
    ),
    "ZeRO": Strategy(DistributedDataParallel, ZeroRedundancyOptimizer),
}


def _by_name(name: str, **settings: Any) -> MakeOptimizer:
    return lambda model, create: create(model.parameters(), optim.optimizer_for(name), **settings)


def route_muon(model: nn.Module, create: Create) -> torch.optim.Optimizer:
    """Create an optimizer of a plan. `ZeroRedundancyOptimizer` takes parameters without names."""
    plan = optim.route(model, "muon", lr=0.01)
    groups = [group | {"params": [param for _, param in group["params"]]} for group in plan.groups()]
    return create(groups, optim.optimizer_for(plan.rule.at_defaults()))


OPTIMIZERS: dict[str, MakeOptimizer] = {
    "AdamW": _by_name("adamw", lr=0.01, weight_decay=0.1),
    "ScheduleFreeAdamW": _by_name("schedule_free_adamw", lr=0.01, warmup_steps=2),
    "Prodigy": _by_name("prodigy"),
    "Muon+AdamW": route_muon,
    "SAM(SGD)": _by_name("sam(sgd)", lr=0.05),
    "LAMB": _by_name("lamb", lr=0.01),
    "Clip(AdamW)": _by_name("clip(adamw)", lr=0.01, max_norm=0.1),
}


@dataclass
class Training:
    """A model and its optimizer, in this process alone or as one of two.

    Attributes:
        model: The model.
        optimizer: The optimizer.
        rank: The rank of this process, or None if it trains alone.
    """

    model: nn.Module
    optimizer: Any
    rank: int | None

    def run(self, steps: Iterable[int]) -> None:
        """Take steps, each with a closure."""
        for step in steps:

            def closure(step: int = step) -> Tensor:
                self.optimizer.zero_grad()
                loss = loss_of(self.model, step, self.rank)
                loss.backward()
                return loss

            self.optimizer.step(closure)

    @torch.no_grad()
    def evaluate(self) -> Tensor:
        """Return the outputs of the model at the parameters for evaluation."""
        self.model(make_batch(98)[0])  # as for a loss to be logged; FSDP may keep the parameters of this pass
        if isinstance(self.optimizer, optim.RuleOptimizer):  # others have no such parameters
            self.optimizer.eval()
        outputs: Tensor = self.model(make_batch(99)[0])
        if isinstance(self.optimizer, optim.RuleOptimizer):
            self.optimizer.train()
        return outputs

    def save(self) -> Any:
        """Return a checkpoint that later steps do not change."""
        if isinstance(self.optimizer, ZeroRedundancyOptimizer):
            self.optimizer.consolidate_state_dict(to=0)
            saved = [_to_bytes(self.optimizer.state_dict()) if self.rank == 0 else None]
            dist.broadcast_object_list(saved, src=0)
            return _to_bytes(self.model.state_dict()), saved[0]
        if isinstance(self.model, DistributedDataParallel):
            return _to_bytes(self.model.state_dict()), _to_bytes(self.optimizer.state_dict())
        return copy.deepcopy(get_state_dict(self.model, self.optimizer))

    def load(self, checkpoint: Any) -> None:
        """Load a checkpoint of `save`."""
        of_model, of_optimizer = checkpoint
        if isinstance(self.model, DistributedDataParallel):
            self.model.load_state_dict(_from_bytes(of_model))
            self.optimizer.load_state_dict(_from_bytes(of_optimizer))
        else:
            set_state_dict(self.model, self.optimizer, model_state_dict=of_model, optim_state_dict=of_optimizer)

    def through_files(self, target: "Training") -> None:
        """Save with `torch.distributed.checkpoint` and load into another training."""
        folder = [tempfile.mkdtemp() if self.rank == 0 else ""]
        dist.broadcast_object_list(folder, src=0)
        model, optimizer = get_state_dict(self.model, self.optimizer)
        dcp.save({"model": model, "optimizer": optimizer}, checkpoint_id=folder[0])
        model, optimizer = get_state_dict(target.model, target.optimizer)
        read = {"model": model, "optimizer": optimizer}
        dcp.load(read, checkpoint_id=folder[0])
        set_state_dict(
            target.model, target.optimizer, model_state_dict=read["model"], optim_state_dict=read["optimizer"]
        )
        dist.barrier()
        if self.rank == 0:
            shutil.rmtree(folder[0])


def _to_bytes(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _from_bytes(saved: bytes) -> Any:
    return torch.load(io.BytesIO(saved), weights_only=True)


def start(strategy: Strategy, make_optimizer: MakeOptimizer, rank: int) -> Training:
    """Return a training at its beginning, as one of two processes."""
    model = strategy.wrap(make_model())
    return Training(model, make_optimizer(model, strategy.create), rank)


def start_alone(make_optimizer: MakeOptimizer) -> Training:
    """Return a training at its beginning, in this process alone."""
    model = make_model()
    return Training(model, make_optimizer(model, Strategy.create), None)
