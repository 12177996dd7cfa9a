"""Checks of the interface of ``torch.optim.Optimizer``: groups, names, closures, schedulers and hooks."""

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.testing import process_state
from thalweg.testing.fixtures import (
    RefusedError,
    SkippedError,
    Subject,
    assert_identical,
    make_gradients,
    set_gradients,
    set_in_groups,
)


def is_an_optimizer(subject: Subject) -> None:
    """It is a ``torch.optim.Optimizer``, as schedulers and scalers require. Known defect: schedule-free wrappers."""
    optimizer = subject.optimizer(subject.params())
    assert isinstance(optimizer, torch.optim.Optimizer), f"it is a {type(optimizer).__name__}"


def takes_groups_with_their_own_settings(subject: Subject) -> None:
    """Each group uses its own learning rate, also a group that is added later."""
    params = subject.params()
    optimizer = subject.optimizer([{"params": params[:1]}, {"params": params[1:2]}])
    if "lr" not in optimizer.param_groups[0]:
        raise SkippedError("no lr in its groups")
    optimizer.param_groups[1].update(
        lr=0.0, **({"weight_decay": 0.0} if "weight_decay" in optimizer.param_groups[1] else {})
    )
    subject.train(optimizer, params[:2], range(2))
    optimizer.add_param_group({"params": params[2:]})
    subject.train(optimizer, params, range(2, 5))
    moved = [not torch.equal(param, start) for param, start in zip(params, subject.params(), strict=True)]
    assert moved == [True, False, *[True] * (len(params) - 2)], f"which parameters moved: {moved}"


def takes_named_parameters(subject: Subject) -> None:
    """It accepts ``model.named_parameters()`` and keeps the names in the groups."""
    model = nn.Linear(4, 4, bias=False).to(subject.device)
    optimizer = subject.optimizer(model.named_parameters())
    assert optimizer.param_groups[0].get("param_names") == ["weight"], "no param_names in the group"
    model(torch.ones(2, 4, device=subject.device)).sum().backward()
    subject.step(optimizer, list(model.parameters()))


def calls_closures(subject: Subject) -> None:
    """``step(closure)`` computes the loss with gradients enabled, and returns it."""
    params = subject.params()
    optimizer = subject.optimizer(params)
    num_calls = 0

    def closure() -> Tensor:
        nonlocal num_calls
        num_calls += 1
        assert torch.is_grad_enabled(), "gradients are off in the closure"
        optimizer.zero_grad()
        loss = torch.stack([param.square().sum() for param in params]).sum()
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        return loss

    expected = float(sum(param.detach().square().sum() for param in params))
    loss = optimizer.step(closure)  # type: ignore[arg-type]  # torch wants a float, and documents a tensor
    assert num_calls >= 1, "the closure was never called"
    assert loss is not None, "the loss is not returned"
    assert abs(float(loss) - expected) <= 1e-5 * expected, f"the loss returned is {float(loss):.4g}, not {expected:.4g}"


def adds_the_gradients_of_a_closure(subject: Subject) -> None:
    """Gradients from before ``step(closure)`` count, or are refused. Known defect: SAM dropped them."""
    ends = []
    for accumulates in (True, False):
        params = subject.params()
        optimizer = subject.optimizer(params)
        first, second = make_gradients(params, 0), make_gradients(params, 1)
        if accumulates:
            set_gradients(params, 0)

        def closure(*, params: list[Tensor] = params, accumulates: bool = accumulates) -> float:
            for param, earlier, grad in zip(params, first, second, strict=True):  # noqa: B023  (equal in each pass)
                if not accumulates:
                    param.grad = earlier + grad
                elif param.grad is None:
                    param.grad = grad.clone()
                else:  # as autograd does
                    param.grad += grad
            return 1.0

        try:
            optimizer.step(closure)
        except Exception as error:
            if accumulates and "closure" in str(error):
                raise RefusedError(str(error)) from error
            raise
        ends.append(params)
    assert_identical(ends[0], ends[1], "gradients before and in a closure, against all of them in it")


def obeys_schedulers(subject: Subject) -> None:
    """A scheduler of torch can be attached, and a step uses its learning rate."""
    ends = []
    for mode in ("scheduled", "set by hand", "constant"):
        params = subject.params()
        optimizer = subject.optimizer(params)
        if "lr" not in optimizer.param_groups[0]:
            raise SkippedError("no lr in its groups")
        lr = optimizer.param_groups[0]["lr"]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step) if mode == "scheduled" else None
        for step in range(4):
            if mode == "set by hand":
                set_in_groups(optimizer, lr=lr * 0.5**step)
            subject.train(optimizer, params, range(step, step + 1))
            if schedule is not None:
                schedule.step()
        ends.append(params)
    assert_identical(ends[0], ends[1], "a schedule against the same learning rates set by hand")
    assert not torch.equal(ends[0][0], ends[2][0]), "the schedule changed nothing"


def calls_hooks(subject: Subject) -> None:
    """Hooks before and after a step are called once for each step."""
    params = subject.params()
    optimizer = subject.optimizer(params)
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    subject.train(optimizer, params, range(2))
    assert calls == ["before", "after"] * 2, f"called: {calls}"


def accumulates_in_closures(subject: Subject) -> None:
    """A closure that adds up the gradients of several micro-batches steps as one that takes the whole batch.

    Known defect: the second gradient of a sharpness-aware step is that of the last micro-batch.
    """
    _check_close(_train_by_closure(subject, num_parts=4), _train_by_closure(subject, num_parts=1), subject)


def _train_by_closure(subject: Subject, num_parts: int) -> list[Tensor]:
    params = subject.params(torch.float64)
    optimizer = subject.optimizer(params)
    generator = torch.Generator().manual_seed(3)
    # Whole numbers, so that the gradients are the same to the last bit in whatever parts they are added.
    slopes = [
        torch.randint(-9, 10, (8, *param.shape), generator=generator).double().to(subject.device) for param in params
    ]

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = torch.zeros((), dtype=torch.float64, device=subject.device)
        for part in range(num_parts):
            rows = slice(8 * part // num_parts, 8 * (part + 1) // num_parts)
            products = [param * slope[rows] for param, slope in zip(params, slopes, strict=True)]
            loss = torch.stack([product.sum() for product in products]).sum() / 8
            loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
            total = total + loss.detach()
        return total

    for _ in range(3):
        subject.step_with(optimizer, params, closure)
    return params


def _check_close(actual: list[Tensor], expected: list[Tensor], subject: Subject) -> None:
    for param, expected_param, start in zip(actual, expected, subject.params(torch.float64), strict=True):
        error = float(((param - expected_param).norm() / (expected_param - start).norm()).detach())
        assert error < 1e-4, f"the change is off by {error:.3g} of its size"


def leaves_the_process_alone(subject: Subject) -> None:
    """It does not change the grad mode, the default dtype, the number of threads or a seed, even if a closure fails."""
    before = process_state.snapshot()
    _use(subject)
    _check_unchanged(before, "after steps and a checkpoint")
    with torch.no_grad():
        before = process_state.snapshot()
        _use(subject)
        _check_unchanged(before, "without gradients")
    params = subject.params()
    optimizer = subject.optimizer(params)
    before = process_state.snapshot()

    def failing_closure() -> float:
        raise _ClosureFailedError

    with suppress(_ClosureFailedError):
        optimizer.step(failing_closure)
        raise AssertionError("the exception of a closure is lost")
    _check_unchanged(before, "after a closure that failed")
    _check_seeds(subject)


class _ClosureFailedError(Exception):
    pass


def _use(subject: Subject) -> None:
    params = subject.params()
    optimizer = subject.optimizer(params)
    subject.train(optimizer, params, range(3))
    subject.optimizer(params).load_state_dict(optimizer.state_dict())
    optimizer.zero_grad()


def _check_unchanged(before: dict[str, Any], when: str) -> None:
    changed = process_state.differences(before, process_state.snapshot())
    assert not changed, f"it changed {', '.join(changed)} {when}"


def _check_seeds(subject: Subject) -> None:
    """Fail if a global generator is in the same state at the end, whatever it was seeded with."""
    ends = []
    for seed in range(2):
        process_state.seed_generators(seed)
        _use(subject)
        ends.append(process_state.generator_states())
    seeded = [name for name in ends[0] if ends[0][name] == ends[1][name]]
    assert not seeded, f"it seeds the global generator of {', '.join(seeded)}"
