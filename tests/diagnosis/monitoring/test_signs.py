"""Signs: each fault shows in its record, at its place and step; healthy trainings get notes at most."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thalweg.diagnosis.clue import Clue
from thalweg.diagnosis.kinds import KINDS
from thalweg.diagnosis.monitoring import Monitor, NonFinite, Record, clues, watch
from thalweg.diagnosis.monitoring.record import GroupInfo, ParameterInfo
from thalweg.diagnosis.monitoring.signs.series import ends, first_where, learns
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


def record(losses: list[float], **tables: list[float]) -> Record:
    """Return the record of a training with one weight and one optimizer."""
    steps = list(range(len(losses)))
    made = Record(losses=losses, lrs=[(0.1,)] * len(losses), steps=steps, groups=[GroupInfo("SGD", 0, 0.0, 0.0)])
    made.parameters = {"w": ParameterInfo("", (2, 2), "float32", 0, 0, "weight", True)}
    made.gradient_norms["w"] = [1.0] * len(losses)
    made.update_ratios["w"] = [1e-3] * len(losses)
    for table, values in tables.items():
        made.tables()[table]["SGD" if table in ("sharpness", "cosines", "gradient_products") else "w"] = values
    return made


def found(made: Record) -> set[str]:
    return {clue.kind for clue in clues(made)}


FALLING = [1.0 / (1 + step / 10) for step in range(120)]


def test_spikes_plateaus_noise_and_the_edge() -> None:
    assert found(record(FALLING)) == set()
    spiked = [*FALLING[:80], 3.0, *FALLING[81:]]
    (spike,) = [clue for clue in clues(record(spiked)) if clue.kind == "loss_spike"]
    assert (spike.since, spike.evidence["spikes"]) == (80, 1)
    flat = [1.0 + 0.01 * (-1) ** step for step in range(120)]
    assert "plateau" in found(record(flat))
    assert "plateau" in found(record([1.0 + 1e-4 * (-1) ** step for step in range(60)] + FALLING))
    assert "edge_of_stability" in found(record(FALLING, sharpness=[1.0] * 40 + [2.0] * 80))
    assert "edge_of_stability" not in found(record(FALLING, sharpness=[1.7] * 120))
    ones = [1.0] * 120
    for cosine, noisy in ((0.01, True), (0.03, False), (-0.1, True)):
        made = record(FALLING, cosines=[cosine] * 120, gradient_products=ones)
        made.gradient_squares["SGD"] = ones
        assert ("gradient_noise" in found(made)) is noisy


def test_a_loss_that_rises_early_or_without_bound() -> None:
    large = {"update_ratios": [0.06] * 120}
    rising = [1.0, 1.2, 3.1, *[2.0] * 117]
    (clue,) = [clue for clue in clues(record(rising, **large)) if clue.kind == "lr_too_high"]
    assert (clue.certainty, clue.since) == ("likely", 2)
    assert "lr_too_high" not in found(record([1.0, 1.2, 2.9, *FALLING]))
    assert "lr_too_high" in found(record([1.0, 1.2, 3.1, *FALLING]))
    negative = [-1.0, -1.2, 0.9, *[-1.0 - loss for loss in FALLING]]
    assert "lr_too_high" not in found(record(negative))
    unbounded = [1.05**step for step in range(120)]
    assert "bootstrap_divergence" in found(record(unbounded))


def test_gradients_that_jump() -> None:
    made = record(FALLING)
    made.parameters["cell.w"] = ParameterInfo("cell", (2, 2), "float32", 1, 0, "weight", True)
    made.gradient_norms["cell.w"] = [1.0] * 50 + [300.0] + [1.0] * 69
    (clue,) = [clue for clue in clues(made) if clue.kind == "exploding_gradient"]
    assert (clue.where, clue.since, clue.certainty) == ("cell", 50, "likely")
    made.gradient_norms["cell.w"][50] = 90.0
    assert "exploding_gradient" not in found(made)


def test_attention_codes_and_adversaries() -> None:
    made = record(FALLING)
    made.attention["block.0"] = [5.0] * 20 + [120.0] * 100
    (clue,) = clues(made)
    assert (clue.kind, clue.where, clue.since, clue.certainty) == ("attention_logit_growth", "block.0", 20, "likely")
    made = record(FALLING)
    made.activation_scales |= {"encoder": [1.0] * 5 + [0.1] * 115, "decoder": [1.0] * 120}
    made.depths = {"encoder": 0, "decoder": 1}
    assert found(made) == set()
    made.samples = True
    assert [clue.where for clue in clues(made)] == ["encoder"]
    made = record(FALLING)
    made.groups = [GroupInfo("Adam", 0, 0.5, 1e-8), GroupInfo("Adam", 1, 0.5, 1e-8)]
    made.parameters = {
        "g.0.w": ParameterInfo("g.0", (2, 2), "float32", 0, 0, "weight", True),
        "d.0.w": ParameterInfo("d.0", (2, 2), "float32", 1, 1, "weight", True),
        "d.1.w": ParameterInfo("d.1", (2, 2), "float32", 2, 1, "weight", True),
    }
    for name, update in (("g.0.w", 1e-3), ("d.0.w", 0.04), ("d.1.w", 0.05)):
        made.gradient_norms[name] = [1.0] * 120
        made.update_ratios[name] = [update] * 120
    (clue,) = [clue for clue in clues(made) if clue.kind == "gan_discriminator_wins"]
    assert clue.where == "d"


def test_series() -> None:
    assert first_where([math.nan, 9, math.nan, 9, 1], lambda value: value > 5, 2) == 1
    assert first_where([9, 1, 9], lambda value: value > 5, 2) is None
    start, end, sure = ends([2.0] * 50 + [1.0] * 50)
    assert (start, end, sure) == (2.0, 1.0, math.inf)
    assert not learns(record([1.0, 0.5, math.nan]))
    assert not learns(record([]))
