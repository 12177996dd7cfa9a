"""Live: serves the pages of a comparison or of a suite on this machine while it runs, and renews them.

The server listens on 127.0.0.1 alone, on a free port. Its address contains a token that cannot be guessed, and it
answers only requests that name this address as their host, so that neither another user nor a page of another site can
read it. It ends with the run, and leaves no file and no process behind.
"""

import hmac
import json
import math
import secrets
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Self
from urllib.parse import unquote

from thalweg.comparison import Progress, TaskProgress
from thalweg.parts import Parts
from thalweg.report.assets import load_assets
from thalweg.report.live_sources import MAIN, ComparisonSource, LiveSource
from thalweg.report.page import LiveState
from thalweg.report.templates import render_template, values_of

HOST = "127.0.0.1"
MIN_PAUSE_S = 2.0  # between two renewals
PAUSE_FACTOR = 20.0  # times the duration of a renewal: it takes at most a twentieth of the time
FINAL_REQUEST_TIMEOUT_S = 5.0  # a page that is open gets the final numbers, if it asks within this time
REQUEST_TIMEOUT_S = 10.0  # a connection that sends or takes nothing for this time is closed
OPEN_S = 4.0  # a page that has asked within this time is open


@dataclass
class _Page:
    """A page as it was made last.

    Attributes:
        version: Its version; empty before it is made.
        text: The page.
        served_version: The version that a reader has; None if nobody has read it.
        asked_s: When a reader asked last.
        next_s: It is not made again before.
        is_final_served: Set once a reader has the final numbers.
    """

    version: str = ""
    text: str = ""
    served_version: str | None = None
    asked_s: float = -math.inf
    next_s: float = -math.inf
    is_final_served: threading.Event = field(default_factory=threading.Event)


class LiveReport:
    """Serves the pages of a run that its stores hold, from ``with`` to its end.

    Args:
        source: What the pages show, or the file of the store of a comparison. It need not exist yet.
        announce: Called with the address when the pages are served.
        clock: Returns seconds.
        final_request_timeout_s: Seconds that the end waits for a page which is open to get the final numbers.

    Attributes:
        url: The address of the first page, once it is served.

    Example:
        >>> with LiveReport("store.sqlite") as live:
        ...     live.url.startswith("http://127.0.0.1:")
        True
    """

    def __init__(
        self,
        source: LiveSource | str | Path,
        *,
        announce: Callable[[str], object] = lambda _: None,
        clock: Callable[[], float] = monotonic,
        final_request_timeout_s: float = FINAL_REQUEST_TIMEOUT_S,
    ) -> None:
        self._source = source if isinstance(source, LiveSource) else ComparisonSource(source)
        self._clock, self._announce = clock, announce
        self._final_request_timeout_s = final_request_timeout_s
        self._lock = threading.Lock()
        self._pages = {name: _Page() for name in self._source.pages}
        self._is_closed = False
        self._token = secrets.token_urlsafe(24)
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self._source.begin()
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
            self._source.is_ended = True
            for page in self._pages.values():
                page.next_s = -math.inf
            now_s = self._clock()
            open_pages = [page for page in self._pages.values() if now_s - page.asked_s < OPEN_S]
        if kind is None:
            end_s = monotonic() + self._final_request_timeout_s
            for page in open_pages:
                page.is_final_served.wait(max(0.0, end_s - monotonic()))
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        with self._lock:  # a request that is being answered ends first
            self._is_closed = True
            self._source.close()

    def update(self, event: Progress | TaskProgress) -> None:
        """Take over what the run is doing now.

        Args:
            event: Its progress.
        """
        self._source.update(event)  # without the lock: no training waits for a page that is being made

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

    def has_page(self, name: str) -> bool:
        """Return True if there is a page of this name."""
        return name in self._pages

    def state(self, name: str = MAIN) -> dict[str, object]:
        """Return the version of a page, what the run is doing, and whether it has ended, as plain JSON.

        Args:
            name: The name of the page.
        """
        with self._lock:
            page = self._renewed(name)
            state, is_last = self._live_state(page), self._source.is_ended
            if is_last and page.served_version == page.version:
                page.is_final_served.set()
        return {"version": state.version, "text": state.text, "share": state.share, "ended": is_last}

    def page(self, name: str = MAIN) -> str:
        """Return a page as it is now.

        Args:
            name: Its name.
        """
        with self._lock:
            page = self._renewed(name)
            page.served_version = page.version
            return page.text

    # --- renewal ----------------------------------------------------------------------------------------------------

    def _renewed(self, name: str) -> _Page:
        """Return a page, made again if its store has changed and enough time has passed since."""
        page = self._pages[name]
        start_s = page.asked_s = self._clock()
        if page.text and (self._is_closed or start_s < page.next_s):
            return page
        snapshot = self._source.snapshot(name)
        version = "0" if snapshot is None else snapshot.version
        if not page.text or version != page.version:
            page.version = version
            state = self._live_state(page)
            page.text = self._waiting_page(state) if snapshot is None else snapshot.render(state)
        now_s = self._clock()
        page.next_s = now_s + max(MIN_PAUSE_S, PAUSE_FACTOR * (now_s - start_s))
        return page

    def _live_state(self, page: _Page) -> LiveState:
        if self._source.is_ended:
            return LiveState(
                page.version, f"The {self._source.noun} has ended. This page shows its final numbers.", None
            )
        return LiveState(page.version, *self._source.activity())

    def _waiting_page(self, state: LiveState) -> str:
        values = {"live": lambda: state, "name": lambda: self._source.name}
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
        token, slash, rest = _parts_of(self.path)
        folder, _, name = unquote(rest).rpartition("/")
        try:
            if not slash:  # without it, the page would ask for its state at another address
                self._answer(301, "text/plain; charset=utf-8", "The page is here.\n", Location=f"/{token}/")
            elif self.live.has_page(folder) and name == "state":
                self._answer(200, "application/json", json.dumps(self.live.state(folder)))
            elif self.live.has_page(folder) and name in ("", "page", "report.html"):
                self._answer(200, "text/html; charset=utf-8", self.live.page(folder))
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
