"""Jobs in real processes that are killed or frozen: every pair has exactly one result, with the
margin of an undisturbed run."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rerankfleet.shared.job_spec import Priority
from rerankfleet.shared.queue import (
    CONTROL_QUEUE,
    MONITOR_QUEUE,
    SCORE_SHARD,
    Hints,
    broker_keys,
    make_app,
    model_queues,
)
from tests.end_to_end.conftest import DOCUMENTS, REQUESTS
from tests.support.records import hints_waiting, open_shards
from tests.support.stack import Stack, another_worker, running_module
from tests.support.wait import patient, wait_until

MODEL = "pocket-text"
COORDINATOR = "rerankfleet.producer.coordinator.process"
SERVER = "valkey"

Check = Callable[[str], None]


def unclaimed(stack: Stack, job_id: str) -> list[str]:
    """A job's shards that are not leased."""
    return [s for j, s in stack.client.store.shards.due(MODEL, 1000) if j == job_id]


def test_in_an_undisturbed_run_the_monitor_publishes_nothing(
    stack: Stack, source: Path, check: Check
) -> None:
    # given an idle fleet
    before = stack.client.store.coordination.event_count("republished")
    # when a job runs through
    check(stack.client.submit(source, model=MODEL))
    # then no hint was sent twice, and nothing is left waiting
    assert stack.client.store.coordination.event_count("republished") == before
    assert open_shards(stack.client.store, MODEL) == 0
    assert stack.client.store.jobs.unfinished() == []


def test_a_worker_killed_in_the_middle_costs_nothing(stack: Stack, job: str, check: Check) -> None:
    # when the only worker is killed
    os.kill(stack.ready_workers()[0].pid, signal.SIGKILL)
    # then its successor finishes the job
    check(job)


def test_a_worker_told_to_stop_gives_its_shards_back_and_nobody_is_blamed(
    stack: Stack, job: str, check: Check
) -> None:
    # when the worker drains
    pid = stack.ready_workers()[0].pid
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: pid not in {w.pid for w in stack.client.workers()}, 30, "it is gone")
    # then its shards are free, and none counts as a suspect
    states = stack.client.store.client.hvals(stack.client.store.keys.job_open(job))
    assert states
    assert not [state for state in states if '"token"' in state or '"suspect"' in state]
    check(job)


def test_the_coordinator_killed_while_it_feeds(stack: Stack, source: Path, check: Check) -> None:
    # given a job whose input is not completely cut
    wait_until(stack.ready_workers, 60, "a worker is ready")
    job_id = stack.client.submit(source, model=MODEL)
    wait_until(lambda: stack.client.status(job_id).open_shards, 30, "the first shard is open")
    # when the process that cuts it dies
    stack.kill(COORDINATOR)
    # then its successor continues where it stopped
    check(job_id)


def test_the_coordinator_killed_while_it_writes_the_output(
    stack: Stack, job: str, check: Check
) -> None:
    # given an output that is being written, or has just been on a busy machine
    folder = Path(stack.settings.storage_uri.removeprefix("file://")) / "jobs" / job
    wait_until(lambda: any("output" in name for name in os.listdir(folder)), 60, "a draft is there")
    # when the process that writes it dies
    stack.kill(COORDINATOR)
    # then the whole output is written again
    check(job)


def test_a_part_deleted_from_the_storage_is_scored_again(
    stack: Stack, job: str, check: Check
) -> None:
    # when somebody deletes the result of a shard, and the shard's file, while the job runs
    folder = Path(stack.settings.storage_uri.removeprefix("file://")) / "jobs" / job
    part = next(iter((folder / "parts").glob("[0-9]*")))
    start = part.name.partition("-")[0]
    for path in (part, *(folder / "shards").glob(f"0-{start}-*")):
        path.unlink()
    # then every pair still gets its one outcome
    check(job)
    assert stack.client.store.jobs.get(job).number("reopened") == 1


def test_hints_published_three_times_change_nothing(stack: Stack, job: str, check: Check) -> None:
    # when every waiting shard and the job's next step are hinted three more times
    hints = Hints(make_app(stack.settings))
    for shard in unclaimed(stack, job) * 3:
        hints.shard(MODEL, Priority.normal, job, shard)
    for _ in range(3):
        hints.feed(job)
        hints.finish(job)
    # then every pair has one result
    check(job)


def nonsense() -> list[str]:
    """Messages that no producer sends: no JSON, no message, a message with other arguments."""
    whole = {
        "body": base64.b64encode(b'[["../../etc", "0-1"], {}, {}]').decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"id": "x", "task": SCORE_SHARD, "lang": "py"},
        "properties": {
            "body_encoding": "base64",
            "correlation_id": "x",
            "delivery_info": {"exchange": "", "routing_key": "x"},
            "delivery_tag": "x",
            "reply_to": "",
        },
    }
    arguments: list[Any] = [[], ["j"], [[], {}], [1, 2], ["j", "all"], ["a:open", "0-1"], "text"]
    bodies = [json.dumps([a, {}, {}]) for a in arguments]
    bodies += ["", "{}", "[]", '""', "no JSON", "[1]", "\ud800", "[" * 100_000]
    encoded = [base64.b64encode(b.encode(errors="surrogatepass")).decode() for b in bodies]
    messages: list[Any] = [{**whole, "body": body} for body in encoded]
    messages += [{**whole, name: None} for name in whole]
    messages += [{k: v for k, v in whole.items() if k != name} for name in whole]
    messages += [whole, {**whole, "headers": {"task": "no.such.task", "id": "x"}}, {}, [], 1, None]
    return ["", "no JSON", "{", "[" * 100_000, *map(json.dumps, messages)]


def test_messages_and_records_that_are_none_cost_themselves_only(
    stack: Stack, job: str, check: Check
) -> None:
    # given nonsense in every queue, and shards that no job has
    store = stack.client.store
    queues = [*model_queues(MODEL), CONTROL_QUEUE, MONITOR_QUEUE]
    lists = broker_keys(stack.settings, queues)
    processes = {worker.pid for worker in stack.ready_workers()}
    processes |= {process.pid for process in stack.processes("coordinator")}
    store.client.zadd(store.keys.open(MODEL), {"no shard": 0, "../../etc/0-1": 0, "j/x-y": 0})
    store.client.zadd(store.keys.jobs, {"../..": 0, "a:open": 0})
    for name in lists:
        store.client.lpush(name, *nonsense())
    # when the queues have been read
    wait_until(lambda: not hints_waiting(store, lists), 60, "all was read")
    # then the job ends well, in the processes that were there before
    check(job)
    assert processes <= {process.pid for process in stack.processes("")}
    wait_until(lambda: not open_shards(store, MODEL), 20, "what is no shard was removed")


def test_lost_hints_are_sent_again(stack: Stack, job: str, check: Check) -> None:
    # given hints that wait in the broker
    lists = broker_keys(stack.settings, model_queues(MODEL))
    before = stack.client.store.coordination.event_count("republished")
    wait_until(lambda: hints_waiting(stack.client.store, lists), 20, "a hint waits")
    # when they are lost
    stack.client.store.client.delete(*lists)
    # then the monitor sends them again
    check(job)
    assert stack.client.store.coordination.event_count("republished") > before


def test_two_coordinators_feed_at_once(
    stack: Stack, source: Path, check: Check, tmp_path: Path
) -> None:
    # given a second coordinator
    with running_module(stack, tmp_path, COORDINATOR):
        job_id = stack.client.submit(source, model=MODEL)
        # when both repeatedly get the hint to feed the same job
        hints = Hints(make_app(stack.settings))
        for _ in range(30):
            hints.feed(job_id)
            time.sleep(0.02)
        # then nothing is cut twice
        check(job_id)


def test_a_job_paused_in_the_middle_and_resumed(stack: Stack, job: str, check: Check) -> None:
    # when it is paused
    stack.client.pause(job)
    status = stack.client.status(job)
    assert status.state == "paused"
    # then it stops once the leased shards are done
    wait_until(lambda: not stack.ready_workers()[0].shards, 30, "the hands are empty")
    stood = stack.client.status(job).progress.done
    assert stood < REQUESTS * DOCUMENTS
    assert unclaimed(stack, job) == []
    # and when it is resumed it runs to its end
    stack.client.resume(job)
    check(job)


def test_a_cancelled_job_keeps_its_scores_and_a_retry_completes_it(
    stack: Stack, job: str, check: Check, requests: list[dict[str, Any]]
) -> None:
    # when it is cancelled
    stack.client.cancel(job)
    status = stack.client.wait(job, timeout_s=patient(60))
    # then every pair is accounted for in a complete output
    progress = status.progress
    assert status.state == "cancelled"
    assert progress.scored
    assert progress.cancelled
    assert progress.done == sum(len(r["documents"]) for r in requests)
    lines = list(stack.client.results(job))
    assert sum(len(line["results"]) for line in lines) == progress.scored
    assert sum(len(line["errors"]) for line in lines) == progress.cancelled
    # and when it is retried, only what was cancelled is scored, into the same output
    stack.client.retry(job)
    check(job)


def test_a_frozen_worker_comes_back_too_late_and_does_no_harm(
    stack: Stack, source: Path, check: Check, tmp_path: Path
) -> None:
    # given two workers
    with another_worker(stack, tmp_path) as other:
        job_id = stack.client.submit(source, model=MODEL)
        wait_until(
            lambda: any(w.pid == other.pid and w.shards for w in stack.client.workers()),
            30,
            "the other holds a shard",
        )
        # when one is frozen for longer than its lease, and then continues
        other.send_signal(signal.SIGSTOP)
        stack.client.wait(job_id, timeout_s=patient(120))
        other.send_signal(signal.SIGCONT)
        # then its late commits change nothing
        check(job_id)


def test_redis_killed_in_the_middle_comes_back_from_its_file(
    stack: Stack, job: str, check: Check
) -> None:
    # when the server dies and is started again from its append-only file
    time.sleep(1.2)  # the file is synced once per second: newer results may be scored again
    stack.kill(SERVER)
    # then every process reconnects, and the job ends undisturbed
    wait_until(lambda: answers(stack), 30, "the server is back")
    check(job)


def test_a_redis_that_is_full_ends_no_process(stack: Stack, job: str, check: Check) -> None:
    # given a fleet at work
    redis = stack.client.store.client
    processes = {process.pid for process in stack.processes("")}

    def refused() -> int:
        return int(redis.info("errorstats").get("errorstat_OOM", {"count": 0})["count"])

    # when the server is full for a while, and all have to connect to it meanwhile
    before = refused()
    redis.config_set("maxmemory", 1)
    try:
        for client in redis.client_list():
            if int(client["id"]) != redis.client_id():
                redis.client_kill_filter(_id=client["id"])
        wait_until(lambda: refused() > before + 40, 30, "all of them were refused")
    finally:
        redis.config_set("maxmemory", 0)
    # then the job ends well, in the processes that were there before
    check(job)
    assert processes <= {process.pid for process in stack.processes("")}


def answers(stack: Stack) -> bool:
    """Whether the stack's Redis answers."""
    try:
        return bool(stack.client.store.client.ping())
    except Exception:
        return False
