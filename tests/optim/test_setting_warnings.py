"""Settings that cause a warning, and settings just beside them that do not."""

import copy
import itertools
import linecache
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import thalweg
from thalweg import optim, rules
from thalweg.comparison import CONTENDERS, parse
from thalweg.comparison.planning.lr_range_search import FACTOR, MAX_EXTENSIONS
from thalweg.errors import SettingWarning
from thalweg.registry import RULES, WRAPPERS
from thalweg.rules.core.hyper import learning_rate
from thalweg.rules.explanation.setting_checks import SEARCH_MARGIN, find_conflicts, setting_checks

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64)


def params(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.ones(3, 3, dtype=dtype, requires_grad=True)]


def warnings_of(make: Callable[[], Any]) -> list[str]:
    """Return the messages of all warnings, which are of our own class."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make()
    assert all(warning.category is SettingWarning for warning in caught)
    return [str(warning.message) for warning in caught]


def step(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for param in group["params"]:
            param.grad = torch.ones_like(param)
    optimizer.step()


def wrapped(rule: rules.Rule, **settings: Any) -> Callable[[], Any]:
    return lambda: optim.optimizer_for(rule)(params(), **settings)


# Settings that cause a warning, its message, and neighbouring settings that cause none.
PAIRS = {
    "a rate without its minus": (
        lambda: optim.AdamW(params(), lr=1e3, weight_decay=0.0),
        r"AdamW: lr must be at most 100, .* got lr=1000.0. 0.001 is the default",
        lambda: optim.AdamW(params(), lr=100.0, weight_decay=0.0),
    ),
    "the range is the rule's own": (
        lambda: optim.Lion(params(), lr=20.0),
        "Lion: lr must be at most 10, ",
        lambda: optim.Adam(params(), lr=20.0),
    ),
    "a rate that gradients give its meaning may have any size": (
        lambda: optim.Signum(params(), lr=1e3),
        "Signum: lr must be at most 10",
        lambda: optim.SGD(params(), lr=1e3),
    ),
    "a rate for a rule that finds it": (
        lambda: optim.Prodigy(params(), lr=1e-3),
        r"Prodigy: lr must be near 1, since it is a factor .* got lr=0.001. Leave it out",
        lambda: optim.Prodigy(params(), lr=0.1),
    ),
    "a rate for DoG by layers; 0 is nobody's mistake": (
        lambda: optim.LDoG(params(), lr=1e-4),
        "LDoG: lr must be near 1",
        lambda: optim.LDoG(params(), lr=0.0),
    ),
    "in a wrapper": (
        wrapped(rules.Cautious(rules.DoWG()), lr=1e-3),
        r"Cautious\(DoWG\): lr must be near 1",
        wrapped(rules.Cautious(rules.AdamW()), lr=1e-7),
    ),
    "Mechanic undoes any factor": (
        wrapped(rules.Cautious(rules.AdamW()), lr=1e3, weight_decay=0.0),
        r"Cautious\(AdamW\): lr must be at most 100",
        wrapped(rules.Mechanic(rules.AdamW()), lr=1e3, weight_decay=0.1),
    ),
    "a decay that leaves nothing": (
        lambda: optim.AdamW(params(), lr=0.5, weight_decay=2.0),
        r"AdamW: weight decay must leave .* got 0 from lr=0.5, weight_decay=2.0. Lower",
        lambda: optim.AdamW(params(), lr=0.5, weight_decay=1.9),
    ),
    "a decay that a search might try": (
        lambda: optim.AdaHessian(params(), lr=20.0, weight_decay=0.5),
        "AdaHessian: weight decay must leave .* got -9 from",
        lambda: optim.AdaHessian(params(), lr=10.0, weight_decay=0.5),
    ),
    "a coupled decay leaves what the gradient says": (
        lambda: optim.Muon(params(), lr=2.0, weight_decay=1.0),
        "Muon: weight decay must leave .* got -1 from",
        lambda: optim.SGD(params(), lr=2.0, weight_decay=1.0),
    ),
    "Adan's decay is a share at any λ": (
        lambda: optim.Signum(params(), lr=2.0, weight_decay=3.0),
        "Signum: weight decay must leave .* got -5 from",
        lambda: optim.Adan(params(), lr=2.0, weight_decay=3.0),
    ),
    "a decay by itself, at another rate than it refers to": (
        wrapped(rules.FullyDecoupledDecay(rules.Adam()), lr=0.1, weight_decay=0.02),
        "weight decay must leave .* got -1 from lr=0.1, weight_decay=0.02, reference_lr=0.001",
        wrapped(rules.FullyDecoupledDecay(rules.Adam()), lr=0.1, weight_decay=0.02, reference_lr=0.1),
    ),
    "a step to the vertex is no decay": (
        wrapped(rules.DecoupledDecay(rules.Adam()), lr=1.5, weight_decay=1.0),
        "weight decay must leave",
        lambda: optim.Scion(params(), lr=1.0, constrained=True),
    ),
    "decays exchanged": (
        lambda: optim.AdamW(params(), betas=(0.999, 0.9)),
        "AdamW: beta1² must be below √beta2, .* got beta1=0.999, beta2=0.9. They",
        lambda: optim.AdamW(params(), betas=(0.95, 0.95)),
    ),
    "decays exchanged, where there are three": (
        lambda: optim.Adan(params(), betas=(0.999, 0.92, 0.9)),
        "Adan: beta1² must be below √beta3",
        lambda: optim.Adan(params()),
    ),
    "what may be searched is not doubted": (
        lambda: optim.Adam(params(), betas=(0.995, 0.9)),
        "Adam: beta1² must be below √beta2",
        lambda: optim.Adam(params(), betas=(0.99, 0.9)),
    ),
    "an ε of another dtype": (
        lambda: optim.Adam(params(), eps=1e-50),
        "Adam: eps must not be rounded to 0 .* got eps=1e-50, which is 0 in torch.float32. Raise it",
        lambda: optim.Adam(params(torch.float64), eps=1e-50),
    ),
    "no ε, which is meant": (
        lambda: optim.Adam(params(torch.bfloat16), eps=1e-50),
        "Adam: eps must not be rounded to 0",
        lambda: optim.Adam(params(torch.bfloat16), eps=0.0),
    ),
    "an ε that float16 has not, but the arithmetic of it has": (
        lambda: optim.AdamW(params(torch.float16), eps=1e-46),
        "AdamW: eps must not be rounded to 0",
        lambda: optim.AdamW(params(torch.float16), eps=1e-44),
    ),
    "in a group": (
        lambda: optim.AdamW([{"params": params()}, {"params": params(), "lr": 1e3, "weight_decay": 0}]),
        "got lr=1000.0",
        lambda: optim.AdamW([{"params": params()}, {"params": params(), "lr": 10.0, "weight_decay": 0}]),
    ),
    "by position, and as a tensor": (
        lambda: optim.Prodigy(params(), torch.tensor(1e-4)),
        "Prodigy: lr must be near 1",
        lambda: optim.Prodigy(params(), torch.tensor(2.0)),
    ),
}


@pytest.mark.parametrize(("doubtful", "message", "beside_it"), PAIRS.values(), ids=PAIRS)
def test_conflicting_settings_cause_a_warning_and_neighbouring_ones_do_not(
    doubtful: Any, message: str, beside_it: Any
) -> None:
    (text,) = warnings_of(doubtful)
    assert re.search(message, text), text
    assert warnings_of(beside_it) == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [*RULES, *WRAPPERS])
def test_nothing_is_warned_of_at_defaults(name: str, dtype: torch.dtype) -> None:
    rule = parse(f"{name}(adam)" if name in WRAPPERS else name).rule
    assert isinstance(rule, rules.Rule)
    if not dtype.is_complex or rule.traits.supports_complex:
        assert warnings_of(lambda: optim.optimizer_for(rule)(params(dtype))) == []


def test_no_contender_is_warned_of() -> None:
    composites = [parse(name) for name in ("then(adam,sgd)", "muon+adamw", "clip(muon+adamw)", "mechanic(adamw)")]
    for contender in (*CONTENDERS.values(), *composites):
        at = contender.rule.with_(**contender.recommended)
        assert isinstance(at, rules.Rule)
        assert find_conflicts(at, torch.float32) == {}, contender.name


@pytest.mark.parametrize("name", RULES)
def test_no_corner_of_what_is_searched_is_warned_of(name: str) -> None:
    rule = RULES[name]()
    ends = {
        key: (declared.search.low, declared.search.high) for key, declared in rule.hypers().items() if declared.search
    }
    for corner in itertools.product(*ends.values()):
        assert find_conflicts(rule.with_(**dict(zip(ends, corner, strict=True))), torch.float32) == {}, corner


def test_a_search_may_let_a_rate_grow_as_far_as_it_is_not_doubted() -> None:
    assert SEARCH_MARGIN == FACTOR**MAX_EXTENSIONS


def test_a_rule_of_ones_own_is_judged_by_what_it_declares() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Own(rules.Rule, scope="elementwise"):
        """A rule of a user."""

        lr: float = learning_rate(0.5, low=0.1, high=1.0)

        def coefficients(self, step: int) -> Any:
            return rules.record(lr=self.lr)

        def direction(self, param: Any, grad: Any, state: Any, c: Any) -> Any:
            return grad.sign(), state

    assert Own.lr == 0.5
    assert [check.condition for check in setting_checks(Own())] == ["lr above 100"]
    (text,) = warnings_of(lambda: optim.optimizer_for(Own)(params(), lr=1e4))
    assert text.startswith("Own: lr must be at most 100")


def test_each_warning_is_given_once_for_an_optimizer() -> None:
    groups = [{"params": params()}, {"params": params(), "lr": 2e3}, {"params": params(torch.float64), "lr": 3e3}]

    def make() -> None:
        optimizer = optim.Adam(groups, lr=1e3)
        optimizer.add_param_group({"params": params(), "lr": 4e3})
        copy.deepcopy(optimizer).add_param_group({"params": params(), "lr": 5e3})

    assert len(warnings_of(make)) == 1
    assert len(warnings_of(lambda: optim.Adam(params(), lr=1e3, betas=(0.999, 0.9)))) == 2


def test_the_line_is_the_callers_and_the_filter_is_the_standard_one() -> None:
    with pytest.warns(SettingWarning) as caught:
        optim.Adam(params(), lr=1e3)  # this line
    assert "# this line" in linecache.getline(caught[0].filename, caught[0].lineno)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=SettingWarning)
        optim.Adam(params(), lr=1e3)
    assert issubclass(SettingWarning, UserWarning)


# --- schedules --------------------------------------------------------------------------------------------------------


def scheduled(make: Callable[[], torch.optim.Optimizer], factor: Callable[[int], float]) -> list[str]:
    def train() -> None:
        optimizer = make()
        scheduler = lr_scheduler.LambdaLR(optimizer, factor)
        for _ in range(4):
            step(optimizer)
            scheduler.step()

    return warnings_of(train)


def test_a_rate_that_falls_is_warned_of_where_the_rule_takes_the_place_of_a_schedule() -> None:
    (text,) = scheduled(lambda: optim.ScheduleFreeSGD(params(), lr=0.5), lambda t: 0.2**t)
    assert text.startswith("ScheduleFreeSGD: lr should not be scheduled to fall")
    assert "got 0.5, now 0.00" in text
    warming = lambda t: (t + 1) / 4  # noqa: E731
    assert scheduled(lambda: optim.ScheduleFreeSGD(params(), lr=0.5), warming) == []
    assert scheduled(lambda: optim.SGD(params(), lr=0.5), lambda t: 0.2**t) == []
    assert scheduled(lambda: optim.ScheduleFreeSGD(params(), lr=0.5), lambda t: 0.25**t) == []  # to 1/64
    frozen = scheduled(lambda: optim.ScheduleFreeSGD(params(), lr=0.5), lambda t: float(t < 2))
    assert frozen == []
    nested = rules.Clip(rules.ScheduleFreeAdamW())
    assert len(scheduled(lambda: optim.optimizer_for(nested)(params()), lambda t: 0.2**t)) == 1


def test_a_checkpoint_with_a_lower_rate_is_no_schedule() -> None:
    low, high = (optim.ScheduleFreeSGD(params(), lr=lr) for lr in (0.001, 1.0))

    def load() -> None:
        step(low)
        step(high)
        high.load_state_dict(low.state_dict())
        step(high)

    assert warnings_of(load) == []


# --- routes -----------------------------------------------------------------------------------------------------------


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def test_a_route_is_judged_by_the_rule_that_each_group_follows() -> None:
    assert warnings_of(lambda: optim.route(model(), "muon", lr=0.01).optimizer()) == []
    (text,) = warnings_of(lambda: optim.route(model(), "muon", adamw_betas=(0.999, 0.9)).optimizer())
    assert text.startswith("AdamW: beta1²")
    (text, *_) = warnings_of(lambda: optim.route(model(), "muon", lr=2.0, weight_decay=0.7).optimizer())
    assert text.startswith(("Muon: weight decay must leave", "AdamW: weight decay must leave"))


def test_a_factor_of_no_decay_is_warned_of() -> None:
    (text,) = warnings_of(lambda: optim.route(model(), "muon", weight_decay=0, decay_scale={"head": 2}))
    assert text.startswith("route: decay_scale must have a weight decay to scale, got {'head': 2} and weight_decay=0.")
    assert warnings_of(lambda: optim.route(model(), "muon", weight_decay=0, decay_scale={"head": 0})) == []
    assert warnings_of(lambda: optim.route(model(), "muon", weight_decay=0.1, decay_scale={"head": 2})) == []
    (text,) = warnings_of(lambda: optim.route(model(), "rprop", decay_scale={"head": 2}))
    assert "and none. Use a rule that has one" in text


# --- comparisons ------------------------------------------------------------------------------------------------------


def test_a_comparison_warns_of_what_was_pinned_and_not_of_what_a_search_tries() -> None:
    pinned = ["adamw:weight_decay=0,lr=1e3", "schedule_free_sgd:schedule=linear"]
    (text,) = warnings_of(lambda: thalweg.compare("quadratic", pinned, budget="4trials"))
    assert text.startswith("AdamW: lr must be at most 100")
    searched = ["prodigy:lr=1e-6..1e-4", "adahessian:lr=1e2..1e3"]
    optimizers = [parse(text).optimizer(params(), {"lr": 1e-5}) for text in searched]
    assert len(optimizers) == 2
    assert warnings_of(lambda: [parse(text).optimizer(params(), {"lr": 1e6}) for text in searched]) == []


def test_an_optimizer_that_a_search_creates_never_warns() -> None:
    optimizer = parse("schedule_free_sgd").optimizer(params(), {"lr": 0.5})
    step(optimizer)
    optimizer.param_groups[0]["lr"] = 0.001
    assert warnings_of(lambda: step(optimizer)) == []


def test_explain_lists_the_warnings() -> None:
    assert rules.explain(rules.SGD()).warned_of == ()
    assert rules.explain(rules.Prodigy()).warned_of[:2] == ("lr above 1000", "lr of 0.001 or less, except 0")
    assert "lr scheduled to a hundredth or less" in rules.explain(rules.ScheduleFreeSGD()).warned_of
