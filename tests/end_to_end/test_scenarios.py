"""What a queue of reranking jobs must survive, scenario by scenario, with real processes. Each pair
has exactly one outcome, with the margin of an undisturbed run (`check`).

Tests of other files belong to it; DISTURBED is test_disturbed_jobs.py beside this one.

 1 a worker is killed at each stage of a shard: here; DISTURBED (...killed_in_the_middle...)
 2 a worker is frozen for longer than its lease: DISTURBED (...frozen_worker_comes_back...)
 3 Redis closes connections, pauses writes, is frozen, is full, loses the broker's keys: here;
   is killed and comes back from its file: DISTURBED (test_redis_killed...). Without that file, or
   after a failover that loses writes, nothing is promised: Redis is the source of truth.
 4 hints are doubled and reordered: DISTURBED (test_hints_published...); of a job that ended: here
 5 poison: test_poison.py, test_poison_images.py, shared/state/test_blame.py; image bombs, damaged
   images: test_images.py; a pair that does not fit: workers/batching/test_batcher.py
 6 SIGTERM gives shards back uncounted: DISTURBED (...told_to_stop...), workers/test_tasks.py
 7 storage: shared/storage/test_s3.py, test_objects.py; credentials: test_images.py; a changed
   input: producer/coordinator/test_feed.py; slow hosts: workers/images/test_fetch.py
 8 input comes faster than it is scored: here; producer/coordinator/test_feed.py (...window...)
 9 versions side by side: shared/state/test_versions.py, test_old_records.py
10 cancel keeps what is committed, pause, resume: DISTURBED
11 two coordinators: DISTURBED (test_two_coordinators...); one frozen:
   producer/coordinator/test_publishing.py; of two monitors one acts: workers/batch_limits
12 the batch policies: workers/batch_limits, test_batch_limits.py
13 the disk is full: producer/coordinator/test_finish.py, shared/storage/test_objects.py
14 a resume with an edited input is refused: producer/coordinator/test_feed.py (test_changed...)
15 clocks differ: shared/state/test_shards.py (test_no_clock_but_the_servers_is_asked)
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import redis

from rerankfleet.shared.job_spec import Priority
from rerankfleet.shared.queue import Hints, broker_keys, make_app, model_queues
from tests.support.poison import replaced_workers
from tests.support.records import hints_waiting
from tests.support.stack import Stack
from tests.support.staged_worker import DEATHS_LOG, STAGES
from tests.support.wait import wait_until

MODEL = "pocket-text"
FAULT_S = 1.0
"""Shorter than a lease: nothing is blamed on anybody."""

Check = Callable[[str], None]
Fault = Callable[[Stack], None]


def test_1_a_worker_is_killed_at_each_stage_of_a_shard(
    stack: Stack, source: Path, check: Check, tmp_path: Path
) -> None:
    # given workers of which each dies at another stage of its first shard
    log = tmp_path / "deaths.log"
    env = {DEATHS_LOG: str(log)}
    with replaced_workers(stack, tmp_path, "staged_worker.py", MODEL, env):
        # when they score a job one after the other
        job_id = stack.client.submit(source, model=MODEL)
        wait_until(lambda: log.exists() and len(log.read_text().split()) == 5, 300, "all have died")
        # then every pair has one outcome
        check(job_id)
    assert log.read_text().split() == list(STAGES)


# ---- Redis --------------------------------------------------------------------------------------


def close_connections(stack: Stack) -> None:
    """Close every connection but one's own, a few times."""
    for _ in range(5):
        stack.client.store.client.execute_command(
            "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"
        )
        time.sleep(FAULT_S / 5)


def pause_writes(stack: Stack) -> None:
    stack.client.store.client.execute_command("CLIENT", "PAUSE", int(FAULT_S * 1000), "WRITE")
    time.sleep(FAULT_S)


def freeze(stack: Stack) -> None:
    """The server neither answers nor closes its connections, as on a cut network."""
    (server, *_) = stack.processes("valkey-server")
    server.send_signal(signal.SIGSTOP)
    try:
        time.sleep(FAULT_S)
    finally:
        server.send_signal(signal.SIGCONT)


def lose_the_broker(stack: Stack) -> None:
    """All of Celery's keys are gone: messages, and the names of queues."""
    client, prefix = stack.client.store.client, stack.settings.key_prefix
    for key in client.scan_iter(f"{prefix}:celery:*"):
        client.delete(key)


def fill(stack: Stack) -> None:
    """No write is taken for a while."""
    client = stack.client.store.client
    client.config_set("maxmemory", "1")
    try:
        with pytest.raises(redis.OutOfMemoryError):
            client.set(f"{stack.settings.key_prefix}:full", 1, ex=1)
        time.sleep(FAULT_S)
    finally:
        client.config_set("maxmemory", "0")


@pytest.mark.parametrize(
    "fault",
    [close_connections, pause_writes, freeze, lose_the_broker, fill],
    ids=lambda f: f.__name__,
)
def test_3_redis_fails_for_a_moment(stack: Stack, job: str, check: Check, fault: Fault) -> None:
    # given the processes that there are
    before = {worker.pid for worker in stack.ready_workers()}
    # when the server fails in the middle of a job
    fault(stack)
    # then every pair has one outcome, and nobody has died of it
    check(job)
    assert before <= {process.pid for process in stack.processes("")}


# ---- hints, and back-pressure -------------------------------------------------------------------


def test_4_the_hints_of_a_job_that_ended_change_nothing(
    stack: Stack, job: str, check: Check
) -> None:
    # given a job that ended
    check(job)
    store = stack.client.store
    before = store.client.hgetall(store.keys.job(job))
    # when all of its hints come again
    hints = Hints(make_app(stack.settings))
    for start in range(0, 40, 10):
        hints.shard(MODEL, Priority.normal, job, f"{start}-{start + 10}")
    hints.feed(job)
    hints.finish(job)
    lists = broker_keys(stack.settings, model_queues(MODEL))
    wait_until(lambda: not hints_waiting(store, lists), 30, "they have been read")
    # then it is as it was
    check(job)
    assert store.client.hgetall(store.keys.job(job)) == before


@contextmanager
def frozen(processes: list[psutil.Process]) -> Iterator[None]:
    """Nobody of them works during the block."""
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def test_8_what_waits_is_bounded_however_long_the_input_is(
    stack: Stack, source: Path, check: Check
) -> None:
    # given workers that score nothing for a while
    wait_until(stack.ready_workers, 60, "a worker is ready")
    store = stack.client.store
    ready = stack.ready_workers()
    slots = sum(worker.slots for worker in ready)
    with frozen([psutil.Process(worker.pid) for worker in ready]):
        # when a long input is submitted
        job_id = stack.client.submit(source, model=MODEL)
        opened = wait_until(lambda: _settled(stack, job_id), 60, "no more is cut")
        # then only a part of it is cut, and no more hints wait than shards
        assert opened <= max(stack.settings.window_min, 4 * slots)
        assert not stack.client.store.jobs.get(job_id).sealed
        lists = broker_keys(stack.settings, model_queues(MODEL))
        assert hints_waiting(store, lists) <= opened
    # and all of it is scored in the end
    check(job_id)


def _settled(stack: Stack, job_id: str) -> int:
    """How many shards are open, once that is the same for a second."""
    before = stack.client.status(job_id).open_shards
    time.sleep(1.0)
    return before if before == stack.client.status(job_id).open_shards else 0
