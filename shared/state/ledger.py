"""How many bytes jobs and uploads keep in the storage, and what is reserved for what is written.

Each kind has a ledger, a hash of which scripts alone change a field: two writers never pass a quota
together, and what a dead one reserved lapses. A job's field follows from its record. Uploads are
summed up by when they expire, so that the ledger stays small however many there are.
"""

from __future__ import annotations

import math
import re
from typing import Literal, cast

from rerankfleet.shared.state.connection import Connection, now_ms

Kind = Literal["jobs", "uploads"]
Reserved = Literal["reserved", "full", "lapsed"]
Fact = Literal["input_bytes", "lines_bytes", "work_bytes", "output_bytes"]
"""What a job keeps: its copy of the input, that as lines, its shard and part files, its outputs."""

EXPIRE_TOGETHER_S = 600
"""Uploads that expire within this time are one field, which goes when all of them are gone: at most
4,320 fields in thirty days."""


class Ledger:
    """The bytes in the storage by kind, one atomic operation per method."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection.redis
        self._keys = connection.keys
        self._scripts = connection.scripts

    def used(self, kind: Kind) -> int:
        """Bytes of all of a kind, with those that are reserved."""
        fields = cast("list[str]", self._redis.hvals(self._keys.stored(kind)))
        return sum(_bytes_and_end(text)[0] for text in fields)

    def reserve(
        self, kind: Kind, id_: str, size: int, *, lease_ms: int, bytes_max: int, begins: bool
    ) -> tuple[Reserved, int]:
        """Reserve `size` bytes in all for what is being written, or renew that for `lease_ms`.
        Returns the answer of `reserve.lua`, and the bytes of all others."""
        keys = [self._keys.stored(kind), *([self._keys.sweep] if kind == "jobs" else [])]
        args: list[str | int] = [id_, size, lease_ms, bytes_max, int(begins)]
        answer, others = self._scripts.run("reserve", keys, args)
        return answer, others

    def keep_upload(self, upload_id: str, expires_s: int, size: int) -> str:
        """Count an upload that is complete. Returns the answer of `keep.lua`."""
        keys = [self._keys.stored("uploads")]
        when = expires_s // EXPIRE_TOGETHER_S
        return cast(str, self._scripts.run("keep", keys, [upload_id, when, size]))

    def drop(self, kind: Kind, id_: str) -> None:
        """End the reservation of what was removed, or never written."""
        self._redis.hdel(self._keys.stored(kind), id_)

    def lapsed_uploads(self) -> list[str]:
        """Uploads that nobody writes any more, although they are not complete."""
        now = now_ms(self._redis)
        fields = cast("dict[str, str]", self._redis.hgetall(self._keys.stored("uploads")))
        return [id_ for id_, text in fields.items() if (_bytes_and_end(text)[1] or math.inf) <= now]

    def drop_expired_uploads(self, before_s: float) -> None:
        """Forget uploads that expired before a time, in Unix time: all of them are removed."""
        ledger = self._keys.stored("uploads")
        fields = [
            field
            for field in cast("list[str]", self._redis.hkeys(ledger))
            if field.isdecimal() and (int(field) + 1) * EXPIRE_TOGETHER_S <= before_s
        ]
        if fields:
            self._redis.hdel(ledger, *fields)

    def add(self, job_id: str, fact: Fact, size: int) -> None:
        """Count more bytes that a job keeps."""
        self._count(job_id, fact, "add", size)

    def set(self, job_id: str, fact: Fact, size: int) -> None:
        """Count how many bytes a job keeps of one sort."""
        self._count(job_id, fact, "set", size)

    def correct(self) -> None:
        """Bring every job's field in line with its record."""
        keys = self._keys
        ids = set(cast("list[str]", self._redis.hkeys(keys.stored("jobs"))))
        for members in (keys.jobs, keys.sweep):
            ids |= set(cast("list[str]", self._redis.zrange(members, 0, -1)))
        for job_id in sorted(ids):
            self._count(job_id)

    def _count(self, job_id: str, *changes: str | int) -> None:
        keys = self._keys
        names = [keys.job(job_id), keys.stored("jobs"), keys.sweep]
        self._scripts.run("count", names, [job_id, *changes])


_FIELD = re.compile(r"(\d+)(?: (\d+))?")


def _bytes_and_end(text: str) -> tuple[int, int | None]:
    """The bytes of a field, and until when they are reserved, in ms; none of what is no field."""
    found = _FIELD.fullmatch(text)
    return (int(found[1]), int(found[2]) if found[2] else None) if found else (0, None)
