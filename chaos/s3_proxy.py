"""A proxy before an S3 server that fails on command: errors, delays, cut bodies, no answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from http.client import HTTPConnection, HTTPException, HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import cast

TIMEOUT_S = 30.0
SLOW_S = (0.5, 4.0)
"""How long a slow answer takes."""
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


class Failure(StrEnum):
    """How the proxy fails."""

    INTERNAL_ERROR = "500 InternalError"
    SLOW_DOWN = "503 SlowDown"
    EXPIRED_TOKEN = "400 ExpiredToken"
    SLOW = "slow answers"
    TRUNCATED = "bodies cut short"
    CLOSED = "connections closed"
    LOST_REPLY = "replies lost"
    """The request is carried out, and nobody is told."""


class FailingProxy(ThreadingHTTPServer):
    """Passes requests on, and fails a share of them while told to."""

    daemon_threads = True

    def __init__(self, host: str, port: int, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = host, port
        self._random = Random(seed)
        self._failure: Failure | None = None
        self._share = 0.0
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        """Its address as an S3 endpoint."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    @contextmanager
    def failing(self, failure: Failure, share: float) -> Iterator[None]:
        """Fail this share of all requests during the block."""
        with self._lock:
            self._failure, self._share = failure, share
        try:
            yield
        finally:
            with self._lock:
                self._failure = None

    def close(self) -> None:
        """Stop."""
        self.shutdown()
        self.server_close()

    def failure_now(self) -> Failure | None:
        """How the request at hand is to fail, if it is."""
        with self._lock:
            return self._failure if self._random.random() < self._share else None

    def slowness_s(self) -> float:
        """How long the request at hand is held up."""
        with self._lock:
            return self._random.uniform(*SLOW_S)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = TIMEOUT_S

    def _handle(self) -> None:
        proxy = cast(FailingProxy, self.server)
        length = int(self.headers.get("Content-Length") or 0)
        if "100-continue" in self.headers.get("Expect", ""):
            self.send_response_only(100)
            self.end_headers()
        body = self.rfile.read(length)
        failure = proxy.failure_now()
        if failure in (Failure.INTERNAL_ERROR, Failure.SLOW_DOWN, Failure.EXPIRED_TOKEN):
            self._refuse(failure)
            return
        if failure is Failure.CLOSED:
            self.close_connection = True
            return
        if failure is Failure.SLOW:
            time.sleep(proxy.slowness_s())
        try:
            status, headers, data = self._ask(proxy, body)
        except (OSError, HTTPException):
            self.close_connection = True
            return
        if failure is Failure.LOST_REPLY:
            self.close_connection = True
            return
        self._answer(status, headers, data, cut=failure is Failure.TRUNCATED)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle

    def _ask(self, proxy: FailingProxy, body: bytes) -> tuple[int, HTTPMessage, bytes]:
        connection = HTTPConnection(*proxy.upstream, timeout=TIMEOUT_S)
        try:
            headers = {k: v for k, v in self.headers.items() if k.lower() != "expect"}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: HTTPMessage, data: bytes, *, cut: bool) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", headers.get("Content-Length", str(len(data))))
        self.end_headers()
        if cut and data:
            data = data[: len(data) // 2]
            self.close_connection = True
        self.wfile.write(data)

    def _refuse(self, failure: Failure) -> None:
        status, code = failure.value.split()
        text = f"<Error><Code>{code}</Code><Message>as told</Message></Error>"
        data = b"" if self.command == "HEAD" else text.encode()
        self.send_response_only(int(status))
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:  # whoever asked was killed
            self.close_connection = True
