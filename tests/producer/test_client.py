"""Client: the verbs on a job."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rerankfleet.producer.client import Client
from rerankfleet.producer.coordinator.feed import feed
from rerankfleet.shared.addresses import file_uri
from rerankfleet.shared.errors import (
    DeadlineExceeded,
    InputChanged,
    ItemError,
    QueueUnavailable,
    RerankError,
    UnknownJob,
    UsageError,
    WrongState,
)
from rerankfleet.shared.job_spec import Priority
from rerankfleet.shared.queue import broker_keys, model_queue
from rerankfleet.shared.settings import Settings
from tests.support.fleet import MODEL, worker_row
from tests.support.jobs import LINES, do, open_shards
from tests.support.server import free_port
from tests.support.wait import patient


def test_a_redis_that_does_not_answer_is_one_sentence():
    settings = Settings(redis_url=f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(QueueUnavailable, match=r"does not answer \(.*\): start it"):
        Client(settings)


def test_waiting_ends_at_its_deadline_and_tells_progress(api, source):
    job_id = api.submit(source)
    seen = []
    with pytest.raises(DeadlineExceeded, match=f"job {job_id} still runs"):
        api.wait(job_id, timeout_s=0, on_progress=seen.append)
    assert [status.state for status in seen] == ["running"]


def test_verbs_that_the_state_does_not_permit_are_refused(api, source, control):
    job_id = api.submit(source)
    with pytest.raises(WrongState, match="cannot be resumed: it is not paused"):
        api.resume(job_id)
    with pytest.raises(WrongState, match="is not finished: wait for it, or cancel it"):
        api.retry(job_id)
    do(control, job_id)
    for verb, done in ((api.cancel, "cancelled"), (api.pause, "paused"), (api.resume, "resumed")):
        with pytest.raises(WrongState, match=f"cannot be {done}: it is already finished"):
            verb(job_id)
    with pytest.raises(WrongState, match="has nothing to retry"):
        api.retry(job_id)
    with pytest.raises(UsageError, match="'some' is not known: use all or errors"):
        api.retry(job_id, "some")
    for verb in (api.status, api.cancel, api.pause, api.resume, api.retry, api.wait):
        with pytest.raises(UnknownJob, match="there is no job nope"):
            verb("nope")


def test_pause_and_resume_hint_what_waits(api, source, control, store, settings):
    job_id = api.submit(source)
    feed(job_id, control)
    api.pause(job_id)
    assert (api.status(job_id).state, api.status(job_id).reason) == ("paused", "paused by the user")

    api.resume(job_id)

    keys = broker_keys(settings, [model_queue(MODEL, Priority.normal)])
    assert {f"{job_id}/{s}" for s in open_shards(store, job_id)} == store.broker.hint_ids(keys)


def test_cancelling_twice_is_harmless(api, source, control):
    job_id = api.submit(source)
    api.cancel(job_id)
    api.cancel(job_id)
    do(control, job_id)

    status = api.wait(job_id, timeout_s=patient(5))
    assert (status.state, status.progress.cancelled) == ("cancelled", 12)


def test_a_retry_refuses_changed_input(api, control, tmp_path):
    (tmp_path / "allowed").mkdir()
    path = tmp_path / "allowed" / "in"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    job_id = api.submit(file_uri(path))
    do(control, job_id, fails="c1")
    path.write_text(path.read_text() + "\n")

    with pytest.raises(InputChanged):
        api.retry(job_id)
    assert api.status(job_id).state == "done"


def test_a_retried_job_ends_with_everything_scored(api, source, control):
    job_id = api.submit(source)
    do(control, job_id, fails="c1")
    assert api.status(job_id).progress.errors == 1

    api.retry(job_id, "errors")
    assert api.status(job_id).state == "running"
    do(control, job_id)

    status = api.status(job_id)
    assert (status.state, status.progress.errors, status.progress.scored) == ("done", 0, 12)
    assert status.round == 1


def test_jobs_that_are_gone_are_not_listed(api, source, control, client, store):
    job_id = api.submit(source)
    do(control, job_id)
    client.delete(store.keys.job(job_id), store.keys.job_parts(job_id))
    assert api.jobs() == []


OF_A_SHELL = re.compile(r"(?<![\w-])--[a-z]|\brerank (?!fleet)[a-z]+\b(?= -|`)|object a line")
"""A flag, a command, or the shape of a file."""
WRONG: list[Callable[[Client], Any]] = [
    lambda api: api.rerank("q", ["a"], timeout_s=0.05),
    lambda api: api.rerank("q", ["a"], model="none"),
    lambda api: api.rerank(" ", ["a"], model=MODEL),
    lambda api: api.rerank("q", [], model=MODEL),
    lambda api: api.rerank("q", ["a"], model=MODEL, top_n=-1),
    lambda api: api.rerank("q", ["a"], model=MODEL, instruction=5),  # type: ignore[arg-type]
    lambda api: api.rerank("q", ["a"], model=MODEL, temprature=1),
    lambda api: api.rerank("q", ["a"], model=MODEL, profile="none"),
    lambda api: api.rerank("q", ["a"], model=MODEL, timeout_s=0.05),
    lambda api: api.status("none"),
    lambda api: api.retry("none", only="some"),
    lambda api: api.submit("none.jsonl", model=MODEL),
    lambda api: api.submit(__file__, output=__file__, model=MODEL),
    lambda api: api.submit(__file__, model="none"),
    lambda api: api.submit(__file__, model=MODEL, adaptive_temperature=True),
    lambda api: api.submit_catalog("/", ["q"], output=Path(__file__).parent, model=MODEL),
]


@pytest.mark.parametrize("call", WRONG)
@pytest.mark.parametrize("rows", [[], [{}], [{"model": "pocket-text"}]])
def test_no_error_tells_a_caller_of_python_what_to_type(api, fleet, call, rows):
    for row in rows:
        fleet.beat(worker_row(**row))
    with pytest.raises(RerankError) as caught:
        call(api)
    assert not OF_A_SHELL.search(f"{caught.value}"), caught.value


# ---- what is no list ----------------------------------------------------------------------------


@pytest.mark.parametrize("documents", ["one text", b"bytes", {"a": 1}, {"a", "b"}, 5])
def test_documents_that_are_no_list_are_refused_in_one_sentence(api, documents):
    with pytest.raises(ItemError, match=r"^documents: Input should be a list, got .*: write "):
        api.rerank("q", documents, model=MODEL)


def test_documents_that_are_none_are_absent(api):
    with pytest.raises(ItemError, match="documents: Field required: a request has"):
        api.rerank("q", None, model=MODEL)


@pytest.mark.parametrize("source", [["a"], b"pairs.jsonl", {"query": "q"}, None, 5])
def test_an_input_that_is_no_path_is_refused(api, source):
    with pytest.raises(UsageError, match=r"the input is of type .*, expected a path or URI"):
        api.submit(source)
    with pytest.raises(UsageError, match=r"the catalog is of type .*, expected a path or URI"):
        api.submit_catalog(source, ["q"])
