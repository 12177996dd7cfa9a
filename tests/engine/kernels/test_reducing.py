"""Kernels of rules that make sums: which tensors they must not get, and that they are the ones that run."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from thalweg import optim, rules
from thalweg.engine.eager import loop
from thalweg.rules import Max, Mean, Norm, Rule, Sum, like_param, of_shape, record
from thalweg.rules.core.hyper import Scalar, hyper


class Plain(Rule):
    """The base of the rules below."""

    def coefficients(self, step: int) -> Any:
        return record(lr=0.5)


@dataclass(frozen=True, kw_only=True)
class BySize(Plain, scope="tensor"):
    """Row means, but for small parameters."""

    class State:
        rows = like_param(unit="g", key="rows", reduced_dim=-1, when=lambda rule, shape: min(shape) >= 40)
        v = like_param(unit="g", key="v", when=lambda rule, shape: min(shape) < 40)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        if hasattr(state, "rows"):
            return grad, state._replace(rows=(yield Mean(grad, dim=-1)))
        return grad, state._replace(v=grad + (yield Mean(grad)))


@dataclass(frozen=True, kw_only=True)
class Masked(Plain, scope="elementwise"):
    """The state is a mask."""

    class State:
        up = of_shape(lambda rule, shape: shape, unit="1", key="up", init=lambda rule, param: param > 0)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        return torch.where(state.up, grad, -grad), state._replace(up=grad > 0)


@dataclass(frozen=True, kw_only=True)
class Counting(Plain, scope="elementwise"):
    """The state is a number."""

    class State:
        k = of_shape(unit="1", key="k")

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        return grad + state.k, state._replace(k=state.k + 1)


@dataclass(frozen=True, kw_only=True)
class AlongNothing(Plain, scope="tensor"):
    """The largest along no dimension."""

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        return (yield Max(grad, dim=())), state


@dataclass(frozen=True, kw_only=True)
class ByCount(Plain, scope="tensor"):
    """Gradients times how many of them are positive."""

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        return grad * (yield Sum(grad > 0)), state


@dataclass(frozen=True, kw_only=True)
class Branching(Rule, scope="elementwise"):
    """A number decides which code runs."""

    pull: Scalar = hyper(0.0, ">= 0", symbol="p", doc="share of the parameter")

    def coefficients(self, step: int) -> Any:
        return record(lr=0.5)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        return grad + param if self.pull else grad, state


def run_rule(
    rule: Rule, *shapes: tuple[int, ...], backend: Any = None, num_steps: int = 3, **settings: Any
) -> list[Tensor]:
    """Return parameters and state after some steps; by default on the kernel, if there is one."""
    generator = torch.Generator(device="cpu").manual_seed(0)
    params = [torch.randn(shape, generator=generator, device="cpu").requires_grad_() for shape in shapes]
    optimizer = optim.optimizer_for(rule)(params, backend=backend, **settings)
    optimizer.prepare()
    for _ in range(num_steps):
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator, device="cpu")
        optimizer.step()
    return [*(param.detach() for param in params), *(entry for p in params for entry in optimizer.state[p].values())]


@pytest.fixture
def no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse steps of the loop, except in trials of kernels."""
    run = loop.run

    def refuse(steps: Any) -> None:
        assert all(param.grad is None for step in steps for param in step.batch.params), "a kernel was to run"
        run(steps)

    monkeypatch.setattr(loop, "run", refuse)


@pytest.mark.parametrize(
    "rule",
    [rules.Clip(rules.Adafactor()), rules.Clip(rules.LARS()), rules.Clip(rules.CAME()), rules.Prodigy(), rules.LAMB()],
    ids=str,
)
def test_matrices_and_vectors_step_on_kernels_that_share_their_sums(rule: Rule, no_loop: None) -> None:
    shapes = ((30, 20), (7,), (2, 3, 4), (65, 5), ())
    actual = run_rule(rule, *shapes)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "run", _UNPATCHED)
        expected = run_rule(rule, *shapes, backend="loop")
    assert all(map(torch.equal, actual, expected))


_UNPATCHED = loop.run


def test_a_state_whose_shapes_depend_on_sizes_has_no_kernel() -> None:
    optimizer = optim.optimizer_for(BySize())([torch.ones(60, 60)])
    assert str(optimizer.prepare()).startswith("loop: ")
    for shape in ((60, 60), (3, 4)):
        assert all(map(torch.equal, run_rule(BySize(), shape), run_rule(BySize(), shape, backend="loop")))


@pytest.mark.parametrize("rule", [Masked(), Counting(), AlongNothing()], ids=lambda rule: rule.name)
def test_rules_of_an_unusual_kind_step_as_in_the_loop(rule: Rule) -> None:
    shapes = ((40, 3), (11,))
    assert all(map(torch.equal, run_rule(rule, *shapes), run_rule(rule, *shapes, backend="loop")))


def test_booleans_are_counted() -> None:
    param = torch.zeros(4, requires_grad=True)
    param.grad = torch.ones(4)
    optim.optimizer_for(ByCount())([param]).step()
    assert torch.equal(param, torch.full((4,), -2.0))


def test_a_number_that_decides_at_zero_is_noticed() -> None:
    optimizer_class = optim.optimizer_for(Branching())
    assert "a number that the rule reads from its settings" in str(optimizer_class([torch.ones(3)], pull=0.0).prepare())
    assert all(
        map(torch.equal, run_rule(Branching(), (5,), pull=0.5), run_rule(Branching(), (5,), backend="loop", pull=0.5))
    )


def test_an_entry_of_another_dtype_is_never_written_by_a_kernel() -> None:
    param = torch.ones(1000, requires_grad=True)
    optimizer = optim.LAMB([param], backend=None)
    optimizer.prepare()
    for _ in range(2):
        param.grad = torch.ones(1000)
        optimizer.step()
        optimizer.state[param]["exp_avg"] = optimizer.state[param]["exp_avg"].double()
    assert param.isfinite().all()


@pytest.mark.parametrize("rule", [rules.LAMB(), rules.Adafactor(), rules.Clip(rules.AdamW())], ids=str)
def test_a_default_device_does_not_change_a_kernel(rule: Rule) -> None:
    expected = run_rule(rule, (300, 131), (7,))
    with torch.device("meta"):
        actual = run_rule(rule, (300, 131), (7,))
    assert all(map(torch.equal, actual, expected))


def test_filters_whose_sums_would_take_too_much_memory_stay_on_the_loop() -> None:
    large = optim.Adafactor([torch.ones(1200, 1200, 3, 3)])
    assert str(large.prepare()).startswith("loop: its sums would take 138 MB, and ")
    assert str(optim.Adafactor([torch.ones(32, 32, 3, 3)]).prepare()).startswith("compiled: ")


@dataclass(frozen=True, kw_only=True)
class OfWholeNumbers(Plain, scope="elementwise"):
    """Integers compared with a fraction, and booleans added up."""

    added: bool = False

    class State:
        k = of_shape(lambda rule, shape: shape, unit="1", key="k", init=lambda rule, param: (9 * param).to(torch.int32))

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        condition = (grad > 0) + (param > 0) if self.added else state.k > 0.5
        return torch.where(condition, grad, -grad), state


@pytest.mark.parametrize("added", [True, False])
def test_operations_with_another_meaning_in_c_are_left_to_other_backends(added: bool) -> None:
    rule = OfWholeNumbers(added=added)
    assert "with the meaning that PyTorch gives it here" in str(optim.optimizer_for(rule)([torch.ones(3)]).prepare())
    assert all(map(torch.equal, run_rule(rule, (40,)), run_rule(rule, (40,), backend="loop")))


@dataclass(frozen=True, kw_only=True)
class ByNorms(Plain, scope="model"):
    """The state holds norms of the gradient: of all of it, of rows, of columns, of rows of norms, and of the model."""

    class State:
        all = of_shape(unit="g", key="all")
        rows = like_param(unit="g", key="rows", reduced_dim=-1)
        columns = like_param(unit="g", key="columns", reduced_dim=-2)
        again = of_shape(unit="g", key="again")
        model = of_shape(unit="g", key="model")

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Any:
        rows = yield Norm(grad, dim=-1)
        return grad, state._replace(
            all=(yield Norm(grad)),
            rows=rows,
            columns=(yield Norm(grad, dim=-2)),
            again=(yield Norm(rows)),
            model=(yield Norm(grad, over="model")),
        )


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("backend", ["loop", "compiled"])
def test_norms_are_right_where_float32_has_no_squares(backend: Any, scale: float) -> None:
    grads = [
        scale * torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in ((5, 7), (70, 90), (1, 3))
    ]
    params = [torch.zeros_like(grad, requires_grad=True) for grad in grads]
    optimizer = optim.optimizer_for(ByNorms())(params, backend=backend)
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    optimizer.step()
    model = torch.cat([grad.double().flatten() for grad in grads]).norm()
    for param, grad in zip(params, grads, strict=True):
        exact, state = grad.double(), optimizer.state[param]
        assert torch.equal(state["all"], exact.norm().float())
        assert torch.equal(state["rows"], exact.norm(dim=1, keepdim=True).float())
        assert torch.equal(state["columns"], exact.norm(dim=0, keepdim=True).float())
        torch.testing.assert_close(state["again"], exact.norm().float())
        assert torch.equal(state["model"], model.float())
