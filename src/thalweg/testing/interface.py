"""Checks of the interface of `torch.optim.Optimizer`: groups, names, closures, schedulers, hooks."""

import torch
from torch import Tensor, nn

from thalweg.testing.kit import Kit, SkippedError, assert_same, put, train


def is_an_optimizer(kit: Kit) -> None:
    """It is a `torch.optim.Optimizer`, which schedulers and scalers ask for. Found: schedule-free wrappers."""
    optimizer = kit.made(kit.params())
    assert isinstance(optimizer, torch.optim.Optimizer), f"it is a {type(optimizer).__name__}"


def takes_groups_with_their_own_settings(kit: Kit) -> None:
    """Groups have their own learning rates, also those that are added on the way."""
    params = kit.params()
    optimizer = kit.made([{"params": params[:1]}, {"params": params[1:2]}])
    if "lr" not in optimizer.param_groups[0]:
        raise SkippedError("no lr in its groups")
    optimizer.param_groups[1].update(
        lr=0.0, **({"weight_decay": 0.0} if "weight_decay" in optimizer.param_groups[1] else {})
    )
    train(optimizer, params[:2], range(2))
    optimizer.add_param_group({"params": params[2:]})
    train(optimizer, params, range(2, 5))
    moved = [not torch.equal(one, other) for one, other in zip(params, kit.params(), strict=True)]
    assert moved == [True, False, *[True] * (len(params) - 2)], f"which parameters moved: {moved}"


def takes_named_parameters(kit: Kit) -> None:
    """`model.named_parameters()` is taken, and the names are kept in the groups."""
    model = nn.Linear(4, 4, bias=False)
    optimizer = kit.made(model.named_parameters())
    assert optimizer.param_groups[0].get("param_names") == ["weight"], "no param_names in the group"
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()


def calls_closures(kit: Kit) -> None:
    """`step(closure)` computes the loss with gradients on, and returns it."""
    params = kit.params()
    optimizer = kit.made(params)
    called = 0

    def closure() -> Tensor:
        nonlocal called
        called += 1
        assert torch.is_grad_enabled(), "gradients are off in the closure"
        optimizer.zero_grad()
        loss = torch.stack([param.square().sum() for param in params]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    expected = float(sum(param.detach().square().sum() for param in params))
    loss = optimizer.step(closure)  # type: ignore[arg-type]
    assert called >= 1, "the closure was never called"
    assert loss is not None, "the loss is not returned"
    assert abs(float(loss) - expected) <= 1e-5 * expected, f"the loss returned is {float(loss):.4g}, not {expected:.4g}"


def obeys_schedulers(kit: Kit) -> None:
    """A scheduler of torch attaches, and its learning rate is the one used."""
    ends = []
    for way in ("scheduled", "set by hand", "left alone"):
        params = kit.params()
        optimizer = kit.made(params)
        if "lr" not in optimizer.param_groups[0]:
            raise SkippedError("no lr in its groups")
        lr = optimizer.param_groups[0]["lr"]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step) if way == "scheduled" else None
        for step in range(4):
            if way == "set by hand":
                put(optimizer, lr=lr * 0.5**step)
            train(optimizer, params, range(step, step + 1))
            if schedule is not None:
                schedule.step()
        ends.append(params)
    assert_same(ends[0], ends[1], "a schedule against the same learning rates set by hand")
    assert not torch.equal(ends[0][0], ends[2][0]), "the schedule changed nothing"


def calls_hooks(kit: Kit) -> None:
    """Hooks before and after a step are called, once each."""
    params = kit.params()
    optimizer = kit.made(params)
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    train(optimizer, params, range(2))
    assert seen == ["before", "after"] * 2, f"called: {seen}"
