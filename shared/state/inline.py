"""Small payloads and results that are kept in Redis itself, under a TTL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from rerankfleet.shared.state.connection import Connection


class Inline:
    """Payloads of interactive requests, addressed by redis: URIs."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection.redis
        self._keys = connection.keys

    def put(self, job_id: str, name: str, payload: bytes, ttl_s: float) -> str:
        """Keep a small payload or result. Returns its redis: URI."""
        self._redis.set(self._keys.inline(job_id, name), payload, px=int(ttl_s * 1000))
        return f"redis:{job_id}/{name}"

    def get(self, uri: str) -> bytes | None:
        """The payload at a URI; None once it has expired."""
        job_id, _, name = uri.removeprefix("redis:").partition("/")
        payload = cast("str | None", self._redis.get(self._keys.inline(job_id, name)))
        return None if payload is None else payload.encode()

    def drop(self, uris: Sequence[str]) -> None:
        """Remove payloads that are no longer read; if this fails, they expire."""
        if names := [uri.removeprefix("redis:").partition("/") for uri in uris]:
            self._redis.delete(*(self._keys.inline(job_id, name) for job_id, _, name in names))
