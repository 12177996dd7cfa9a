"""Trainings written in other forms, which only judge.

Several inputs, outputs that are dictionaries, sequential models, functions instead of modules, data loaders, groups of
parameters, schedules in the step.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.doctor.trainings import data
from benchmarks.doctor.trainings.cases import Case, add_case, names_of
from benchmarks.doctor.trainings.run import Batch, Run, evaluated
from thalweg.tasks import Training

Change = Callable[..., Any]


class Towers(nn.Module):
    """Two inputs, a tower for each, and an output of shape ``(batch,)``."""

    def __init__(self, output: Change) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Linear(15, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU())
        self.right = nn.Sequential(nn.Linear(15, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU())
        self.top = nn.Linear(24, 1)
        self.output = output

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        both = torch.cat([self.left(left), self.right(right)], 1)
        return self.output(self.top(both).squeeze(-1))


def _same(value: Any) -> Any:
    return value


def towers(
    seed: int,
    *,
    lr: float = 3e-3,
    decay: float = 0.01,
    output: Change = _same,
    change_inputs: Change = _same,
    change_targets: Change = _same,
    prepare: Change = _same,
    wrap_loss: Change = _same,
    shuffle: bool = True,
) -> Run:
    """Return a training with two inputs, a data loader, and AdamW that decays the weights alone."""
    torch.manual_seed(seed)
    examples, model = data.tumours(seed), Towers(output)
    prepare(model)
    order = torch.arange(len(examples.x)) if shuffle else examples.y[:, 0].argsort()
    x, y = change_inputs(examples.x.clone())[order], change_targets(examples.y[:, 0])[order]
    batches = DataLoader(TensorDataset(x[:, :15], x[:, 15:], y), 32, shuffle=shuffle, drop_last=True)
    groups = [
        {"params": [param for param in model.parameters() if param.ndim > 1], "weight_decay": decay},
        {"params": [param for param in model.parameters() if param.ndim == 1], "weight_decay": 0.0},
    ]
    held_out = change_inputs(examples.held_out_x.clone())

    def score(model: nn.Module) -> float:
        answers = model(held_out[:, :15], held_out[:, 15:]) > 0
        return (answers == (examples.held_out_y[:, 0] > 0.5)).float().mean().item()

    loss = wrap_loss(functional.binary_cross_entropy_with_logits)
    training = Training(model, torch.optim.AdamW(groups, lr=lr), batches, loss, metric=evaluated(score))
    return Run(training, goal=0.92, steps=250)


class Tagger(nn.Module):
    """A recurrent network that returns a dictionary."""

    def __init__(self, output: Change, between: Change) -> None:
        super().__init__()
        self.words = nn.Embedding(data.VOCABULARY, 16)
        self.memory = nn.LSTM(16, 32, batch_first=True)
        self.tags = nn.Linear(32, data.VOCABULARY)
        self.output, self.between = output, between

    def forward(self, words: Tensor) -> dict[str, Tensor]:
        states = self.between(self.memory(self.words(words))[0])
        return {"logits": self.output(self.tags(states)), "states": states}


def _tag_loss(output: dict[str, Tensor], target: Tensor) -> Tensor:
    return functional.cross_entropy(output["logits"].transpose(1, 2), target)


def _summed_tag_loss(output: dict[str, Tensor], target: Tensor) -> Tensor:
    return functional.cross_entropy(output["logits"].transpose(1, 2), target, reduction="sum")


def tagger(
    seed: int,
    *,
    lr: float = 0.02,
    make_optimizer: Change = torch.optim.Adam,
    output: Change = _same,
    between: Change = _same,
    prepare: Change = _same,
    change_inputs: Change = _same,
    loss: Change = _tag_loss,
    clip: float = 1.0,
    decay: float = 1.0,
    zero_grad: bool = True,
) -> Run:
    """Return a training of a recurrent network whose step clips, and decays the learning rate."""
    torch.manual_seed(seed)
    examples, model = data.tokens(seed), Tagger(output, between)
    prepare(model)
    optimizer = make_optimizer(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, decay)

    def step(training: Training, words: Tensor, tags: Tensor) -> Tensor:
        if zero_grad:
            training.optimizer.zero_grad()
        loss = training.loss_fn(training.model(words), tags)
        loss.backward()
        nn.utils.clip_grad_norm_(training.model.parameters(), clip)
        training.optimizer.step()
        schedule.step()
        return loss

    def score(model: nn.Module) -> float:
        answers = [model(examples.held_out_x[k : k + 1])["logits"].argmax(-1) for k in range(60)]
        return (torch.cat(answers) == examples.held_out_y[:60]).float().mean().item()

    loader = DataLoader(TensorDataset(change_inputs(examples.x), examples.y), 64, shuffle=True, drop_last=True)
    return Run(Training(model, optimizer, loader, loss, step, evaluated(score)), goal=0.9, steps=250)


class _Batches:
    """Batches, changed anew in each pass."""

    def __init__(self, batches: list[Batch], *changes: Change) -> None:
        self.batches, self.changes = batches, changes

    def __iter__(self) -> Iterator[Batch]:
        for x, y in self.batches:
            for change in self.changes:
                x = change(x)
            yield x, y


def images(
    seed: int,
    *,
    lr: float = 0.05,
    momentum: float = 0.9,
    decay: float = 0.0,
    activation: Change = nn.ReLU,
    norm: Change = nn.BatchNorm2d,
    last: nn.Module | None = None,
    loss: Change = functional.cross_entropy,
    size: int = 64,
    transform: Change = _same,
    prepare: Change = _same,
    before: Change = _same,
) -> Run:
    """Return a training of a sequential model of images whose batches are a list."""
    torch.manual_seed(seed)
    examples = data.digits(seed)
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), norm(8), activation(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), norm(16), activation(), nn.AdaptiveAvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(64, 10), nn.Identity() if last is None else last),
    )
    prepare(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=decay)
    order = torch.randperm(len(examples.x), generator=torch.Generator().manual_seed(seed))
    x, y = examples.x.view(-1, 1, 8, 8), examples.y
    batches = _Batches([(x[rows], y[rows]) for rows in order.split(size) if len(rows) == size], transform, before)

    def score(model: nn.Module) -> float:
        answers = model(before(examples.held_out_x.view(-1, 1, 8, 8))).argmax(-1)
        return (answers == examples.held_out_y).float().mean().item()

    return Run(Training(model, optimizer, batches, loss, metric=evaluated(score)), goal=0.9, steps=250)


def _plain_images(seed: int, **options: Any) -> Run:
    return images(seed, norm=lambda channels: nn.Identity(), **options)


def _fault(
    kind: str,
    build: Callable[..., Run],
    where: str | Sequence[str] | None = None,
    *,
    both: dict[str, Any] | None = None,
    **sick: Any,
) -> None:
    name, both = build.__name__.strip("_").replace("_", "-"), both or {}
    make, cure = partial(build, **{**both, **sick}), partial(build, **both)
    add_case(Case(kind, name, make, cure, names_of(where), held_out=True, author=build))


def _lowered(*names: str) -> Change:
    def lower(model: nn.Module) -> None:
        with torch.no_grad():
            for name in names:
                model.get_submodule(name).bias.fill_(-40.0)

    return lower


def _zeroed(model: nn.Module) -> None:
    with torch.no_grad():
        for param in model.parameters():
            param.zero_()


def _enlarged(factor: float) -> Change:
    def enlarge(model: nn.Module) -> None:
        with torch.no_grad():
            for param in model.parameters():
                if param.ndim > 1:
                    param.mul_(factor)

    return enlarge


def _with_nan(x: Tensor) -> Tensor:
    x = x.clone()
    x[::40, 0] = float("nan")
    return x


def _raw(x: Tensor) -> Tensor:
    return 300 * x + 1000


def _destroyed(x: Tensor) -> Tensor:
    return x + 12 * torch.randn_like(x)


def _permuted(y: Tensor) -> Tensor:
    return y[torch.randperm(len(y))]


def _evaluating(model: nn.Module) -> None:
    model.eval()


def _slow_norms(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1e-4


_fault("sigmoid_before_bce_logits", towers, output=torch.sigmoid)
_fault("lr_too_low", towers, lr=2e-6)
_fault("lr_too_high", towers, lr=300.0, both={"decay": 0.0})
_fault("weight_decay_too_strong", towers, decay=150.0)
_fault("labels_misaligned", towers, change_targets=_permuted)
_fault("dead_relu", towers, ("left.0", "right.0"), prepare=_lowered("left.0", "right.0"))
_fault("adam_eps_underflow", towers, wrap_loss=lambda loss: lambda output, y: 1e-10 * loss(output, y))
_fault("softmax_of_one_unit", towers, output=lambda x: x[:, None].softmax(1)[:, 0])

_fault(
    "no_zero_grad",
    tagger,
    zero_grad=False,
    clip=1e9,
    both={"make_optimizer": partial(torch.optim.SGD, momentum=0.9), "lr": 0.5},
)
_fault(
    "softmax_before_cross_entropy",
    tagger,
    output=partial(torch.softmax, dim=-1),
    both={"make_optimizer": partial(torch.optim.SGD, momentum=0.9), "lr": 0.5},
)
_fault("softmax_wrong_dim", tagger, output=partial(torch.log_softmax, dim=0))
_fault("clip_too_small", tagger, clip=1e-4, both={"make_optimizer": torch.optim.SGD, "lr": 1.0})
_fault("schedule_kills_lr", tagger, decay=0.8)
_fault("detached_graph", tagger, "memory", between=lambda states: states.detach())
_fault("zero_init", tagger, prepare=_zeroed)
_fault("init_too_large", tagger, prepare=_enlarged(30.0))
_fault("inputs_constant", tagger, change_inputs=torch.zeros_like)
_fault("lr_too_low", tagger, lr=2e-5)

_fault("inputs_not_normalised", _plain_images, before=_raw)
_fault("augmentation_too_strong", images, transform=_destroyed)
_fault("batchnorm_eval_gap", images, "1", prepare=_slow_norms, both={"before": _raw})
_fault("left_in_eval_mode", images, prepare=_evaluating, both={"before": _raw})
_fault(
    "nll_without_log",
    _plain_images,
    "10",
    last=nn.Softmax(-1),
    both={"loss": functional.nll_loss, "last": nn.LogSoftmax(-1)},
)
_fault("vanishing_gradient", _plain_images, activation=nn.Sigmoid)
_fault("momentum_too_high", _plain_images, momentum=0.9995)
_fault("lr_too_high", _plain_images, lr=3.0)
_fault("nan_in_data", _plain_images, transform=lambda x: _with_nan(x.flatten(1)).view_as(x))
_fault("zero_init", _plain_images, prepare=_zeroed)
_fault("frozen_parameters", _plain_images, ("0", "4"), prepare=lambda model: model[:8].requires_grad_(False))
