"""Checks of the steps: the parameters that move, the size of their steps, and the things a step must not change."""

import copy

import torch
from torch import Tensor

from thalweg.testing.fixtures import (
    OptimizerFactory,
    SkippedError,
    Subject,
    assert_identical,
    make_gradients,
    set_gradients,
    set_in_groups,
)

_MIN_MOVE_FROM_ZERO = 1e-6  # of the move from an ordinary start


def _change(factory: OptimizerFactory, subject: Subject, num_steps: int = 20) -> Tensor:
    params = subject.params(torch.float64)
    optimizer = subject.optimizer(params, factory)
    subject.train(optimizer, params, range(num_steps))
    starts = subject.params(torch.float64)
    return torch.cat([(end - start).detach().flatten() for end, start in zip(params, starts, strict=True)])


def agrees_with_the_reference(subject: Subject) -> float:
    """20 steps in float64 agree with a reference. Known defect: one release of one library fixed 45 wrong updates."""
    if subject.reference is None:
        raise SkippedError("no reference was given")
    expected = _change(subject.reference, subject)
    error = float((_change(subject.factory, subject) - expected).norm() / expected.norm())
    assert error <= subject.tolerance, f"relative error of the change: {error:.3g}, allowed {subject.tolerance:.3g}"
    return error


def is_the_same_every_way(subject: Subject) -> None:
    """Each variant takes the same steps, to the last bit."""
    if not subject.variants:
        raise SkippedError("no variants were given")
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        ends = []
        for factory in (subject.factory, *subject.variants.values()):
            params = subject.params(dtype)
            subject.train(subject.optimizer(params, factory), params, range(20))
            ends.append(params)
        for name, end in zip(subject.variants, ends[1:], strict=True):
            assert_identical(end, ends[0], f"{name} in {dtype}")


def moves_nothing_before_the_first_step(subject: Subject) -> None:
    """Parameters stay as they are until the first step of size > 0. Known defect: weights were initialised again."""
    params = subject.params()
    optimizer = subject.optimizer(params)
    assert_identical(params, subject.params(), "after it was made")
    set_in_groups(optimizer, lr=0.0, weight_decay=0.0)
    subject.train(optimizer, params, range(3))
    assert_identical(params, subject.params(), "at lr = 0 and weight_decay = 0")


def survives_a_tensor_lr_of_zero(subject: Subject) -> None:
    """Warm-up starts from lr = 0, which may be a tensor. Known defect: NaN parameters."""
    params = subject.params()
    optimizer = subject.optimizer(params)
    for lr in (0.0, 1e-3, 1e-3):
        set_in_groups(optimizer, lr=torch.tensor(lr))
        subject.train(optimizer, params, range(1))
    assert all(param.isfinite().all() for param in params), "parameters are not finite"


def leaves_a_tensor_lr_alone(subject: Subject) -> None:
    """A tensor learning rate belongs to the user. Known defect: scaled in place, from 0.003 to 0.114 in four steps."""
    params = subject.params()
    optimizer = subject.optimizer(params)
    lr = torch.tensor(3e-3)
    set_in_groups(optimizer, lr=lr)
    subject.train(optimizer, params, range(4))
    assert float(lr) == float(torch.tensor(3e-3)), f"the tensor went from 0.003 to {float(lr):.3g}"
    assert all(float(group["lr"]) == float(lr) for group in optimizer.param_groups if "lr" in group), (
        "group['lr'] moved"
    )


def leaves_the_settings_alone(subject: Subject) -> None:
    """Steps change no setting of a group."""
    params = subject.params()
    optimizer = subject.optimizer(params)
    settings = ("lr", "betas", "momentum", "weight_decay", "eps")
    before = [{key: copy.deepcopy(group[key]) for key in settings if key in group} for group in optimizer.param_groups]
    subject.train(optimizer, params, range(4))
    after = [{key: group[key] for key in settings if key in group} for group in optimizer.param_groups]
    assert before == after, f"from {before} to {after}"


def leaves_gradients_alone(subject: Subject) -> None:
    """A step leaves each gradient in place, for clipping, logging and accumulation. Known defect: cleared."""
    params = subject.params()
    optimizer = subject.optimizer(params)
    for step in range(3):
        set_gradients(params, step)
        before = [param.grad for param in params]
        subject.step(optimizer, params)
        same = (param.grad is grad for param, grad in zip(params, before, strict=True))
        assert subject.calling != "step()" or all(same), "p.grad is another, or gone"
        after = [param.grad for param in params if param.grad is not None]
        assert_identical(after, make_gradients(params, step), "a gradient")


def gives_a_late_parameter_a_first_step(subject: Subject) -> None:
    """A parameter whose gradients start late takes the first step of a new one. Known defect: wrong bias correction.

    Skipped if this step depends on the gradients of other parameters, as in rules that look at the whole model.
    """
    change, beside_larger = (_late_change(subject, num_late_steps=5, size=size) for size in (1.0, 3.0))
    expected = _late_change(subject, num_late_steps=0, size=1.0)
    if float((beside_larger - change).norm()) > 1e-5 * float(change.norm()):
        raise SkippedError("its first step depends on the gradients of other parameters")
    if not expected.any():  # some rules take no step with their first gradient
        assert_identical([change], [expected], "its first step")
        return
    error = float((change - expected).norm() / expected.norm())
    assert error < 1e-5, (
        f"its first step is {float(change.norm() / expected.norm()):.3g} times a fresh one, error {error:.3g}"
    )


def _late_change(subject: Subject, *, num_late_steps: int, size: float) -> Tensor:
    """Return the change of the last parameter by its first gradient, after so many steps of the others alone.

    Args:
        subject: The optimizer under test.
        num_late_steps: The number of steps before.
        size: The size of the gradients of the others.
    """
    params = subject.params()
    optimizer = subject.optimizer(params)
    late = params[-1]
    for step in range(num_late_steps + 1):
        for param, grad in zip(params[:-1], make_gradients(params[:-1], step), strict=True):
            param.grad = size * grad
        late.grad = make_gradients([late], 9)[0] if step == num_late_steps else None
        before = late.detach().clone()
        subject.step(optimizer, params)
        if step < num_late_steps:
            assert_identical([late], [before], "without a gradient")
    return late.detach() - before


def survives_a_zero_first_gradient(subject: Subject) -> None:
    """A first gradient of zero, as in a new LoRA, gives no NaN, and training continues. Known defect: a crash."""
    params = subject.params()
    optimizer = subject.optimizer(params)
    for param in params:
        param.grad = torch.zeros_like(param)
    subject.step(optimizer, params)
    subject.train(optimizer, params, range(3))
    assert all(param.isfinite().all() for param in params), "parameters are not finite"
    assert not any(torch.equal(*pair) for pair in zip(params, subject.params(), strict=True)), "a parameter never moved"


def moves_parameters_that_start_at_zero(subject: Subject) -> None:
    """A parameter that starts at zero, as biases and half of a LoRA do, is trained like the others.

    Each parameter in turn starts at zero while the others start as usual. Known defect: a trust ratio or another factor
    in proportion to the norm of the parameter is 0 there, so that the parameter never moves.
    """
    usual = subject.params()
    subject.train(subject.optimizer(usual), usual, range(5))
    for index, (end, start) in enumerate(zip(usual, subject.params(), strict=True)):
        params = subject.params()
        with torch.no_grad():
            params[index].zero_()
        subject.train(subject.optimizer(params), params, range(5))
        moved, usual_move = float(params[index].detach().norm()), float((end - start).detach().norm())
        shape = tuple(start.shape)
        assert params[index].isfinite().all(), f"the parameter of shape {shape} became not finite"
        assert moved > _MIN_MOVE_FROM_ZERO * usual_move, (
            f"the parameter of shape {shape} moved by {moved:.3g} in 5 steps from zero, by {usual_move:.3g} from its "
            "usual start"
        )


def leaves_parameters_without_a_gradient_alone(subject: Subject) -> None:
    """``grad is None`` means no step, for a parameter and for its state."""
    params = subject.params()
    optimizer = subject.optimizer(params)
    subject.train(optimizer, params, range(2))
    before = params[0].detach().clone()
    for step in range(2, 4):
        set_gradients(params, step)
        params[0].grad = None
        subject.step(optimizer, params)
    assert_identical([params[0]], [before], "a parameter without a gradient")
    with torch.no_grad():
        assert not torch.equal(params[1], subject.params()[1]), "the others stopped too"


def climbs_when_maximizing(subject: Subject) -> None:
    """``maximize=True`` takes the step of the opposite gradient."""
    ends = []
    for sign in (1.0, -1.0):
        params = subject.params()
        optimizer = subject.optimizer(params)
        if "maximize" not in optimizer.param_groups[0]:
            raise SkippedError("it has no maximize")
        set_in_groups(optimizer, maximize=sign < 0)
        for step in range(4):
            for param, grad in zip(params, make_gradients(params, step), strict=True):
                param.grad = sign * grad
            subject.step(optimizer, params)
        ends.append(params)
    assert_identical(ends[0], ends[1], "maximize against the negative gradient")


def learns(subject: Subject) -> float:
    """100 steps lower the loss on a quadratic bowl. Returns the last loss divided by the first."""
    params = subject.params()
    optimizer = subject.optimizer(params)

    def loss() -> Tensor:
        return torch.stack([(param - 0.1).square().sum() for param in params]).sum()

    start = float(loss().detach())
    for _ in range(100):
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]  # untyped in torch
        subject.step(optimizer, params)
    end = float(loss().detach())
    assert end < start, f"the loss went from {start:.4g} to {end:.4g}"
    return end / start
