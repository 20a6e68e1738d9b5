"""The status of a job: its counts, its rate, and what limits it."""

from __future__ import annotations

import pytest

from rerankfleet.producer.client import Client
from rerankfleet.producer.coordinator.feed import feed
from rerankfleet.producer.coordinator.finish import finish
from tests.support.fleet import MODEL, Worker, run, worker_row
from tests.support.jobs import open_shards
from tests.support.outputs import manifest as manifest_of


def reason(api: Client, job_id: str) -> str:
    return api.status(job_id).reason


def test_the_status_names_what_holds_a_job_back(api, source, control, store, fleet):
    job_id = api.submit(source)
    assert reason(api, job_id) == (
        "no coordinator runs, which reads the input: one must be started"
    )
    store.coordination.pulse()
    assert reason(api, job_id) == "feeding: the input is being read"

    feed(job_id, control)
    assert reason(api, job_id) == "queue: its shards wait for a worker"

    shard = open_shards(store, job_id)[0]
    lease = Worker(control).claimed(job_id, shard)
    fleet.beat(worker_row(busy_share=0.9, preparing_share=0.1))
    assert reason(api, job_id) == "device: 1 worker, 90% busy"
    fleet.beat(worker_row(busy_share=0.2, preparing_share=0.7))
    assert reason(api, job_id) == "preparing: devices wait for input 70% of the time"

    fleet.beat(worker_row(state="loading"))
    assert reason(api, job_id) == "workers are loading the model"
    fleet.beat(worker_row(fingerprint="weights-2"))
    assert "begun with other weights" in reason(api, job_id)
    fleet.leave("w1")
    assert reason(api, job_id) == (f"no worker serves {MODEL}: a worker must be started for it")
    store.jobs.set_facts(job_id, waiting_for="the disk is full")
    assert reason(api, job_id) == "waiting for the storage: the disk is full"
    store.jobs.pause(store.jobs.get(job_id), "lunch")
    assert reason(api, job_id) == "lunch"
    store.jobs.resume(store.jobs.get(job_id))
    Worker(control).commit(lease)


def test_the_status_of_a_job_counts_and_estimates(api, source, control, store):
    job_id = api.submit(source)
    feed(job_id, control)
    assert api.status(job_id).pairs_per_s == 0
    assert api.status(job_id).eta_s is None

    worker = Worker(control)
    worker.work(1)
    status = api.status(job_id)
    assert status.pairs_per_s > 0
    store.jobs.pause(store.jobs.get(job_id), "lunch")
    assert api.status(job_id).pairs_per_s == 0
    store.jobs.resume(store.jobs.get(job_id))
    worker.work()
    assert api.status(job_id).state == "finishing"
    finish(job_id, control)

    status = api.status(job_id)
    assert (status.state, status.reason, status.open_shards) == ("done", "", 0)
    assert status.finished_s >= status.created_s
    assert status.pairs_per_s > 0
    assert status.output.endswith("/output-0.jsonl")


def test_a_job_that_no_worker_has_taken_waits_beside_those_of_others(api, source, control, store):
    store.coordination.pulse()
    first, second = api.submit(source), api.submit(source)
    for job_id in (first, second):
        feed(job_id, control)
    lease = Worker(control).claimed(first, open_shards(store, first)[0])

    status = api.status(second)
    assert (
        status.reason
        == f"queue: its shards wait beside {len(open_shards(store, first))} of other jobs"
    )
    assert status.held_back
    assert not api.status(first).held_back
    Worker(control).commit(lease)


def test_what_stops_a_job_is_told_from_what_limits_its_speed(api, source, control, store, fleet):
    job_id = api.submit(source)
    assert api.status(job_id).held_back  # no coordinator
    store.coordination.pulse()
    assert not api.status(job_id).held_back  # feeding
    fleet.leave("w1")
    assert api.status(job_id).held_back  # no worker
    store.jobs.pause(store.jobs.get(job_id), "lunch")
    assert api.status(job_id).held_back
    store.jobs.cancel(store.jobs.get(job_id))
    status = api.status(job_id)
    assert (status.held_back, status.reason.partition(":")[0]) == (False, "cancelling")
    control.hints.feed(job_id)
    run(control)
    assert (api.status(job_id).held_back, api.status(job_id).state) == (False, "cancelled")


def test_lines_that_cannot_be_read_are_no_pairs(api, jsonl, control):
    """Given two pairs, one of which fails, and two bad lines; then a retry, which fails again."""
    source = jsonl(b"no json", {"query": "q", "documents": ["good", "bad"]}, {"query": "q"})
    job_id = api.submit(source)
    control.hints.feed(job_id)
    run(control, Worker(control, fails="bad"))

    for _ in range(2):
        status = api.status(job_id)
        progress = status.progress
        assert (progress.done, progress.total, progress.errors) == (4, 4, 3)
        assert (progress.bad_lines, progress.pairs, progress.pairs_total) == (2, 2, 2)
        assert control.store.jobs.get(job_id).error_codes == {
            **{"malformed_line": 1, "failed": 1, "invalid_request": 1}
        }
        assert not status.nothing_scored
        manifest = manifest_of(control, job_id)
        assert (manifest.errors, manifest.bad_lines, manifest.pairs) == (3, 2, 4)
        api.retry(job_id)
        control.hints.feed(job_id)
        run(control, Worker(control, fails="bad"))


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("not_found", "because of not_found (there is no such file or object): 12 of 12"),
        ("low_quality", "because of low_quality (rejected: the image's quality is below"),
    ],
)
def test_why_nothing_could_be_scored(api, source, control, code, says):
    job_id = api.submit(source)
    control.hints.feed(job_id)

    run(control, Worker(control, fails="", code=code))

    status = api.status(job_id)
    assert (status.state, status.nothing_scored, status.shown_state) == ("done", True, "failed")
    assert says in status.reason
    assert status.reason.endswith(f"`rerank results {job_id}` shows each")
