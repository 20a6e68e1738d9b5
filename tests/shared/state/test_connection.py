"""The connection to Redis."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from rerankfleet.shared.errors import (
    QueueUnavailable,
    UsageError,
)
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.state.connection import CONNECTIONS_MAX, connect
from tests.support.records import spec_of
from tests.support.server import free_port


def test_more_threads_than_connections_wait_for_one_another(settings):
    # given one process with twice as many threads as it may have connections
    client = connect(settings)
    begin = threading.Barrier(2 * CONNECTIONS_MAX)

    def hold(number: int) -> None:
        begin.wait(30)
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
