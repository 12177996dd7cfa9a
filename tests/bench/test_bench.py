"""What is measured, but for the times themselves: a test on the clock would fail one day in ten."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from thalweg import bench
from thalweg.bench import measure, sets
from thalweg.cli.main import cli
from thalweg.errors import SettingError, UnknownNameError


def test_the_sets_are_what_they_say() -> None:
    def numbers(shapes: sets.Shapes) -> tuple[int, int]:
        return len(shapes), sum(torch.Size(shape).numel() for shape in shapes)

    assert numbers(sets.gpt2()) == (148, 98_425_344)
    assert numbers(sets.small()) == (400, 832_000)
    assert numbers(sets.resnet50()) == (161, 25_557_032)  # torchvision's resnet50


def test_a_benchmark_measures_everyone_in_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench.SETS, "small", lambda: [(64, 64), (64,)] * 3)
    found = bench.bench("small", "adamw", rounds=3, entrants=["thalweg", "thalweg loop", "torch foreach"])
    assert [one.name for one in found.measured] == ["torch fused", "thalweg", "thalweg loop", "torch foreach"]
    assert found.baseline == "torch fused"
    by_name = {one.name: one for one in found.measured}
    assert by_name["torch fused"].ratio == 1.0
    assert by_name["thalweg"].dispatches < 5
    assert by_name["thalweg loop"].dispatches > 60
    assert by_name["thalweg"].peak_extra_mb < 0.001
    assert by_name["thalweg loop"].peak_extra_mb > 0.03
    # Gradient read, parameter and two moments read and written.
    moved_gb = 7 * 4 * 3 * (64 * 64 + 64) / 1e9
    for one in found.measured:
        assert one.moved_gb_s * one.median_ms / 1e3 == pytest.approx(moved_gb)


def test_no_way_of_ours_takes_more_than_a_bucket_of_memory() -> None:
    from thalweg import optim

    params = [torch.full((8000, 1000), 0.02, requires_grad=True), *[torch.ones(64, 64, requires_grad=True)] * 1]
    for kind in (optim.SGD, optim.AdaGrad, optim.RMSprop, optim.Adam, optim.AdamW):
        for backend in ("flat", "compiled"):
            optimizer = kind(params, backend=backend)
            for _ in range(2):
                for param in params:
                    param.grad = torch.full_like(param, 0.1)
                with measure.Watched() as watched:
                    optimizer.step()
            assert watched.peak_bytes < 64e6


def test_memory_held_at_a_time_is_what_is_counted() -> None:
    with measure.Watched() as watched:
        for _ in range(5):
            one = torch.zeros(1000)
            two = one * 2
            view = two[:10]
        del one, two, view
    assert 8000 <= watched.peak_bytes <= 12_000
    assert watched.held_bytes == 0


def test_ratios_are_of_medians_and_spreads_of_rounds() -> None:
    assert measure.ratio([2.0, 4.0, 6.0], [2.0, 2.0, 2.0])[0] == 2.0
    _, low, high = measure.ratio([1.0, 2.0], [1.0, 1.0])
    assert 1.0 <= low < high <= 2.0  # nothing that was not seen
    _, low, high = measure.ratio([1.0] * 9 + [100.0], [1.0] * 10)
    assert low == 1.0
    assert high > 1.0


def test_unknown_names_get_an_error() -> None:
    with pytest.raises(UnknownNameError, match="no set named 'gpt'. Did you mean gpt2"):
        bench.bench("gpt", "adam")
    with pytest.raises(UnknownNameError, match="no rule named 'adm'"):
        bench.bench("small", "adm")
    with pytest.raises(UnknownNameError, match="no entrant 'torch fussed' for adam here. Did you mean torch fused"):
        bench.bench("small", "adam", entrants=["torch fussed"])
    with pytest.raises(SettingError, match="rounds must be >= 2, got 1"):
        bench.bench("small", "adam", rounds=1)


def test_the_command_prints_a_table_and_writes_the_record(tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    asked = ["bench", "--set", "small", "--rule", "rmsprop", "--rounds", "2", "--with", "thalweg", "--out", str(out)]
    said = CliRunner().invoke(cli, asked, catch_exceptions=False)
    assert "rmsprop on small: 832,000 parameters in 400 tensors" in said.stdout
    assert "÷ torch default" in said.stdout
    (record,) = json.loads(out.read_text())
    assert {one["name"] for one in record["measured"]} == {"torch default", "thalweg"}
