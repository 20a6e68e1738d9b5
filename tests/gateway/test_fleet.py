"""What the gateway tells of the fleet: models, presets, workers."""

from __future__ import annotations

import pytest

from rerankfleet import __version__
from rerankfleet.producer.client import Client
from rerankfleet.producer.gateway.history import History
from rerankfleet.shared.content.images import PRESETS
from rerankfleet.shared.metrics import STAGES
from rerankfleet.shared.profiles import PROFILES
from rerankfleet.shared.state.fleet import BatchLimit
from tests.support.fleet import MODEL, an_observation, worker_row
from tests.support.gateway import running_gateway
from tests.support.wait import wait_until


def test_models_with_their_workers_and_what_waits(http, busy):
    first, second = http.get("/v1/models").json()["data"]
    assert (first["id"], first["state"], first["workers"], first["sees"]) == (
        MODEL,
        "ready",
        2,
        False,
    )
    assert first["stats"] == {
        "queue_absolute": 1,
        "queue_fraction": 1 / 256,
        "results_pending": 0,
    }
    assert (first["dtype"], first["attention"]) == ("bf16", "flash")
    assert (second["id"], second["sees"], second["pairs_per_s"]) == ("org/vl", True, 2.5)


def test_what_clients_of_other_servers_ask_first(http, fleet):
    # given a gateway before an empty fleet
    assert http.get("/version").json() == {"version": __version__}
    assert http.get("/health").status_code == 503
    assert http.get("/info").json()["model_id"] is None
    # when a worker is there, then it is well, and says of what model
    fleet.beat(worker_row())
    assert http.get("/health").json() == http.get("/health/ready").json()
    assert http.get("/health").status_code == 200
    info = http.get("/info").json()
    assert (info["model_id"], info["models"], info["version"]) == (MODEL, [MODEL], __version__)
    # and of several none is the one
    fleet.beat(worker_row("w2", "org/vl"))
    info = http.get("/info").json()
    assert (info["model_id"], info["models"]) == (None, [MODEL, "org/vl"])


def test_the_information_that_clients_of_tei_read(http, fleet, settings):
    # given a fleet that loads its model: what is not known yet is null
    fleet.beat(worker_row(state="loading"))
    info = http.get("/info").json()
    assert (info["model_id"], info["model_sha"], info["max_batch_tokens"]) == (MODEL, None, None)
    # clients that find no length cut texts to 512 tokens
    assert info["max_input_length"] == 8192
    # when it is loaded
    row = {"dtype": "bf16", "revision": "r1", "batch_tokens": 4096}
    fleet.beat(worker_row(**row))
    fleet.beat(worker_row("w2", **row | {"batch_tokens": 2048}))
    info = http.get("/info").json()
    # then all is there, and true
    assert (info["model_sha"], info["model_dtype"]) == ("r1", "bfloat16")
    assert info["model_type"]["reranker"]["id2label"] == {"0": "relevant"}
    assert info["max_batch_tokens"] == 2048
    assert info["max_client_batch_size"] == settings.max_documents_per_request
    assert info["max_concurrent_requests"] == settings.gateway_requests_max
    assert info["auto_truncate"] is True
    # and of workers or models that differ only what they have in common
    fleet.beat(worker_row("w3", **row | {"revision": "r2"}))
    assert http.get("/info").json()["model_sha"] is None
    fleet.beat(worker_row("w3", "org/vl", **row))
    assert http.get("/info").json()["model_dtype"] is None


def test_what_can_be_chosen(http):
    presets = http.get("/v1/presets").json()
    assert {one["name"] for one in presets["image_presets"]} == set(PRESETS)
    assert presets["defaults"]["quality_threshold"] == 0.65
    assert presets["defaults"]["temperature"] == 1.0
    assert all(one["name"] and one["text"] for one in presets["instructions"])
    profiles = {one["name"]: one for one in presets["profiles"]}
    assert profiles["ecommerce"]["temperature"] == PROFILES["ecommerce"].temperature


def test_the_fleet_with_its_workers_and_queues(http, busy):
    fleet_body = http.get("/v1/fleet").json()
    assert [w["id"] for w in fleet_body["workers"]] == ["w1", "w2", "w3"]
    assert {"model": MODEL, "priority": "interactive", "depth": 1} in fleet_body["queues"]


def test_its_history_is_sampled_and_bounded(settings, fleet):

    history = History(Client(settings))
    # given a worker that is looked at three times, and then is gone
    for _ in range(3):
        fleet.beat(worker_row(pairs_per_s=3))
        history.sample()
    fleet.leave("w1")
    history.sample()
    # then each look is a sample
    assert [sample["pairs_per_s"] for sample in history.samples()] == [3, 3, 3, 0]


def test_limits_and_packs_of_a_worker_are_told_with_their_reasons(http, fleet):
    # given a worker that observed two packs, and was given two limits
    fleet.beat(worker_row())
    packs = [an_observation(cost=cost) for cost in (100.0, 200.0)]
    fleet.push("w1", packs)
    for version, tokens in ((1, 512), (2, 1024)):
        limit = BatchLimit(tokens=tokens, pairs=9, reason=f"{tokens}", version=version)
        assert fleet.set_limit("w1", limit)
    # when the fleet is read, then both are there, the oldest first
    fleet_body = http.get("/v1/fleet").json()
    assert [pack["cost"] for pack in fleet_body["packs"]["w1"]] == [100.0, 200.0]
    assert [(x["tokens"], x["reason"]) for x in fleet_body["limits"]["w1"]] == [
        (512, "512"),
        (1024, "1024"),
    ]


def test_the_mean_of_each_step_of_a_worker_is_told_in_the_order_of_the_work(http, fleet):
    # given a worker that computed twice and fetched three times, and one that tells nothing
    none = [0.0] * (len(STAGES.buckets) + 1)
    counts = {STAGES.name: {("forward",): [2.0, *none[1:], 0.5], ("fetch",): [3.0, *none[1:], 0.6]}}
    fleet.beat(worker_row(), counts)
    fleet.beat(worker_row("w2"))
    steps = http.get("/v1/fleet").json()["steps"]
    assert list(steps["w1"].items()) == [("fetch", pytest.approx(0.2)), ("forward", 0.25)]
    assert steps["w2"] == {}


def test_a_second_look_tells_only_what_is_new(settings, fleet, store):
    # given a worker with a pack and a limit, both of an hour ago by its own clock
    now_s = store.now_ms() / 1000
    fleet.beat(worker_row())
    fleet.push("w1", [an_observation(at_s=now_s - 3600, cost=1.0)])
    old = BatchLimit(tokens=512, pairs=9, version=1, at_s=now_s - 3600)
    assert fleet.set_limit("w1", old)
    with running_gateway(settings) as http:
        first = http.get("/v1/fleet").json()
        assert len(first["packs"]["w1"]) == len(first["limits"]["w1"]) == 1
        # when it goes on, and is looked at again
        wait_until(lambda: store.now_ms() / 1000 > first["at_s"], what="the clock goes on")
        fleet.push("w1", [an_observation(at_s=now_s - 3500, cost=2.0)])
        fleet.set_limit("w1", BatchLimit(tokens=1024, pairs=9, version=2, at_s=now_s))
        second = http.get("/v1/fleet", params={"since": first["at_s"]}).json()
        # then only what is new comes, and the workers as ever
        assert [pack["cost"] for pack in second["packs"]["w1"]] == [2.0]
        assert [limit["tokens"] for limit in second["limits"]["w1"]] == [1024]
        assert [worker["id"] for worker in second["workers"]] == ["w1"]
        # and a look at what lies ahead finds nothing
        later = http.get("/v1/fleet", params={"since": now_s + 3600}).json()
        assert later["packs"] == later["limits"] == {"w1": []}
        assert later["history"] == []
        assert http.get("/v1/fleet?since=inf").status_code == 422
