"""Checks of the steps themselves: what moves, by how much, and what must be left alone."""

import copy

import torch
from torch import Tensor

from thalweg.testing.kit import Factory, Kit, SkippedError, assert_same, gradients, put, train


def _change(factory: Factory, kit: Kit, num_steps: int = 20) -> Tensor:
    params = kit.params(torch.float64)
    optimizer = kit.made(params, factory)
    train(optimizer, params, range(num_steps))
    return torch.cat(
        [(end - start).detach().flatten() for end, start in zip(params, kit.params(torch.float64), strict=True)]
    )


def agrees_with_the_reference(kit: Kit) -> float:
    """20 steps in float64 agree with a reference. Found: 45 wrong updates fixed in one release of one library."""
    if kit.reference is None:
        raise SkippedError("no reference was given")
    expected = _change(kit.reference, kit)
    error = float((_change(kit.factory, kit) - expected).norm() / expected.norm())
    assert error <= kit.tolerance, f"relative error of the change: {error:.3g}, allowed {kit.tolerance:.3g}"
    return error


def is_the_same_every_way(kit: Kit) -> None:
    """Each variant takes the same steps, to the last bit."""
    if not kit.variants:
        raise SkippedError("no variants were given")
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        ends = []
        for factory in (kit.factory, *kit.variants.values()):
            params = kit.params(dtype)
            train(kit.made(params, factory), params, range(20))
            ends.append(params)
        for name, end in zip(kit.variants, ends[1:], strict=True):
            assert_same(end, ends[0], f"{name} in {dtype}")


def moves_nothing_before_the_first_step(kit: Kit) -> None:
    """Making an optimizer leaves the parameters alone, and a first step of size 0 too. Found: weights made anew."""
    params = kit.params()
    optimizer = kit.made(params)
    assert_same(params, kit.params(), "after it was made")
    put(optimizer, lr=0.0, weight_decay=0.0)
    train(optimizer, params, range(3))
    assert_same(params, kit.params(), "at lr = 0 and weight_decay = 0")


def survives_a_tensor_lr_of_zero(kit: Kit) -> None:
    """Warm-up starts from lr = 0, which may be a tensor. Found: NaN parameters."""
    params = kit.params()
    optimizer = kit.made(params)
    for lr in (0.0, 1e-3, 1e-3):
        put(optimizer, lr=torch.tensor(lr))
        train(optimizer, params, range(1))
    assert all(param.isfinite().all() for param in params), "parameters are not finite"


def leaves_a_tensor_lr_alone(kit: Kit) -> None:
    """A tensor learning rate is the user's. Found: multiplied in place, 0.003 became 0.114 in four steps."""
    params = kit.params()
    optimizer = kit.made(params)
    lr = torch.tensor(3e-3)
    put(optimizer, lr=lr)
    train(optimizer, params, range(4))
    assert float(lr) == float(torch.tensor(3e-3)), f"the tensor went from 0.003 to {float(lr):.3g}"
    assert all(float(group["lr"]) == float(lr) for group in optimizer.param_groups if "lr" in group), (
        "group['lr'] moved"
    )


def leaves_the_settings_alone(kit: Kit) -> None:
    """Steps change no setting of a group."""
    params = kit.params()
    optimizer = kit.made(params)
    kept = ("lr", "betas", "momentum", "weight_decay", "eps")
    before = [{key: copy.deepcopy(group[key]) for key in kept if key in group} for group in optimizer.param_groups]
    train(optimizer, params, range(4))
    after = [{key: group[key] for key in kept if key in group} for group in optimizer.param_groups]
    assert before == after, f"from {before} to {after}"


def leaves_gradients_alone(kit: Kit) -> None:
    """After a step each gradient is there and unchanged: clipping, logging and accumulation read it. Found: cleared."""
    params = kit.params()
    optimizer = kit.made(params)
    for step in range(3):
        for param, grad in zip(params, gradients(params, step), strict=True):
            param.grad = grad
        held = [param.grad for param in params]
        optimizer.step()
        assert all(param.grad is grad for param, grad in zip(params, held, strict=True)), "p.grad is another, or gone"
        assert_same([param.grad for param in params if param.grad is not None], gradients(params, step), "a gradient")


def gives_a_late_parameter_a_first_step(kit: Kit) -> None:
    """A parameter whose gradients begin late takes a fresh parameter's first step. Found: wrong bias corrections."""
    params, alone = kit.params(), kit.params()
    optimizer = kit.made(params)
    late = params[-1]
    for step in range(5):
        for param, grad in zip(params[:-1], gradients(params[:-1], step), strict=True):
            param.grad = grad
        optimizer.step()
    assert_same([late], [alone[-1]], "without a gradient")
    late.grad = gradients([late], 9)[0]
    optimizer.step()
    fresh = kit.made(alone)
    for param, joined in zip(alone, params, strict=True):
        param.grad = torch.ones_like(param) if joined is not late else gradients([late], 9)[0]
    fresh.step()
    change, expected = late - kit.params()[-1], alone[-1] - kit.params()[-1]
    if not expected.any():  # some only look at their first gradient
        assert_same([change], [expected], "its first step")
        return
    error = float((change - expected).norm() / expected.norm())
    assert error < 1e-5, (
        f"its first step is {float(change.norm() / expected.norm()):.3g} times a fresh one, error {error:.3g}"
    )


def survives_a_zero_first_gradient(kit: Kit) -> None:
    """A first gradient of zero, as of a fresh LoRA, gives no NaN and stops nothing. Found: a crash."""
    params = kit.params()
    optimizer = kit.made(params)
    for param in params:
        param.grad = torch.zeros_like(param)
    optimizer.step()
    train(optimizer, params, range(3))
    assert all(param.isfinite().all() for param in params), "parameters are not finite"
    assert not any(torch.equal(*pair) for pair in zip(params, kit.params(), strict=True)), "a parameter never moved"


def leaves_parameters_without_a_gradient_alone(kit: Kit) -> None:
    """`grad is None` means no step, for a parameter and for its state."""
    params = kit.params()
    optimizer = kit.made(params)
    train(optimizer, params, range(2))
    resting = params[0].detach().clone()
    for step in range(2, 4):
        for param, grad in zip(params, gradients(params, step), strict=True):
            param.grad = grad
        params[0].grad = None
        optimizer.step()
    assert_same([params[0]], [resting], "a parameter without a gradient")
    with torch.no_grad():
        assert not torch.equal(params[1], kit.params()[1]), "the others stopped too"


def climbs_when_maximizing(kit: Kit) -> None:
    """`maximize=True` is a step along the opposite gradient."""
    ends = []
    for sign in (1.0, -1.0):
        params = kit.params()
        optimizer = kit.made(params)
        if "maximize" not in optimizer.param_groups[0]:
            raise SkippedError("it has no maximize")
        put(optimizer, maximize=sign < 0)
        for step in range(4):
            for param, grad in zip(params, gradients(params, step), strict=True):
                param.grad = sign * grad
            optimizer.step()
        ends.append(params)
    assert_same(ends[0], ends[1], "maximize against the negative gradient")


def learns(kit: Kit) -> float:
    """A bowl gets lower in 100 steps."""
    params = kit.params()
    optimizer = kit.made(params)

    def loss() -> Tensor:
        return torch.stack([(param - 0.1).square().sum() for param in params]).sum()

    start = float(loss().detach())
    for _ in range(100):
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    end = float(loss().detach())
    assert end < start, f"the loss went from {start:.4g} to {end:.4g}"
    return end / start
