"""Metrics for Prometheus: one scrape sees the fleet, and documentation and rules are about them."""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path

import pytest
import yaml

from rerankfleet.shared.job_spec import InputRef, JobSpec
from rerankfleet.shared.metrics import FAMILIES, IMAGES_REJECTED, PAIRS, QUEUE_WAIT, RETRIES, WAIT_S
from rerankfleet.shared.state.records import OpenShard
from rerankfleet.workers.recorder import Recorder
from tests.support.fleet import MODEL, worker_row
from tests.support.gateway import families, running_gateway, scrape, value
from tests.support.wait import wait_until

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
PAGE = (ROOT / "docs" / "metrics.md").read_text()
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}


@pytest.fixture
def counted(fleet) -> None:
    """A worker that counted something of everything."""
    recorder = Recorder()
    for family in FAMILIES:
        for labels in family.all_labels:
            if family.kind == "histogram":
                recorder.observe(family, *labels, value=1)
            else:
                recorder.set(family, *labels, value=1)
    row = worker_row("w4", "org/vl", supports_images=True, dtype="bf16", attention="flash")
    fleet.beat(row, recorder.counts())


def test_one_scrape_sees_the_whole_fleet(http, busy, working):
    http.post("/v1/rerank", json={"query": "q", "documents": ["a"], "model": MODEL})
    http.post("/v1/rerank", json={"query": ""})
    http.get("/v1/jobs/some-id")
    http.get("/no/such/path")
    scraped = scrape(http)

    assert value(scraped, "rerank_redis_up") == 1
    assert value(scraped, "rerank_worker_up", worker="w2") == 0
    assert value(scraped, "rerank_worker_up", worker="w3") == 1
    assert value(scraped, "rerank_worker_busy_ratio", worker="w3") == 0.5
    assert {s.labels["state"] for s in scraped["rerank_jobs"]} == {"running", "paused", "finishing"}
    route = {"route": "/v1/rerank"}
    assert value(scraped, "rerank_requests_total", outcome="ok", model=MODEL, **route) == 1
    assert value(scraped, "rerank_requests_total", outcome="client_error", **route) == 1
    # and nothing that a client makes up becomes a label
    routes = {sample.labels["route"] for sample in scraped["rerank_requests_total"]}
    assert "/v1/jobs/{job_id}" in routes
    assert not any("some-id" in r or "such" in r for r in routes)


def test_what_workers_count_is_told_with_their_names(http, fleet):
    # given two workers of one model, one of which had slow shards and a poor image
    slow, idle = Recorder(), Recorder()
    for waited_s in (0.001, 0.3, 0.3, 9_999):
        slow.observe(QUEUE_WAIT, "bulk", value=waited_s)
    slow.add(PAIRS, "image", "rejected", amount=3)
    slow.add(IMAGES_REJECTED, "low_quality")
    fleet.beat(worker_row("w1"), slow.counts())
    fleet.beat(worker_row("w2"), idle.counts())
    # when the gateway is scraped
    scraped = scrape(http)
    # then each worker has its own, from 0 on
    one = {"worker": "w1", "model": MODEL}
    rejected = {"modality": "image", "outcome": "rejected"}
    assert value(scraped, "rerank_pairs_total", **one, **rejected) == 3
    assert value(scraped, "rerank_pairs_total", worker="w2", **rejected) == 0
    assert value(scraped, "rerank_images_rejected_total", reason="low_quality", **one) == 1
    # and of waits each bucket holds those below it too
    buckets = [
        value(
            scraped, "rerank_queue_wait_seconds_bucket", priority="bulk", le=str(float(end)), **one
        )
        for end in WAIT_S
    ]
    assert buckets == [1] * 6 + [3] * (len(WAIT_S) - 6)
    assert value(scraped, "rerank_queue_wait_seconds_count", priority="bulk", **one) == 4
    assert value(scraped, "rerank_queue_wait_seconds_sum", priority="bulk", **one) == 9_999.601


def test_a_worker_of_another_version_costs_no_scrape(http, fleet, client, store):
    # given an old worker that counts nothing, one that sends what nobody can read, and a newer one
    fleet.beat(worker_row("old"))
    fleet.beat(worker_row("torn"))
    fleet.beat(worker_row("newer"))
    client.set(store.keys.counts("torn"), '{"rerank_pairs": [', ex=60)
    known = '"rerank_retries": {"fetch": 2, "boredom": 3, "fetch,twice": 4}'
    client.set(store.keys.counts("newer"), f'{{"rerank_dreams": {{"": 1}}, {known}}}', ex=60)
    # when it is scraped, then all are up, and what is known is shown
    scraped = scrape(http)
    assert {s.labels["worker"] for s in scraped["rerank_worker_up"]} == {"old", "torn", "newer"}
    assert [(s.labels["worker"], s.labels["reason"]) for s in scraped["rerank_retries_total"]] == [
        ("newer", "fetch")
    ]


def test_the_counts_of_a_worker_end_with_it(http, fleet, client, store):
    recorder = Recorder()
    recorder.add(RETRIES, "fetch")
    fleet.beat(worker_row(), recorder.counts())
    assert "rerank_retries_total" in scrape(http)

    fleet.leave("w1")

    assert "rerank_retries_total" not in scrape(http)
    assert not client.exists(store.keys.counts("w1"))


def test_a_gateway_and_the_fleet_can_be_scraped_apart(http, counted):
    gateway, fleet = families(http, of="gateway"), families(http, of="fleet")

    own = {"rerank_requests", "rerank_key_requests", "rerank_request_duration_seconds"}
    assert set(gateway) == own
    assert not set(gateway) & set(fleet)
    assert set(families(http)) == set(gateway) | set(fleet)
    assert http.get("/metrics", params={"of": "moon"}).status_code == 422


def test_a_failed_request_is_told_with_the_model_that_its_body_named(http, fleet):
    # given a model that the fleet has, whose worker is gone since, as a scrape saw
    fleet.beat(worker_row())
    scrape(http)
    fleet.leave("w1")
    # when requests for it fail, for whatever reason, and some name what nobody serves
    body = {"query": "q", "documents": ["a"]}
    assert http.post("/v1/rerank", json={**body, "model": MODEL}).status_code == 503
    assert http.post("/v1/rerank", json={"query": "q", "model": MODEL}).status_code == 422
    assert http.post("/rerank", json={"query": "q", "model": MODEL}).status_code == 422
    for made_up in ("made/up", "m" * 400, 7, ["made/up"], None):
        http.post("/v1/rerank", json={**body, "model": made_up})
    # then those that are known have their label, and no other is made up
    totals = scrape(http)["rerank_requests_total"]
    failed = {
        (s.labels["route"], s.labels["outcome"]) for s in totals if s.labels["model"] == MODEL
    }
    assert failed == {
        ("/v1/rerank", "server_error"),
        ("/v1/rerank", "client_error"),
        ("/rerank", "client_error"),
    }
    assert {s.labels["model"] for s in totals} == {MODEL, ""}


def test_jobs_of_weights_that_nobody_serves_are_counted(http, fleet, store):
    # given a job that was begun with other weights than any worker has
    fleet.beat(worker_row(fingerprint="new"))
    spec = JobSpec(model=MODEL, input=InputRef(uri="file:///x", size=1, tag=""))
    store.jobs.create("j1", spec, "d")
    shards = [OpenShard(0, 5, "f")]
    store.shards.open(store.jobs.get("j1"), ("", "1"), shards, sealed=True, lines=1, low_water=0)
    store.jobs.set_facts("j1", fingerprint="old")
    # then it is shown, until a worker has them
    assert value(scrape(http), "rerank_jobs_of_other_weights") == 1
    fleet.beat(worker_row(id="w2", fingerprint="old"))
    assert value(scrape(http), "rerank_jobs_of_other_weights") == 0


def test_jobs_and_queues_are_counted(change, fleet, store):
    fleet.beat(worker_row())
    spec = JobSpec(model=MODEL, input=InputRef(uri="file:///x", size=1, tag=""))
    store.jobs.create("j1", spec, "d")
    store.shards.open(
        store.jobs.get("j1"), ("", "1"), [OpenShard(0, 5, "f")], sealed=False, lines=1, low_water=0
    )
    store.jobs.create("j2", spec, "d")
    store.jobs.pause(store.jobs.get("j2"), "lunch")
    with running_gateway(change()) as http:
        scraped = scrape(http)
        assert value(scraped, "rerank_jobs", state="running") == 1
        assert value(scraped, "rerank_jobs", state="paused") == 1
        assert value(scraped, "rerank_job_items", state="waiting") == 5
        assert value(scraped, "rerank_open_shards", model=MODEL) == 1
        assert wait_until(
            lambda: value(scrape(http), "rerank_queue_oldest_age_seconds", model=MODEL) > 0
        )


def test_a_real_worker_counts_what_it_does(real):
    # given a stack that scores two texts
    documents = ["under the mat", "in the sea"]
    body = {"model": "pocket-text", "query": "where is the key", "documents": documents}
    assert real.post("/v1/rerank", json=body).status_code == 200
    # when its gateway is scraped, then within a heartbeat the worker's counts are there
    text = {"modality": "text", "outcome": "ok"}
    wait_until(lambda: value(scrape(real), "rerank_pairs_total", **text) >= 2, 20)
    scraped = scrape(real)
    for stage in ("load", "tokenize", "forward", "store"):
        assert value(scraped, "rerank_stage_duration_seconds_count", stage=stage) >= 1
    assert value(scraped, "rerank_queue_wait_seconds_count", priority="interactive") >= 1
    assert value(scraped, "rerank_tokens_total", kind="text") > 0
    assert value(scraped, "rerank_tokens_total", kind="image") == 0
    assert value(scraped, "rerank_cache_lookups_total", cache="prefix", result="miss") >= 1
    assert value(scraped, "rerank_model_load_seconds") > 0
    assert "rerank_gpu_memory_bytes" not in scraped  # on a CPU


# ---- documentation, recording rules, alerts -----------------------------------------------------


def documented() -> dict[str, set[str]]:
    """Labels of each metric that the page's tables name."""
    rows = re.findall(r"^\| ([^|]*`rerank_[^|]*)\|([^|]*)\|", PAGE, re.MULTILINE)
    return {
        name: set(re.findall(r"`(\w+)`", labels))
        for names, labels in rows
        for name in re.findall(r"`(rerank_\w+)`", names)
    }


def exported(http) -> dict[str, set[str]]:
    """Labels of each metric of a scrape; of a counter the name of its samples."""
    return {
        f"{family.name}_total" if family.type == "counter" else family.name: {
            label
            for sample in family.samples
            for label in sample.labels
            if label != "le" or family.type != "histogram"
        }
        for family in families(http).values()
    }


def test_the_page_names_every_metric_with_its_labels(http, busy, counted, working):
    http.post("/v1/rerank", json={"query": "q", "documents": ["a"], "model": MODEL})

    assert documented() == exported(http)


def test_the_page_names_every_value_of_a_label():
    lines = PAGE.splitlines()
    table = takewhile(str.strip, lines[lines.index("| stage | one observation |") :])
    stages = " ".join(line.split("|")[1] for line in table)
    for family in FAMILIES:
        (row,) = (line for line in lines if line.startswith(f"| `{family.name}"))
        for label, values in family.labels.items():
            for one in values:
                documented = stages if label == "stage" else row
                assert re.search(rf"\b{one}\b", documented), f"{family.name}: {one}"


def rules(file: str) -> list[dict]:
    groups = yaml.safe_load((PROMETHEUS / file).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


RECORDED = {rule["record"]: rule for rule in rules("rules.yml")}


@pytest.fixture
def known(http, busy, counted, working) -> set[str]:
    """All samples that there can be, and what is recorded of them."""
    http.post("/v1/rerank", json={"query": "q", "documents": ["a"], "model": MODEL})
    return set(scrape(http)) | set(RECORDED)


def names_in(expression: str) -> set[str]:
    """The metrics of an expression."""
    return set(re.findall(r"[\w:]*\brerank_\w+(?::\w+)*", expression))


def test_every_rule_is_on_metrics_that_there_are(known):
    for rule in (*rules("rules.yml"), *rules("alerts.yml")):
        named = names_in(rule["expr"])
        assert named, rule
        assert named <= known, named - known
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert rule["expr"].count("{") == rule["expr"].count("}")


def test_a_rule_selects_values_that_there_are():
    listed = {  # the gateway's own, and of recorded ones what they are of
        "rerank_requests_total": {"server_error", "overloaded"},
        "rerank_jobs": {"paused"},
    }
    for family in FAMILIES:
        for suffix in ("", "_total", "_bucket"):
            listed[family.name + suffix] = {v for values in family.labels.values() for v in values}
    for rule in (*rules("rules.yml"), *rules("alerts.yml")):
        for name, chosen in re.findall(r"([\w:]+)\{([^}]*)\}", rule["expr"]):
            (source,) = names_in(RECORDED[name]["expr"]) if name in RECORDED else (name,)
            source = (
                next(iter(names_in(RECORDED[source]["expr"]))) if source in RECORDED else source
            )
            for one in re.findall(r'\w+!?="(\w+)"', chosen):
                assert one in listed[source], f"{name}: {one}"


def test_every_alert_says_what_to_do_and_stands_in_the_runbook():
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    assert len(rules("alerts.yml")) >= 15
    for rule in rules("alerts.yml"):
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert f"`{rule['alert']}`" in runbook


def test_the_runbook_speaks_of_metrics_that_there_are(known):
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    bases = {re.sub(r"_(bucket|count|sum)$", "", name) for name in known} | known
    assert names_in(runbook) <= bases


def test_a_worker_has_few_series(http, counted):
    assert sum(len(f.samples) for f in families(http, of="fleet").values()) < 400


# ---- the storage --------------------------------------------------------------------------------


def test_what_the_storage_holds_is_shown_beside_what_it_may(change, store):
    settings = change(uploads_bytes_max=5000, jobs_bytes_max=0, free_bytes_min=77)
    with running_gateway(settings) as http:
        # given an upload, and a job that is being submitted
        http.post("/v1/uploads?name=a.csv", content=b"x" * 1000)
        store.ledger.reserve("jobs", "j", 300, lease_ms=60_000, bytes_max=0, begins=True)
        samples = scrape(http, of="fleet")
    assert value(samples, "rerank_stored_bytes", of="uploads") == 1000
    assert value(samples, "rerank_stored_bytes", of="jobs") == 300
    assert [s.labels["of"] for s in samples["rerank_stored_limit_bytes"]] == ["uploads"]
    assert value(samples, "rerank_stored_limit_bytes", of="uploads") == 5000
    assert value(samples, "rerank_storage_free_bytes") > 0
    assert value(samples, "rerank_storage_free_min_bytes") == 77


def test_a_storage_in_s3_has_no_disk(s3, change):
    with running_gateway(change(storage="s3://pairs/work")) as http:
        samples = scrape(http, of="fleet")
    assert "rerank_storage_free_bytes" not in samples
    assert "rerank_stored_bytes" in samples
