"""How diagnoses are judged: which answers are right, what counts as a false alarm, and how results resume."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.doctor import __main__ as command
from benchmarks.doctor import rows, summary, worker
from benchmarks.doctor.judging import judge
from benchmarks.doctor.judging.equivalent import SAME_FAULT, names_kind, names_place
from benchmarks.doctor.judging.exam import read_exam
from benchmarks.doctor.judging.judge import Patient, patients
from benchmarks.doctor.trainings.cases import Case
from benchmarks.doctor.trainings.run import Run, measured, train
from thalweg.diagnosis.finding import Finding
from thalweg.diagnosis.kinds import KINDS
from thalweg.tasks import Training


def finding(kind: str, where: str | None = None, severity: Any = "error") -> Finding:
    return Finding(kind, where, 0, severity, {}, "", "", "")


def diagnosis(*findings: Finding, cure: str | None = None, verified: bool = True) -> Any:
    named = None if cure is None else SimpleNamespace(name=cure, verified=verified, kind=findings[0].kind)
    return SimpleNamespace(healthy=not findings, findings=findings, cure=named)


def run_of(lr: float) -> Callable[[int], Run]:
    """A line through points: works at a rate of 0.1, not at 0."""

    def make(seed: int) -> Run:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(1, 1))
        x = torch.randn(16, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        metric = lambda model: -(model(x) - x).square().mean().item()  # noqa: E731
        return Run(Training(model, optimizer, [(x, x)], nn.functional.mse_loss, metric=metric), goal=-0.01, steps=60)

    return make


CASE = Case("lr_too_low", "line", run_of(0.0), run_of(0.1), ("0",))


def judged(monkeypatch: pytest.MonkeyPatch, answer: Any, case: Case = CASE, state: str = "sick") -> rows.Row:
    monkeypatch.setattr(judge, "diagnose", lambda function, budget, steps: answer)
    return judge.judge(Patient(case, state))


def test_a_right_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Faster:
        name = "higher rate"

        def apply(self, training: Training, where: str | None) -> Training:
            assert where == "0"
            training.optimizer.param_groups[0]["lr"] = 0.1
            return training

    monkeypatch.setattr("thalweg.diagnosis.changes.CHANGES", [Faster()])
    row = judged(monkeypatch, diagnosis(finding("lr_too_low", "0"), cure="higher rate"))
    assert (row["rank"], row["place_right"], row["cure_works"], row["cure_verified"]) == (1, True, True, True)
    assert min(row["cured_metrics"]) > -0.01 > row["metric"]
    assert summary.wrong(row) == ""


def test_a_cure_that_does_not_reach_the_goal_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    change = SimpleNamespace(name="nothing", apply=lambda training, where: training)
    monkeypatch.setattr("thalweg.diagnosis.changes.CHANGES", [change])
    row = judged(monkeypatch, diagnosis(finding("lr_too_low", "0"), cure="nothing"))
    assert not row["cure_works"]
    assert len(row["cured_metrics"]) == 3
    assert "cure nothing" in summary.wrong(row)


def test_the_rank_and_the_place_are_those_of_the_true_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    row = judged(monkeypatch, diagnosis(finding("dead_relu", "0"), finding("lr_too_low", "1")))
    assert (row["rank"], row["place_right"], row["cure_works"]) == (2, False, False)
    row = judged(monkeypatch, diagnosis(finding("dead_relu", "0")))
    assert (row["rank"], row["place_right"]) == (None, None)


def test_an_error_is_a_wrong_answer_in_every_state(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(function: Any, budget: str, steps: int) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(judge, "diagnose", fail)
    sick, cured = (judge.judge(Patient(CASE, state)) for state in ("sick", "cured"))
    assert "broken" in summary.wrong(sick)
    found = summary.numbers([sick, cured])
    assert found["true cause first"] == {"count": 0, "of": 1}
    assert found["false alarms"] == {"count": 1, "of": 1}
    assert found["errors"] == {"count": 2, "of": 2}


def test_a_healthy_training_may_have_notes_but_no_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert summary.wrong(judged(monkeypatch, diagnosis(finding("plateau", severity="note")), state="cured")) == ""
    loud = judged(monkeypatch, diagnosis(finding("plateau", severity="warning")), state="cured")
    assert summary.wrong(loud) == "false alarm: plateau"
    assert loud["kind"] == "healthy"


def test_numbers_by_hand() -> None:
    row: rows.Row = {"state": "sick", "where": ["0"], "curable": True, "held_out": False, "kind": "x", "findings": []}
    sick = [
        row | {"rank": 1, "place_right": True, "cure_verified": True, "cure_works": True, "times": 2.0, "seconds": 1.0},
        row
        | {"rank": 3, "place_right": False, "cure_verified": True, "cure_works": False, "times": 9.0, "seconds": 3.0},
        row | {"rank": 4, "curable": False, "place_right": None, "cure_verified": False, "cure_works": True},
        row | {"rank": None, "where": [], "cure_verified": False, "cure_works": True, "place_right": None},
    ]
    found = summary.numbers(sick)
    assert found["true cause first"] == {"count": 1, "of": 4}
    assert found["true cause in the first three"] == {"count": 2, "of": 4}
    assert found["right module"] == {"count": 1, "of": 3}
    assert found["cures that work"] == {"count": 1, "of": 3}
    assert found["times of 250 steps"] == {"median": 5.5, "largest": 9.0}
    assert summary.by_half(sick, summary.numbers)["held_out"]["true cause first"]["of"] == 0


def test_equivalent_answers_are_declared_for_known_kinds() -> None:
    assert names_kind("saturation/mlp", "saturation")
    assert names_kind("saturation/mlp", "init_too_large")
    assert not names_kind("init_too_large/mlp", "saturation")
    assert names_kind("init_too_large/attention", "attention_logit_growth")
    assert not names_kind("init_too_large/gpt", "attention_logit_growth")
    for (case, answer), reason in SAME_FAULT.items():
        assert case.split("/")[0] in KINDS
        assert answer in KINDS
        assert reason


def test_a_place_is_right_inside_the_module_to_blame() -> None:
    assert names_place(["hidden.0"], "hidden.0")
    assert names_place(["hidden"], "hidden.0.weight")
    assert names_place(["left.0", "right.0"], "right.0")
    assert not names_place(["hidden.0"], "hidden.01")
    assert not names_place(["hidden.0"], "hidden")
    assert not names_place(["hidden.0"], None)


def test_no_training_is_diagnosed_twice() -> None:
    make = run_of(0.1)
    cases = [Case("a", "1", run_of(0.0), make), Case("b", "1", run_of(0.0), make), Case("healthy", "1", make)]
    assert [patient.key for patient in patients(cases)] == ["healthy/1/healthy", "a/1/sick", "b/1/sick"]
    assert [patient.key for patient in patients(cases[:2])] == ["a/1/sick", "a/1/cured", "b/1/sick"]


def test_a_sample_takes_from_all_kinds_and_is_the_same_each_time() -> None:
    chosen = [Patient(Case(kind, str(number), run_of(0.0)), "sick") for kind in "abc" for number in range(5)]
    first = command.sample(chosen, 6)
    assert sorted(patient.case.kind for patient in first) == list("aabbcc")
    assert [patient.key for patient in command.sample(chosen, 6)] == [patient.key for patient in first]
    assert len(command.sample(chosen, 99)) == 15


def test_rows_resume_and_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "rows.jsonl"
    rows.append_row(path, {"a": float("nan"), "b": [1.23456789, (float("inf"),)]})
    with path.open("a") as file:
        file.write('{"a": 1')
    assert rows.read_rows(path) == [{"a": None, "b": [1.23457, [None]]}]
    assert rows.read_rows(tmp_path / "none") == []


def test_the_command_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "RUNS", tmp_path)
    monkeypatch.setattr(worker, "CASES", {CASE.key: CASE})
    monkeypatch.setattr("sys.argv", ["doctor", "verify", "--seeds", "2"])
    command.main()
    assert "1 cases, 0 not as said" in capsys.readouterr().out
    monkeypatch.setattr(worker, "verify", None)  # would fail if it were called again
    command.main()
    assert "2 chosen, 0 left" in capsys.readouterr().out
    monkeypatch.setattr(command, "sources", lambda name, case: "changed")
    with pytest.raises(TypeError):
        command.main()


def test_a_changed_fault_makes_its_own_rows_obsolete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    functions = (
        "@fault\ndef first():\n    return 0",
        "@fault\ndef second():\n    return 1",
        "def helper():\n    return 2",
    )
    source = "\n".join(functions)

    def hashed(text: str, name: str) -> bytes:
        path = tmp_path / f"{abs(hash(text))}.py"
        path.write_text(text)
        return rows._module_source(str(path), name)

    changed = source.replace("return 1", "return 3")
    assert hashed(source, "first") == hashed(changed, "first")
    assert hashed(source, "second") != hashed(changed, "second")
    assert hashed(source, "first") != hashed(source.replace("return 2", "return 4"), "first")


EXAM = """
import torch
from torch import nn
from shared_by_this_exam import X

def make(seed, cured=False):
    model = nn.Linear(1, 1)
    def step(setup, x, y):
        setup["optimizer"].zero_grad()
        loss = setup["loss_fn"](setup["model"](x), y)
        loss.backward()
        setup["optimizer"].step()
        return loss.detach()
    return dict(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1 if cured else 0.0), goal=-0.1,
                batches=iter(lambda: (X, X), None), loss_fn=nn.functional.mse_loss, step=step, steps=50,
                where="net" if KIND else None, kind=KIND or "healthy",
                cure=(lambda: make(seed, True)) if KIND else None, metric=lambda m: -float((m(X) - X).square().mean()))
"""


def test_an_exam_of_another_bench_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    (tmp_path / "shared_by_this_exam.py").write_text("import torch\nX = torch.randn(8, 1)\n")
    (tmp_path / "01_slow_case.py").write_text(f"KIND = 'lr_too_low'\n{EXAM}")
    (tmp_path / "50_works.py").write_text(f"KIND = None\n{EXAM}")
    sick, works = read_exam(tmp_path)
    assert (sick.key, sick.where, works.key, works.cure) == ("lr_too_low/slow_case", ("net",), "healthy/works", None)
    for make, as_goal in ((sick.make, False), (sick.cure, True)):
        assert make is not None
        run = make(0)
        train(run)
        assert (measured(run) >= run.goal) == as_goal
    run = sick.make(0)
    run.training.model = nn.Linear(1, 1)  # as a change would: the step uses what the training holds
    run.training.optimizer = torch.optim.SGD(run.training.model.parameters(), lr=0.1)
    train(run)
    assert measured(run) >= run.goal


def test_the_record_holds_numbers_and_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = judged(monkeypatch, diagnosis(finding("dead_relu", "0")))
    path = tmp_path / "record.json"
    summary.summarize([row], [], [{"case": "a/b", "as_said": False}], {"judged": 1}, path)
    record = json.loads(path.read_text())
    assert record["diagnosis"]["open"]["true cause first"] == {"count": 0, "of": 1}
    assert record["verified"]["not as said"] == ["a/b"]
    assert "dead_relu" in record["wrong"]["lr_too_low/line/sick"]
