"""Signs of faults in watched trainings: each at its place and step; healthy trainings get notes at most."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thalweg.diagnosis.clue import Clue
from thalweg.diagnosis.kinds import KINDS
from thalweg.diagnosis.monitoring import Monitor, NonFinite, clues, watch
from thalweg.diagnosis.monitoring.signs.series import learns
from thalweg.diagnosis.monitoring.signs.signal_signs import _largest_modules

STEPS = 60


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(64, 6, generator=generator)
    return x, torch.sin(x[:, :1]) + x[:, 1:2]


def network(activation: Callable[[], nn.Module] = nn.ReLU, depth: int = 3, width: int = 16) -> nn.Sequential:
    torch.manual_seed(0)
    widths = [6, *[width] * depth]
    layers: list[nn.Module] = []
    for first, second in itertools.pairwise(widths):
        layers += [nn.Linear(first, second), activation()]
    return nn.Sequential(*layers, nn.Linear(width, 1))


def watched(
    model: nn.Module,
    optimizer: Any = None,
    *,
    steps: int = STEPS,
    loss_fn: Callable[[Tensor, Tensor], Tensor] = nn.functional.mse_loss,
    after: Callable[[Any, int], None] = lambda optimizer, step: None,
    every: int = 1,
) -> Monitor:
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=0.01)
    x, y = data()
    dtype = next(model.parameters()).dtype
    x, y = x.to(dtype), y.to(dtype)
    order = torch.Generator().manual_seed(3)
    with watch(model, optimizer, every=every) as monitor:
        for step in range(steps):
            rows = torch.randperm(64, generator=order)[:32]
            optimizer.zero_grad()
            loss = loss_fn(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            after(optimizer, step)
            monitor.step(loss)
    return monitor


def kinds(monitor: Monitor, *certainties: str) -> set[str]:
    return {clue.kind for clue in clues(monitor.record) if not certainties or clue.certainty in certainties}


def the(monitor: Monitor, kind: str) -> Clue:
    return next(clue for clue in clues(monitor.record) if clue.kind == kind)


@pytest.mark.parametrize(
    "make",
    [
        lambda: (network(), None),
        lambda: (network(nn.Tanh), None),
        lambda: (network(nn.GELU, depth=1), lambda m: torch.optim.SGD(m.parameters(), 0.05, 0.9)),
        lambda: (network().double(), lambda m: torch.optim.RMSprop(m.parameters(), 1e-3)),
        lambda: (nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 1)), None),
    ],
)
@pytest.mark.parametrize("every", [1, 5])
def test_healthy_trainings_get_notes_at_most(make: Callable[[], Any], every: int) -> None:
    model, optimizer = make()
    monitor = watched(model, optimizer and optimizer(model), every=every)
    assert learns(monitor.record)
    assert {finding.severity for finding in monitor.findings} <= {"note"}
    assert not kinds(monitor, "certain", "likely")


def test_odd_but_healthy_trainings_get_notes_at_most() -> None:
    small = watched(network(), loss_fn=lambda a, b: 1e-3 * nn.functional.mse_loss(a, b))
    head = network()
    nn.init.zeros_(head[-1].weight)
    zero_head = watched(head)
    frozen = network()
    frozen[0].requires_grad_(False)

    def scaled(optimizer: Any, step: int) -> None:
        optimizer.param_groups[0]["lr"] = 0.01 * (1 + math.cos(math.pi * (step + 1) / STEPS)) / 2

    negative = watched(network(), loss_fn=lambda a, b: nn.functional.mse_loss(a, b) - 100.0)
    for monitor in (small, zero_head, watched(frozen), watched(network(), after=scaled), negative):
        assert not kinds(monitor, "certain", "likely"), monitor.summary()


def test_dead_units_are_blamed_on_their_layer() -> None:
    model = network()
    with torch.no_grad():
        model[2].bias.fill_(-50.0)
    monitor = watched(model)
    clue = the(monitor, "dead_relu")
    assert (clue.certainty, clue.where, clue.since) == ("likely", "2", 0)
    (finding,) = [finding for finding in monitor.findings if finding.kind == "dead_relu"]
    assert finding.severity == "warning"
    assert finding.url == KINDS["dead_relu"].url
    assert "vanishing_gradient" not in kinds(monitor)


def test_units_that_die_later_are_dated() -> None:
    model = network()

    def kill(optimizer: Any, step: int) -> None:
        if step == 29:
            with torch.no_grad():
                model[2].bias.fill_(-50.0)

    clue = the(watched(model, after=kill, every=5, steps=110), "dead_relu")
    # Units that were active count for two windows of four measurements.
    assert 30 <= clue.since <= 30 + 2 * 4 * 5
    assert clue.where == "2"


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid])
def test_saturated_units_are_blamed_on_their_layer(activation: Any) -> None:
    model = network(activation)
    with torch.no_grad():
        model[2].weight.mul_(200.0)
        model[2].bias.add_(30.0)
    clue = the(watched(model), "saturation")
    assert (clue.certainty, clue.where, clue.since) == ("likely", "2", 0)


def test_gradients_that_vanish_or_explode_over_depth() -> None:
    vanishing = watched(network(nn.Sigmoid, depth=6), torch.optim.SGD(network().parameters(), 0.1))
    assert not kinds(vanishing, "certain", "likely")  # that optimizer holds another model's parameters
    model = network(nn.Sigmoid, depth=6)
    clue = the(watched(model, torch.optim.SGD(model.parameters(), 0.1)), "vanishing_gradient")
    assert (clue.certainty, clue.where, clue.since) == ("likely", "0", 0)
    model = network(nn.Identity, depth=6)
    with torch.no_grad():
        model[-1].weight.mul_(1e-3)
        for layer in model[2:-1:2]:
            layer.weight.mul_(6.0)
    clue = the(watched(model, torch.optim.SGD(model.parameters(), 1e-9)), "init_too_large")
    assert clue.where == "4"
    assert clue.evidence["signal_growth"] > 10


def test_weights_that_begin_alike_and_stay_so() -> None:
    model = network()
    for layer in model[::2]:
        nn.init.constant_(layer.weight, 0.3)
        nn.init.zeros_(layer.bias)
    clue = the(watched(model), "zero_init")
    assert (clue.certainty, clue.where) == ("certain", None)
    model = network()
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    assert the(watched(model), "zero_init").where == "2"
    model = network()
    nn.init.zeros_(model[-1].weight)  # a head may begin at zero
    assert "zero_init" not in kinds(watched(model))


def test_parameters_that_never_get_a_gradient() -> None:
    class Bypassed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
            self.head = nn.Linear(6, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x)

    clue = the(watched(Bypassed()), "no_gradient")
    assert (clue.where, clue.certainty, clue.evidence["parameters"]) == ("body", "certain", 4)
    assert _largest_modules(["a.b", "a.b.c", "d"], ["a.e"]) == ["a.b", "d"]


def test_steps_that_are_too_large_or_too_small() -> None:
    def at(lr: float) -> Monitor:
        model = network()
        return watched(model, torch.optim.SGD(model.parameters(), lr))

    assert (the(at(1e-7), "lr_too_low").certainty, the(at(3e-4), "lr_too_low").certainty) == ("likely", "possible")
    adam = network()
    clue = the(watched(adam, torch.optim.Adam(adam.parameters(), 30.0)), "lr_too_high")
    assert clue.certainty == "likely"
    assert clue.evidence["early_update_ratio"] > 0.05
    assert not kinds(at(0.05)) & {"lr_too_low", "lr_too_high"}
    assert the(at(0.0), "lr_too_low").certainty == "certain"


def test_a_schedule_that_takes_the_rate_away() -> None:
    def decay(optimizer: Any, step: int) -> None:
        optimizer.param_groups[0]["lr"] *= 0.7

    clue = the(watched(network(), after=decay), "schedule_kills_lr")
    assert (clue.certainty, clue.since) == ("likely", 13)  # 0.7 ** 13 < 0.01
    assert "lr_too_low" not in kinds(watched(network(), after=decay), "likely")


def test_updates_that_get_lost() -> None:
    model = network().bfloat16()
    clue = the(watched(model, torch.optim.SGD(model.parameters(), 1e-5)), "update_below_precision")
    assert (clue.certainty, clue.evidence["dtype"]) == ("likely", "bfloat16")
    model = network().bfloat16()
    assert "update_below_precision" not in kinds(watched(model, torch.optim.SGD(model.parameters(), 0.1)))
    tiny = watched(network(), loss_fn=lambda a, b: 1e-12 * nn.functional.mse_loss(a, b))
    assert the(tiny, "adam_eps_underflow").certainty == "likely"
    assert the(tiny, "adam_eps_underflow").evidence["eps"] == 1e-8


def test_clipping_momentum_and_decay() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    optimizer.register_step_pre_hook(lambda *_: (torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3), None)[1])
    clue = the(watched(model, optimizer), "clip_too_small")
    assert clue.certainty == "likely"
    assert clue.evidence["gradient_norm"] == pytest.approx(1e-3, rel=1e-3)
    model = network()
    clue = the(watched(model, torch.optim.SGD(model.parameters(), 0.1, 0.9995)), "momentum_too_high")
    assert clue.certainty == "likely"
    model = network()
    assert "momentum_too_high" not in kinds(watched(model, torch.optim.SGD(model.parameters(), 0.01, 0.95)))
    model = network()
    decayed = watched(model, torch.optim.AdamW(model.parameters(), 0.01, weight_decay=80.0))
    assert the(decayed, "weight_decay_too_strong").certainty == "likely"


def test_values_that_are_not_finite_are_dated_and_placed() -> None:
    def poison(optimizer: Any, step: int) -> None:
        if step == 9:
            with torch.no_grad():
                optimizer.param_groups[0]["params"][2][0, 0] = math.inf

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    assert watched(model, optimizer, after=poison, every=5, steps=14).record.non_finite == NonFinite(
        10, "2.weight", "parameter"
    )
    roots = watched(network(), loss_fn=lambda a, b: ((a - a.detach()) ** 2).sqrt().mean(), steps=4)
    assert roots.record.non_finite == NonFinite(0, "6", "gradient")
    assert the(roots, "nan_from_sqrt").certainty == "likely"
    assert roots.findings[0].severity == "error"
    logs = watched(network(), loss_fn=lambda a, b: (0 * a).abs().log().mean(), steps=4)
    assert logs.record.non_finite == NonFinite(0, None, "loss")
    assert "nan_from_log" in kinds(logs)


def test_data_that_are_not_finite_are_told_from_a_division_before_the_first_layer() -> None:
    class Standardized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x / x.sum(1, keepdim=True))

    def run(model: nn.Module, x: Tensor) -> Monitor:
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        with watch(model, optimizer) as monitor:
            for _ in range(3):
                optimizer.zero_grad()
                loss = model(x).square().mean()
                loss.backward()
                optimizer.step()
                monitor.step(loss)
        return monitor

    x = data()[0].clone()
    x[3] = 0.0
    divided = run(Standardized(), x)
    assert "nan_from_division" in kinds(divided)
    assert "nan_in_data" not in kinds(divided, "certain")
    x[3, 1] = math.nan
    assert the(run(network(), x), "nan_in_data").certainty == "certain"


def test_half_precision_that_overflows() -> None:
    model = network().half()
    with torch.no_grad():
        model[2].weight.fill_(3e4)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with watch(model, optimizer) as monitor:
        loss = model(data()[0].half()).float().mean()
        loss.backward()
        optimizer.step()
        monitor.step(loss)
    clue = the(monitor, "fp16_overflow")
    assert (clue.where, clue.since, clue.certainty) == ("2", 0, "likely")


def test_batch_norms_whose_running_statistics_do_not_arrive() -> None:
    torch.manual_seed(0)
    for momentum, expected in ((1e-4, {"batchnorm_eval_gap"}), (0.1, set())):
        model = nn.Sequential(nn.BatchNorm1d(6, momentum=momentum), nn.Linear(6, 1))
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        x = 5 * torch.randn(64, 6) + 30
        with watch(model, optimizer, every=5) as monitor:
            for step in range(100):
                optimizer.zero_grad()
                loss = model(x[step % 32 : step % 32 + 32]).square().mean()
                loss.backward()
                optimizer.step()
                monitor.step(loss)
        assert {kind for kind in kinds(monitor) if kind.startswith("batchnorm")} == expected
    assert "batchnorm_tiny_batch" in _batch_of_two()


def _batch_of_two() -> set[str]:
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    x = data()[0]
    with watch(model, optimizer, every=2) as monitor:
        for step in range(100):
            optimizer.zero_grad()
            loss = model(x[step % 60 : step % 60 + 2]).square().mean()
            loss.backward()
            optimizer.step()
            monitor.step(loss)
    return kinds(monitor)


def test_the_edge_of_stability_is_where_the_theory_puts_it() -> None:
    weight = nn.Linear(1, 1, bias=False)
    curvature = 8.0
    for lr, expected in ((0.9 * 2 / curvature, 1.8), (1.0 / curvature, 1.0), (2 / curvature, 2.0)):
        with torch.no_grad():
            weight.weight.fill_(1.0)
        optimizer = torch.optim.SGD(weight.parameters(), lr)
        with watch(weight, optimizer, every=2) as monitor:
            for _ in range(4):
                optimizer.zero_grad()
                loss = curvature / 2 * weight(torch.ones(1, 1)).square().sum() + 1e-3 * weight.weight.sum()
                loss.backward()
                optimizer.step()
                monitor.step(loss)
        assert monitor.record.sharpness["SGD"][0] == pytest.approx(expected, rel=1e-3)
