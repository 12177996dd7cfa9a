"""Guards of rules at the values that they are for: zeros, and shares that vanish."""

import pytest
import torch

from cases.curvature import SELF_ESTIMATING
from thalweg import optim, rules
from thalweg.registry import RULES, WRAPPERS

ADAM = rules.Adam(lr=0.1)
# Each wrapper around a rule that all of them take; FixedNorms keeps a norm of zero, and Mechanic's first steps at its
# default are too small to see.
WRAPPED = [wrapper(ADAM) for wrapper in WRAPPERS.values() if wrapper not in (rules.FixedNorms, rules.Mechanic)]
WRAPPED.append(rules.Mechanic(ADAM, s_init=0.1))
ALONE = [rule() for rule in RULES.values() if rule().traits.needs != "closure"]
each_rule = pytest.mark.parametrize("rule", [*ALONE, *WRAPPED], ids=lambda rule: rule.name)


def trained(rule: rules.Rule, starts: list[torch.Tensor], *grads: list[torch.Tensor]) -> list[torch.Tensor]:
    """Parameters after steps with these gradients, by closures for those rules that call them."""
    params = [start.clone().requires_grad_() for start in starts]
    kind = optim.optimizer_for(rule)
    optimizer = SELF_ESTIMATING.get(kind, kind)(params, backend="loop")

    for drawn in grads:

        def closure(drawn: list[torch.Tensor] = drawn) -> float:
            for param, grad in zip(params, drawn, strict=True):
                param.grad = grad.clone()
            return 1.0

        optimizer.step(closure)
    return [param.detach() for param in params]


def drawn(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(5, 3, generator=generator) + 0.3, torch.randn(4, 4, generator=generator) + 0.3]


ZEROS = [torch.zeros(5, 3), torch.zeros(4, 4)]


@each_rule
def test_parameters_that_start_at_zero_move_and_stay_finite(rule: rules.Rule) -> None:
    for param in trained(rule, ZEROS, drawn(1), drawn(2), drawn(3)):
        assert param.isfinite().all()
        assert param.any()


@each_rule
def test_gradients_of_zero_do_no_harm_at_the_start_or_later(rule: rules.Rule) -> None:
    starts = drawn(0)
    for grads in ([ZEROS, ZEROS, drawn(1), drawn(2)], [drawn(1), ZEROS, ZEROS, drawn(2)]):
        ends = trained(rule, starts, *grads)
        for start, end in zip(starts, ends, strict=True):
            assert end.isfinite().all()
            assert not torch.equal(start, end)


@each_rule
def test_zeros_with_gradients_of_zero_stay_finite(rule: rules.Rule) -> None:
    assert all(param.isfinite().all() for param in trained(rule, ZEROS, ZEROS, ZEROS))


def stepped(optimizer: torch.optim.Optimizer, param: torch.Tensor, *grads: torch.Tensor) -> torch.Tensor:
    """The last change of a parameter by steps with these gradients."""
    before = param
    for grad in grads:
        before = param.detach().clone()
        param.grad = grad
        optimizer.step()
    return param.detach() - before


@pytest.mark.parametrize("backend", ["loop", "compiled"])
def test_lamb_moves_parameters_that_start_at_zero(backend: str) -> None:
    param = torch.zeros(4, requires_grad=True)
    optimizer = optim.LAMB([param], lr=0.25, eps=0.0, backend=backend)
    # Adam's first step has the size 1 for each number. The ratio of norms is 1, for the parameter's is 0.
    change = stepped(optimizer, param, torch.tensor([1.0, -2.0, 3.0, -4.0]))
    torch.testing.assert_close(change, torch.tensor([-0.25, 0.25, -0.25, 0.25]))


@pytest.mark.parametrize("backend", ["loop", "compiled"])
def test_lamb_leaves_a_parameter_whose_step_is_zero(backend: str) -> None:
    param = torch.ones(4, requires_grad=True)
    optimizer = optim.LAMB([param], lr=0.25, eps=1e-6, weight_decay=0.0, backend=backend)
    assert torch.equal(stepped(optimizer, param, torch.zeros(4)), torch.zeros(4))


def test_lamb_steps_a_share_of_the_norm_of_the_parameter() -> None:
    param = torch.full((4,), 3.0, requires_grad=True)
    optimizer = optim.LAMB([param], lr=0.25, eps=0.0, weight_decay=0.0)
    # ‖θ‖ = 6 and ‖u‖ = 2: each number moves by 0.25 · 3.
    torch.testing.assert_close(stepped(optimizer, param, torch.full((4,), 5.0)), torch.full((4,), -0.75))


NUMEL = 4000


def cautious(agreeing: int) -> torch.Tensor:
    """The second change of a parameter, where the second gradient agrees with the momentum at so many numbers.

    The momentum is then 0.5 · 1 ± 0.1: 0.6 where it agrees, 0.4 elsewhere.
    """
    param = torch.zeros(NUMEL, requires_grad=True)
    optimizer = optim.optimizer_for(rules.Cautious(rules.SGD(momentum=0.5)))([param], lr=1.0)
    second = torch.full((NUMEL,), -0.1)
    second[:agreeing] = 0.1
    return stepped(optimizer, param, torch.ones(NUMEL), second)


@pytest.mark.parametrize(
    ("agreeing", "scale"),
    [
        (NUMEL, 1.0),
        (NUMEL // 10, 10.0),
        (8, 500.0),  # a share of 0.002, above the floor of 0.001
        (2, 1000.0),  # a share of 0.0005, below it
        (1, 1000.0),
    ],
)
def test_the_scale_of_cautious_is_one_over_the_share_and_at_most_a_thousand(agreeing: int, scale: float) -> None:
    change = cautious(agreeing)
    torch.testing.assert_close(change[:agreeing], torch.full((agreeing,), -0.6 * scale), rtol=1e-5, atol=0)
    assert torch.equal(change[agreeing:], torch.zeros(NUMEL - agreeing))


def test_where_nothing_agrees_cautious_does_not_move() -> None:
    assert torch.equal(cautious(0), torch.zeros(NUMEL))
