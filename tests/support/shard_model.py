"""Jobs and their shards in plain Python: the model beside which the scripts in Redis are tested.

It was written from what the documentation promises, not from the scripts, and knows nothing of
Redis. Times are in ms. Every verb returns what the store returns for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

UNREAD, OPEN = "unread", "open"
SCORED, ERRORS, REJECTED, CANCELLED = "scored", "errors", "rejected", "cancelled"
OUTCOMES = (SCORED, ERRORS, REJECTED, CANCELLED)
NEVER = 1 << 60


def bounds(shard: str) -> tuple[int, int]:
    """The first item of a shard, and the one behind its last."""
    start, _, end = shard.partition("-")
    return int(start), int(end)


@dataclass
class ModelShard:
    """A shard that has no result yet."""

    file: str
    token: str | None = None
    worker: str | None = None
    alone: bool = False
    until: int = 0
    suspect: bool = False
    deaths: int = 0

    def drop_lease(self) -> None:
        self.token, self.worker, self.alone = None, None, False


@dataclass
class ModelJob:
    """A job: where each of its pairs is, and what the verbs must know of it."""

    id: str
    places: list[str]
    """Where each pair is: not read yet, in an open shard, or its outcome."""
    inline_ttl: int = 0
    deadline: int = NEVER
    order: list[int] = field(default_factory=list)
    """The pairs of this round in the order in which they are cut: item n is pair order[n]."""
    cursor: str = ""
    cut: int = 0
    sealed: bool = False
    short: bool = False
    low_water: int = 0
    shards: dict[str, ModelShard] = field(default_factory=dict)
    parts: dict[int, tuple[int, str]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    """The shards of the first round, as they were cut."""
    cancelled: bool = False
    paused: str | None = None
    fingerprint: str | None = None
    finished_at: int | None = None
    step: str | None = None
    step_until: int = 0
    publishing: str | None = None
    round: int = 0
    sweeping_until: int = 0
    parts_until: int = NEVER
    until: int = NEVER
    """When it is forgotten."""

    @property
    def sizes(self) -> list[int]:
        """Of the shards of the first round."""
        return [end - start for start, end in map(bounds, self.names)]

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.places)

    def move(self, shard: str, places: Sequence[str]) -> None:
        """Put the pairs of a shard in these places."""
        start, end = bounds(shard)
        for pair, place in zip(self.order[start:end], places, strict=True):
            self.places[pair] = place


class ShardModel:
    """All jobs of one model, and the coordinators' pulse."""

    def __init__(self, *, lease: int, outage: int, result_ttl: int, parts_ttl: int) -> None:
        self.now = 0
        self.jobs: dict[str, ModelJob] = {}
        self.pulsed_at = self.amnesty = -NEVER
        self._lease, self._outage = lease, outage
        self._result_ttl, self._parts_ttl = result_ttl, parts_ttl

    # ---- time ------------------------------------------------------------------------------------

    def pass_time(self, ms: int, *, pulsing: bool) -> None:
        """Let time pass; `pulsing`: a coordinator lives all the while."""
        self.now += ms
        if pulsing:
            self.pulsed_at = self.now
        for job in list(self.jobs.values()):
            if job.until <= self.now:
                del self.jobs[job.id]
            elif job.parts_until <= self.now:
                job.parts.clear()

    def pulse(self) -> bool:
        """A coordinator gives a sign of life: after a silence there is an amnesty."""
        silent = self._silent
        self.pulsed_at = self.now
        if silent:
            self.amnesty = self.now + self._lease
        return silent

    @property
    def _silent(self) -> bool:
        return self.now - self.pulsed_at >= self._outage

    # ---- jobs ------------------------------------------------------------------------------------

    def create(self, id_: str, pairs: int) -> None:
        """A job with its whole input unread."""
        self.jobs[id_] = ModelJob(id_, [UNREAD] * pairs, order=list(range(pairs)))

    def create_inline(
        self, id_: str, shards: Sequence[tuple[str, str]], *, deadline: int, ttl: int
    ) -> None:
        """A small request: sealed from the beginning, with its shards (name, file) open."""
        pairs = bounds(shards[-1][0])[1]
        job = ModelJob(id_, [OPEN] * pairs, ttl, self.now + deadline, order=list(range(pairs)))
        job.sealed, job.cut = True, pairs
        job.shards = {name: ModelShard(file) for name, file in shards}
        self.jobs[id_] = job

    def pause(self, id_: str, reason: str, even_cancelled: bool, lease: tuple[str, str]) -> str:
        job = self.jobs.get(id_)
        if job is None:
            return "gone"
        if job.finished_at is not None:
            return "finished"
        if job.cancelled and not even_cancelled:
            return "cancelled"
        shard, token = lease
        if shard and (shard not in job.shards or job.shards[shard].token != token):
            return "lost"
        job.paused = reason
        return "paused"

    def resume(self, id_: str) -> tuple[str, list[str]]:
        job = self.jobs.get(id_)
        if job is None:
            return "gone", []
        if job.finished_at is not None:
            return "finished", []
        if job.paused is None:
            return "running", []
        job.paused = None
        for shard in job.shards.values():
            shard.drop_lease()
        return "resumed", sorted(job.shards)

    def cancel(self, id_: str) -> str:
        job = self.jobs.get(id_)
        if job is None:
            return "gone"
        if job.finished_at is not None:  # a small request ended with its cancellation
            return "cancelled" if job.inline_ttl and job.cancelled else "finished"
        job.cancelled, job.paused = True, None
        for name, shard in job.shards.items():
            self._leave(job, name, shard.file)
        job.shards.clear()
        if job.inline_ttl:
            self._end(job, job.inline_ttl, job.inline_ttl)
        return "cancelled"

    def _leave(self, job: ModelJob, name: str, file: str) -> None:
        """Record a shard of a cancelled job."""
        start, end = bounds(name)
        job.move(name, [CANCELLED] * (end - start))
        job.parts[start] = (end, f"!{file}")

    def _end(self, job: ModelJob, ttl: int, parts_ttl: int) -> None:
        job.finished_at = self.now
        job.until, job.parts_until = self.now + ttl, self.now + parts_ttl

    def retry(self, id_: str, only: str, round_: int) -> str:
        """What has no score is fed again, except what was rejected; `only` errors: except what was
        cancelled too."""
        job = self.jobs.get(id_)
        if job is None:
            return "gone"
        if job.finished_at is None:
            return "reopened" if job.round == round_ + 1 else "unfinished"
        if job.sweeping_until > self.now:
            return "sweeping"
        due = {ERRORS, UNREAD} | ({CANCELLED} if only == "all" else set())
        order = [pair for pair, place in enumerate(job.places) if place in due]
        if not order and not job.short:
            return "nothing"
        for pair in order:
            job.places[pair] = UNREAD
        job.round += 1
        job.order, job.cursor, job.cut, job.sealed, job.short = order, "", 0, False, False
        job.parts = {}
        job.cancelled, job.paused, job.finished_at = False, None, None
        job.until = job.parts_until = NEVER
        return "reopened"

    # ---- steps of the coordinator ----------------------------------------------------------------

    def begin(self, id_: str, token: str) -> str:
        job = self.jobs.get(id_)
        if job is None:
            return "gone"
        if job.finished_at is not None:
            return "finished"
        if job.step not in (None, token) and job.step_until > self.now:
            return "busy"
        job.step, job.step_until = token, self.now + self._lease
        return "yes"

    def _held(self, id_: str, token: str) -> ModelJob | None:
        """The job, if this is its step."""
        job = self.jobs.get(id_)
        return job if job and job.step == token and job.finished_at is None else None

    def hold(self, id_: str, token: str) -> str:
        job = self._held(id_, token)
        if job is None:
            return "lost"
        job.step_until = self.now + self._lease
        if job.paused is not None:
            return "paused"
        return "cancelled" if job.cancelled else "held"

    def end(self, id_: str, token: str) -> bool:
        job = self._held(id_, token)
        if job:
            job.step = None
        return job is not None

    def decide(self, id_: str, token: str) -> str:
        job = self._held(id_, token)
        if job is None or not job.sealed or job.shards:
            return ""
        job.publishing = job.publishing or token
        return job.publishing

    def undecide(self, id_: str, token: str, attempt: str) -> None:
        job = self._held(id_, token)
        if job and job.publishing == attempt:
            job.publishing = None

    def finish(self, id_: str, token: str) -> bool:
        job = self.jobs.get(id_)
        if job and job.finished_at is not None:
            return True
        job = self._held(id_, token)
        if job is None or not job.sealed or job.shards:
            return False
        job.step = job.publishing = None
        self._end(job, self._result_ttl, self._parts_ttl + 1000)
        return True

    def begin_sweep(self, id_: str, ms: int) -> None:
        job = self.jobs.get(id_)
        if job and job.finished_at is not None:
            job.sweeping_until = self.now + ms

    def end_sweep(self, id_: str) -> None:
        if id_ in self.jobs:
            self.jobs[id_].sweeping_until = 0

    # ---- shards ----------------------------------------------------------------------------------

    def open(
        self,
        id_: str,
        round_: int,
        cursor: tuple[str, str],
        shards: Sequence[tuple[str, str]],
        *,
        sealed: bool,
        short: bool,
        low_water: int,
    ) -> tuple[str, int]:
        """Open shards (name, file) if the cursor of this round is still there; nothing is opened
        in a pause."""
        job = self.jobs.get(id_)
        if job is None or job.finished_at is not None or job.sealed:
            return "stale", 0
        if (job.round, job.cursor) != (round_, cursor[0]):
            return "stale", 0
        if job.paused is not None:
            return "paused", 0
        for name, file in shards:
            if job.cancelled:
                self._leave(job, name, file)
            else:
                start, end = bounds(name)
                job.move(name, [OPEN] * (end - start))
                job.shards[name] = ModelShard(file)
            job.cut = bounds(name)[1]
            if not job.round:
                job.names.append(name)
        job.cursor, job.sealed, job.short = cursor[1], sealed or short, short
        job.low_water = low_water
        return "opened", len(job.shards)

    def claim(
        self, id_: str, name: str, token: str, worker: str, *, alone: bool, fingerprint: str
    ) -> str:
        """The answer of a claim; "yes" and "poison" are a lease."""
        job = self.jobs.get(id_)
        shard = job.shards.get(name) if job else None
        if job is None or shard is None:
            return "done"
        if job.paused is not None:
            return "paused"
        if shard.token not in (None, token) and shard.until <= self.now:
            self._lose(shard)
        if job.fingerprint not in (None, fingerprint):
            return "newer"
        if shard.token not in (None, token):
            return "busy"
        start, end = bounds(name)
        poison = end - start == 1 and shard.deaths >= 2
        if end - start > 1 and shard.deaths >= 1:
            return "split"
        if shard.suspect and not alone and not poison:
            return "suspect"
        job.fingerprint = fingerprint
        shard.token, shard.worker, shard.until = token, worker, self.now + self._lease
        shard.alone = shard.suspect
        return "poison" if poison else "yes"

    def _lose(self, shard: ModelShard) -> None:
        """A lease that ran out blames its shard, unless there was an outage at that time."""
        if shard.until > self.amnesty and not self._silent:
            shard.suspect = True
            shard.deaths += shard.alone
        shard.drop_lease()

    def renew(self, leases: Sequence[tuple[str, str, str]]) -> list[str]:
        """Renew leases (job, shard, token): a holder may even when its time is over, as long as
        nobody else claimed the shard."""
        return [self._renew(*lease) for lease in leases]

    def _renew(self, id_: str, name: str, token: str) -> str:
        job = self.jobs.get(id_)
        if job and job.cancelled:
            return "cancelled"
        shard = job.shards.get(name) if job else None
        if job is None or shard is None:
            return "lost"
        if job.paused is not None:
            return "paused"
        if shard.token != token:
            return "lost"
        shard.until = self.now + self._lease
        return "ok"

    def commit(
        self, id_: str, name: str, file: str, part: str, places: Sequence[str]
    ) -> tuple[str, bool, bool]:
        """The first part that comes for a shard is its result, whoever brings it."""
        job = self.jobs.get(id_)
        if job is None:
            return "late", False, False
        start, end = bounds(name)
        answer = "late"
        shard = job.shards.get(name)
        if shard and shard.file == file:
            del job.shards[name]
            job.parts[start] = (end, part)
            job.move(name, places)
            answer = "committed"
        elif job.parts.get(start) == (end, part):
            answer = "committed"
        is_last = job.sealed and not job.shards and job.finished_at is None
        if is_last and job.inline_ttl:
            self._end(job, job.inline_ttl, job.inline_ttl)
            is_last = False
        return answer, not job.sealed and len(job.shards) <= job.low_water, is_last

    def release(self, id_: str, name: str, token: str) -> bool:
        """Give a shard back: nobody is blamed."""
        job = self.jobs.get(id_)
        shard = job.shards.get(name) if job else None
        if shard is None or shard.token != token:
            return False
        shard.drop_lease()
        return True

    def split(self, id_: str, name: str) -> list[str]:
        """Halve a shard with which a worker died that held nothing else."""
        job = self.jobs.get(id_)
        shard = job.shards.get(name) if job else None
        start, end = bounds(name)
        if job is None or shard is None or shard.token or not shard.deaths or end - start < 2:
            return []
        middle = (start + end) // 2
        del job.shards[name]
        halves = [f"{start}-{middle}", f"{middle}-{end}"]
        for half in halves:
            job.shards[half] = ModelShard(shard.file, suspect=True)
        return halves
