"""The benchmark, except for the times: a test of times would fail on a busy machine."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from thalweg import bench
from thalweg.bench import measure, sets
from thalweg.cli.main import cli
from thalweg.errors import SettingError, StoreError, UnknownNameError


def test_the_sets_have_the_stated_sizes() -> None:
    def numbers(shapes: sets.Shapes) -> tuple[int, int]:
        return len(shapes), sum(torch.Size(shape).numel() for shape in shapes)

    assert numbers(sets.gpt2()) == (148, 98_425_344)
    assert numbers(sets.small()) == (400, 832_000)
    assert numbers(sets.resnet50()) == (161, 25_557_032)  # torchvision's resnet50


def test_a_benchmark_measures_all_implementations_in_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench.SETS, "small", lambda: [(64, 64), (64,)] * 3)
    benchmark = bench.bench("small", "adamw", rounds=3, implementations=["thalweg", "thalweg loop", "torch foreach"])
    assert [measurement.name for measurement in benchmark.measured] == [
        "torch fused",
        "thalweg",
        "thalweg loop",
        "torch foreach",
    ]
    assert benchmark.baseline == "torch fused"
    by_name = {measurement.name: measurement for measurement in benchmark.measured}
    assert by_name["torch fused"].ratio == 1.0
    assert by_name["thalweg"].dispatches < 5
    assert by_name["thalweg loop"].dispatches > 60
    assert by_name["thalweg"].peak_extra_mb < 0.001
    assert by_name["thalweg loop"].peak_extra_mb > 0.03
    # Gradient read, parameter and two moments read and written.
    moved_gb = 7 * 4 * 3 * (64 * 64 + 64) / 1e9
    for measurement in benchmark.measured:
        assert measurement.moved_gb_s * measurement.median_ms / 1e3 == pytest.approx(moved_gb)


def test_no_backend_needs_more_than_64_mb_of_extra_memory() -> None:
    from thalweg import optim

    params = [torch.full((8000, 1000), 0.02, requires_grad=True), *[torch.ones(64, 64, requires_grad=True)] * 1]
    for kind in (optim.SGD, optim.AdaGrad, optim.RMSprop, optim.Adam, optim.AdamW):
        for backend in ("flat", "compiled"):
            optimizer = kind(params, backend=backend)
            for _ in range(2):
                for param in params:
                    param.grad = torch.full_like(param, 0.1)
                with measure.DispatchCounter() as counter:
                    optimizer.step()
            assert counter.peak_bytes < 64e6


def test_the_peak_counts_memory_that_is_alive_at_the_same_time() -> None:
    with measure.DispatchCounter() as counter:
        for _ in range(5):
            zeros = torch.zeros(1000)
            product = zeros * 2
            view = product[:10]
        del zeros, product, view
    assert 8000 <= counter.peak_bytes <= 12_000
    assert counter.held_bytes == 0


def test_ratios_are_of_medians_and_spreads_of_rounds() -> None:
    assert measure.ratio_of_medians([2.0, 4.0, 6.0], [2.0, 2.0, 2.0])[0] == 2.0
    _, low, high = measure.ratio_of_medians([1.0, 2.0], [1.0, 1.0])
    assert 1.0 <= low < high <= 2.0  # no extrapolation
    _, low, high = measure.ratio_of_medians([1.0] * 9 + [100.0], [1.0] * 10)
    assert low == 1.0
    assert high > 1.0


def test_unknown_names_get_an_error() -> None:
    with pytest.raises(UnknownNameError, match="no set named 'gpt'. Did you mean gpt2"):
        bench.bench("gpt", "adam")
    with pytest.raises(UnknownNameError, match="no rule named 'adm'"):
        bench.bench("small", "adm")
    with pytest.raises(
        UnknownNameError, match="no implementation 'torch fussed' of adam here. Did you mean torch fused"
    ):
        bench.bench("small", "adam", implementations=["torch fussed"])
    with pytest.raises(SettingError, match="rounds must be >= 2, got 1"):
        bench.bench("small", "adam", rounds=1)


def test_the_command_prints_a_table_and_writes_the_record(tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    options = ["--set", "small", "--rule", "rmsprop", "--rounds", "2", "--with", "thalweg"]
    arguments = ["bench", *options, "--out", str(out)]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert "rmsprop on small: 832,000 parameters in 400 tensors" in result.stdout
    assert "÷ torch default" in result.stdout
    (record,) = json.loads(out.read_text())
    assert {measurement["name"] for measurement in record["measured"]} == {"torch default", "thalweg"}


@pytest.mark.parametrize("out", ["/proc/a.json", "notes/record.json"])
def test_a_place_that_cannot_be_written_is_told_before_the_measurement(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("thalweg.bench.bench", lambda *_, **__: pytest.fail("it measured"))
    Path("notes").write_text("mine")
    with pytest.raises(StoreError, match=f"^--out {out}: the report must be writable, got .*Choose another place"):
        CliRunner().invoke(cli, ["bench", "--out", out], catch_exceptions=False)


def test_results_are_printed_though_their_file_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "record.json"
    monkeypatch.setitem(bench.SETS, "small", lambda: [(8, 8)])
    measured = bench.bench("small", "rmsprop", rounds=2, implementations=["thalweg"])

    def measure(*_: Any, **__: Any) -> Any:
        out.mkdir()
        return measured

    monkeypatch.setattr("thalweg.bench.bench", measure)
    arguments = ["bench", "--set", "small", "--rule", "rmsprop", "--out", str(out), "--json"]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 2
    assert [record["rule"] for record in json.loads(result.stdout)] == ["rmsprop"]
    assert f"The file could not be made: --out {out}: the report must be a regular file, got a folder." in result.stderr
