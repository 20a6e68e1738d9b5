"""The store and its model side by side: every verb is done to both, and twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from rerankfleet.shared.job_status import ShardSummary
from rerankfleet.shared.state.jobs import SWEEP_MS
from rerankfleet.shared.state.records import Job, Lease, OpenShard
from rerankfleet.shared.state.shards import OUTAGE_MS
from rerankfleet.shared.state.store import Store
from tests.support.documented_keys import undocumented_keys
from tests.support.records import MODEL, spec_of
from tests.support.redis_contents import (
    Contents,
    JobContents,
    reader,
    scores_of,
    without_times,
)
from tests.support.server_time import ServerTime
from tests.support.shard_model import (
    ERRORS,
    OUTCOMES,
    REJECTED,
    SCORED,
    ModelJob,
    ModelShard,
    ShardModel,
    bounds,
)

TICK_MS = 32_000
"""Time passes by whole ticks, and no time that matters is a whole one: then it does not matter how
long a call really takes."""
CALL_MS = TICK_MS // 4
"""No call takes so long, even on a busy machine."""
LEASE_MS, DEADLINE_MS, INLINE_TTL_MS = (int(ticks * TICK_MS) for ticks in (9.5, 20.5, 30.5))
RESULT_TTL_MS, PARTS_TTL_MS = (int(ticks * TICK_MS) for ticks in (120.5, 60.5))
REPEATABLE = frozenset(
    "create pause cancel retry begin hold decide finish claim renew commit".split()
)
"""What answers a second time as it did the first. The others say that it was done before."""

T = TypeVar("T")
Place = tuple[str, int, str, int]
"""Where a feeder is: job, round, cursor, items cut."""


def summary_of(places: Sequence[str]) -> ShardSummary:
    """What a commit says of pairs with these outcomes."""
    counts = {name: places.count(name) for name in (SCORED, ERRORS, REJECTED)}
    return ShardSummary(**counts, codes={"failed": counts[ERRORS]})


def ranges(at: int, sizes: Sequence[int]) -> list[str]:
    """The names of shards of these sizes, from an item on."""
    names = []
    for size in sizes:
        names.append(f"{at}-{at + size}")
        at += size
    return names


class StoreBesideModel:
    """What is done is remembered too: late callers do it again."""

    def __init__(self, store: Store) -> None:
        self.store, self.client = store, store.client
        self.client.flushall()
        self.time = ServerTime(self.client, store.keys.prefix)
        self.read_all = reader(self.client, store.keys.prefix)
        self.model = ShardModel(
            lease=LEASE_MS, outage=OUTAGE_MS, result_ttl=RESULT_TTL_MS, parts_ttl=PARTS_TTL_MS
        )
        self.pulsing = True
        self.records: dict[str, Job] = {}
        self.shards: list[tuple[str, str]] = []
        self.leases: list[Lease] = []
        self.commits: list[tuple[Lease, str, list[str]]] = []
        self.splits: list[tuple[str, str]] = []
        self.places: list[Place] = []
        self.steps: list[tuple[str, str]] = []
        self.sweeping: list[tuple[str, int]] = []
        self._number = 0
        self.pulse()

    def new_name(self, kind: str) -> str:
        """A name that nothing else has."""
        self._number += 1
        return f"{kind}{self._number}"

    def do(self, verb: str, call: Callable[[], T], expect: Callable[[], object]) -> T:
        """Do something twice: a client whose connection ended before the reply does so by itself.
        The answers are the model's, and the second call changes nothing."""
        answer = call()
        assert answer == expect(), verb
        before = self.contents()
        again = call()
        assert again == expect(), f"{verb}, repeated"
        if verb in REPEATABLE:
            assert again == answer, f"{verb} gives another answer when it is repeated"
        assert self.contents() == before, f"{verb} changes something when it is repeated"
        return answer

    def contents(self) -> dict[str, Any]:
        """All that is in Redis, but for times."""
        return without_times(self.read_all())

    # ---- time ------------------------------------------------------------------------------------

    def pass_time(self, ticks: int) -> None:
        """Let time pass. A coordinator that lives gives signs of life all the while."""
        self.time.move(ticks * TICK_MS, pulsing=self.pulsing)
        self.model.pass_time(ticks * TICK_MS, pulsing=self.pulsing)

    def pulse(self) -> None:
        """A coordinator lives again."""
        assert self.store.coordination.pulse() == self.model.pulse()
        self.pulsing = True

    def die(self, lease: Lease) -> None:
        """As if the time of this lease were over."""
        job = self.model.jobs.get(lease.job_id)
        shard = job.shards.get(lease.shard) if job else None
        if shard is None or shard.token != lease.token or shard.until <= self.model.now:
            return
        shard.until = self.model.now
        member = {f"{lease.job_id}/{lease.shard}": self.time.now_ms - 1}
        self.client.zadd(self.store.keys.open(MODEL), member, xx=True)

    # ---- jobs ------------------------------------------------------------------------------------

    def submit(self, pairs: int) -> str:
        id_ = self.new_name("job")
        spec = spec_of(key=f"key of {id_}")
        self.model.create(id_, pairs)
        self.do("create", lambda: self.store.jobs.create(id_, spec, "digest"), lambda: id_)
        self.records[id_] = self.store.jobs.get(id_)
        self.places.append((id_, 0, "", 0))
        return id_

    def ask(self, sizes: Sequence[int], *, keyed: bool) -> str:
        """An interactive request."""
        id_, ttl_s = self.new_name("ask"), INLINE_TTL_MS / 1000
        files = [
            (name, self.store.inline.put(id_, f"0-{name}-inline", b"{}", ttl_s))
            for name in ranges(0, sizes)
        ]
        shards = [OpenShard(*bounds(name), file) for name, file in files]
        spec = spec_of(key=f"key of {id_}" if keyed else None)
        times = {"deadline_ms": DEADLINE_MS, "inline_ttl_ms": INLINE_TTL_MS}
        create = self.store.jobs.create
        self.do("create", lambda: create(id_, spec, "", shards=shards, **times), lambda: id_)
        self.model.create_inline(id_, files, deadline=DEADLINE_MS, ttl=INLINE_TTL_MS)
        self.records[id_] = self.store.jobs.get(id_)
        self.shards += [(id_, name) for name, _ in files]
        return id_

    def feed(self, place: Place, sizes: Sequence[int], *, short: bool = False) -> str:
        """Cut shards of these sizes; a cancelled job may end `short` of its input."""
        id_, round_, cursor, at = place
        job = self.model.jobs.get(id_)
        total = len(job.order) if job and job.round == round_ else at
        names = [name for name in ranges(at, sizes) if bounds(name)[1] <= total]
        end = bounds(names[-1])[1] if names else at
        after, short = str(end) if names else cursor, bool(short and job and job.cancelled)
        files = [(name, self.new_name(f"{round_}-{name}-")) for name in names]
        shards = [OpenShard(*bounds(name), file) for name, file in files]
        record = self.records[id_].with_facts({"round": str(round_)})
        options = {"sealed": short or end == total, "short": short, "low_water": 1}
        if not names and not options["sealed"]:
            return "nothing"
        answer, _ = self.do(
            "open",
            lambda: self.store.shards.open(record, (cursor, after), shards, lines=1, **options),
            lambda: self.model.open(id_, round_, (cursor, after), files, **options),
        )
        self.places.append((id_, round_, after, end))
        self.shards += [(id_, name) for name in names]
        return answer

    def pause(self, id_: str, *, even_cancelled: bool = False, lease: Lease | None = None) -> str:
        holder = (lease.shard, lease.token) if lease else ("", "")
        return self.do(
            "pause",
            lambda: self.store.jobs.pause(
                self.records[id_], "why", even_cancelled=even_cancelled, lease=lease
            ),
            lambda: self.model.pause(id_, "why", even_cancelled, holder),
        )

    def resume(self, id_: str) -> None:
        record, job = self.read(id_), self.model.jobs.get(id_)
        was_paused = bool(job and job.paused is not None)

        def expected() -> tuple[str, list[str]]:
            answer, shards = self.model.resume(id_)
            return ("resumed", shards) if answer == "running" and was_paused else (answer, shards)

        def call() -> tuple[str, list[str]]:
            answer, shards = self.store.jobs.resume(record)
            return answer, sorted(shards)

        self.do("resume", call, expected)

    def cancel(self, id_: str) -> None:
        record = self.records[id_]
        self.do("cancel", lambda: self.store.jobs.cancel(record), lambda: self.model.cancel(id_))

    def retry(self, id_: str, only: str) -> None:
        record = self.read(id_)
        answer = self.do(
            "retry",
            lambda: self.store.jobs.retry(record, only),
            lambda: self.model.retry(id_, only, record.round),
        )
        if answer == "reopened":
            self.places.append((id_, record.round + 1, "", 0))

    def read(self, id_: str) -> Job:
        """A job as a client reads it; one that is gone as it was."""
        jobs = self.store.jobs.get_many([id_])
        return jobs[0] if jobs else self.records[id_]

    # ---- steps of the coordinator ----------------------------------------------------------------

    def step(self, verb: str, id_: str, token: str, attempt: str = "") -> Any:
        """One of begin, hold, end, decide, undecide, finish."""
        jobs, model, record = self.store.jobs, self.model, self.records[id_]
        calls: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
            "begin": (lambda: jobs.begin_step(id_, token), lambda: model.begin(id_, token)),
            "hold": (lambda: jobs.hold_step(id_, token), lambda: model.hold(id_, token)),
            "end": (lambda: jobs.end_step(id_, token), lambda: model.end(id_, token)),
            "decide": (lambda: jobs.decide(id_, token), lambda: model.decide(id_, token)),
            "undecide": (
                lambda: jobs.undecide(id_, token, attempt),
                lambda: model.undecide(id_, token, attempt),
            ),
            "finish": (
                lambda: jobs.finish(record, token, "file:///out"),
                lambda: model.finish(id_, token),
            ),
        }
        if verb == "begin":
            self.steps.append((id_, token))
        return self.do(verb, *calls[verb])

    def begin_sweep(self) -> None:
        """Begin to remove the files of the jobs that are due for it."""
        for id_ in self.store.jobs.sweepable():
            remaining_ms = self.store.jobs.begin_sweep(id_)
            self.model.begin_sweep(id_, SWEEP_MS)
            if remaining_ms >= 0:
                self.sweeping.append((id_, remaining_ms and remaining_ms + 60_000))

    def end_sweep(self) -> None:
        """End it."""
        for id_, again_ms in self.sweeping:
            self.store.jobs.end_sweep(id_, again_ms=again_ms)
            self.model.end_sweep(id_)
        self.sweeping.clear()

    # ---- shards ----------------------------------------------------------------------------------

    def claim(
        self,
        id_: str,
        name: str,
        token: str,
        *,
        worker: str = "w1",
        alone: bool = False,
        fingerprint: str = "fp",
    ) -> Lease | str:
        def call() -> Lease | str:
            return self.store.shards.claim(
                id_,
                MODEL,
                name,
                token=token,
                worker=worker,
                alone=alone,
                fingerprint=fingerprint,
            )

        def expected() -> object:
            answer = self.model.claim(
                id_, name, token, worker, alone=alone, fingerprint=fingerprint
            )
            if answer not in ("yes", "poison"):
                return answer
            file = self.model.jobs[id_].shards[name].file
            return Lease(id_, MODEL, name, token, file, answer == "poison", worker)

        answer = self.do("claim", call, expected)
        if isinstance(answer, Lease):
            self.leases.append(answer)
        elif answer == "split":
            self.splits.append((id_, name))
        return answer

    def renew(self, leases: Sequence[Lease]) -> None:
        self.do(
            "renew",
            lambda: self.store.shards.renew(leases),
            lambda: self.model.renew([(x.job_id, x.shard, x.token) for x in leases]),
        )

    def commit(self, lease: Lease, part: str, places: list[str]) -> None:
        summary = summary_of(places)
        self.do(
            "commit",
            lambda: self.store.shards.commit(lease, part, summary),
            lambda: self.model.commit(lease.job_id, lease.shard, lease.file, part, places),
        )
        self.commits.append((lease, part, places))

    def release(self, lease: Lease) -> None:
        self.do(
            "release",
            lambda: self.store.shards.release(lease),
            lambda: self.model.release(lease.job_id, lease.shard, lease.token),
        )

    def split(self, id_: str, name: str) -> None:
        halves = self.do(
            "split",
            lambda: self.store.shards.split(id_, MODEL, name),
            lambda: self.model.split(id_, name),
        )
        self.shards += [(id_, half) for half in halves]

    # ---- what must be true -----------------------------------------------------------------------

    def check(self) -> None:
        """Every pair is in exactly one place, and Redis holds what the model does."""
        contents = self.read_all()
        for job in self.model.jobs.values():
            read = JobContents.of(job.id, contents, self.store.keys)
            self._check_places(job, read)
            self._check_facts(job, read)
            self._check_shards(job, read)
        self._check_lists(contents)
        types = {key: kind for key, (kind, _) in contents.items()}
        assert undocumented_keys(types, self.store.keys.prefix) == []

    def _check_places(self, job: ModelJob, read: JobContents) -> None:
        """By Redis alone: committed and open shards tile what was cut, and the counts add up."""
        open_ = [bounds(name) for name in read.open]
        parts = [(start, end) for start, (end, _) in read.parts.items()]
        record, at = read.record, 0
        if job.parts_until > self.model.now:
            for start, end in sorted([*open_, *parts]):
                assert start == at < end, f"{job.id}: items {at} to {start}"
                at = end
            assert at == record.number("fed") - record.number("base")
        waiting = sum(end - start for start, end in open_)
        assert record.progress.done + waiting == record.number("fed")
        assert record.progress.total == (record.number("fed") if record.sealed else None)
        assert not record.finished or (record.sealed and not waiting)

    def _check_facts(self, job: ModelJob, read: JobContents) -> None:
        """The counts and facts of a job are the model's."""
        record, counts = read.record, job.counts
        assert {name: getattr(record.progress, name) for name in OUTCOMES} == {
            name: counts[name] for name in OUTCOMES
        }
        assert record.error_codes == ({"failed": counts[ERRORS]} if counts[ERRORS] else {})
        found = (record.sealed, record.cancelled, record.paused, record.finished, record.round)
        finished = job.finished_at is not None
        assert found == (job.sealed, job.cancelled, job.paused, finished, job.round)
        facts = {
            "cursor": job.cursor,
            "fingerprint": job.fingerprint,
            "step_token": job.step,
            "publishing": job.publishing,
        }
        assert {name: record.facts.get(name) for name in facts} == facts

    def _check_shards(self, job: ModelJob, read: JobContents) -> None:
        """The records of open shards and the parts are the model's."""
        assert read.open == {name: record_of(shard) for name, shard in job.shards.items()}
        assert read.parts == job.parts

    def _check_lists(self, contents: Contents) -> None:
        """Shards that may be claimed are in the open set and unfinished jobs in the monitor's list,
        due within a bounded time: nothing is forgotten. Nothing else is there."""
        keys, jobs, now = self.store.keys, self.model.jobs, self.time.now_ms
        due = scores_of(contents, keys.open(MODEL))
        running = [job for job in jobs.values() if job.paused is None]
        assert due.keys() == {f"{job.id}/{name}" for job in running for name in job.shards}
        assert all(at <= now + LEASE_MS + CALL_MS for at in due.values())
        free = {
            f"{job.id}/{name}"
            for job in running
            for name, shard in job.shards.items()
            if shard.token is None or shard.until <= self.model.now
        }
        assert {member for member, at in due.items() if at <= now} <= free
        looked_at = scores_of(contents, keys.jobs)
        assert looked_at.keys() == {job.id for job in jobs.values() if job.finished_at is None}
        for id_, at in looked_at.items():
            at_most = DEADLINE_MS if jobs[id_].inline_ttl else LEASE_MS
            assert at <= now + at_most + CALL_MS


def record_of(shard: ModelShard) -> dict[str, Any]:
    """A shard's record as Redis has it."""
    fields = {
        "file": shard.file,
        "token": shard.token,
        "worker": shard.worker,
        "suspect": int(shard.suspect),
        "alone": int(shard.alone),
        "deaths": shard.deaths,
    }
    return {name: value for name, value in fields.items() if value}
