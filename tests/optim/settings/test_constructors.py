"""Constructors: what torch takes, and what gets a clear error. `cases.constructor_calls` has the unusual values."""

import copy
import itertools
import pickle
import threading
import time
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cases.constructor_calls import ConfigList, calls
from tests.optim.routing.models import Gpt
from tests.optim.training import assert_same
from thalweg import optim, rules
from thalweg.errors import KeywordError, ParameterError, RoutingError, SettingError, ThalwegError, UnknownNameError
from thalweg.registry import rule_from_name


def leaf(*shape: int) -> torch.Tensor:
    return torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape).requires_grad_()


def train(optimizer: torch.optim.Optimizer, num_steps: int = 3) -> list[torch.Tensor]:
    """Take steps with fixed gradients and return the parameters."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for step in range(num_steps):
        for param in params:
            if param.requires_grad:
                param.grad = torch.full_like(param, 0.1 * (step + 1))
        optimizer.step()
    return [param.detach() for param in params]


@pytest.mark.filterwarnings("ignore")  # of settings; here errors are looked for
def test_fuzzed_calls_work_or_raise_an_error_of_ours() -> None:
    seconds, failures = time.process_time(), []
    for call in itertools.islice(calls(seed=0), 400):
        try:
            call.run()
        except ThalwegError as error:
            if not 10 < len(str(error)) < 2000:
                failures.append(f"{call.description}: a message of {len(str(error))} letters")
        except Exception as error:  # the failures that are looked for
            failures.append(f"{call.description}: {type(error).__name__}")
    assert failures == []
    assert time.process_time() - seconds < 120  # processor time: nothing loops or fills the memory


SAME_SETTINGS: list[dict[str, Any]] = [
    {"lr": np.float64(0.25), "betas": (0.5, 0.75)},
    {"lr": np.float32(0.25), "betas": [0.5, 0.75]},
    {"lr": np.array(0.25), "betas": np.array([0.5, 0.75])},
    {"lr": np.array([0.25]), "betas": ConfigList(0.5, 0.75)},
    {"lr": torch.tensor(0.25), "betas": torch.tensor([0.5, 0.75])},
    {"lr": torch.tensor([0.25]), "betas": (torch.tensor(0.5), torch.tensor([0.75]))},
    {"lr": Fraction(1, 4), "betas": (Fraction(1, 2), Decimal("0.75"))},
    {"lr": Decimal("0.25"), "betas": (np.float32(0.5), np.float16(0.75))},
    {"lr": np.longdouble("0.25"), "betas": (0.5, torch.tensor(0.75, dtype=torch.bfloat16))},
]


@pytest.mark.parametrize("settings", SAME_SETTINGS, ids=str)
@pytest.mark.parametrize("place", ["constructor", "group", "added group", "written", "rule"])
def test_numbers_of_other_libraries_are_numbers(settings: dict[str, Any], place: str) -> None:
    param, kind = leaf(4), optim.Adam
    if place == "constructor":
        optimizer = kind([param], **settings)
    elif place == "group":
        optimizer = kind([{"params": [param], **settings}])
    elif place == "added group":
        optimizer = kind([leaf(2)])
        optimizer.add_param_group({"params": [param], **settings})
    elif place == "written":
        optimizer = kind([param])
        optimizer.param_groups[0].update(settings)
    else:
        beta1, beta2 = settings["betas"]
        optimizer = optim.optimizer_for(rules.Adam(lr=settings["lr"], beta1=beta1, beta2=beta2))([param])
    expected = leaf(4)
    assert_same(train(optimizer)[-1:], train(kind([expected], lr=0.25, betas=(0.5, 0.75))))


def test_an_array_that_a_schedule_writes_to_is_read_at_every_step() -> None:
    param, expected, lr = leaf(4), leaf(4), np.array(0.25)
    optimizer, other = optim.SGD([param]), optim.SGD([expected], lr=0.25)
    optimizer.param_groups[0]["lr"] = lr
    train(optimizer)
    train(other)
    lr[...] = 0.5
    other.param_groups[0]["lr"] = 0.5
    assert_same(train(optimizer), train(other))


def test_a_checkpoint_of_such_numbers_is_safe_to_load(tmp_path: Any) -> None:
    optimizer = optim.Adam([leaf(4)], lr=np.float32(0.25), betas=ConfigList(0.5, 0.75), amsgrad=np.bool_(True))
    torch.save(optimizer.state_dict(), tmp_path / "saved")
    (group,) = torch.load(tmp_path / "saved", weights_only=True)["param_groups"]
    assert (group["lr"], group["betas"], group["amsgrad"]) == (0.25, (0.5, 0.75), True)


@pytest.mark.parametrize("true", [True, 1, np.bool_(True), np.array(True), torch.tensor(True)], ids=repr)
def test_switches_take_true_and_false_of_any_library(true: Any) -> None:
    param, expected = leaf(4), leaf(4)
    optimizer = optim.Adam([param], lr=0.1, maximize=true, amsgrad=true)
    assert_same(
        train(optimizer), train(torch.optim.Adam([expected], lr=0.1, maximize=True, amsgrad=True)), atol=1e-6, rtol=0
    )
    assert optimizer.param_groups[0]["maximize"] is True


@pytest.mark.parametrize("keyword", ["maximize", "amsgrad", "foreach", "fused", "capturable", "differentiable"])
@pytest.mark.parametrize("value", ["no", "False", 2, 0.5, b"", [True], torch.zeros(2)], ids=repr)
def test_nothing_else_is_true_or_false(keyword: str, value: Any) -> None:
    with pytest.raises(SettingError, match=f"{keyword} must be"):
        optim.Adam([leaf(4)], **{keyword: value})
    if keyword in ("maximize", "amsgrad"):
        optimizer = optim.Adam([leaf(4)])
        optimizer.param_groups[0][keyword] = value
        with pytest.raises(SettingError, match=f"{keyword} must be"):
            train(optimizer)


def test_a_seed_written_into_a_group_is_checked_and_of_any_library() -> None:
    ends = []
    for seed in (7, np.int64(7), torch.tensor(7)):
        param = leaf(64).detach().bfloat16().requires_grad_()
        optimizer = optim.SGD([param], lr=1e-3, rounding="stochastic")
        optimizer.param_groups[0]["seed"] = seed
        ends += train(optimizer)
    assert_same(ends[1:], [ends[0], ends[0]])
    optimizer.param_groups[0]["seed"] = 2**63
    with pytest.raises(SettingError, match="seed must be an integer of at most 64 bits"):
        train(optimizer)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optim.AdamW([leaf(2)], lr=10**400), "lr must be >= 0, got 1000"),
        (lambda: optim.AdamW([leaf(2)], lr=10**5000), "lr must be >= 0, got an object of type int"),
        (
            lambda: optim.AdamW([leaf(2)], lr=torch.empty((), device="meta")),
            "lr must be a number, got a tensor on meta",
        ),
        (lambda: optim.ScheduleFreeAdamW([leaf(2)], r=10**20), r"r must be in \[0, 40\], got 100000000000000000000"),
        (lambda: optim.Muon([leaf(2, 2)], ns_steps=2**63), r"ns_steps must be in \[1, 100\), got 9223372036854775808"),
        (lambda: optim.LBFGS([leaf(2)], history_size=10**20), r"history_size must be in \[1, 10000\]"),
        (
            lambda: train(optim.Yogi([leaf(2)], initial_accumulator=1e300)),
            "the initial value must fit into torch.float32",
        ),
        (lambda: train(optim.Sophia([leaf(2)], eps=1e300)), "the first step needs an estimate"),
        (lambda: optim.optimizer_for(rules.Clip), "a rule must be complete, got the class Clip"),
        (lambda: optim.optimizer_for(3), "a rule must be a name or a rule, got 3"),
        (lambda: optim.optimizer_for("clip(" * 500 + "adamw" + ")" * 500), "at most 1000 letters and 32 nested"),
        (lambda: rule_from_name("(" * 100), "at most 1000 letters and 32 nested"),
        (lambda: optim.AdamW([{"params": [leaf(2)], 3: 4}]), "the keys of a parameter group must be names"),
        (lambda: optim.AdamW([leaf(2), {"params": []}]), "every parameter must be a tensor, got dict"),
        (lambda: optim.AdamW([{"params": {leaf(2)}}]), "must be in a list, got a set"),
        (lambda: optim.AdamW([leaf(2) * 2]), "must be a leaf of the graph"),
        (lambda: optim.AdamW([("a", leaf(2)), leaf(2)]), "must have a name or none, got 1 of 2 with a name"),
        (lambda: optim.AdamW([("a",)]), "every parameter must be a tensor, got tuple"),
        (lambda: optim.AdamW([leaf(2).detach().to_sparse().requires_grad_()]), "every trained parameter must be dense"),
        (
            lambda: optim.AdamW([nn.Parameter(torch.ones(2).to(torch.float8_e4m3fn))]),
            "must be of a dtype that PyTorch computes in, got torch.float8_e4m3fn",
        ),
    ],
)
def test_the_error_says_what_is_wrong(make: Any, message: str) -> None:
    with pytest.raises((SettingError, ParameterError, KeywordError, UnknownNameError), match=message):
        make()


def test_settings_that_overflow_later_are_named_at_that_step() -> None:
    optimizer = optim.ScheduleFreeSGD([leaf(2)], lr=1e10, weight_lr_power=100.0)
    with pytest.raises(SettingError, match="must give scalars that a float can hold, got .* at step 1"):
        train(optimizer)


DTYPES = [torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool, torch.float8_e4m3fn]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", [optim.AdamW, optim.SGD, optim.Prodigy, optim.SOAP, optim.LBFGS])
def test_frozen_quantized_weights_are_passed_over(kind: Any, dtype: torch.dtype) -> None:
    param, alone, frozen = leaf(3, 2), leaf(3, 2), torch.ones(2, 2).to(dtype)
    together, single = kind([frozen, param], lr=0.1), kind([alone], lr=0.1)
    for optimizer, trained in ((together, param), (single, alone)):
        for step in range(3):
            trained.grad = torch.full_like(trained, 0.1 * (step + 1))
            optimizer.step(lambda: torch.tensor(1.0))
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert torch.equal(param, alone)
    assert torch.equal(frozen.float(), torch.ones(2, 2))
    assert frozen not in together.state
    names = [planned.name for planned in together.plan.parameters]
    assert names == ["1"]
    together.prepare()


def test_a_matrix_rule_takes_quantized_vectors_too() -> None:
    optimizer = optim.Muon([leaf(3, 2), torch.ones(7, dtype=torch.int8)])
    train(optimizer)
    assert [planned.shape for planned in optimizer.plan.parameters] == [(3, 2)]


@pytest.mark.parametrize("backend", [None, "loop", "flat", "compiled"])
@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        (optim.SGD, torch.optim.SGD, {"lr": 0.1}),
        (optim.Adam, torch.optim.Adam, {"lr": 0.1, "betas": (0.5, 0.75)}),
        (optim.AdaGrad, torch.optim.Adagrad, {"lr": 0.1, "lr_decay": 0.5}),
        (optim.Adagrad, torch.optim.Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.1}),  # it has state at once
        (optim.RMSprop, torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.5}),
    ],
)
def test_a_parameter_given_twice_takes_two_steps_as_in_torch(
    ours: Any, theirs: Any, settings: Any, backend: Any
) -> None:
    ends = []
    for kind, keywords in ((ours, {"backend": backend}), (theirs, {})):
        twice, once, thrice = leaf(4), leaf(3, 2), leaf(5)
        with pytest.warns(UserWarning, match="a parameter group with duplicate parameters"):
            optimizer = kind([twice, once, twice, thrice, thrice, thrice], **settings, **keywords)
        train(optimizer, 4)
        ends.append([twice, once, thrice])
        assert [float(optimizer.state[param]["step"]) for param in ends[-1] if "step" in optimizer.state[param]] in (
            [8, 4, 12],
            [],
        )
    assert_same(*ends, rtol=1e-5, atol=1e-6)


def test_duplicates_continue_after_a_checkpoint_and_a_pickle() -> None:
    param = leaf(4)
    with pytest.warns(UserWarning, match="duplicate"):
        optimizer = optim.Adam([param, param], lr=0.1)
    train(optimizer, 2)
    copied = pickle.loads(pickle.dumps(optimizer))
    assert_same(train(copied, 2), train(optimizer, 2))


def test_duplicates_are_refused_where_all_parameters_move_along_one_line() -> None:
    param = leaf(4)
    with pytest.warns(UserWarning, match="duplicate"):
        optimizer = optim.LBFGS([param, param])
    param.grad = torch.ones(4)
    with pytest.raises(ParameterError, match="every parameter must be in the groups once"):
        optimizer.step(lambda: torch.tensor(1.0))


@pytest.mark.parametrize("name", ["muon+adamw", "clip(muon+adamw)", "soap+lion"])
def test_a_routed_name_is_never_one_rule_for_everything(name: str) -> None:
    kind = optim.optimizer_for(name)
    model = Gpt()
    for params in (list(model.parameters()), list(model.named_parameters()), [{"params": list(model.parameters())}]):
        with pytest.raises(RoutingError, match=r"every parameter group must say which rule steps it") as error:
            kind(params)
    assert f"thalweg.optim.route(model, {name!r}).optimizer()" in str(error.value)
    matrix, vector = leaf(3, 2), leaf(3)
    first, second = kind.rule.parts
    groups = [{"params": [matrix], "rule": first}, {"params": [vector], "rule": second}]
    assert [group["rule"] for group in kind(groups, lr=0.1).param_groups] == [first, second]
    assert kind([matrix], rule=first).param_groups[0]["rule"] == first
    optimizer = kind(groups)
    with pytest.raises(RoutingError, match="every parameter group must say"):
        optimizer.add_param_group({"params": [leaf(2)]})
    assert len(optimizer.param_groups) == 2


CURVED = [
    optim.AdaHessian,
    optim.Sophia,
    optim.optimizer_for("clip(sophia)"),
    optim.optimizer_for("cautious(adahessian)"),
]


@pytest.mark.parametrize("kind", CURVED)
def test_the_first_step_needs_an_estimate_of_the_curvature(kind: Any, tmp_path: Any) -> None:
    param, late = leaf(4), leaf(2).detach()
    optimizer = kind([param, late])
    before = param.detach().clone()
    optimizer.step()  # no gradients: nothing to step
    param.grad = torch.ones(4)
    with pytest.raises(ParameterError, match=r"got none\. Call optimizer\.estimate_curvature\(loss\)"):
        optimizer.step()
    assert torch.equal(param, before)
    assert not optimizer.state
    optimizer.estimate_curvature((param**3).sum())
    optimizer.step()
    late.requires_grad_().grad = torch.ones(2)  # unfrozen between two estimates
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "saved")
    resumed = kind([leaf(4), leaf(2)])
    resumed.load_state_dict(torch.load(tmp_path / "saved", weights_only=True))
    train(resumed)


@pytest.mark.parametrize(
    "rule", ["cautious(adamw)", rules.Cautious(rules.AdamW(lr=0.3)), "muon+adamw", rules.Adam(lr=0.3)]
)
def test_classes_of_optimizer_for_are_pickled_as_their_rule(rule: Any) -> None:
    kind = optim.optimizer_for(rule)
    assert pickle.loads(pickle.dumps(kind)) is kind
    assert copy.deepcopy(kind) is kind
    optimizer = kind([{"params": [leaf(3, 2)], "rule": "adamw"} if kind.rule.parts else leaf(3, 2)])
    assert type(pickle.loads(pickle.dumps(optimizer))) is kind
    assert type(copy.deepcopy(optimizer)) is kind


class Subclass(optim.optimizer_for("cautious(adamw)")):  # type: ignore[misc]  # a class made at run time
    """A user's class, which pickle finds by its name."""


def test_subclasses_of_such_classes_are_pickled_by_name() -> None:
    assert pickle.loads(pickle.dumps(Subclass)) is Subclass
    assert pickle.loads(pickle.dumps(optim.AdamW)) is optim.AdamW
    optimizer = pickle.loads(pickle.dumps(Subclass([leaf(2)])))
    assert type(optimizer) is Subclass
    train(optimizer)


@pytest.mark.parametrize("kind", [optim.AdamW, optim.Prodigy, optim.LAMB, optim.optimizer_for("clip(adamw)")])
def test_threads_that_step_one_optimizer_take_one_step_after_the_other(kind: Any) -> None:
    ends = []
    for num_threads in (1, 4):
        params = [leaf(16, 16), leaf(300)]
        optimizer = kind(params, lr=0.01)
        optimizer.prepare()
        for param in params:
            param.grad = torch.ones_like(param)

        def work(optimizer: Any = optimizer, num_steps: int = 80 // num_threads) -> None:
            for _ in range(num_steps):
                optimizer.step()

        threads = [threading.Thread(target=work) for _ in range(num_threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [int(optimizer.state[param]["step"]) for param in params] == [80, 80]
        ends.append(params)
    assert_same(*ends)


def test_a_closure_may_step_the_same_optimizer() -> None:
    param = leaf(2)
    optimizer = optim.SGD([param], lr=0.1)
    param.grad = torch.ones(2)
    optimizer.step(lambda: optimizer.step())
    assert torch.equal(param, leaf(2) - 0.1 - 0.1)
