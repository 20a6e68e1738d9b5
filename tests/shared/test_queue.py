"""Hints: disposable messages, in queues per model and priority."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from rerankfleet.shared.job_spec import Priority
from rerankfleet.shared.queue import (
    CONTROL_QUEUE,
    MONITOR_QUEUE,
    Hints,
    broker_keys,
    make_app,
    model_queue,
    model_queues,
)
from rerankfleet.shared.settings import Settings
from tests.support.records import hints_waiting
from tests.support.server import free_port, valkey
from tests.support.wait import wait_until


def test_queues_are_listened_to_most_urgent_first():
    assert [name.rsplit(".", 1)[1] for name in model_queues("m")] == [
        "interactive",
        "normal",
        "bulk",
    ]


@pytest.mark.parametrize("model", ["Qwen/Qwen3-Reranker-0.6B", "/models/a b/ü", "x" * 300, "..."])
def test_every_model_has_queues_of_its_own(model):
    name = model_queue(model, Priority.bulk)
    assert name.isascii()
    assert " " not in name
    assert len(name) < 80
    assert name != model_queue(model + "2", Priority.bulk)


def test_models_that_look_alike_are_kept_apart():
    assert model_queue("a/b", Priority.bulk) != model_queue("a-b", Priority.bulk)


def test_a_hint_of_a_shard_is_found_by_its_id(real_hints, store, settings):
    real_hints.shard("m", Priority.interactive, "j", "0-5")
    (key,) = broker_keys(settings, [model_queue("m", Priority.interactive)])

    assert store.broker.hint_ids([key]) == {"j/0-5"}
    message = json.loads(store.client.lindex(key, 0))
    assert message["content-type"] == "application/json"
    assert message["headers"]["task"] == "rerank.score_shard"


def test_a_hint_sent_again_is_taken_before_those_that_wait(real_hints, store, settings):
    for shard in ("0-1", "1-2"):
        real_hints.shard("m", Priority.normal, "j", shard)
    real_hints.shard("m", Priority.normal, "j", "2-3", first=True)
    (key,) = broker_keys(settings, [model_queue("m", Priority.normal)])
    taken = [json.loads(store.client.rpop(key))["headers"]["id"] for _ in range(3)]
    assert taken == ["j/2-3", "j/0-1", "j/1-2"]


def test_every_kind_of_hint_has_its_queue(real_hints, store, settings):
    real_hints.feed("j")
    real_hints.finish("j")
    real_hints.tick(expires_s=2)

    control, monitor = broker_keys(settings, [CONTROL_QUEUE, MONITOR_QUEUE])
    assert hints_waiting(store, [control]) == 2
    assert hints_waiting(store, [monitor]) == 1
    tick = json.loads(store.client.lindex(monitor, 0))
    assert tick["headers"]["expires"]


def test_a_hint_that_cannot_be_sent_is_only_logged(capsys):
    settings = Settings(redis_url=f"redis://127.0.0.1:{free_port()}/0")

    Hints(make_app(settings)).feed("j")

    assert "hint not sent" in capsys.readouterr().err


def test_only_json_is_spoken_and_no_results_are_kept(settings):
    conf = make_app(settings).conf
    assert conf.accept_content == ["json"]
    assert conf.task_ignore_result
    assert conf.result_backend is None
    assert not conf.task_acks_late


def test_no_hint_fails_whoever_sends_it_whatever_becomes_of_redis(tmp_path):
    # given many threads of one client that send hints all the time
    with valkey(tmp_path) as url, redis.Redis.from_url(url) as server:
        hints = Hints(make_app(Settings(redis_url=url, state_dir=tmp_path)))
        over = threading.Event()

        def send(number: int) -> None:
            while not over.is_set():
                hints.shard("m", Priority.normal, "0123456789ab", f"{number}-{number + 1}")

        def refused() -> int:
            return int(server.info("errorstats").get("errorstat_OOM", {"count": 0})["count"])

        with ThreadPoolExecutor(12) as threads:
            sending = [threads.submit(send, number) for number in range(12)]
            # when the server is full again and again, and closes their connections meanwhile
            try:
                for _ in range(8):
                    before = refused()
                    server.config_set("maxmemory", 1)
                    wait_until(lambda before=before: refused() > before + 12, 20, "refused")
                    server.client_kill_filter(_type="normal", skipme=True)
                    wait_until(lambda before=before: refused() > before + 36, 20, "and again")
                    server.config_set("maxmemory", 0)
            finally:
                over.set()
        # then none of them has failed, and a hint is sent as ever
        assert [future.exception() for future in sending] == [None] * 12
        server.flushall()
        hints.feed("0123456789ab")
        (key,) = broker_keys(Settings(redis_url=url), [CONTROL_QUEUE])
        assert server.llen(key) == 1
