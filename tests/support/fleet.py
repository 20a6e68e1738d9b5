"""A worker without a model and a coordinator without processes: the real store, real files."""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Callable
from typing import Any

from rerankfleet.producer.coordinator.feed import feed
from rerankfleet.producer.coordinator.finish import finish
from rerankfleet.producer.coordinator.step import Control
from rerankfleet.shared.content.content import Content
from rerankfleet.shared.content.outcomes import Provenance, Scored, SliceOutcome
from rerankfleet.shared.content.ranges import shard_range
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.errors import ItemError
from rerankfleet.shared.formats.output import failure_of
from rerankfleet.shared.formats.shard_files import count_requests, dump_part, load_slices, part_uri
from rerankfleet.shared.job_status import ShardSummary
from rerankfleet.shared.observations import Observation
from rerankfleet.shared.state.fleet import WorkerRow
from rerankfleet.shared.state.records import Lease
from rerankfleet.workers import results
from rerankfleet.workers.pipeline import summarize

MODEL = "org/model"
FINGERPRINT = "weights-1"
PROVENANCE = Provenance(
    model=MODEL,
    revision="r1",
    template="t1",
    dtype="fp32",
    attention="sdpa",
    device="cpu",
    version="1",
)


def margin_of(query: str, text: str) -> float:
    """A margin in -8..8 that depends only on the pair."""
    return zlib.crc32(f"{query}\n{text}".encode()) % 16_000 / 1000 - 8


def name_of(content: Content) -> str:
    """A key of a content: its text and its images' URIs."""
    return " ".join([*filter(None, [content.text]), *content.image])


def worker_row(worker_id: str = "w1", model: str = MODEL, **fields: Any) -> WorkerRow:
    """A ready worker's heartbeat."""
    row = {
        "id": worker_id,
        "host": "host",
        "pid": 1,
        "device": "cpu",
        "model": model,
        "state": "ready",
        "fingerprint": FINGERPRINT,
        "slots": 3,
    }
    return WorkerRow(**(row | fields))


def an_observation(**figures: Any) -> Observation:
    """A full pack of one pair by default."""
    usual = {
        "at_s": 1000.0,
        "pairs": 1,
        "text_tokens": 10,
        "image_tokens": 0,
        "shared_tokens": 3,
        "cost": 10.5,
        "waiting_s": 0.1,
        "preparing_s": 0.0,
        "forward_s": 0.2,
        "memory_bytes": 1 << 20,
        "limited_by": "limit",
    }
    return Observation(**(usual | figures))


class Worker:
    """Scores shards with `margin_of`; a document that contains `fails` gets the failure `code`.
    With `jitter` each margin is larger by that than the one before: as if by another pack."""

    def __init__(
        self,
        control: Control,
        model: str = MODEL,
        name: str = "w1",
        fails: str | None = None,
        code: str = "failed",
        jitter: float = 0.0,
    ) -> None:
        self.control, self.model, self.name = control, model, name
        self.fails, self.code = fails, code
        self.jitter, self.scored = jitter, 0
        self.fingerprint = FINGERPRINT
        self.provenance = PROVENANCE.model_copy(update={"model": model})

    def claim(
        self, job_id: str, shard: str, *, alone: bool = False, token: str | None = None
    ) -> Lease | str:
        """The store's answer to a claim."""
        return self.control.store.shards.claim(
            job_id,
            self.model,
            shard,
            token=token or uuid.uuid4().hex[:16],
            worker=self.name,
            alone=alone,
            fingerprint=self.fingerprint,
        )

    def claimed(self, job_id: str, shard: str, **options: Any) -> Lease:
        """A claim that must be granted."""
        lease = self.claim(job_id, shard, **options)
        assert isinstance(lease, Lease), lease
        return lease

    def write(self, lease: Lease) -> tuple[str, ShardSummary]:
        """Score a shard and write its part."""
        objects = self.control.objects
        slices = load_slices(objects, lease.job_id, lease.file, lease.shard)
        first, last = shard_range(lease.shard)
        assert sum(piece.items for piece in slices) == last - first
        outcomes = [self._score(piece) for piece in slices]
        part = results.write(
            outcomes, self.provenance, lease, objects, self.control.store, inline_ttl_s=60
        )
        spec = self.control.store.jobs.get(lease.job_id).spec
        return part, summarize(outcomes, spec, requests=count_requests(slices))

    def commit(self, lease: Lease) -> bool:
        """Score, write and commit a shard. False if another commit came first."""
        part, summary = self.write(lease)
        return results.commit(lease, part, summary, self.control.store, self.control.hints)

    def score(self, job_id: str, shard: str) -> bool:
        """Process a shard from claim to commit. False if the claim was refused."""
        lease = self.claim(job_id, shard)
        return isinstance(lease, Lease) and self.commit(lease)

    def work(self, count: int = 1000) -> int:
        """Process up to `count` waiting shards; returns how many were committed."""
        due = self.control.store.shards.due(self.model, count)
        return sum(self.score(job_id, shard) for job_id, shard in due)

    def _score(self, piece: Slice) -> SliceOutcome:
        scored, errors = [], list(piece.failures)
        for document, index in zip(piece.documents, piece.indices, strict=True):
            name = name_of(document)
            if self.fails is not None and self.fails in name:
                error = ItemError(self.code, "no")
                errors.append(failure_of(piece.line, index, document, error))
            else:
                self.scored += 1
                margin = margin_of(name_of(piece.query), name) + self.jitter * self.scored
                twin = piece.twins.get(index)
                own = {"id": document.id, "metadata": document.metadata}
                own["twin"] = None if twin is None else str(twin)
                scored.append(Scored(index=index, margin=margin, **own))
        return SliceOutcome(
            line=piece.line,
            id=piece.id,
            top_n=piece.top_n,
            metadata=piece.metadata,
            results=scored,
            errors=errors,
        )


def run(control: Control, *workers: Worker, until: Callable[[], bool] = lambda: False) -> None:
    """Process the recorded hints in order until none are left (or `until`)."""
    while hints := control.hints.take():
        for number, (kind, *args) in enumerate(hints):
            if until():
                control.hints.sent[:0] = hints[number:]
                return
            if kind == "feed":
                feed(args[0], control)
            elif kind == "finish":
                finish(args[0], control)
            elif workers:
                workers[number % len(workers)].score(*args)


def write_part(control: Control, lease: Lease, outcomes: list[SliceOutcome], part: str) -> None:
    """Write a part file under the given name."""
    start, _ = shard_range(lease.shard)
    uri = part_uri(control.objects, lease.job_id, start, part)
    control.objects.write(uri, dump_part(outcomes, PROVENANCE))
