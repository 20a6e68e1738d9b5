"""Jobs, shards and leases for tests of the state."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from rerankfleet.shared.job_spec import InputRef, JobSpec, make_spec
from rerankfleet.shared.job_status import ShardSummary
from rerankfleet.shared.state.records import Lease, OpenShard
from rerankfleet.shared.state.store import Store

MODEL = "org/model"

ALL = ShardSummary(scored=10)


def spec_of(**options) -> JobSpec:
    return make_spec(model=MODEL, input=InputRef(uri="file:///in", size=1, tag="t"), **options)


def open_(store: Store, job_id, old, new, shards=(), *, sealed=False, lines=1, low_water=1) -> str:
    answer, _ = store.shards.open(
        store.jobs.get(job_id), (old, new), shards, sealed=sealed, lines=lines, low_water=low_water
    )
    return answer


def claim(store: Store, job_id="a", shard="0-10", token="t1", *, alone=False, fingerprint="fp"):
    return store.shards.claim(
        job_id, MODEL, shard, token=token, worker="w", alone=alone, fingerprint=fingerprint
    )


def run_out(store: Store, lease: Lease) -> None:
    """Expire a lease now."""
    member = f"{lease.job_id}/{lease.shard}"
    store.client.zadd(store.keys.open(MODEL), {member: store.now_ms() - 1}, xx=True)


def die_with(store: Store, job_id: str, shard: str, *, alone: bool) -> None:
    """Let a worker claim a shard and disappear."""
    lease = claim(store, job_id, shard, uuid.uuid4().hex, alone=alone)
    assert isinstance(lease, Lease), lease
    run_out(store, lease)


def inline(store: Store, job_id: str, *ranges: tuple[int, int], deadline_ms=60_000) -> None:
    shards = [
        OpenShard(a, b, store.inline.put(job_id, f"0-{a}-{b}-inline", b"{}", 60)) for a, b in ranges
    ]
    store.jobs.create(
        job_id, spec_of(), "", deadline_ms=deadline_ms, inline_ttl_ms=90_000, shards=shards
    )


def end_job(store: Store, job_id: str) -> None:
    """Finish a job as the coordinator does."""
    assert store.jobs.begin_step(job_id, "finisher") == "yes"
    assert store.jobs.finish(store.jobs.get(job_id), "finisher", "file:///out")


def open_shards(store: Store, model: str = MODEL) -> int:
    """Shards of a model without a result."""
    return store.snapshot([model]).queue(model).open_shards


def leased_shards(store: Store, model: str = MODEL) -> int:
    """Those of them that a worker holds."""
    return store.snapshot([model]).queue(model).leased_shards


def hints_waiting(store: Store, list_keys: Sequence[str]) -> int:
    """Messages that wait in the broker's lists."""
    return sum(store.client.llen(key) for key in list_keys)
