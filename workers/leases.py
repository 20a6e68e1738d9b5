"""The shards that one worker process holds: claims, renewal, and isolation of suspects.

Ordinary shards share the worker; a shard that may have killed its last worker is claimed only by a
process that holds nothing else, so that a second death proves which shard caused it.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import structlog

from rerankfleet.shared.metrics import BATCH_SPLITS, RETRIES
from rerankfleet.shared.queue import Hints
from rerankfleet.shared.state.connection import REDIS_AWAY, REDIS_ERRORS
from rerankfleet.shared.state.records import Lease
from rerankfleet.shared.state.store import Store
from rerankfleet.workers.recorder import Recorder

RELEASE_S = 2.0
"""How long a process that is about to exit may spend on releasing its shards."""
REDIS_BACKOFF_S = 1.0

log = structlog.get_logger()


def end_leases(store: Store, model: str, worker: str) -> None:
    """End the leases of a worker whose process is known to be gone, so that nobody waits for them
    to run out. They make suspects as if they had."""
    ended = store.shards.end_leases(model, worker)
    store.fleet.leave(worker)
    log.info("a worker is gone", worker=worker, leases=ended)


@dataclass(frozen=True, slots=True)
class HeldShard:
    """A leased shard; `stop` is set when this worker is to stop working on it."""

    lease: Lease
    stop: threading.Event = field(default_factory=threading.Event)


class Leases:
    """Claims shards of one model for one worker, and renews their leases."""

    def __init__(
        self,
        store: Store,
        hints: Hints,
        *,
        model: str,
        worker: str,
        fingerprint: str,
        recorder: Recorder | None = None,
    ) -> None:
        self._store = store
        self._hints = hints
        self._recorder = recorder or Recorder()
        self._model, self._worker, self._fingerprint = model, worker, fingerprint
        self._held: dict[str, HeldShard] = {}
        self._filled_s = 0.0  # when the first shard was claimed
        self._changed = threading.Condition()
        self._inside = 0
        self._alone_wanted = 0
        self._closed = False

    def __len__(self) -> int:
        return len(self._held)

    @property
    def held_s(self) -> float:
        """For how long at least one shard has been held; 0 when none is."""
        return time.monotonic() - self._filled_s if self._held else 0.0

    @contextmanager
    def claim(self, job_id: str, shard: str) -> Iterator[HeldShard | None]:
        """Hold a shard while the block runs; None when it cannot be claimed.

        When the block raises or the process dies, the lease expires, which makes the shard a
        suspect.
        """
        with self._shared():
            answer = self._claim_or_split(job_id, shard, alone=False)
            if answer != "suspect":
                with self._tracked(answer) as held:
                    yield held
                return
        with self._alone() as alone:
            answer = self._claim_or_split(job_id, shard, alone=True) if alone else "closed"
            with self._tracked(answer) as held:
                if held and not held.lease.poison:
                    self._recorder.add(RETRIES, "worker_died")
                yield held

    def _claim_or_split(self, job_id: str, shard: str, *, alone: bool) -> Lease | str:
        answer = self._claim(job_id, shard, alone=alone)
        if answer == "split":
            log.warning("a shard killed its worker, it is split", job=job_id, shard=shard)
            self._recorder.add(BATCH_SPLITS, "poison")
            priority = self._store.jobs.get(job_id).spec.priority
            for half in self._store.shards.split(job_id, self._model, shard):
                self._hints.shard(self._model, priority, job_id, half, first=True)
        return answer

    def _claim(self, job_id: str, shard: str, *, alone: bool) -> Lease | str:
        """Claim until Redis answers: when a reply is lost, the claim may have been granted."""
        token = uuid.uuid4().hex[:16]
        while not self._closed:
            try:
                return self._store.shards.claim(
                    job_id,
                    self._model,
                    shard,
                    token=token,
                    worker=self._worker,
                    alone=alone,
                    fingerprint=self._fingerprint,
                )
            except REDIS_AWAY as error:
                log.warning("a claim waits for Redis", shard=shard, error=str(error))
                self._recorder.add(RETRIES, "redis")
                time.sleep(REDIS_BACKOFF_S)
            except REDIS_ERRORS as error:  # its record is none: the monitor may hint it again
                log.error("a shard cannot be claimed", job=job_id, shard=shard, error=str(error))
                return "unreadable"
        return "closed"

    @contextmanager
    def _tracked(self, answer: Lease | str) -> Iterator[HeldShard | None]:
        if not isinstance(answer, Lease):
            yield None
            return
        held = HeldShard(answer)
        with self._changed:
            if not self._held:
                self._filled_s = time.monotonic()
            self._held[answer.token] = held
            if self._closed:
                held.stop.set()
        try:
            yield held
        finally:
            with self._changed:
                del self._held[answer.token]

    @contextmanager
    def _shared(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._alone_wanted == 0 or self._closed)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Wait until nothing else is held, and keep it so. False when closed."""
        with self._changed:
            self._alone_wanted += 1
            self._changed.wait_for(lambda: self._inside == 0 or self._closed)
            self._inside += 1
        try:
            yield not self._closed
        finally:
            with self._changed:
                self._inside -= 1
                self._alone_wanted -= 1
                self._changed.notify_all()

    def renew(self) -> None:
        """Renew all leases in one call; stop shards that were cancelled or lost."""
        with self._changed:
            shards = list(self._held.values())
        answers = self._store.shards.renew([held.lease for held in shards])
        for held, answer in zip(shards, answers, strict=True):
            if answer in ("lost", "cancelled") and not held.stop.is_set():
                log.info("stopped", job=held.lease.job_id, shard=held.lease.shard, why=answer)
                held.stop.set()

    def close(self) -> None:
        """Claim nothing more, and stop the shards that are held."""
        with self._changed:
            self._closed = True
            for held in self._held.values():
                held.stop.set()
            self._changed.notify_all()

    def release_all(self) -> None:
        """Release all shards, without making them suspects, before the process exits.

        Never raises and takes RELEASE_S at most; a lease that cannot be released expires.
        """
        thread = threading.Thread(target=self._release_all, name="release", daemon=True)
        thread.start()
        thread.join(RELEASE_S)

    def _release_all(self) -> None:
        with self._changed:
            self._closed = True
            shards = list(self._held.values())
        for held in shards:
            with suppress(Exception):
                self._store.shards.release(held.lease)
