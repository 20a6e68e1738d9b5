"""Where jobs over HTTP may read and write: attacks at each door, and at the write itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from rerankfleet.producer.coordinator.step import Control
from rerankfleet.shared.addresses import file_uri
from rerankfleet.shared.job_spec import InputRef, make_spec
from rerankfleet.shared.settings import Settings
from tests.support.fleet import MODEL, Worker, run, worker_row
from tests.support.gateway import running_gateway
from tests.support.wait import wait_until

LINES = [{"id": n, "query": f"q{n}", "documents": ["a", "b"]} for n in range(3)]


@pytest.fixture(autouse=True)
def _served(fleet) -> None:
    fleet.beat(worker_row())


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """The folder of outputs."""
    (tmp_path / "outputs").mkdir()
    return tmp_path / "outputs"


@pytest.fixture
def source(tmp_path: Path) -> str:
    """The URI of an input in an allowed folder."""
    (tmp_path / "allowed").mkdir()
    path = tmp_path / "allowed" / "in.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return file_uri(path)


def refused(http: httpx.Client, body: dict[str, Any], status: int = 403) -> dict[str, Any]:
    answer = http.post("/v1/jobs", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


def made(http: httpx.Client, **body: Any) -> str:
    answer = http.post("/v1/jobs", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def driven(control: Control, job_id: str) -> None:
    """A worker and a coordinator do what there is to do."""
    control.hints.feed(job_id)
    run(control, Worker(control))
    control.hints.finish(job_id)
    run(control, Worker(control))


# ---- outputs ------------------------------------------------------------------------------------


def test_an_output_is_written_to_an_output_folder_and_read_through_its_job(
    http, working, source, outputs
):
    job_id = made(http, input=source, output=file_uri(outputs / "out.jsonl"))
    job = f"/v1/jobs/{job_id}"
    wait_until(lambda: http.get(job).json()["state"] == "done", 30, "the job is done")
    assert len(http.get(f"{job}/results").text.splitlines()) == len(LINES)
    assert len((outputs / "out.jsonl").read_text().splitlines()) == len(LINES)


def test_no_other_place_is_written_to(http, source, outputs, tmp_path):
    # given a file of the operator's in a folder that may be read
    (tmp_path / "allowed" / "model.json").write_text("the operator's")
    (outputs / "link").symlink_to(tmp_path / "allowed")
    places = {
        file_uri(tmp_path / "allowed" / "model.json"): "add it to RERANK_OUTPUT_ROOTS",
        f"{file_uri(outputs)}/../allowed/new": "RERANK_OUTPUT_ROOTS",
        f"{file_uri(outputs)}/link/new": "leads out of the allowed folders",
        "file:///etc/cron.d/x": "RERANK_OUTPUT_ROOTS=/etc/cron.d",
        "s3://pairs/x": "RERANK_OUTPUT_BUCKETS=pairs",
    }
    for output, words in places.items():
        for more in ({}, {"catalog": {"queries": ["q"]}}):
            error = refused(http, {"input": source, "output": output, **more})
            assert words in json.dumps(error)
    assert not (tmp_path / "allowed" / "new").exists()


def test_an_output_that_exists_is_replaced_only_where_the_operator_says_so(
    http, change, source, outputs
):
    (outputs / "out").write_text("kept")
    body = {"input": source, "output": file_uri(outputs / "out")}
    assert refused(http, body, 409)["code"] == "output_exists"
    error = refused(http, body | {"force": True})
    assert (error["param"], error["code"]) == ("force", "not_allowed")
    assert "an output that exists is not replaced over HTTP" in error["message"]
    assert "RERANK_HTTP_FORCE" in error["message"] + str(error.get("hint"))
    made(http, input=source, force=True)  # without an output it says nothing
    with running_gateway(change(http_force=True)) as open_door:
        made(open_door, **body, force=True)


@pytest.mark.parametrize("over_http", [True, False])
def test_a_record_that_came_past_the_door_is_held_up_at_the_write(
    control, source, tmp_path, outputs, over_http
):
    """Given a job over HTTP whose output lies where only others may write."""
    target = tmp_path / "allowed" / "model.json"
    target.write_text("the operator's")
    input_ = pinned(control, source)
    spec = make_spec(model=MODEL, input=input_, output=file_uri(target), over_http=over_http)
    control.store.jobs.create("j", spec, "digest")
    driven(control, "j")
    job = control.store.jobs.get("j")
    if over_http:
        assert "RERANK_OUTPUT_ROOTS" in job.facts["paused"]
        assert target.read_text() == "the operator's"
    else:
        assert job.finished
    assert [path.name for path in target.parent.iterdir() if ".draft" in path.name] == []


def test_an_output_folder_that_is_swapped_while_the_job_runs_leads_nowhere(
    http, control, source, tmp_path, outputs
):
    # given a job whose output's folder becomes a link to somebody else's
    job_id = made(http, input=source, output=file_uri(outputs / "mine" / "in.jsonl"))
    (outputs / "mine").symlink_to(tmp_path / "allowed")
    before = (tmp_path / "allowed" / "in.jsonl").read_bytes()
    driven(control, job_id)
    # then it waits for a person, and nothing was written
    assert "leads out of the allowed folders" in control.store.jobs.get(job_id).facts["paused"]
    assert [path.name for path in (tmp_path / "allowed").iterdir()] == ["in.jsonl"]
    assert (tmp_path / "allowed" / "in.jsonl").read_bytes() == before


# ---- inputs -------------------------------------------------------------------------------------


def pinned(control: Control, uri: str) -> InputRef:
    stat = control.objects.stat(uri)
    return InputRef(uri=uri, size=stat.size, tag=stat.tag)


@pytest.fixture
def victim(http, settings: Settings, source) -> str:
    """The URI of the folder of somebody else's job, made of an upload."""
    upload = http.post("/v1/uploads?name=in.jsonl", json=LINES[0]).json()["uri"]
    job_id = made(http, input=upload)
    return f"{settings.storage_uri}/jobs/{job_id}"


def test_the_input_of_another_job_is_not_to_be_had(http, settings, victim, source, tmp_path):
    (tmp_path / "allowed" / "link").symlink_to(victim.removeprefix("file://"))
    link, storage = file_uri(tmp_path / "allowed"), settings.storage_uri
    inputs = [
        f"{victim}/input.jsonl",
        f"{victim}/../{victim.rpartition('/')[2]}/input.jsonl",
        f"FILE{victim[4:]}/input.jsonl",
        f"{storage}/%6aobs/{victim.rpartition('/')[2]}/input.jsonl",
        f"{link}/link/input.jsonl",
        f"{victim}/",
        f"{storage}/jobs/",
        f"{storage}/uploads/",
    ]
    for uri in inputs:
        more: dict[str, Any] = {"catalog": {"queries": ["q"]}}
        bodies = [{"input": uri, **more}]
        if not uri.endswith("/"):
            bodies += [{"input": uri}, {"input": source, "catalog": {"queries": uri}}]
        for body in bodies:
            of_queries = isinstance(body["catalog"]["queries"] if "catalog" in body else 0, str)
            error = refused(http, body, 422 if of_queries else 403)
            assert "the storage keeps the files of other jobs there" in error["message"], body


def test_a_record_that_names_another_jobs_input_is_held_up_at_the_read(control, http, victim):
    spec = make_spec(model=MODEL, input=pinned(control, f"{victim}/input.jsonl"))
    control.store.jobs.create("j", spec, "digest")
    driven(control, "j")
    job = control.store.jobs.get("j")
    assert "the storage keeps the files of other jobs there" in job.facts["paused"]


def test_an_upload_serves_as_input_of_many_jobs_and_a_job_reads_its_copy(http, working, source):
    upload = http.post("/v1/uploads?name=in.jsonl", json=LINES[0]).json()["uri"]
    for key in ("one", "two"):
        job = f"/v1/jobs/{made(http, input=upload, key=key)}"
        wait_until(lambda job=job: http.get(job).json()["state"] == "done", 30, "the job is done")
        assert len(http.get(f"{job}/results").text.splitlines()) == 1
