"""A hub of models on this machine: as much of its HTTP interface as a download needs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves a folder as `owner/model`, whose revisions are `main` and `v2`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refuses: tuple[int, str] | None = None
        """the status and error code of all answers"""
        self.requests: list[str] = []
        self.tokens: set[str | None] = set()
        self.url = ""

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a path."""
        if self.refuses:
            status, code = self.refuses
            return status, {"X-Error-Code": code} if code else {}, b""
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and parts[2:4] == ["owner", "model"]:
            return self._api(parts[4:])
        if parts[:3] == ["owner", "model", "resolve"] and (self.folder / parts[-1]).is_file():
            body = (self.folder / parts[-1]).read_bytes()
            etag = hashlib.sha256(body).hexdigest()
            return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, body
        return 404, {"X-Error-Code": "RepoNotFound"}, b""

    def _api(self, parts: list[str]) -> tuple[int, dict[str, str], bytes]:
        files = sorted(path for path in self.folder.iterdir() if path.is_file())
        if parts[0] == "tree":
            listed = [
                {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": p.name}
                for p in files
            ]
            return 200, {}, json.dumps(listed).encode()
        if parts[-1] not in ("main", "v2", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        info = {
            "id": "owner/model",
            "sha": COMMIT,
            "siblings": [{"rfilename": p.name} for p in files],
        }
        return 200, {}, json.dumps(info).encode()


@contextmanager
def running_hub(folder: Path) -> Iterator[Hub]:
    """A hub that listens as long as the block lasts."""
    hub = Hub(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            hub.requests.append(path)
            hub.tokens.add(self.headers.get("Authorization"))
            status, headers, body = hub.answer(path)
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
