"""Where objects may be touched: by rerankfleet itself, by what a job names to read, and by what it
names to write.

    everything   the storage, and what the lists allow
    inputs       the same, but no other job's files, and no list of uploads
    outputs      of a job that came over HTTP the output lists alone; else what the lists allow too

Places are URIs of folders and prefixes. Of those that hold one another the innermost decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rerankfleet.shared.addresses import local_path, path_address
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.storage.below import Roots

JOBS, UPLOADS = "jobs", "uploads"
"""The folders of the storage."""

Verdict = Literal["open", "closed", "outside", "dots"]
"""Of an s3:// URI: it may be touched; it is what another job keeps; it is not in the lists; or its
key has a part that is `.` or `..`, which some servers resolve."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Places that may be touched, and places in them that may not."""

    opened: tuple[str, ...]
    closed: tuple[str, ...] = ()
    unlisted: tuple[str, ...] = ()
    """What lies there may be touched by who knows its name."""
    lists: str = "ALLOWED"
    """The settings that allow more: RERANK_…_ROOTS and RERANK_…_BUCKETS."""

    @classmethod
    def everything(cls, settings: Settings) -> Scope:
        """For what rerankfleet names itself."""
        return cls((*_allowed(settings), *_outputs(settings), settings.storage_uri))

    @classmethod
    def inputs(cls, settings: Settings, job_id: str) -> Scope:
        """For what a job names to read, and for its own files."""
        storage = settings.storage_uri
        uploads = f"{storage}/{UPLOADS}"
        own = f"{storage}/{JOBS}/{job_id}"
        opened = (*_allowed(settings), storage, uploads, own)
        return cls(opened, closed=(f"{storage}/{JOBS}",), unlisted=(uploads,))

    @classmethod
    def outputs(cls, settings: Settings, job_id: str, *, over_http: bool) -> Scope:
        """For what a job names to write, and for its own files. Who submits without HTTP has Redis,
        and is trusted with the lists of what may be read too."""
        storage = settings.storage_uri
        own = f"{storage}/{JOBS}/{job_id}"
        kept = (f"{storage}/{JOBS}", f"{storage}/{UPLOADS}")
        if over_http:
            return cls((*_outputs(settings), own), closed=(storage, *kept), lists="OUTPUT")
        return cls((*_allowed(settings), *_outputs(settings), storage, own), closed=kept)

    def roots(self) -> Roots:
        """Its folders."""
        return Roots(_folders(self.opened), _folders(self.closed), _folders(self.unlisted))

    def verdict(self, uri: str) -> Verdict:
        """Whether an s3:// URI may be touched, as it is written and as servers read it that take
        `//` for `/`."""
        bucket, *names = _parts(uri)
        if not {".", ".."}.isdisjoint(names):
            return "dots"
        read_as = ([bucket, *names], [bucket, *filter(None, names[:-1]), *names[-1:]])
        verdicts = [self._innermost(parts) for parts in read_as]
        return next((one for one in verdicts if one != "open"), "open")

    def is_listed(self, uri: str) -> bool:
        """Whether a listing names an s3:// URI, or a prefix that ends with a slash, without being
        told of it."""
        parts = [part for part in _parts(uri) if part]
        hidden = map(_parts, _buckets((*self.closed, *self.unlisted)))
        return not any(parts[: len(place)] == place for place in hidden)

    def is_list_of_all(self, uri: str) -> bool:
        """Whether an s3:// URI is that of a prefix whose objects are known to their owners only."""
        parts = [part for part in _parts(uri) if part]
        return any(parts == place for place in map(_parts, _buckets(self.unlisted)))

    def _innermost(self, parts: list[str]) -> Verdict:
        opened, closed = _depth(parts, self.opened), _depth(parts, self.closed)
        if closed > opened:
            return "closed"
        return "open" if opened else "outside"


def _depth(parts: list[str], places: Iterable[str]) -> int:
    """How many parts the innermost of the places has that hold an object; 0 where none does. What
    has the name of a prefix itself is not below it: nor would its manifest be."""
    known = map(_parts, _buckets(places))
    return max((len(place) for place in known if parts[:-1][: len(place)] == place), default=0)


def places(roots: Iterable[Path], buckets: Iterable[str]) -> Iterator[str]:
    """Folders and buckets, or prefixes of them, as URIs."""
    yield from (path_address(str(root.absolute())) for root in roots)
    yield from (f"s3://{bucket.removeprefix('s3://').strip('/')}" for bucket in buckets)


def _allowed(settings: Settings) -> Iterator[str]:
    return places(settings.allowed_roots, settings.allowed_buckets)


def _outputs(settings: Settings) -> Iterator[str]:
    return places(settings.output_roots, settings.output_buckets)


def _folders(some: Iterable[str]) -> list[Path]:
    return [local_path(place) for place in some if place.startswith("file:")]


def _buckets(some: Iterable[str]) -> Iterator[str]:
    return (place for place in some if place.startswith("s3:"))


def _parts(uri: str) -> list[str]:
    return uri.removeprefix("s3://").split("/")
