"""A server that answers with whatever bytes it is given, and what an image of it comes to."""

from __future__ import annotations

import socketserver
from contextlib import suppress

from rerankfleet.shared.errors import ITEM_CODES, ItemError
from rerankfleet.workers.images.fetch import Fetcher

OK = b"HTTP/1.1 200 OK\r\n"


class Nonsense(socketserver.ThreadingTCPServer):
    """Sends `answer` to each request and closes; counts the requests."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = b""
        self.requests = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(socketserver.StreamRequestHandler):
    server: Nonsense

    def handle(self) -> None:
        with suppress(OSError):
            while self.rfile.readline().strip():
                pass
            self.server.requests += 1
            self.wfile.write(self.server.answer)


def outcome(server: Nonsense, answer: bytes, uri: str = "") -> bytes | ItemError:
    """What an image comes to whose host sends these bytes; `uri` is by default at that host."""
    server.answer, server.requests = answer, 0
    fetcher = Fetcher(allowed_hosts=(server.host,), allowed_buckets=("pairs",), max_bytes=1 << 20)
    found: bytes | ItemError
    try:
        found = fetcher.fetch(uri or f"http://{server.host}/a.jpg?sig=very-secret")
    except ItemError as error:
        found = error
    if isinstance(found, ItemError):
        assert found.code in ITEM_CODES
        assert "secret" not in str(found)
        assert found.hint
    return found
