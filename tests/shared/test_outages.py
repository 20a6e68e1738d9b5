"""No error of a library is told as a bug: it is infrastructure, or a refusal with its reason."""

from __future__ import annotations

import http.client
import inspect
import socket
import ssl

import botocore.exceptions
import celery.exceptions
import kombu.exceptions
import pytest
import redis
import urllib3.exceptions

from rerankfleet.shared.errors import RerankError, StorageRefused, Unavailable
from rerankfleet.shared.outages import as_outage
from rerankfleet.shared.queue import Hints
from rerankfleet.shared.state.connection import REDIS_ERRORS
from rerankfleet.shared.storage.errors import clear_errors


def errors_of(module: object) -> list[type[Exception]]:
    """The classes of errors that a module defines."""
    classes = [kind for _, kind in inspect.getmembers(module, inspect.isclass)]
    own = module.__name__.partition(".")[0]  # type: ignore[attr-defined]
    return [
        kind
        for kind in classes
        if issubclass(kind, Exception)
        and not issubclass(kind, Warning)
        and kind.__module__.startswith(own)
    ]


def instance(kind: type[Exception]) -> Exception:
    """An error as a library raises it, as far as `except` can tell: each wants other arguments."""
    simple = {"__init__": lambda self: None, "__str__": lambda self: "it failed"}
    return type(kind.__name__, (kind,), {"__module__": kind.__module__, **simple})()


S3 = [*errors_of(botocore.exceptions), *errors_of(urllib3.exceptions)]
CONNECTION = [
    *(http.client.IncompleteRead, http.client.BadStatusLine, http.client.RemoteDisconnected),
    *(ConnectionResetError, BrokenPipeError, TimeoutError, socket.gaierror, ssl.SSLError),
]


@pytest.mark.parametrize("kind", [*S3, *CONNECTION], ids=lambda kind: kind.__name__)
def test_whatever_a_storage_raises_is_infrastructure_or_a_refusal(kind):
    with pytest.raises(RerankError) as caught, clear_errors("s3://bucket/key"):
        raise instance(kind)
    assert isinstance(caught.value, Unavailable | StorageRefused)
    assert "s3://bucket/key" in str(caught.value)


@pytest.mark.parametrize("kind", [*S3, *CONNECTION], ids=lambda kind: kind.__name__)
def test_and_so_it_is_where_it_escaped(kind):
    assert isinstance(as_outage(instance(kind)), Unavailable | StorageRefused)


@pytest.mark.parametrize(
    "error",
    [OSError(24, "too many open files"), MemoryError(), BlockingIOError(11, "no process")],
    ids=repr,
)
def test_what_the_system_refuses_is_waited_for_and_named(error):
    outage = as_outage(error)
    assert isinstance(outage, StorageRefused)
    assert type(error).__name__ in str(outage)


@pytest.mark.parametrize("error", [ValueError("odd"), KeyError("x"), RuntimeError("x")], ids=repr)
def test_a_bug_stays_a_bug(error):
    assert as_outage(error) is None


NOT_MET = {"ChildDeadlockedError", "CrossSlotTransactionError"} | {
    *("InvalidPipelineStack", "RedisClusterException")
}
"""Of clusters, and of a pool of connections that is used on both sides of a fork."""


@pytest.mark.parametrize(
    "kind",
    [kind for kind in errors_of(redis) if kind.__name__ not in NOT_MET],
    ids=lambda kind: kind.__name__,
)
def test_every_error_of_redis_is_known(kind):
    """They are handled before: while Redis is away nothing can be said in the job."""
    assert isinstance(instance(kind), REDIS_ERRORS)


@pytest.mark.parametrize(
    "kind",
    [*errors_of(kombu.exceptions), *errors_of(redis), *errors_of(celery.exceptions)],
    ids=lambda kind: kind.__name__,
)
def test_a_hint_that_cannot_be_sent_costs_nothing(kind):
    class Broken:
        def send_task(self, *_, **__):
            raise instance(kind)

    Hints(Broken()).feed("j")  # type: ignore[arg-type]
