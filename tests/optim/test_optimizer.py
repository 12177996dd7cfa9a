"""The behaviour of torch.optim that users rely on, for every optimizer of a rule."""

import copy
import inspect
import pickle
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from cases.rules import CASES, TORCH_CASES, Case, gradients, parameters
from tests.optim.training import assert_same, each_case, each_of_torchs, fresh, train
from thalweg import optim, rules
from thalweg.errors import ParameterError, SettingError
from thalweg.optim.settings import keywords


@each_of_torchs
def test_keywords_and_defaults_are_torchs(case: Case) -> None:
    ours = inspect.signature(case.optimizer).parameters
    theirs = inspect.signature(case.reference).parameters
    only_ours = {"rounding", "seed", "backend", "capturable", "differentiable"}
    only_ours -= theirs.keys()
    assert ours.keys() - only_ours == theirs.keys() & ours.keys()
    by_position = [name for name in ours if name in theirs and name not in {*keywords.COMMON, *keywords.TORCH_KERNELS}]
    assert by_position == [name for name in theirs if name in by_position]
    assert theirs.keys() - ours.keys() <= {"decoupled_weight_decay"}
    for name in ours.keys() - only_ours:
        if name == "eps" and case.optimizer is optim.Adafactor:  # torch's None is that of the dtype, as 0 is here
            assert (ours[name].default, theirs[name].default) == ((0.0, 1e-3), (None, 1e-3))
        else:
            assert ours[name].default == theirs[name].default


@each_case
def test_half_precision_is_computed_in_float32_and_rounded_once(case: Case) -> None:
    half = fresh(torch.bfloat16, case.shapes)
    full = [param.detach().float().requires_grad_() for param in half]
    for params in (half, full):
        for param, grad in zip(params, gradients(1, torch.bfloat16, case.shapes)[0], strict=True):
            param.grad = grad.to(param.dtype)
        case.optimizer(params, **case.settings).step()
    assert_same(half, [param.detach().to(torch.bfloat16) for param in full])


SCHEDULERS: dict[str, Any] = {
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.05, total_steps=25),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=20),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, base_lr=1e-3, max_lr=0.05, step_size_up=7),
    "StepLR": lambda o: lr_scheduler.StepLR(o, step_size=3, gamma=0.5),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(
    "case", [case for case in TORCH_CASES if "momentum" in case.settings or "betas" in case.settings], ids=str
)
def test_schedulers_of_torch_do_what_they_do_to_torch(case: Case, scheduler: str) -> None:
    if case.settings.get("dampening"):
        case = Case(case.optimizer, case.reference, case.settings | {"dampening": 0.0})
    ends = []
    for kind in (case.optimizer, case.reference):
        params = fresh(torch.float64, case.shapes)
        optimizer = kind(params, **case.settings)
        schedule = SCHEDULERS[scheduler](optimizer)
        for step in range(20):
            train(optimizer, 1, skip=step)
            schedule.step()
        ends.append(params)
    assert_same(*ends, rtol=max(1e-10, case.reference_error), atol=max(1e-13, case.reference_error))


@each_case
def test_a_tensor_learning_rate_works_and_is_never_written(case: Case) -> None:
    lr = torch.tensor(case.settings["lr"], dtype=torch.float64)
    before = lr.clone()
    ends = []
    for settings in (case.settings | {"lr": lr}, case.settings):
        params = fresh(torch.float64, case.shapes)
        optimizer = case.optimizer(params, **settings)
        train(optimizer, 5)
        ends.append(params)
    assert torch.equal(lr, before)
    assert_same(*ends, rtol=1e-12, atol=1e-14)


@each_of_torchs
def test_maximize_climbs_as_torchs_does(case: Case) -> None:
    ends = []
    for kind in (case.optimizer, case.reference):
        params = fresh(torch.float64, case.shapes)
        train(kind(params, **case.settings, maximize=True), 5)
        ends.append(params)
    assert_same(*ends, rtol=max(1e-10, case.reference_error), atol=max(1e-13, case.reference_error))


@each_case
def test_gradients_are_untouched(case: Case) -> None:
    params = fresh(shapes=case.shapes)
    optimizer = case.optimizer(params, **case.settings, maximize=True)
    for param, grad in zip(params, gradients(1, torch.float32, case.shapes)[0], strict=True):
        param.grad = grad
    before = [param.grad.clone() for param in params]
    optimizer.step()
    assert_same([param.grad for param in params], before)


@pytest.mark.parametrize("case", [case for case in CASES if case.rule.traits.scope != "model"], ids=str)
def test_a_parameter_that_joins_late_gets_a_fresh_parameters_first_step(case: Case) -> None:
    early, late, resting, alone = (torch.ones(1, 3, requires_grad=True) for _ in range(4))
    optimizer = case.optimizer([early, late], **case.settings)
    for _ in range(5):  # no gradient reaches `late`: parameter and state are left alone
        early.grad = torch.full((1, 3), 0.5)
        optimizer.step()
    assert torch.equal(late, torch.ones(1, 3))
    assert optimizer.state.get(late, {}).get("step", 0) == 0  # AdaGrad has state from the start, as torch's
    late.grad = alone.grad = torch.tensor([[1.0, -2.0, 0.5]])
    optimizer.step()
    case.optimizer(
        [resting, alone], **case.settings
    ).step()  # at the position of `late`, on which random numbers depend
    assert torch.equal(late, alone)


@each_case
def test_zero_learning_rate_moves_nothing(case: Case) -> None:
    params = fresh(shapes=case.shapes)
    still = {key: 0.0 for key in ("lr", "weight_decay") if key in case.settings}
    train(case.optimizer(params, **case.settings | still), 3)
    assert_same(params, parameters(torch.float32, case.shapes))


@each_case
def test_a_zero_first_gradient_is_survived(case: Case) -> None:
    param = torch.ones(2, 3, requires_grad=True)
    optimizer = case.optimizer([param], **case.settings)
    for grad in (torch.zeros(2, 3), torch.ones(2, 3)):
        param.grad = grad
        optimizer.step()
    assert param.isfinite().all()


@each_case
def test_empty_tensors_and_transposed_layouts_are_supported(case: Case) -> None:
    plain = torch.randn(4, 6)
    ends = []
    for make in (lambda: plain.clone(), lambda: plain.t().contiguous().t()):
        param = make().requires_grad_()
        empty = torch.zeros(0, 3, requires_grad=True)
        optimizer = case.optimizer([param, empty], **case.settings)
        for _ in range(3):
            param.grad, empty.grad = plain.cos(), torch.zeros(0, 3)
            optimizer.step()
        ends.append([param])
    # Sums depend on the order in memory, by rounding.
    assert_same(*ends, **({} if case.rule.traits.scope == "elementwise" else {"rtol": 1e-5, "atol": 1e-7}))


def test_closures_are_called_with_gradients_on_and_return_the_loss() -> None:
    param = torch.ones(2, requires_grad=True)
    optimizer = optim.AdamW([param])

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2.0
    assert optimizer.step(closure).item() < 2.0


def test_groups_have_their_own_settings_and_can_be_added() -> None:
    ends = []
    for kind in (optim.AdamW, torch.optim.AdamW):
        params = fresh(torch.float64)
        optimizer = kind([{"params": params[:1], "lr": 0.1}, {"params": params[1:2]}], betas=(0.8, 0.9))
        optimizer.add_param_group({"params": params[2:], "weight_decay": 0.5})
        train(optimizer, 5)
        ends.append(params)
    assert_same(*ends, rtol=1e-10, atol=1e-13)


def test_a_rule_over_the_model_sees_every_group() -> None:
    @dataclass(frozen=True, kw_only=True)
    class SharedNorm(rules.Rule, scope="model"):
        """A step along the gradient over its norm over the model."""

        lr: float = rules.hyper(1.0, ">= 0", symbol="η", doc="length of the step")

        def coefficients(self, step: int) -> Any:
            return rules.record(lr=self.lr)

        def direction(self, param: torch.Tensor, grad: torch.Tensor, state: Any, c: Any) -> Any:
            square = yield rules.Sum(grad * grad, over="model")
            return grad / square.sqrt(), state

    params = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    params[0].grad, params[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    optim.optimizer_for(SharedNorm)([{"params": [params[0]]}, {"params": [params[1]], "lr": 2.0}]).step()
    assert [round(float(param.detach()), 6) for param in params] == [-0.6, -1.6]


def test_hooks_and_named_parameters_are_torchs() -> None:
    model = nn.Linear(2, 2)
    optimizer = optim.SGD(model.named_parameters(), lr=0.1)
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    optimizer.register_load_state_dict_pre_hook(lambda _, state: {**state, "state": {}})
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == ["before", "after"]
    assert not optimizer.state  # the user's hook had the last word on what is loaded


def test_a_momentum_switched_on_late_starts_from_nothing() -> None:
    params = fresh()
    optimizer = optim.SGD(params, lr=0.1)
    train(optimizer, 2)
    optimizer.param_groups[0]["momentum"] = 0.9
    train(optimizer, 2, skip=2)
    assert all("momentum_buffer" in optimizer.state[param] for param in params)


def test_subclasses_do_not_replace_the_class_of_a_rule() -> None:
    class Mine(optim.AdamW):
        """The same, mine."""

    param = torch.ones(2, requires_grad=True)
    param.grad = torch.ones(2)
    Mine([param], lr=0.5).step()
    assert float(param.detach()[0]) == pytest.approx(0.5 - 0.005, abs=1e-6)
    assert optim.optimizer_for(rules.AdamW) is optim.AdamW


def test_settings_may_be_given_by_position_as_in_torch() -> None:
    group = optim.SGD([torch.zeros(1)], 0.1, 0.9).param_groups[0]
    assert (group["lr"], group["momentum"]) == (0.1, 0.9)


@pytest.mark.parametrize(
    "words", [{"foreach": None}, {"foreach": True}, {"fused": True}, {"capturable": False}], ids=str
)
def test_torchs_choice_of_a_kernel_is_accepted_and_changes_nothing(words: dict) -> None:
    params, plain = fresh(), fresh()
    optimizer = optim.Adam([{"params": params, **words}], **words)
    assert not optimizer.param_groups[0].keys() & set(keywords.TORCH_KERNELS)
    train(optimizer, 3)
    train(optim.Adam(plain), 3)
    assert_same(params, plain)


def test_a_user_defined_rule_becomes_an_optimizer() -> None:
    class Mine(rules.Rule, scope="elementwise"):
        pass

    assert optim.optimizer_for(rules.AdamW) is optim.optimizer_for("adamw") is optim.AdamW
    with pytest.raises(SettingError, match="a rule must be a dataclass, got the class Mine"):
        optim.optimizer_for(Mine)


@dataclass(frozen=True, kw_only=True)
class SignSGD(rules.Rule, scope="elementwise"):
    """A step along the sign of the gradient."""

    lr: float = rules.hyper(1e-3, ">= 0", symbol="η", doc="length of the step")

    def coefficients(self, step: int) -> Any:
        return rules.record(lr=self.lr)

    def direction(self, param: torch.Tensor, grad: torch.Tensor, state: Any, c: Any) -> Any:
        return torch.sign(grad), state


def test_the_optimizer_of_a_user_defined_rule_is_copied_pickled_and_compiled() -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = optim.optimizer_for(SignSGD)([param], lr=0.25, backend="compiled")
    for copied_optimizer in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert type(copied_optimizer) is type(optimizer)
        (copied,) = copied_optimizer.param_groups[0]["params"]
        copied.grad = torch.tensor([1.0, -2.0, 0.0])
        copied_optimizer.step()
        assert copied.tolist() == [0.75, 1.25, 1.0]
        assert str(copied_optimizer.plan).startswith("compiled")


def test_a_group_is_the_dictionary_that_was_given() -> None:
    group = {"params": [torch.zeros(2)], "lr": 0.1, "no_weight_decay": True}
    optimizer = optim.AdamW([group])
    group["lr"] = 0.5
    assert optimizer.param_groups[0]["lr"] == 0.5


def embedded(optimizer: Any, **settings: Any) -> tuple[torch.Tensor, torch.optim.Optimizer]:
    """A table trained for a few steps by sparse gradients, with a dense parameter beside it."""
    torch.sparse.check_sparse_tensor_invariants.disable()  # torch.optim warns until one says what one wants
    torch.manual_seed(0)
    table = nn.Embedding(50, 3, sparse=True).double()
    head = nn.Linear(3, 1).double()
    running = optimizer([*table.parameters(), *head.parameters()], **settings)
    for step in range(5):
        running.zero_grad()
        head(table(torch.tensor([step, 7, 7]))).square().sum().backward()
        running.step()
    return table.weight, running


@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        (optim.SGD, torch.optim.SGD, {"lr": 0.1}),
        (optim.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        (optim.SGD, torch.optim.SGD, {"lr": 0.1, "maximize": True}),
        (optim.AdaGrad, torch.optim.Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.1}),
    ],
    ids=str,
)
def test_sparse_gradients_are_taken_where_torch_takes_them(ours: Any, theirs: Any, settings: dict) -> None:
    assert_same([embedded(ours, **settings)[0]], [embedded(theirs, **settings)[0]], rtol=1e-10, atol=1e-13)


def test_sparse_gradients_are_refused_where_torch_refuses_them() -> None:
    with pytest.raises(
        ParameterError, match="Adam: gradients must be dense, got a sparse one for a parameter of shape"
    ):
        embedded(optim.Adam)
