"""Checks of the interface of ``torch.optim.Optimizer``: groups, names, closures, schedulers and hooks."""

import torch
from torch import Tensor, nn

from thalweg.testing.fixtures import (
    RefusedError,
    SkippedError,
    Subject,
    assert_identical,
    make_gradients,
    set_eval_mode,
    set_gradients,
    set_in_groups,
    set_train_mode,
    train,
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
    train(optimizer, params[:2], range(2))
    optimizer.add_param_group({"params": params[2:]})
    train(optimizer, params, range(2, 5))
    moved = [not torch.equal(param, start) for param, start in zip(params, subject.params(), strict=True)]
    assert moved == [True, False, *[True] * (len(params) - 2)], f"which parameters moved: {moved}"


def takes_named_parameters(subject: Subject) -> None:
    """It accepts ``model.named_parameters()`` and keeps the names in the groups."""
    model = nn.Linear(4, 4, bias=False)
    optimizer = subject.optimizer(model.named_parameters())
    assert optimizer.param_groups[0].get("param_names") == ["weight"], "no param_names in the group"
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()


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


def evaluates_in_any_order(subject: Subject) -> None:
    """``eval()`` and ``train()`` may be called in any order, repeatedly. Known defect: a second ``train()`` raised."""
    ends = []
    for calls in (
        (set_eval_mode, set_train_mode),
        (set_train_mode, set_eval_mode, set_eval_mode, *[set_train_mode] * 2),
    ):
        params = subject.params()
        optimizer = subject.optimizer(params)
        for step in range(4):
            for call in calls:
                call(optimizer)
            train(optimizer, params, range(step, step + 1))
        ends.append(params)
    assert_identical(ends[0], ends[1], "eval() and train() called repeatedly, against once each")


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
            train(optimizer, params, range(step, step + 1))
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
    train(optimizer, params, range(2))
    assert calls == ["before", "after"] * 2, f"called: {calls}"
