"""Helpers for tests of live pages: a store that grows, a clock that stands, and requests to a server."""

import http.client
from pathlib import Path
from urllib.parse import urlsplit

from tests.pages import PATIENCE_MS, Reader
from thalweg.comparison import Store
from thalweg.comparison.results.records import ComparisonRecord
from thalweg.report.live import LiveReport


class GrowingStore:
    """A store into which the trainings of a finished comparison come one by one."""

    def __init__(self, source: Path, path: Path) -> None:
        self._source = Store(source, write=False)
        self.record = self._source.find()
        assert self.record is not None
        self._trials = self._source.read_trials(self.record.id).trials
        self.store = Store(path)
        self.path = path

    def begin(self) -> ComparisonRecord:
        record = self.record
        return self.store.create(
            record.key,
            workload=record.workload,
            contenders=record.contenders,
            plan=record.plan,
            environment=record.environment,
        )

    def add(self, record: ComparisonRecord, start: int, end: int) -> None:
        self.store.add(record.id, self._trials[start:end], elapsed_s=1.0)

    def finish(self, record: ComparisonRecord) -> None:
        stored = len(self.store.read_trials(record.id).trials)
        self.add(record, stored, len(self._trials))
        self.store.finish(record.id)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def ask(live: LiveReport, path: str | None = None, **headers: str) -> tuple[int, str, dict[str, str]]:
    address = urlsplit(live.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=PATIENCE_MS / 1000)
    connection.request("GET", address.path if path is None else path, headers=headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text, dict(answer.getheaders())


def text_of(page: str) -> str:
    return " ".join(Reader(page).text.split())


def live_path(live: LiveReport, name: str) -> str:
    return urlsplit(live.url).path + name
