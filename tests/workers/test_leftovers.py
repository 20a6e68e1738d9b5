"""When every lifetime is over: in Redis only permanent keys are left, in the storage nothing."""

from __future__ import annotations

import re

import pytest

from rerankfleet.producer.client import Client
from rerankfleet.shared.state import keys as documented
from rerankfleet.shared.storage.objects import Objects
from rerankfleet.workers.monitor import Monitor
from tests.support.fleet import MODEL, Worker
from tests.support.gateway import running_gateway, working_fleet
from tests.support.jobs import LINES
from tests.support.wait import wait_until


def permanent(prefix: str) -> list[re.Pattern[str]]:
    """The keys that the list in `shared/state/keys.py` calls permanent."""
    rows = re.findall(r"^    (\{p\}:\S+) +\w+ +permanent", documented.__doc__ or "", re.M)
    assert len(rows) > 5
    patterns = (re.escape(row).replace(r"\{p\}", re.escape(prefix)) for row in rows)
    return [re.compile(re.sub(r"\\\{\w+\\\}", ".+", pattern)) for pattern in patterns]


def let_all_time_pass(client, store) -> None:
    """Let everything that has an end reach it."""
    for key in client.scan_iter(count=1000):
        if client.ttl(key) != -1:
            client.delete(key)
    for job_id in client.zrange(store.keys.sweep, 0, -1):
        client.zadd(store.keys.sweep, {job_id: 0})
    for kind in ("jobs", "uploads"):
        ledger = store.keys.stored(kind)
        for id_, text in client.hgetall(ledger).items():
            if " " in text:
                client.hset(ledger, id_, f"{text.split()[0]} 1")


@pytest.mark.parametrize("storage", ["folder", "s3"])
def test_after_all_has_expired_nothing_is_left(
    storage, s3, change, control, store, client, jsonl, hints
):
    settings = change(
        upload_ttl_s=1, parts_ttl_s=0, **({"storage": "s3://pairs/work"} if storage == "s3" else {})
    )
    control = type(control)(store, Objects(settings, store.inline.get), hints, settings)
    source = jsonl(*LINES)
    with running_gateway(settings) as http, working_fleet(control, Worker(control)):
        api = Client(settings)
        # given jobs that ended, were retried, cancelled, refused; requests; uploads; a dead writer
        line = {"query": "q", "documents": ["a"]}
        upload = http.post("/v1/uploads?name=a.jsonl", json=line).json()["uri"]
        http.post("/v1/uploads?name=a.png", content=b"x")
        body = {"input": upload, "key": "k", "model": MODEL}
        done = [http.post("/v1/jobs", json=body).json()["id"], api.submit(source)]
        done.append(api.submit_catalog(jsonl("s3://pairs/a.jpg", name="images.txt"), ["q"]))
        for job_id in done:
            wait_until(lambda job=job_id: store.jobs.get(job).finished, 30, "it ends")
        assert http.post("/v1/jobs", json=body | {"top_n": 1}).status_code == 409
        assert api.rerank("q", ["a"], model=MODEL)["results"]
        cancelled = api.submit(source, priority="bulk")
        api.cancel(cancelled)
        wait_until(lambda: store.jobs.get(cancelled).finished, 30, "it ends")
    for kind, id_ in (("jobs", "dead"), ("uploads", "dead")):
        store.ledger.reserve(kind, id_, 5, lease_ms=1, bytes_max=0, begins=True)
    control.objects.write(control.objects.at("jobs", "dead", "input.jsonl"), b"x")
    control.objects.write(control.objects.at("uploads", "dead", "upload.csv"), b"x")
    # when all their time is over, and the coordinator swept
    monitor = Monitor(store, control.objects, hints, settings)

    def nothing_is_stored() -> bool:
        let_all_time_pass(client, store)
        monitor.sweep()
        rooms = ("jobs", "uploads")
        return not any(control.objects.folders(control.objects.at(room) + "/") for room in rooms)

    wait_until(nothing_is_stored, 30, "the storage is empty")
    monitor.tick()
    # then only what is documented as permanent is left
    kept, hints_of = permanent(settings.key_prefix), f"{settings.key_prefix}:celery:"
    left = [key for key in client.scan_iter(count=1000) if not key.startswith(hints_of)]
    assert [key for key in left if not any(row.fullmatch(key) for row in kept)] == []
    # and of what is emptied, nothing
    for key in (store.keys.jobs, store.keys.sweep, store.keys.recent, store.keys.stored("jobs")):
        assert not client.exists(key), key
    assert store.ledger.used("uploads") <= 40  # of those that expire with others
