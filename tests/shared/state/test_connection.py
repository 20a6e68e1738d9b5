"""The connection to Redis."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from rerankfleet.shared.errors import (
    QueueUnavailable,
    UsageError,
)
from rerankfleet.shared.job_status import ShardSummary
from rerankfleet.shared.queue import Hints, make_app
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.state.connection import CONNECTIONS_MAX, REDIS_AWAY, connect
from rerankfleet.shared.state.rates import Rates
from rerankfleet.shared.state.records import OpenShard
from rerankfleet.shared.state.store import Store
from tests.support.records import claim, spec_of
from tests.support.server import free_port, valkey
from tests.support.wait import patient


def test_threads_of_one_client_get_their_own_answers_while_connections_are_closed(
    settings, redis_server
):
    # given many threads of one client, and somebody who closes its connections all the time
    client = connect(settings)
    store, over, count = Store(client, settings), threading.Event(), CONNECTIONS_MAX // 2

    def close_all() -> None:
        with redis.Redis.from_url(redis_server) as other:
            while not over.is_set():
                other.client_kill_filter(_type="normal", skipme=True)

    def ask(number: int) -> None:
        for turn in range(40):
            with suppress(*REDIS_AWAY):
                mine = f"{number} {turn}"
                inline = store.inline.put(f"{number:012x}", "name", mine.encode(), ttl_s=60)
                pipe = client.pipeline()
                pipe.echo(mine)
                pipe.time()
                assert pipe.execute()[0] == mine
                assert client.eval("return ARGV[1]", 0, mine) == mine
                assert store.inline.get(inline) == mine.encode()

    closer = threading.Thread(target=close_all)
    closer.start()
    # when all of them ask, then each gets its own answers, or hears that Redis is away
    try:
        with ThreadPoolExecutor(count) as threads:
            list(threads.map(ask, range(count)))
    finally:
        over.set()
        closer.join()
    # and afterwards no connection is missing
    begin = threading.Barrier(CONNECTIONS_MAX)

    def hold(number: int) -> None:
        begin.wait(patient(30))
        assert client.blpop([f"nothing:{number}"], timeout=0.1) is None

    with ThreadPoolExecutor(CONNECTIONS_MAX) as threads:
        list(threads.map(hold, range(CONNECTIONS_MAX)))
    client.delete(*client.scan_iter(match=f"{settings.key_prefix}:*"))


def test_more_threads_than_connections_wait_for_one_another(settings):
    # given one process with twice as many threads as it may have connections
    client = connect(settings)
    begin = threading.Barrier(2 * CONNECTIONS_MAX)

    def hold(number: int) -> None:
        begin.wait(patient(30))
        assert client.blpop([f"nothing:{number}"], timeout=0.1) is None

    # when all of them ask at once, then all are answered
    with ThreadPoolExecutor(2 * CONNECTIONS_MAX) as threads:
        list(threads.map(hold, range(2 * CONNECTIONS_MAX)))


def test_a_server_that_does_not_answer_is_named_without_its_password():
    port = free_port()
    settings = Settings(redis_url=f"redis://me:hunter2@127.0.0.1:{port}/0")

    with pytest.raises(QueueUnavailable) as caught:
        connect(settings)

    assert f"redis://me:***@127.0.0.1:{port}/0 does not answer" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[str, redis.Redis]]:
    """A server of its own, whose users a test may make: `host:port`, and its administrator."""
    with valkey(tmp_path) as url, redis.Redis.from_url(url) as admin:
        yield url.removeprefix("redis://").removesuffix("/0"), admin


def test_what_is_wrong_is_said_by_its_kind(guarded):
    server, admin = guarded
    admin.execute_command("ACL", "SETUSER", "me", "on", ">right", "~*", "+@all", "-ping")
    admin.execute_command("ACL", "SETUSER", "default", "off")
    wrong = {
        f"redis://me:wrong@{server}": r"refuses the user or the password \(.*WRONGPASS|invalid",
        f"redis://{server}": "refuses the user or the password",
        f"redis://me:right@{server}": r"does not allow its user what is needed \(.*ping",
        "redis://no.such.host.invalid:1": "is at a host that is not known",
        f"redis://127.0.0.1:{free_port()}": r"does not answer \(.*refused",
    }
    for url, sentence in wrong.items():
        with pytest.raises(QueueUnavailable, match=sentence) as caught:
            connect(Settings(redis_url=url))
        assert "right@" not in str(caught.value)
        assert "wrong@" not in str(caught.value)


def test_a_user_limited_to_the_prefix_can_do_everything(guarded, settings, objects):
    # given a user who may touch the keys and channels of the prefix, and nothing else
    server, admin = guarded
    prefix = settings.key_prefix
    limited = ("resetkeys", f"~{prefix}:*", "resetchannels", f"&{prefix}:*", "-@all")
    rights = (f"+{command}" for command in COMMANDS)
    admin.execute_command("ACL", "SETUSER", "me", "on", ">pw", *limited, *rights)
    url = SecretStr(f"redis://me:pw@{server}/0")
    own = settings.model_copy(update={"redis_url": url})
    store = Store(connect(own), own)
    # when jobs without a key go through all that a job may go through
    Hints(make_app(own)).feed("a")
    store.jobs.create("a", spec_of(), "digest")
    shards = [OpenShard(0, 10, "0-0-10-x")]
    store.shards.open(store.jobs.get("a"), ("", "c"), shards, sealed=True, lines=1, low_water=0)
    store.shards.release(claim(store))
    store.jobs.pause(store.jobs.get("a"), "why")
    store.jobs.resume(store.jobs.get("a"))
    store.shards.commit(claim(store, token="t2"), "p", ShardSummary(scored=9, errors=1))
    store.jobs.begin_step("a", "t")
    assert store.jobs.finish(store.jobs.get("a"), "t", "file:///out")
    assert store.jobs.retry(store.jobs.get("a"), "all") == "reopened"
    assert store.jobs.cancel(store.jobs.get("a")) == "cancelled"
    store.coordination.pulse()
    store.snapshot(unfinished_jobs=True)
    store.jobs.wait_persisted()
    # and when jobs and requests are those of a key with a rate
    store.jobs.create("b", spec_of(owner="team", key="mine"), "digest")
    assert store.jobs.recent(9, "team") == ["b"]
    assert [Rates(store).take("team", 1, 60).is_within for _ in range(2)] == [True, False]
    # then nothing was refused, and nothing else can be touched
    assert not [entry for entry in admin.acl_log() if entry["object"] != "config|get"]
    with pytest.raises(redis.exceptions.NoPermissionError):
        store.client.get("other")
    store.client.close()


COMMANDS = (
    "@read @write @hash @sortedset @string @list @set @scripting @transaction @connection "
    "@pubsub @stream info time waitaof"
).split()
"""docs/security.md documents the same."""


@pytest.mark.parametrize("url", ["localhost:6379", "http://host", "redis://host:port"])
def test_an_address_that_is_none_is_refused_in_one_sentence(url):
    with pytest.raises(UsageError, match="RERANK_REDIS_URL"):
        connect(Settings(redis_url=url))


def test_settling_waits_for_the_append_only_file_where_there_is_one(store, client):
    store.jobs.wait_persisted()
    client.config_set("appendonly", "yes")
    try:
        store.jobs.create("a", spec_of(), "digest")
        store.jobs.wait_persisted()
    finally:
        client.config_set("appendonly", "no")
