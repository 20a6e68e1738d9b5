"""One address of Redis for both of its clients, and the same checks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from kombu.exceptions import OperationalError

from rerankfleet.shared.errors import QueueUnavailable, UsageError
from rerankfleet.shared.queue import FEED, make_app
from rerankfleet.shared.redis_url import read_redis_url
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.state.connection import connect
from tests.support.tls import TlsPort, behind_tls

PASSWORD = "hunter2"


@pytest.fixture
def tls(redis_server: str, tmp_path: Path) -> Iterator[TlsPort]:
    """The tests' Redis behind a certificate for localhost."""
    port = urlsplit(redis_server).port
    assert port
    with behind_tls(port, "localhost", tmp_path) as port_with_tls:
        yield port_with_tls


def url_of(tls: TlsPort, query: str, host: str = "localhost") -> str:
    return f"rediss://:{PASSWORD}@{host}:{tls.port}/0{query}"


def send_hint(url: str) -> None:
    make_app(Settings(redis_url=url)).send_task(
        FEED, args=["j"], queue="tls-test", retry=False, ignore_result=True
    )


@pytest.mark.parametrize(
    "query",
    [
        "?ssl_ca_certs={ca}",
        "?ssl_ca_certs={ca}&ssl_cert_reqs=required",
        "?ssl_ca_certs={ca}&ssl_cert_reqs=CERT_REQUIRED&ssl_check_hostname=true",
        "?ssl_cert_reqs=none",
        "?ssl_cert_reqs=CERT_NONE",
    ],
)
def test_both_clients_reach_a_server_whose_certificate_is_trusted(tls, query):
    # given a server without a password, to which any is right
    url = url_of(tls, query.format(ca=tls.certificate))
    # when records and hints go to it, then both arrive, through TLS
    with connect(Settings(redis_url=url)) as client:
        client.set("tls-test-record", "x")
        send_hint(url)
        assert client.delete("tls-test-record") == 1
        assert client.delete("rerank:celery:tls-test", "rerank:celery:_kombu.binding.tls-test")
    assert PASSWORD.encode() in tls.received


@pytest.mark.parametrize(
    ("query", "host"),
    [
        ("", "localhost"),
        ("?ssl_cert_reqs=required", "localhost"),
        ("?ssl_cert_reqs=CERT_REQUIRED", "localhost"),
        ("?ssl_check_hostname=false", "localhost"),
        ("?ssl_ca_certs={ca}", "127.0.0.1"),  # the certificate is for another name
    ],
)
def test_an_impostor_gets_the_password_from_neither_client(tls, query, host):
    url = url_of(tls, query.format(ca=tls.certificate), host)

    with pytest.raises(QueueUnavailable, match=r"a certificate that is not trusted .*ssl_ca_certs"):
        connect(Settings(redis_url=url))
    with pytest.raises((OperationalError, redis.ConnectionError)):
        send_hint(url)

    assert not tls.received


def test_the_name_may_be_left_unchecked_on_request(tls):
    url = url_of(tls, f"?ssl_ca_certs={tls.certificate}&ssl_check_hostname=False", "127.0.0.1")
    connect(Settings(redis_url=url)).close()
    send_hint(url)


@pytest.mark.parametrize(
    ("url", "database"),
    [
        ("redis://h", 0),
        ("redis://h/", 0),
        ("redis://h:1/3", 3),
        ("redis://h/?db=4", 4),
        ("redis://h/3?db=4", 4),  # as redis-py has it
    ],
)
def test_both_clients_use_the_same_database(url, database):
    address = read_redis_url(url)
    pool = redis.ConnectionPool.from_url(address.for_records)
    broker = make_app(Settings(redis_url=url)).connection()
    assert pool.connection_kwargs.get("db", 0) == database
    assert int(broker.virtual_host or 0) == database


def test_a_password_may_hold_anything():
    url = "redis://me:a%3Bb%2Fc%40d;e@h:1/0"
    pool = redis.ConnectionPool.from_url(read_redis_url(url).for_records)
    broker = make_app(Settings(redis_url=url)).connection()
    assert pool.connection_kwargs["password"] == broker.password == "a;b/c@d;e"
    assert pool.connection_kwargs["username"] == broker.userid == "me"


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("redis://h/0?ssl_cert_reqs=none", "ssl_cert_reqs needs rediss://"),
        ("rediss://h/0?ssl_cert_reqs=maybe", "ssl_cert_reqs=maybe is not an option"),
        ("rediss://h/0?ssl_verify=1", "ssl_verify=1 is not an option"),
        ("rediss://h/0?ssl_check_hostname=", "ssl_check_hostname= is not an option"),
        ("redis://h/zero", "RERANK_REDIS_URL is wrong"),
        ("redis://h:port/0", "RERANK_REDIS_URL is wrong"),
        ("redis:///0", "not the address of a Redis"),
        ("unix:///tmp/redis.sock", "not the address of a Redis"),
        ("http://h", "not the address of a Redis"),
    ],
)
def test_a_wrong_address_is_refused_in_one_sentence(url, what):
    with pytest.raises(UsageError) as caught:
        read_redis_url(url.replace("://h", f"://:{PASSWORD}@h"))
    assert what in str(caught.value)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["me:{}/x@h", ":1/{}@h", ":{}#x@h", ":{}?x@h", "h/0?password={}&db=x"]
)
def test_a_password_that_breaks_its_address_is_not_shown(url):
    with pytest.raises(UsageError, match="RERANK_REDIS_URL is wrong") as caught:
        read_redis_url(f"redis://{url.format(PASSWORD)}")
    assert PASSWORD not in str(caught.value)


def test_an_option_that_the_client_does_not_have_is_refused(redis_server):
    with pytest.raises(UsageError, match=r"RERANK_REDIS_URL is wrong.*no_such"):
        connect(Settings(redis_url=f"{redis_server}?no_such=1"))
