"""What one worker process holds: shards side by side, a suspect alone, nothing after the drain."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import redis

from rerankfleet.shared.job_spec import InputRef, make_spec
from rerankfleet.shared.metrics import BATCH_SPLITS, RETRIES
from rerankfleet.shared.state.records import Lease, OpenShard
from rerankfleet.shared.state.store import Store
from rerankfleet.workers.leases import HeldShard, Leases
from rerankfleet.workers.recorder import Recorder
from tests.support.fleet import FINGERPRINT, MODEL
from tests.support.hints import RecordedHints
from tests.support.records import leased_shards
from tests.support.wait import patient, wait_until

WAIT_S = patient(10)


@pytest.fixture
def job(store: Store, client) -> str:
    """A job with three shards of ten items, over a coordinator that ticks."""
    store.coordination.pulse()
    client.set(store.keys.amnesty, 0)
    spec = make_spec(model=MODEL, input=InputRef(uri="file:///in", size=1, tag="t"))
    store.jobs.create("j", spec, "digest")
    shards = [OpenShard(at, at + 10, f"0-{at}-{at + 10}-x") for at in (0, 10, 20)]
    store.shards.open(store.jobs.get("j"), ("", "1"), shards, sealed=True, lines=1, low_water=0)
    return "j"


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def leases(store: Store, hints: RecordedHints, recorder: Recorder) -> Leases:
    return Leases(
        store, hints, model=MODEL, worker="w1", fingerprint=FINGERPRINT, recorder=recorder
    )


class Thread:
    """A thread of the pool: claims a shard and holds it until it may go on."""

    def __init__(self, leases: Leases, shard: str) -> None:
        self.held: HeldShard | None = None
        self.claimed, self._go_on = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(leases, shard), daemon=True)
        self._thread.start()

    def _run(self, leases: Leases, shard: str) -> None:
        with leases.claim("j", shard) as self.held:
            self.claimed.set()
            assert self._go_on.wait(WAIT_S)

    def go_on(self) -> None:
        self._go_on.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()


@pytest.fixture
def start(leases: Leases, job: str) -> Iterator:
    """`start(shard)`: a thread that claims; all are let go in the end."""
    threads: list[Thread] = []

    def make(shard: str) -> Thread:
        threads.append(Thread(leases, shard))
        return threads[-1]

    yield make
    for thread in threads:
        thread.go_on()


def run_out(store: Store, shard: str) -> None:
    """The shard's lease is over, and its worker with it."""
    store.client.zadd(store.keys.open(MODEL), {f"j/{shard}": store.now_ms() - 1})


def suspect(store: Store, shard: str, *, alone: bool = False) -> None:
    """A worker died with this shard."""
    token = f"dead-{shard}-{alone}"
    store.shards.claim(
        "j", MODEL, shard, token=token, worker="dead", alone=alone, fingerprint=FINGERPRINT
    )
    run_out(store, shard)


def test_shards_are_held_side_by_side_while_their_blocks_run(leases, job, store):
    with ExitStack() as stack:
        for shard in ("0-10", "10-20"):
            held = stack.enter_context(leases.claim(job, shard))
            assert isinstance(held.lease, Lease)
        assert len(leases) == 2
        assert leased_shards(store, MODEL) == 2
    assert len(leases) == 0


def test_what_another_worker_holds_or_did_is_not_ours(leases, job, store):
    other = Leases(store, RecordedHints(), model=MODEL, worker="w2", fingerprint=FINGERPRINT)
    with other.claim(job, "0-10"), leases.claim(job, "0-10") as held:
        assert held is None
    with leases.claim(job, "90-99") as held:
        assert held is None
    with leases.claim("nobody", "0-10") as held:
        assert held is None


def test_a_block_that_raises_leaves_its_lease_to_run_out(leases, job, store):
    def fail():
        with leases.claim(job, "0-10"):
            raise MemoryError

    with pytest.raises(MemoryError):
        fail()

    assert len(leases) == 0
    assert leased_shards(store, MODEL) == 1


def test_a_suspect_waits_until_nothing_else_is_held(store, start):
    suspect(store, "0-10")
    first, second = start("10-20"), start("20-30")
    assert first.claimed.wait(WAIT_S)
    assert second.claimed.wait(WAIT_S)

    third = start("0-10")
    first.go_on()
    assert not third.claimed.is_set()
    second.go_on()

    assert third.claimed.wait(WAIT_S)
    assert third.held.lease.shard == "0-10"


def test_nothing_is_claimed_while_a_suspect_is_held(leases, store, start):
    suspect(store, "0-10")
    first = start("0-10")
    assert first.claimed.wait(WAIT_S)

    second = start("10-20")
    wait_until(lambda: threading.active_count() > 2)
    assert not second.claimed.is_set()
    assert len(leases) == 1
    first.go_on()

    assert second.claimed.wait(WAIT_S)
    assert second.held is not None


def test_two_suspects_are_held_one_after_the_other(leases, store, start):
    suspect(store, "0-10")
    suspect(store, "10-20")
    threads = [start("0-10"), start("10-20")]

    wait_until(lambda: any(t.claimed.is_set() for t in threads))
    assert len(leases) == 1
    first = next(t for t in threads if t.claimed.is_set())
    other = next(t for t in threads if t is not first)
    assert not other.claimed.is_set()
    first.go_on()

    assert other.claimed.wait(WAIT_S)


def test_a_shard_that_killed_its_worker_alone_is_split_and_its_halves_are_hinted(
    leases, job, store, hints
):
    suspect(store, "0-10")
    suspect(store, "0-10", alone=True)

    with leases.claim(job, "0-10") as held:
        assert held is None

    assert hints.take() == [("shard", "j", "0-5"), ("shard", "j", "5-10")]
    with leases.claim(job, "0-5") as held:
        assert held.lease.file == "0-0-10-x"


def test_what_dead_workers_left_is_counted_when_it_is_tried_again(leases, job, store, recorder):
    suspect(store, "0-10")
    with leases.claim(job, "0-10"):
        assert recorder.counts()[RETRIES.name][("worker_died",)] == 1
    run_out(store, "0-10")
    with leases.claim(job, "0-10") as held:
        assert held is None

    assert recorder.counts()[BATCH_SPLITS.name][("poison",)] == 1


def test_renewal_stops_what_was_cancelled_or_lost_and_nothing_else(leases, job, store, client):
    with ExitStack() as stack:
        kept, lost, gone = (
            stack.enter_context(leases.claim(job, shard)) for shard in ("0-10", "10-20", "20-30")
        )
        run_out(store, "10-20")
        store.shards.claim(
            "j", MODEL, "10-20", token="x", worker="w2", alone=True, fingerprint=FINGERPRINT
        )
        client.hdel(store.keys.job_open("j"), "20-30")

        leases.renew()
        assert [h.stop.is_set() for h in (kept, lost, gone)] == [False, True, True]
        store.jobs.pause(store.jobs.get("j"), "why")
        leases.renew()
        assert not kept.stop.is_set()
        store.jobs.cancel(store.jobs.get("j"))
        leases.renew()
        assert kept.stop.is_set()


def test_closed_leases_stop_their_shards_and_claim_nothing_more(leases, job):
    with leases.claim(job, "0-10") as held:
        leases.close()
        assert held.stop.is_set()
        with leases.claim(job, "10-20") as more:
            assert more is None


def test_a_claim_that_waits_to_be_alone_ends_when_the_leases_are_closed(leases, store, start):
    suspect(store, "0-10")
    holder = start("10-20")
    assert holder.claimed.wait(WAIT_S)
    waiter = start("0-10")

    leases.close()

    assert waiter.claimed.wait(WAIT_S)
    assert waiter.held is None


def test_a_process_about_to_exit_releases_all_shards_and_makes_no_suspects(leases, job, store):
    with leases.claim(job, "0-10"), leases.claim(job, "10-20"):
        leases.release_all()
        assert leased_shards(store, MODEL) == 0
        with leases.claim(job, "20-30") as more:
            assert more is None

    other = Leases(store, RecordedHints(), model=MODEL, worker="w2", fingerprint=FINGERPRINT)
    with other.claim(job, "0-10") as held:
        assert "suspect" not in json.loads(store.client.hget(store.keys.job_open(job), "0-10"))
        assert held is not None


def test_giving_everything_back_never_takes_long_nor_raises(leases, job, store, monkeypatch):
    """Given a Redis that refuses one shard and hangs on the next."""
    answers = iter([redis.ConnectionError("away")])
    hang = threading.Event()

    def release(lease):
        for answer in answers:
            raise answer
        hang.wait(WAIT_S)

    monkeypatch.setattr(store.shards, "release", release)
    monkeypatch.setattr("rerankfleet.workers.leases.RELEASE_S", 0.1)
    with leases.claim(job, "0-10"), leases.claim(job, "10-20"):
        before = time.monotonic()
        leases.release_all()
        assert time.monotonic() - before < 5
    hang.set()


def test_a_claim_whose_reply_was_lost_is_repeated(leases, job, store, monkeypatch):
    """Given a Redis that grants the claim and goes away before it answers."""
    claim, tokens = store.shards.claim, []

    def lost_once(*args, **options):
        tokens.append(options["token"])
        answer = claim(*args, **options)
        if len(tokens) == 1:
            raise redis.ConnectionError("away")
        return answer

    monkeypatch.setattr(store.shards, "claim", lost_once)
    monkeypatch.setattr("rerankfleet.workers.leases.REDIS_BACKOFF_S", 0)

    with leases.claim(job, "0-10") as held:
        assert held.lease.token == tokens[0] == tokens[1]


def test_leases_know_for_how_long_they_have_held_a_shard(start, leases):
    assert leases.held_s == 0.0
    first = start("0-10")
    assert first.claimed.wait(WAIT_S)
    since_s = time.monotonic() - leases.held_s
    # a shard that joins or leaves changes nothing while another one stays
    second = start("10-20")
    assert second.claimed.wait(WAIT_S)
    first.go_on()
    assert time.monotonic() - leases.held_s == pytest.approx(since_s, abs=0.01)

    second.go_on()

    assert leases.held_s == 0.0
