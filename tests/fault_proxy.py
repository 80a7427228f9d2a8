"""A proxy on loopback that does to HTTP requests what networks and throttled stores do."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Kind = Literal["busy", "denied", "cut", "lost", "slow"]
"""busy: 503 SlowDown. denied: 403. cut: the connection ends in mid-body. lost: the store did what
was asked, its answer never comes. slow: the body stops coming, the connection stays."""

_ERRORS = {"busy": (503, "SlowDown"), "denied": (403, "AccessDenied")}


@dataclass(frozen=True)
class Request:
    """What was asked for; number counts from 1."""

    number: int
    method: str
    path: str


@dataclass
class FaultProxy:
    """What happens to requests on their way.

    url      what clients are given; port: that of the server behind
    fault    chooses what befalls a request, None: it passes
    watch    called before each request is passed on
    seen     all requests, and what befell them
    """

    url: str
    port: int
    fault: Callable[[Request], Kind | None] = lambda request: None
    watch: Callable[[Request], None] = lambda request: None
    seen: list[tuple[Request, Kind | None]] = field(default_factory=list)

    def count(self, method: str, kind: Kind | None = None) -> int:
        """How many requests of a method met a fault, or none."""
        return sum(one.method == method and befell == kind for one, befell in self.seen)

    def clear(self) -> None:
        """Let everything pass, and forget what was."""
        self.fault, self.watch = lambda request: None, lambda request: None
        self.seen.clear()


@contextmanager
def run_proxy(port: int) -> Iterator[FaultProxy]:
    """Pass requests on to a server on a port of this machine."""
    proxy = FaultProxy("", port)
    lock, stopping = threading.Lock(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def serve(self) -> None:
            body = self._read_body()
            with lock:
                request = Request(len(proxy.seen) + 1, self.command, self.path)
                kind = proxy.fault(request)
                proxy.seen.append((request, kind))
            proxy.watch(request)
            if kind in _ERRORS:
                status, code = _ERRORS[kind]
                text = f"<Error><Code>{code}</Code><Message>injected</Message></Error>"
                self._answer(status, {"Content-Type": "application/xml"}, text.encode())
                return
            status, headers, data = self._pass_on(body)
            if kind == "lost":
                self.close_connection = True
                return
            if kind in ("cut", "slow"):
                self._answer(status, headers, data, len(data) // 2)
                if kind == "slow":
                    stopping.wait(20)
                self.close_connection = True
                return
            self._answer(status, headers, data)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = serve  # noqa: N815

        def _read_body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data

        def _pass_on(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            dropped = ("expect", "transfer-encoding", "content-length", "connection")
            headers = {k: v for k, v in self.headers.items() if k.lower() not in dropped}
            headers["Content-Length"] = str(len(body))
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
            connection.close()
            return answer.status, dict(answer.getheaders()), data

        def _answer(
            self, status: int, headers: dict[str, str], data: bytes, most: int | None = None
        ) -> None:
            length = len(data)
            if self.command == "HEAD":
                length = int({k.lower(): v for k, v in headers.items()}.get("content-length", 0))
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[:most])
            self.wfile.flush()

        def log_message(self, *arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *arguments: object) -> None:
            pass  # clients that were killed or gave up

    with Server(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        proxy.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield proxy
        finally:
            stopping.set()
            server.shutdown()


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for something to become true; fail if it does not."""
    stop = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < stop, "waited in vain"
        time.sleep(0.02)
