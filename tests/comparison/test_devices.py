"""Whole comparisons on devices, with a fake accelerator in the place of CUDA."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch

import thalweg
from cases.fake_accelerator import FakeAccelerator
from tests.comparison.device_task import FAKE, small
from thalweg.comparison import Progress, Store
from thalweg.comparison.execution.worker_pool import WorkerPool
from thalweg.comparison.training import timing
from thalweg.engine.core import devices
from thalweg.errors import DeviceError


def compare(task: thalweg.Task, store: Path | None, **options: Any) -> tuple[thalweg.Comparison, list[Progress]]:
    events: list[Progress] = []
    result = thalweg.compare(
        task, ["torch.optim:Adam"], budget="2trials", store=store, workers=1, watch=events.append, **options
    )
    return result, [event for event in events if event.message]


def test_a_comparison_runs_on_a_device_and_says_so(fake: FakeAccelerator, tmp_path: Path) -> None:
    result, _ = compare(small(), tmp_path, device="cuda")
    assert result.plan.device == "cuda"
    assert {trial.result.hardware for trial in result.store.trials(1)} == {FAKE}
    assert result.device == f"trained on {FAKE} (requested)"
    assert result.to_json()["device"] == {"name": "cuda", "reason": "requested", "hardware": [FAKE]}
    assert result.record.environment["device"] == FAKE
    assert f"<dd>{result.device}</dd>" in result.report(tmp_path / "report.html").read_text()
    assert fake.synchronizations > 10
    # The device belongs to the key: on the CPU it is another comparison, of the same losses.
    on_cpu, _ = compare(small(device="cpu"), tmp_path)
    assert on_cpu.record.id == 2
    values = [
        [trial.result.test for trial in compared.store.trials(number)]
        for number, compared in enumerate((result, on_cpu), 1)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-4)
    # A finished comparison is shown where there is no such device.
    fake.number = 0
    again, messages = compare(small(), tmp_path, device="cuda")
    assert (again.record.id, messages) == (1, [])


def test_a_comparison_chooses_by_measurement_and_keeps_its_choice(
    fake: FakeAccelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made_up(action: object, total_s: float = 1.0, device: torch.device = devices.CPU) -> float:
        return 1e-5 if device.type == "cuda" else 0.1

    monkeypatch.setattr(timing, "seconds_of", made_up)
    monkeypatch.setattr(timing, "least_seconds", lambda *_: 0.0)
    result, messages = compare(small(), None)
    assert result.plan.device == "cuda"
    assert [message.message for message in messages] == [f"device: cuda ({result.plan.device_reason})"]
    assert "as fast as the CPU" in result.plan.device_reason or "no way to train there" in result.plan.device_reason


class StopTraining(Exception):  # noqa: N818
    """Ends a comparison as an interrupt does."""


def interrupted(store: Path, trainings: int = 2) -> None:
    def watch(progress: Progress) -> None:
        if progress.done >= trainings:
            raise StopTraining

    with pytest.raises(StopTraining):
        thalweg.compare(
            small(), ["torch.optim:Adam"], budget="2trials", store=store, workers=1, device="cuda", watch=watch
        )


def test_a_device_that_has_vanished_is_named_and_the_comparison_resumes_where_it_is(
    fake: FakeAccelerator, tmp_path: Path
) -> None:
    interrupted(tmp_path / "store.sqlite")
    fake.number = 0
    with pytest.raises(
        DeviceError,
        match=r"store.sqlite: the comparison was begun on cuda, and resumes there only: .* has cpu\..* Run it on",
    ):
        compare(small(), tmp_path / "store.sqlite", device="cuda")
    fake.number = 1
    result, messages = compare(small(), tmp_path / "store.sqlite", device="cuda")
    assert (result.record.id, messages) == (1, [])
    assert not any("hardware" in caution for caution in result.cautions)


def test_other_hardware_of_the_same_kind_is_said(
    fake: FakeAccelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tmp_path / "store.sqlite")
    monkeypatch.setattr(fake, "name", lambda device: "Another")
    result, messages = compare(small(), tmp_path / "store.sqlite", device="cuda")
    assert [message.message for message in messages] == [f"resumed on other hardware: {FAKE} before, cuda Another now"]
    assert any(
        caution.startswith(f"Trainings ran on different hardware: cuda Another and {FAKE}.")
        for caution in result.cautions
    )


def test_a_smaller_machine_resumes_with_fewer_workers(
    fake: FakeAccelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tmp_path / "store.sqlite")
    with sqlite3.connect(tmp_path / "store.sqlite") as connection:
        connection.execute(
            "UPDATE comparisons SET checksum = 'none', plan = json_set(plan, '$.workers', 4, '$.num_devices', 4)"
        )
    connection.close()
    counts: list[int] = []
    start = WorkerPool.__init__

    def spy(self: WorkerPool, workload: Any, num_workers: int, *rest: Any) -> None:
        counts.append(num_workers)
        start(self, workload, num_workers, *rest)

    monkeypatch.setattr(WorkerPool, "__init__", spy)
    compare(small(), tmp_path / "store.sqlite", device="cuda")
    assert counts == [1]
    assert Store(tmp_path / "store.sqlite", write=False).find().plan.num_workers == 4
