"""The live page: it shows what is stored so far, only to those who know its address, and ends with the comparison."""

import importlib
import json
import socket
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from tests.live_pages import Clock, GrowingStore, ask, live_path, text_of
from tests.pages import PATIENCE_MS, needs_browser, open_browser, open_tab
from thalweg.cli.main import cli
from thalweg.comparison import Comparison, Progress, Store
from thalweg.report import live as live_module
from thalweg.report import live_sources
from thalweg.report.live import MIN_PAUSE_S, LiveReport
from thalweg.report.live_sources import ComparisonSource


@pytest.fixture
def growing(measured_store: Path, tmp_path: Path) -> GrowingStore:
    return GrowingStore(measured_store, tmp_path / "store.sqlite")


def test_the_page_grows_with_the_store(growing: GrowingStore) -> None:
    clock = Clock()
    with LiveReport(growing.path, clock=clock, final_request_timeout_s=0.0) as live:
        status, page, headers = ask(live)
        assert status == 200
        assert "No training has ended yet." in text_of(page)
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        record = growing.begin()
        growing.add(record, 0, 12)
        live.update(Progress("search", "adam", 12, 100, share=0.12, elapsed_s=3.0))
        state = json.loads(ask(live, live_path(live, "state"))[1])
        assert state["version"] == "0"  # it is not made again before some time has passed
        clock.now_s += 100
        state = json.loads(ask(live, live_path(live, "state"))[1])
        assert state["version"] == f"{record.id}-12-0"
        assert state["share"] == 0.12
        assert "12 of 100 trainings done" in state["text"]
        assert not state["ended"]
        text = text_of(ask(live, live_path(live, "page"))[1])
        assert "Running; stored so far: 12 trainings." in text
        assert "Interrupted" not in text
        assert "could not be made" not in text
        assert "not yet" in text
        growing.finish(record)
        clock.now_s += 100
        assert json.loads(ask(live, live_path(live, "state"))[1])["version"].endswith("-1")


def test_it_is_renewed_at_most_every_other_second_however_often_it_is_asked(growing: GrowingStore) -> None:
    clock = Clock()
    record = growing.begin()
    growing.add(record, 0, 12)
    with LiveReport(growing.path, clock=clock, final_request_timeout_s=0.0) as live:
        first = live.state()["version"]
        growing.add(record, 12, 15)
        clock.now_s += 0.99 * MIN_PAUSE_S
        assert live.state()["version"] == first
        clock.now_s += 0.02 * MIN_PAUSE_S
        assert live.state()["version"] == f"{record.id}-15-0"


def test_only_those_who_know_the_address_get_an_answer(growing: GrowingStore) -> None:
    with LiveReport(growing.path, final_request_timeout_s=0.0) as live:
        assert urlsplit(live.url).hostname == "127.0.0.1"
        port = urlsplit(live.url).port
        assert ask(live)[0] == 200
        assert ask(live, Host=f"localhost:{port}")[0] == 200
        for path in ("/", "/wrong/", live_path(live, "")[:-2]):
            status, text, _ = ask(live, path)
            assert status == 403
            assert "thalweg-live" not in text
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1.evil.example:{port}"):
            assert ask(live, Host=host)[0] == 403  # a name that was bound again to this machine
        assert ask(live, live_path(live, "store.sqlite"))[0] == 404
        assert ask(live, live_path(live, "../../etc/passwd"))[0] == 404
    with LiveReport(growing.path, final_request_timeout_s=0.0) as later:
        assert later.url.rsplit("/", 2)[1] != live.url.rsplit("/", 2)[1]


def test_an_address_without_its_last_slash_leads_to_the_page(growing: GrowingStore) -> None:
    with LiveReport(growing.path, final_request_timeout_s=0.0) as live:
        page = urlsplit(live.url).path
        for path in (page[:-1], f"{page[:-1]}?again", f"/{page[:-1]}"):
            status, _, headers = ask(live, path)
            assert (status, headers["Location"]) == (301, page)
        assert ask(live, f"{page}?again")[0] == 200
        status, _, headers = ask(live, "/wrong")
        assert status == 403
        assert "Location" not in headers


def test_a_connection_that_says_nothing_is_closed(growing: GrowingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert live_module._Handler.timeout == 10.0
    monkeypatch.setattr(live_module._Handler, "timeout", 0.05)
    with LiveReport(growing.path, final_request_timeout_s=0.0) as live:
        address = urlsplit(live.url)
        for begin in (b"", b"GET /", b"GET / HTTP/1.1\r\nHost: x\r\n"):
            with socket.create_connection((address.hostname, address.port), timeout=PATIENCE_MS / 1000) as silent:
                silent.sendall(begin)
                assert silent.recv(1) == b""
        assert ask(live)[0] == 200


def test_the_store_is_opened_once_and_closed_at_the_end(growing: GrowingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    class WatchedStore(Store):
        def __init__(self, *arguments: object, **options: object) -> None:
            events.append("open")
            super().__init__(*arguments, **options)

        def close(self) -> None:
            events.append("close")
            super().close()

    monkeypatch.setattr(live_sources, "Store", WatchedStore)
    clock = Clock()
    record = growing.begin()
    with LiveReport(growing.path, clock=clock, final_request_timeout_s=0.0) as live:
        for end in (4, 8, 12):
            growing.add(record, end - 4, end)
            clock.now_s += 100
            assert live.state()["version"] == f"{record.id}-{end}-0"
        assert events == ["open"]
        last = live.page()
    assert events == ["open", "close"]
    assert live.page() == last  # a request that comes too late opens nothing
    assert events == ["open", "close"]


def test_a_file_that_took_the_place_of_the_store_is_read(growing: GrowingStore) -> None:
    clock = Clock()
    growing.add(growing.begin(), 0, 12)
    earlier = growing.path.with_name("earlier.sqlite")
    with LiveReport(growing.path, clock=clock, final_request_timeout_s=0.0) as live:
        assert live.state()["version"] == "1-12-0"
        growing.store.close()
        growing.path.rename(earlier)
        clock.now_s += 100
        assert live.state()["version"] == "0"
        growing.store = Store(growing.path)
        growing.add(growing.begin(), 0, 3)
        clock.now_s += 100
        assert live.state()["version"] == "1-3-0"


def test_nothing_is_left_behind(growing: GrowingStore) -> None:
    before = set(threading.enumerate())
    files = sorted(path.name for path in growing.path.parent.iterdir())
    with LiveReport(growing.path, final_request_timeout_s=0.0) as live:
        assert ask(live)[0] == 200
    with pytest.raises(ConnectionRefusedError):
        ask(live)
    assert {thread.name for thread in set(threading.enumerate()) - before if thread.name == "thalweg-live"} == set()
    assert sorted(path.name for path in growing.path.parent.iterdir()) == files


def test_a_page_that_is_open_gets_the_final_numbers_before_the_end(growing: GrowingStore) -> None:
    record = growing.begin()
    growing.add(record, 0, 12)
    states: list[dict] = []
    pages: list[str] = []

    def read(live: LiveReport) -> None:
        while not states or not states[-1]["ended"]:
            states.append(live.state())
            if states[-1]["version"] != (states[-2]["version"] if len(states) > 1 else None):
                pages.append(live.page())
            time.sleep(0.01)
        states.append(live.state())

    with LiveReport(growing.path, final_request_timeout_s=PATIENCE_MS / 1000) as live:
        live.state()
        reader = threading.Thread(target=read, args=(live,))
        reader.start()
        growing.finish(record)
    reader.join()
    finished = Comparison(growing.store, growing.store.find())
    assert states[-1]["text"] == "The comparison has ended. This page shows its final numbers."
    assert finished.verdict.text in text_of(pages[-1])


def test_an_earlier_comparison_is_not_shown_as_the_running_one(growing: GrowingStore) -> None:
    growing.finish(growing.begin())
    with LiveReport(growing.path, final_request_timeout_s=0.0) as live:
        assert "No training has ended yet." in text_of(live.page())
    with LiveReport(ComparisonSource(growing.path, watches=True), final_request_timeout_s=0.0) as live:
        assert "Which setting to use" in text_of(live.page())


def test_a_store_that_cannot_be_read_now_keeps_the_page_alive(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    path.write_bytes(b"no database at all")
    with LiveReport(ComparisonSource(path, watches=True), final_request_timeout_s=0.0) as live:
        assert "No training has ended yet." in text_of(ask(live)[1])


def test_the_command_serves_the_page_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    update = LiveReport.update

    def update_and_read(self: LiveReport, progress: Progress) -> None:
        update(self, progress)
        if progress.stage == "search" and not seen:
            seen.append(ask(self)[1])

    monkeypatch.setattr(LiveReport, "update", update_and_read)
    arguments = ["compare", "quadratic", "--with", "gd", "--budget", "2trials", "--workers", "1", "--live"]
    result = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "Live report: http://127.0.0.1:" in result.output
    assert len(seen) == 1
    assert '<div class="live" id="live"' in seen[0]


def test_the_report_command_follows_a_store_until_it_is_interrupted(
    measured_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[str] = []

    enter = LiveReport.__enter__

    def enter_and_read(self: LiveReport) -> LiveReport:
        enter(self)
        self._final_request_timeout_s = 0.0
        pages.append(ask(self)[1])
        return self

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LiveReport, "__enter__", enter_and_read)
    monkeypatch.setattr(importlib.import_module("thalweg.cli.commands.report"), "wait_for_interrupt", interrupt)
    result = CliRunner().invoke(cli, ["report", str(measured_store), "--live"])
    assert result.exit_code == 0, result.output
    assert "Live report: http://127.0.0.1:" in result.output
    assert "This page follows" in text_of(pages[0])


@needs_browser
def test_an_open_page_renews_itself_and_keeps_what_was_chosen(growing: GrowingStore) -> None:
    record = growing.begin()
    growing.add(record, 0, 60)
    messages: list[str] = []
    clock = Clock()
    with open_browser() as browser, LiveReport(growing.path, clock=clock, final_request_timeout_s=0.0) as live:
        tab = open_tab(browser)
        tab.on("console", lambda message: messages.append(message.text))
        tab.on("pageerror", lambda error: messages.append(str(error)))
        tab.goto(live.url)
        assert "Running" in tab.locator("h1").inner_text()
        name = tab.locator("tr[data-contender]").first.get_attribute("data-contender")
        tab.locator(f'.contenders button[data-name="{name}"]').first.click()
        tab.get_by_label("Theme").select_option("dark")
        tab.get_by_text("What the columns mean").click()
        growing.finish(record)
        clock.now_s += 100
        tab.locator("h1", has_not_text="Running").wait_for()
        hidden = tab.locator(f'.contenders button[data-name="{name}"]').first
        assert hidden.get_attribute("aria-pressed") == "false"
        series = tab.locator('figure[data-chart="values"] .series')
        assert name not in series.evaluate_all("all => all.map(each => each.dataset.name)")
        assert tab.get_by_label("Theme").input_value() == "dark"
        assert tab.get_by_text("untuned. A dash").is_visible()
    assert messages == []


@needs_browser
def test_a_page_without_an_answer_asks_again_and_gives_up_at_last(growing: GrowingStore) -> None:
    growing.add(growing.begin(), 0, 12)
    failures: list[str] = []
    answers = {"first": "abort", "second": "403", "third": "whole"}
    with open_browser() as browser, LiveReport(growing.path, clock=Clock(), final_request_timeout_s=0.0) as live:
        tab = open_tab(browser)
        asked = iter([*answers.values()])

        def answer(route: Any) -> None:
            kind = next(asked, "abort")
            failures.append(kind)
            if kind == "whole":
                route.continue_()
            elif kind == "403":
                route.fulfill(status=403, content_type="application/json", body='{"text": "false", "share": null}')
            else:
                route.abort()

        tab.clock.install(time=datetime(2030, 1, 1, tzinfo=UTC))
        tab.clock.pause_at(datetime(2031, 1, 1, tzinfo=UTC))  # before the page asks for the first time
        tab.route("**/state", answer)
        tab.goto(live.url.rstrip("/"))  # the address as one may copy it
        assert tab.url == live.url
        line = tab.locator("#live span")
        text = line.inner_text()
        assert failures == []
        tab.clock.run_for(1000)
        line.get_by_text("No answer. This page tries again.").wait_for()
        assert failures == ["abort"]
        tab.clock.run_for(2000)
        line.get_by_text("tries again").wait_for()
        while failures[-1] != "whole":
            tab.clock.run_for(1000)
        line.get_by_text(text, exact=True).wait_for()
        while "This page shows its last state." not in line.inner_text():
            tab.clock.run_for(1000)
        assert failures == [*answers.values(), *["abort"] * 6]
