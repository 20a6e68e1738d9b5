"""`rerank health`."""

from __future__ import annotations

import socket

import pytest

from tests.producer.cli.conftest import (
    FAILURE,
    OK,
)
from tests.support.fleet import worker_row


@pytest.mark.parametrize(
    ("host", "state", "code"),
    [
        (socket.gethostname(), "ready", OK),
        (socket.gethostname(), "draining", OK),
        (socket.gethostname(), "loading", FAILURE),
        ("elsewhere", "ready", FAILURE),
    ],
)
def test_a_worker_is_well_when_its_own_host_has_loaded_the_model(rerank, fleet, host, state, code):
    # given a fleet of one worker
    fleet.beat(worker_row(host=host, state=state))
    # when a container on this host asks
    assert rerank("health", "worker").code == code


def test_a_coordinator_is_well_when_it_gave_a_sign_of_life(rerank, store):
    # given a coordinator that never ran
    assert rerank("health", "coordinator").code == FAILURE
    # when it ticks
    store.coordination.pulse()
    # then it is well
    assert rerank("health", "coordinator").code == OK
