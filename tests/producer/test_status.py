"""The status of a job: its counts, its rate, and what limits it."""

from __future__ import annotations

from rerankfleet.producer.client import Client
from rerankfleet.producer.coordinator.feed import feed
from rerankfleet.producer.coordinator.finish import finish
from tests.support.fleet import MODEL, Worker, worker_row
from tests.support.jobs import open_shards


def reason(api: Client, job_id: str) -> str:
    return api.status(job_id).reason


def test_the_status_names_what_holds_a_job_back(api, source, control, store, fleet):
    job_id = api.submit(source)
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
    assert reason(api, job_id) == "storage: the disk is full"
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
