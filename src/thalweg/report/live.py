"""Live: serves the page of a comparison on this machine while it runs, and renews it.

The server listens on 127.0.0.1 alone, on a free port. Its address contains a token that cannot be guessed, and it
answers only requests that name this address as their host, so that neither another user nor a page of another site can
read it. It ends with the comparison, and leaves no file and no process behind.
"""

import hmac
import json
import math
import secrets
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Self

from thalweg.comparison import Comparison, Progress, Store
from thalweg.comparison.presentation.progress_display import progress_lines
from thalweg.comparison.results.records import ComparisonRecord
from thalweg.errors import StoreError, ThalwegError, printable
from thalweg.parts import Parts
from thalweg.report.assets import load_assets
from thalweg.report.page import LiveState, render
from thalweg.report.templates import render_template, values_of

HOST = "127.0.0.1"
MIN_PAUSE_S = 2.0  # between two renewals
PAUSE_FACTOR = 20.0  # times the duration of a renewal: it takes at most a twentieth of the time
FINAL_REQUEST_TIMEOUT_S = 5.0  # a page that is open gets the final numbers, if it asks within this time
REQUEST_TIMEOUT_S = 10.0  # a connection that sends or takes nothing for this time is closed
OPEN_S = 4.0  # a page that has asked within this time is open
_LINE_WIDTH = 400
_ENDED = "The comparison has ended. This page shows its final numbers."


class LiveReport:
    """Serves the page of the newest comparison in a store, from ``with`` to its end.

    Args:
        path: The file of the store. It need not exist yet.
        watches: True if another process writes the store: the newest comparison is then shown as it is. False if this
            process begins a comparison: an earlier one, that was finished before, is not shown.
        announce: Called with the address when the page is served.
        clock: Returns seconds.
        final_request_timeout_s: Seconds that the end waits for a page which is open to get the final numbers.

    Attributes:
        url: The address of the page, once it is served.

    Example:
        >>> with LiveReport("store.sqlite") as live:
        ...     live.url.startswith("http://127.0.0.1:")
        True
    """

    def __init__(
        self,
        path: str | Path,
        *,
        watches: bool = False,
        announce: Callable[[str], object] = lambda _: None,
        clock: Callable[[], float] = monotonic,
        final_request_timeout_s: float = FINAL_REQUEST_TIMEOUT_S,
    ) -> None:
        self._final_request_timeout_s = final_request_timeout_s
        self._path, self._clock, self._announce, self._watches = Path(path), clock, announce, watches
        self._lock = threading.Lock()
        self._progress = Progress("pilot", "")
        self._ended = False
        self._version, self._page = "", ""
        self._served_version: str | None = None
        self._next_s = self._asked_s = -math.inf
        self._served_last = threading.Event()
        self._store: Store | None = None
        self._store_file: tuple[int, int] | None = None
        self._is_closed = False
        self._earlier: int | None = None
        self._token = secrets.token_urlsafe(24)
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self._earlier = None if self._watches else self._newest_finished()
        self._server = _Server((HOST, 0), type("Handler", (_Handler,), {"live": self}))
        self.url = f"http://{HOST}:{self._server.server_port}/{self._token}/"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="thalweg-live", daemon=True
        )
        self._thread.start()
        self._announce(self.url)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        assert self._thread is not None
        with self._lock:
            self._ended, self._next_s = True, -math.inf
            is_open = self._clock() - self._asked_s < OPEN_S
        if kind is None and is_open:
            self._served_last.wait(self._final_request_timeout_s)
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        with self._lock:  # a request that is being answered ends first
            self._is_closed = True
            self._close_store()

    def update(self, progress: Progress) -> None:
        """Take over what the comparison is doing now.

        Args:
            progress: The progress.
        """
        if not progress.message:
            self._progress = progress

    def is_authorized(self, host: str | None, path: str) -> bool:
        """Return True if a request names this address as its host and knows the token.

        Args:
            host: The header ``Host``.
            path: The path of the request.
        """
        assert self._server is not None
        port = self._server.server_port
        token = _parts_of(path)[0]
        is_here = host in (f"{HOST}:{port}", f"localhost:{port}")
        return is_here and hmac.compare_digest(token.encode(), self._token.encode())

    def state(self) -> dict[str, object]:
        """Return the version of the page, what the comparison is doing, and whether it has ended, as plain JSON."""
        with self._lock:
            self._asked_s = self._clock()
            self._renew()
            state = self._live_state()
            is_last = self._ended
            if is_last and self._served_version == self._version:
                self._served_last.set()
        return {"version": state.version, "text": state.text, "share": state.share, "ended": is_last}

    def page(self) -> str:
        """Return the page as it is now."""
        with self._lock:
            self._asked_s = self._clock()
            self._renew()
            self._served_version = self._version
            return self._page

    # --- renewal ----------------------------------------------------------------------------------------------------

    def _renew(self) -> None:
        """Make the page again if the store has changed and enough time has passed since."""
        if self._page and (self._is_closed or self._clock() < self._next_s):
            return
        start_s = self._clock()
        comparison = self._comparison()
        version = self._version_of(comparison)
        if not self._page or version != self._version:
            self._version = version
            self._page = self._waiting_page() if comparison is None else render(comparison, live=self._live_state())
        used_s = self._clock() - start_s
        self._next_s = self._clock() + max(MIN_PAUSE_S, PAUSE_FACTOR * used_s)

    def _comparison(self) -> Comparison | None:
        """Return the newest comparison; None if no training of it is stored yet, or the store cannot be read now."""
        with suppress(ThalwegError):
            store = self._open_store()
            record = None if store is None else store.find()
            if store is not None and record is not None and not self._is_earlier(record):
                return Comparison(store, record, is_running=not self._ended)
        return None

    def _open_store(self) -> Store | None:
        """Return the store, opened once; None if there is no file. A file that took its place is opened anew.

        Raises:
            StoreError: If the file cannot be opened as a store.
        """
        try:
            status = self._path.stat()
        except OSError:
            return None
        file = (status.st_dev, status.st_ino)
        if file != self._store_file:
            self._close_store()
        if self._store is None and not self._is_closed:
            self._store = Store(self._path, write=False)
            self._store_file = file
        return self._store

    def _close_store(self) -> None:
        if self._store is not None:
            self._store.close()
        self._store, self._store_file = None, None

    def _is_earlier(self, record: ComparisonRecord) -> bool:
        return not self._ended and record.finished is not None and record.id == self._earlier

    def _newest_finished(self) -> int | None:
        """Return the number of the newest comparison if it is finished."""
        with suppress(StoreError):
            store = self._open_store()
            record = None if store is None else store.find()
            return record.id if record is not None and record.finished is not None else None
        return None

    def _version_of(self, comparison: Comparison | None) -> str:
        if comparison is None:
            return "0"
        return f"{comparison.record.id}-{len(comparison.trainings)}-{int(comparison.record.finished is not None)}"

    def _live_state(self) -> LiveState:
        if self._ended:
            return LiveState(self._version, _ENDED, None)
        if self._watches:
            return LiveState(self._version, f"This page follows {printable(str(self._path))}.", None)
        text = " · ".join(progress_lines(self._progress, _LINE_WIDTH)).replace("━", "").replace("╌", "").strip()
        share = self._progress.share or None
        return LiveState(self._version, printable(text), None if share is None else min(1.0, share))

    def _waiting_page(self) -> str:
        values = {"live": self._live_state, "name": lambda: self._path.parent.name or "comparison"}
        return render_template("waiting.html", values_of(values), Parts(), load_assets(with_charts=True, is_live=True))


def _parts_of(path: str) -> tuple[str, str, str]:
    """Return the token of a request's path, the slash after it if there is one, and the name of what is asked for."""
    return path.partition("?")[0].lstrip("/").partition("/")


class _Server(ThreadingHTTPServer):
    """Answers each request in a thread that ends with the program."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a reader that has gone; tell any other error as the standard library does."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests of a page: itself, its state, and nothing else."""

    live: LiveReport
    timeout = REQUEST_TIMEOUT_S
    server_version, sys_version = "thalweg", ""

    def do_GET(self) -> None:
        if not self.live.is_authorized(self.headers.get("Host"), self.path):
            self._answer(403, "text/plain; charset=utf-8", "This address is not complete. Copy it from the terminal.\n")
            return
        token, slash, name = _parts_of(self.path)
        try:
            if not slash:  # without it, the page would ask for its state at another address
                self._answer(301, "text/plain; charset=utf-8", "The page is here.\n", Location=f"/{token}/")
            elif name == "state":
                self._answer(200, "application/json", json.dumps(self.live.state()))
            elif name in ("", "page"):
                self._answer(200, "text/html; charset=utf-8", self.live.page())
            else:
                self._answer(404, "text/plain; charset=utf-8", "There is no such page.\n")
        except ConnectionError:  # the reader has closed the page
            return

    def _answer(self, status: int, kind: str, text: str, **headers: str) -> None:
        body = text.encode("utf-8", "backslashreplace")
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Content-Security-Policy", "frame-ancestors 'none'"),
            *headers.items(),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (as the standard library names it)
        """Say nothing: the terminal shows the progress."""
