"""The report writer is found by its entry point; a missing one raises an error that says what to do."""

import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import thalweg
from cases import diagnoses
from thalweg.errors import StoreError
from thalweg.report_writer import GROUP, load_report_writer


def test_the_installed_package_declares_both_writers() -> None:
    from thalweg import report

    assert load_report_writer("comparison") is report.write
    assert load_report_writer("suite") is report.write_suite


def test_the_package_declares_a_writer_of_each_kind_of_result() -> None:
    from thalweg import report

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    declared = {name: metadata.EntryPoint(name, place, GROUP) for name, place in project["entry-points"][GROUP].items()}
    assert {name: entry.load() for name, entry in declared.items()} == {
        "comparison": report.write,
        "suite": report.write_suite,
        "diagnosis": report.write_diagnosis,
    }


def test_a_diagnosis_is_written_by_the_declared_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = metadata.EntryPoint("diagnosis", "thalweg.report:write_diagnosis", GROUP)
    monkeypatch.setattr(metadata, "entry_points", metadata.EntryPoints([entry]).select)
    page = diagnoses.uncurable().report(tmp_path / "doctor.html")
    assert "labels that do not belong to their inputs" in page.read_text()
    page.write_text("mine")
    with pytest.raises(StoreError, match="must not replace"):
        diagnoses.uncurable().report(page)
    diagnoses.uncurable().report(page, overwrite=True)


def test_a_comparison_and_a_suite_are_written_by_the_declared_writers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry_points = metadata.EntryPoints(
        metadata.EntryPoint(name, f"{__name__}:{writer.__name__}", GROUP)
        for name, writer in (("comparison", write), ("suite", write_suite))
    )
    monkeypatch.setattr(metadata, "entry_points", entry_points.select)
    monkeypatch.setattr(metadata.EntryPoint, "load", lambda entry: globals()[entry.attr])
    comparison = thalweg.compare("quadratic", ["gd"], budget="1trial")
    suite = thalweg.Suite({"quadratic": comparison}, {})
    assert comparison.report(tmp_path / "page") == tmp_path / "page"
    assert (tmp_path / "page").read_text() == comparison.verdict.text
    assert suite.report(tmp_path / "suite") == tmp_path / "suite"
    assert (tmp_path / "suite").read_text() == suite.text


def write(comparison: thalweg.Comparison, path: Path) -> Path:
    path.write_text(comparison.verdict.text)
    return path


def write_suite(suite: thalweg.Suite, folder: Path) -> Path:
    folder.write_text(suite.text)
    return folder


def test_a_missing_writer_raises_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "entry_points", metadata.EntryPoints().select)
    with pytest.raises(
        StoreError, match="declare the report writer 'suite' in the group thalweg.report_writers, got n"
    ):
        load_report_writer("suite")
