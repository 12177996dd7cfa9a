"""The live pages of a suite: its own and those of its tasks, made from the stores that grow."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.live_pages import Clock, GrowingStore, ask, live_path, text_of
from tests.pages import PATIENCE_MS, needs_browser, open_browser, open_tab
from thalweg.cli.main import cli
from thalweg.comparison import Comparison, Progress, TaskProgress
from thalweg.comparison.suite import store_path
from thalweg.errors import TaskError
from thalweg.report.live import LiveReport
from thalweg.report.live_sources import SuiteSource

TASKS = ("digits", "ü b", "later")


class GrowingSuite:
    """The stores of three tasks, and what the suite would say of its progress."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.paths = {task: store_path(folder, task) for task in TASKS}
        self._source = source
        self.stores: dict[str, GrowingStore] = {}

    def store(self, task: str) -> GrowingStore:
        if task not in self.stores:
            self.paths[task].parent.mkdir()
            self.stores[task] = GrowingStore(self._source, self.paths[task])
        return self.stores[task]

    def event(self, task: str, progress: Progress | None = None, **end: Any) -> TaskProgress:
        return TaskProgress(task, TASKS.index(task) + 1, len(TASKS), progress or Progress("", ""), **end)

    def running(self, task: str, share: float = 0.0) -> TaskProgress:
        return self.event(task, Progress("search", "adam", 12, 100, share=share, elapsed_s=3.0))

    def result(self, task: str) -> TaskProgress:
        store = self.store(task).store
        return self.event(task, result=Comparison(store, store.find()))


@pytest.fixture
def suite(measured_store: Path, tmp_path: Path) -> GrowingSuite:
    return GrowingSuite(measured_store, tmp_path)


def test_the_page_of_the_suite_and_those_of_its_tasks_grow_with_the_stores(suite: GrowingSuite) -> None:
    clock = Clock()
    with LiveReport(SuiteSource(suite.paths), clock=clock, final_request_timeout_s=0.0) as live:
        assert "No training has ended yet." in text_of(ask(live)[1])
        first, second = suite.store("digits"), suite.store("ü b")
        record = first.begin()
        first.add(record, 0, 12)
        live.update(suite.running("digits", share=0.3))
        clock.now_s += 100
        state = json.loads(ask(live, live_path(live, "state"))[1])
        assert state["share"] == pytest.approx(0.1)  # three tenths of the first of three
        assert state["text"].startswith("digits (1 of 3)")
        text = text_of(ask(live)[1])
        assert "Running; best so far" in text
        assert "ü b and later have no result yet." in text
        assert "could not be made" not in text
        # The task has a page of its own, which asks for a state of its own.
        status, page, _ = ask(live, live_path(live, "digits/report.html"))
        assert status == 200
        assert "Running; stored so far: 12 trainings." in text_of(page)
        own = json.loads(ask(live, live_path(live, "digits/state"))[1])
        assert own["version"] == f"{record.id}-12-0"
        assert own["version"] != state["version"]
        first.finish(record)
        live.update(suite.result("digits"))
        live.update(suite.event("later", error=TaskError("the data are gone")))
        second.add(second.begin(), 0, 12)
        live.update(suite.running("ü b"))
        clock.now_s += 100
        page = ask(live)[1]
        assert "later failed: the data are gone" in text_of(page)
        assert "no result yet" not in text_of(page)
        assert 'href="%C3%BC-b/report.html"' in page
        assert "Running" in text_of(ask(live, live_path(live, "%C3%BC-b/report.html"))[1])
        assert "Running" not in text_of(ask(live, live_path(live, "digits/page"))[1])


def test_a_task_that_has_not_begun_shows_nothing_of_an_earlier_comparison(suite: GrowingSuite) -> None:
    store = suite.store("digits")
    store.finish(store.begin())
    clock = Clock()
    with LiveReport(SuiteSource(suite.paths), clock=clock, final_request_timeout_s=0.0) as live:
        assert "No training has ended yet." in text_of(ask(live)[1])
        live.update(suite.running("digits"))
        clock.now_s += 100
        assert "No training has ended yet." in text_of(ask(live)[1])
        # The suite says that this is the comparison that was asked for: nothing had to be run.
        live.update(suite.result("digits"))
        clock.now_s += 100
        assert "ü b and later have no result yet." in text_of(ask(live)[1])


def test_a_comparison_that_was_asked_for_is_shown_though_a_newer_one_is_stored(suite: GrowingSuite) -> None:
    store = suite.store("digits")
    store.finish(store.begin())
    event = suite.result("digits")
    newer = store.store.create(
        "another key",
        workload=store.record.workload,
        contenders=store.record.contenders,
        plan=store.record.plan,
        environment=store.record.environment,
    )
    store.add(newer, 0, 3)
    with LiveReport(SuiteSource(suite.paths), final_request_timeout_s=0.0) as live:
        live.update(event)
        assert live.state("digits")["version"] == f"{event.result.record.id}-{len(event.result.trainings)}-1"


def test_other_addresses_have_no_page(suite: GrowingSuite) -> None:
    with LiveReport(SuiteSource(suite.paths), final_request_timeout_s=0.0) as live:
        for path in ("other/report.html", "digits/store.sqlite", "digits/../digits/report.html", "suite/digits/"):
            assert ask(live, live_path(live, path))[0] == 404
        assert ask(live, live_path(live, "digits/"))[0] == 200


def test_every_open_page_gets_the_final_numbers(suite: GrowingSuite) -> None:
    store = suite.store("digits")
    record = store.begin()
    store.add(record, 0, 12)
    states: dict[str, list[dict[str, Any]]] = {"": [], "digits": []}

    def read(page: str) -> None:
        while not states[page] or not states[page][-1]["ended"]:
            states[page].append(live.state(page))
        live.page(page)
        states[page].append(live.state(page))

    with LiveReport(SuiteSource(suite.paths), final_request_timeout_s=PATIENCE_MS / 1000) as live:
        live.update(suite.running("digits"))
        for page in states:
            live.state(page)
        readers = [threading.Thread(target=read, args=(page,)) for page in states]
        for reader in readers:
            reader.start()
        store.finish(record)
        live.update(suite.result("digits"))
    for reader in readers:
        reader.join()
    for seen in states.values():
        assert seen[-1]["text"] == "The suite has ended. This page shows its final numbers."
    assert states["digits"][-1]["version"].endswith("-1")


def test_the_command_serves_the_suite_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str]] = []
    update = LiveReport.update

    def update_and_read(self: LiveReport, event: TaskProgress) -> None:
        update(self, event)
        if event.result is not None:
            self._clock = lambda: float("inf")  # a page is made at once
            seen.append((event.task, text_of(ask(self)[1])))

    monkeypatch.setattr(LiveReport, "update", update_and_read)
    arguments = ["compare", "quadratic,rosenbrock", "--suite", "--with", "gd", "--budget", "2trials", "--workers", "1"]
    result = CliRunner().invoke(cli, [*arguments, "--live", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "Live report: http://127.0.0.1:" in result.output
    assert [task for task, _ in seen] == ["quadratic", "rosenbrock"]
    assert "quadratic (1 of 2)" in seen[0][1]
    assert "rosenbrock has no result yet." in seen[0][1]
    assert "no result yet" not in seen[1][1]


@needs_browser
def test_an_open_page_leads_to_its_tasks_and_renews_itself(suite: GrowingSuite) -> None:
    store = suite.store("digits")
    record = store.begin()
    store.add(record, 0, 60)
    messages: list[str] = []
    clock = Clock()
    source = SuiteSource(suite.paths)
    with open_browser() as browser, LiveReport(source, clock=clock, final_request_timeout_s=0.0) as live:
        live.update(suite.running("digits", share=0.3))
        tab = open_tab(browser)
        tab.on("console", lambda message: messages.append(message.text))
        tab.on("pageerror", lambda error: messages.append(str(error)))
        tab.goto(live.url)
        assert tab.locator("h1").inner_text().startswith(("So far: ", "Best so far: "))
        tab.get_by_role("row", name="digits").get_by_role("link").click()
        tab.locator("h1", has_text="Running").wait_for()
        assert tab.url == f"{live.url}digits/report.html"
        tab.go_back()
        tab.locator("h1", has_text="far").wait_for()
        tab.locator('.contenders button[data-name="adam"]').first.click()
        store.finish(record)
        live.update(suite.result("digits"))
        clock.now_s += 100
        tab.get_by_role("row", name="digits").locator("td", has_not_text="Running").last.wait_for()
        assert tab.locator('.contenders button[data-name="adam"]').first.get_attribute("aria-pressed") == "false"
        assert tab.locator("#live span").inner_text().startswith("digits (1 of 3)")
    assert messages == []
