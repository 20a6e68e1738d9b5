"""How an output appears: written as drafts by an attempt, decided in Redis, then published.

Any number of attempts may write, since one may be frozen beyond its lease. One is decided; whoever
holds the step publishes that one's drafts, and publishing them again changes nothing. What another
attempt left is removed: its drafts are named in the storage before they are written.

    jobs/{id}/drafts/{attempt}/{number}     a draft: its URI and what identifies it
    jobs/{id}/drafts/{attempt}/all          all drafts of an attempt that is complete, with sizes
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from rerankfleet.shared.errors import DraftsLost, UsageError
from rerankfleet.shared.formats.shard_files import job_uri
from rerankfleet.shared.heartbeat import beat
from rerankfleet.shared.storage.objects import Objects

DRAFTS = "drafts"
ALL = "all"


class Attempt:
    """The drafts of one attempt to write a job's output, in the order in which they appear."""

    def __init__(self, job_id: str, name: str, objects: Objects) -> None:
        self.name = name
        self._job_id = job_id
        self._objects = objects
        self._drafts: list[dict[str, Any]] = []

    @contextmanager
    def writer(self, uri: str) -> Iterator[IO[bytes]]:
        """A stream into the draft of an object."""
        number, objects = len(self._drafts), self._objects
        name = f"{self._job_id}-{self.name}-{number}"
        draft: dict[str, Any] = {"uri": uri, "draft": objects.new_draft(uri, name)}
        self._drafts.append(draft)
        self._record(str(number), draft)
        with objects.draft_writer(uri, draft["draft"]) as out:
            yield out
            draft["size"] = out.tell()

    def write(self, uri: str, data: bytes) -> None:
        """The draft of a whole object."""
        with self.writer(uri) as out:
            out.write(data)

    def complete(self) -> None:
        """Record that all drafts are written: now they may be decided."""
        self._record(ALL, self._drafts)

    def discard(self) -> None:
        """Remove the drafts, of which nothing may be decided."""
        for draft in self._drafts:
            self._objects.discard(draft["uri"], draft["draft"])
        self._objects.delete_tree(job_uri(self._objects, self._job_id, DRAFTS, self.name))

    def _record(self, name: str, value: Any) -> None:
        uri = job_uri(self._objects, self._job_id, DRAFTS, self.name, name)
        self._objects.write(uri, json.dumps(value).encode())


def publish(job_id: str, attempt: str, objects: Objects) -> int:
    """Make the drafts of the attempt that was decided appear. Returns how many bytes they have.
    Raises DraftsLost."""
    try:
        drafts = json.loads(objects.read(job_uri(objects, job_id, DRAFTS, attempt, ALL)))
    except (UsageError, ValueError) as error:
        raise DraftsLost(f"the drafts of the output are gone ({error})") from error
    for draft in drafts:
        beat()
        uri = draft["uri"]
        if not objects.publish(uri, draft["draft"]) and not _stands(uri, draft["size"], objects):
            raise DraftsLost(f"the draft of {uri} is gone")
    return sum(draft["size"] for draft in drafts)


def _stands(uri: str, size: int, objects: Objects) -> bool:
    """Whether a draft was published before."""
    return objects.exists(uri) and objects.stat(uri).size == size


def discard_others(job_id: str, attempt: str | None, objects: Objects) -> None:
    """Remove what other attempts than the decided one left."""
    for name in objects.folders(job_uri(objects, job_id, DRAFTS) + "/"):
        folder = job_uri(objects, job_id, DRAFTS, name)
        if name == attempt:
            continue
        for record in objects.listing(folder + "/"):
            if not record.endswith(f"/{ALL}"):
                draft = json.loads(objects.read(record))
                objects.discard(draft["uri"], draft["draft"])
        objects.delete_tree(folder)


def forget_drafts(job_id: str, objects: Objects) -> None:
    """Remove the records of what was published."""
    objects.delete_tree(job_uri(objects, job_id, DRAFTS))
