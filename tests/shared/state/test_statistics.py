"""Statistics: each committed shard once, by worker, model, profile and priority, hour by hour."""

from __future__ import annotations

import pytest

from rerankfleet.shared.job_spec import InputRef, Priority, make_spec
from rerankfleet.shared.job_status import ShardSummary
from rerankfleet.shared.score_distribution import ScoreDistribution
from rerankfleet.shared.state.records import Lease, OpenShard
from rerankfleet.shared.state.statistics import CHANGES_KEPT
from rerankfleet.shared.state.store import Store
from rerankfleet.shared.statistics import Statistics

pytestmark = pytest.mark.usefixtures("calm")


MODEL = "org/model"

MARGINS = [-3.0, 0.0, 5.0]

SUMMARY = ShardSummary(
    scored=3,
    errors=1,
    truncated=2,
    crowded=1,
    requests=2,
    tokens=50,
    scores=ScoreDistribution.of(MARGINS),
    profile="shop",
    priority=Priority.bulk,
)


def make(store: Store, job_id: str = "j", shards: int = 2, **options) -> str:
    """A sealed job of shards of four items."""
    spec = make_spec(model=MODEL, input=InputRef(uri="file:///in", size=1, tag="t"), **options)
    store.jobs.create(job_id, spec, "digest")
    opened = [OpenShard(4 * n, 4 * n + 4, f"0-{4 * n}-{4 * n + 4}-x") for n in range(shards)]
    store.shards.open(store.jobs.get(job_id), ("", "1"), opened, sealed=True, lines=1, low_water=0)
    return job_id


def claim(store: Store, shard: str = "0-4", token: str = "t", worker: str = "w1", **options):
    options = {"job_id": "j", "alone": False, "fingerprint": "fp"} | options
    return store.shards.claim(model=MODEL, shard=shard, token=token, worker=worker, **options)


def rows(store: Store, hours: int = 24) -> dict[tuple[str, str], Statistics]:
    return {(row.kind, row.name): row for row in store.statistics.rows(hours)}


# ---- a commit counts once ------------------------------------------------------------------------


def test_a_commit_is_counted_for_its_worker_model_profile_and_priority(store):
    make(store)

    store.shards.commit(claim(store), "p", SUMMARY)

    found = rows(store)
    assert list(found) == [
        ("worker", "w1"),
        ("model", MODEL),
        ("profile", "shop"),
        ("priority", "bulk"),
    ]
    for row in found.values():
        assert (row.requests, row.pairs, row.errors) == (2, 4, 1)
        assert (row.truncated, row.crowded, row.tokens, row.shards) == (2, 1, 50, 1)
        assert row.latency.count == 1
        assert row.scores == ScoreDistribution.of(MARGINS)
    assert store.jobs.get("j").scores == ScoreDistribution.of(MARGINS)
    assert store.jobs.get("j").progress.crowded == 1


def test_names_with_colons_and_slashes_come_back_whole(store):
    make(store)
    store.shards.commit(claim(store, worker="host:cuda:0:17"), "p", SUMMARY)

    assert ("worker", "host:cuda:0:17") in rows(store)


def test_a_doubled_commit_counts_once(store):
    make(store)
    lease = claim(store)

    for _ in range(3):
        assert store.shards.commit(lease, "p", SUMMARY)[0] == "committed"

    assert rows(store)["worker", "w1"].shards == 1
    assert store.jobs.get("j").scores.count == 3


def test_a_late_commit_adds_nothing_and_the_first_counts_for_who_brought_it(store, client):
    """Given a worker that was thought dead, commits first and whose heir comes late."""
    make(store)
    zombie = claim(store, token="zombie", worker="w1")
    client.zadd(store.keys.open(MODEL), {"j/0-4": store.now_ms() - 1}, xx=True)
    heir = claim(store, token="heir", worker="w2", alone=True)

    assert store.shards.commit(zombie, "of-zombie", SUMMARY)[0] == "committed"
    assert store.shards.commit(heir, "of-heir", SUMMARY)[0] == "late"

    found = rows(store)
    assert found["worker", "w1"].shards == found["model", MODEL].shards == 1
    assert ("worker", "w2") not in found
    assert found["worker", "w1"].latency.count == 0  # the claim that counts now is the heir's


def test_a_repeated_claim_does_not_begin_the_latency_anew(store, client):
    make(store)
    lease = claim(store)
    state = f'{{"f":"{lease.file}","t":"t","w":"w1","c":{store.now_ms() - 60_000}}}'
    client.hset(store.keys.job_open("j"), "0-4", state)

    assert isinstance(claim(store), Lease)
    store.shards.commit(lease, "p", SUMMARY)

    assert rows(store)["worker", "w1"].latency.p50_s == pytest.approx(60, rel=0.1)


def test_a_retry_counts_no_score_twice(store):
    """Given a job of which one pair failed; it alone is scored again."""
    make(store, shards=1)
    store.shards.commit(claim(store), "p", SUMMARY)
    assert store.jobs.begin_step("j", "step") == "yes"
    assert store.jobs.finish(store.jobs.get("j"), "step", "file:///out")
    assert store.jobs.retry(store.jobs.get("j"), "all") == "reopened"
    store.shards.open(
        store.jobs.get("j"),
        ("", "1"),
        [OpenShard(0, 1, "1-0-1-y")],
        sealed=True,
        lines=1,
        low_water=0,
    )
    again = ShardSummary(scored=1, requests=1, scores=ScoreDistribution.of([9.0]))

    store.shards.commit(claim(store, "0-1", token="again"), "p", again)

    job = store.jobs.get("j")
    assert job.scores.count == job.progress.scored == 4
    assert job.progress.errors == 0
    model = rows(store)["model", MODEL]
    assert (model.scored, model.errors, model.scores.count) == (4, 1, 4)


def test_an_interactive_request_counts_too(store):
    spec = make_spec(
        model=MODEL,
        input=InputRef(uri="", size=0, tag=""),
        priority=Priority.interactive,
    )
    file = store.inline.put("j", "0-0-4-inline", b"payload", 60)
    store.jobs.create(
        "j", spec, "", deadline_ms=60_000, inline_ttl_ms=90_000, shards=[OpenShard(0, 4, file)]
    )

    summary = SUMMARY.model_copy(update={"priority": Priority.interactive, "profile": "default"})
    store.shards.commit(claim(store), "p", summary)

    found = rows(store)
    assert found["priority", "interactive"].requests == 2
    assert found["profile", "default"].pairs == 4


def test_hours_are_added_up_and_older_ones_left_out(store, client):
    make(store)
    store.shards.commit(claim(store), "p", SUMMARY)
    now = store.now_ms() // 3_600_000
    for hours_ago, requests in ((1, 10), (3, 100), (5, 1000)):
        key = store.keys.stats_of("model", MODEL, now - hours_ago)
        client.hset(key, "requests", requests)
        client.expire(key, 100)

    assert rows(store, 1)["model", MODEL].requests == 2
    assert rows(store, 4)["model", MODEL].requests == 112


def test_counters_and_their_list_have_an_end(store, client):
    client.zadd(store.keys.stats, {f"{store.keys.stats_of('worker', 'gone')}": 1})
    make(store)
    store.shards.commit(claim(store), "p", SUMMARY)

    keys = [store.keys.stats, *client.scan_iter(f"{store.keys.stats}:*")]
    assert len(keys) == 5
    assert all(24 * 3600 < client.ttl(key) <= 25 * 3600 for key in keys)
    assert client.zcard(store.keys.stats) == 4


def test_nothing_committed_is_no_row(store):
    assert store.statistics.rows(24) == []


# ---- temperature ---------------------------------------------------------------------------------


def test_a_job_changes_its_profiles_temperature_once(store):
    make(store, profile="shop")
    job = store.jobs.get("j")

    assert store.statistics.adapt_temperature(job, 0.9)
    assert not store.statistics.adapt_temperature(job, 0.9)

    assert store.statistics.profile_temperature("shop", 1.0) == 0.9
    assert store.statistics.profile_temperature("shop", 0.7) == 0.7
    (change,) = store.statistics.temperature_changes("shop")
    assert (change.job, change.before, change.to) == ("j", 1.0, 0.9)
    store.statistics.forget_temperature("shop")
    assert store.statistics.profile_temperature("shop", 1.0) == 1.0


def test_a_job_at_another_temperature_changes_nothing(store):
    """Given two jobs that began at 1.0; the second ends when the profile is at 0.9 already."""
    for job_id in "ab":
        make(store, job_id, profile="shop")
    first, second = store.jobs.get("a"), store.jobs.get("b")

    assert store.statistics.adapt_temperature(first, 0.9)
    assert not store.statistics.adapt_temperature(second, 0.9)
    assert len(store.statistics.temperature_changes("shop")) == 1


def test_a_change_of_an_older_version_counts_no_more(store, client):
    client.lpush(store.keys.profile("shop"), '{"at_s":1,"job":"i","mean":0.5,"before":1,"to":0.9}')
    make(store, profile="shop")

    assert store.statistics.profile_temperature("shop", 1.0) == 1.0
    assert store.statistics.adapt_temperature(store.jobs.get("j"), 0.9)
    assert len(store.statistics.temperature_changes("shop")) == 2


def test_a_job_that_is_gone_leaves_nothing_behind(store, client):
    make(store, profile="shop")
    job = store.jobs.get("j")
    client.delete(store.keys.job("j"))

    assert not store.statistics.adapt_temperature(job, 0.9)
    assert not client.exists(store.keys.job("j"), store.keys.profile("shop"))
    client.delete(store.keys.job_open("j"), store.keys.open(MODEL))


def test_the_history_is_bounded_and_ends(store, client):
    for number in range(CHANGES_KEPT + 5):
        job_id = make(store, f"j{number}", shards=0, profile="shop")
        assert store.statistics.adapt_temperature(store.jobs.get(job_id), 1.0)

    assert len(store.statistics.temperature_changes("shop", 1000)) == CHANGES_KEPT
    assert client.ttl(store.keys.profile("shop")) > 80 * 86_400
