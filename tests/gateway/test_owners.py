"""What a key made is its own: to other keys it is as if it had never been."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from rerankfleet.producer.gateway.app import ROUTES
from rerankfleet.shared.addresses import file_uri
from tests.support.fleet import MODEL
from tests.support.gateway import running_gateway
from tests.support.wait import wait_until

pytestmark = pytest.mark.usefixtures("working")

LINES = [{"id": n, "query": f"q{n}", "documents": ["a", 5, f"c{n}"]} for n in range(3)]

ABOUT_A_JOB = [
    (method, route.path)
    for routes in ROUTES
    for route in routes.routes
    if isinstance(route, APIRoute) and "{job_id}" in route.path
    for method in sorted(route.methods)
]


def uploaded(http: httpx.Client) -> str:
    content = "".join(json.dumps(line) + "\n" for line in LINES)
    answer = http.post("/v1/uploads?name=a.jsonl", content=content)
    assert answer.status_code == 201, answer.text
    return answer.json()["uri"]


def submitted(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = http.post("/v1/jobs", json={"input": uploaded(http), "model": MODEL, **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()


@pytest.fixture
def finished(clients) -> str:
    """The id of a job of alice that is done."""
    alice = clients["alice"]
    job_id = submitted(alice)["id"]
    path = f"/v1/jobs/{job_id}"
    wait_until(lambda: alice.get(path).json()["state"] == "done", 30, "the job ends")
    return job_id


def said(http: httpx.Client, method: str, path: str, job_id: str) -> tuple[int, str]:
    """What a route says of a job, without its id."""
    answer = http.request(method, path.replace("{job_id}", job_id))
    return answer.status_code, answer.text.replace(job_id, "JOB")


def test_no_route_tells_anothers_job_from_one_that_never_was(clients, finished):
    assert len(ABOUT_A_JOB) >= 10
    alice, bob, boss = (clients[name] for name in ("alice", "bob", "only-admin"))
    for method, template in ABOUT_A_JOB:
        path = template.replace("{name}", "manifest.json")
        for query in ("", "?limit=none", "?after=none&partial=perhaps"):
            foreign = said(bob, method, path + query, finished)
            assert foreign[0] == 404, (method, path)
            assert foreign == said(bob, method, path + query, "never-was"), (method, path)
        assert said(alice, method, path, "never-was") == said(bob, method, path, finished)
        # while its owner and an administrator get an answer, if only that it is over
        for http in (alice, boss):
            assert said(http, method, path, finished)[0] in (200, 409), (method, path)


def test_a_list_has_only_ones_own_jobs_and_an_administrators_all(clients, store):
    mine, yours = submitted(clients["alice"])["id"], submitted(clients["bob"])["id"]
    store.jobs.create("old", store.jobs.get(mine).spec.model_copy(update={"owner": ""}), "d")

    def listed(name: str, limit: int = 50) -> list[tuple[str, str]]:
        jobs = clients[name].get("/v1/jobs", params={"limit": limit}).json()["data"]
        return [(job["id"], job["owner"]) for job in jobs]

    assert listed("alice", 1) == [(mine, "alice")]
    assert listed("bob") == [(yours, "bob")]
    assert listed("only-jobs") == []
    assert listed("only-admin") == [("old", ""), (yours, "bob"), (mine, "alice")]
    assert clients["alice"].get("/v1/jobs/old").status_code == 404
    assert clients["only-admin"].get("/v1/jobs/old").json()["owner"] == ""


def test_the_same_idempotency_key_of_two_owners_makes_two_jobs(clients):
    mine, yours = (submitted(clients[name], key="monday") for name in ("alice", "bob"))
    again = submitted(clients["alice"], key="monday")
    assert mine["id"] == again["id"] != yours["id"]
    # and another's key is not even a conflict
    assert submitted(clients["bob"], key="monday2", top_n=1)["id"] != yours["id"]
    conflict = clients["bob"].post(
        "/v1/jobs",
        json={"input": uploaded(clients["bob"]), "model": MODEL, "key": "monday", "top_n": 1},
    )
    assert conflict.status_code == 409
    assert mine["id"] not in conflict.text


def test_the_same_key_of_two_small_requests_is_answered_twice(clients):
    body = {"query": "q", "documents": ["a"], "idempotency_key": "k"}
    first, again, other = (
        clients[name].post("/v1/rerank", json=body).json()["id"]
        for name in ("alice", "alice", "bob")
    )
    assert first == again != other


def test_a_small_request_is_its_keys_own(clients):
    answer = clients["alice"].post("/v1/rerank", json={"query": "q", "documents": ["a"]})
    job_id = answer.json()["id"].removeprefix("rerank-")
    assert clients["alice"].get(f"/v1/jobs/{job_id}").json()["owner"] == "alice"
    assert clients["bob"].get(f"/v1/jobs/{job_id}").status_code == 404


def test_an_asynchronous_request_is_its_keys_own(clients):
    body = {"query": "q", "documents": ["a"], "mode": "async"}
    links = clients["alice"].post("/v1/rerank", json=body).json()["links"]
    assert clients["alice"].get(links["self"]).json()["owner"] == "alice"
    assert clients["bob"].get(links["self"]).status_code == 404


def test_an_upload_is_no_input_for_another_key(clients, settings, objects):
    uri = uploaded(clients["alice"])
    gone = uri.replace(uri.rsplit("/", 2)[1], uri.rsplit("/", 2)[1][:-1] + "x")
    catalog = {"catalog": {"queries": ["q"]}}
    for fields in ({}, catalog, {"input": uploaded(clients["bob"]), "catalog": {"queries": "URI"}}):

        def refused(name: str, uri: str, fields: Any = fields) -> tuple[int, str]:
            body = json.loads(
                json.dumps({"input": uri, "model": MODEL, **fields}).replace("URI", uri)
            )
            answer = clients[name].post("/v1/jobs", json=body)
            return answer.status_code, answer.text.replace(uri, "URI")

        assert refused("bob", uri) == refused("bob", gone)
        assert refused("bob", uri)[0] == 422
        assert "does not exist" in refused("bob", uri)[1]
    storage = settings.storage_uri
    inside = uri.removeprefix(f"{storage}/")
    folder = uri.rpartition("/")[0]
    for way_round in (
        f"{storage}/jobs/../{inside}",
        f"{storage}//{inside}",
        uri.replace("uploads", "%75ploads"),
        f"{folder}/",
        f"{storage}/uploads/",
        f"{storage}/",
        storage,
    ):
        body = {"input": way_round, "model": MODEL, **catalog}
        answer = clients["bob"].post("/v1/jobs", json=body)
        assert answer.status_code == 422, way_round
        assert "does not exist" in answer.text
    assert clients["only-admin"].post("/v1/jobs", json={"input": uri, "model": MODEL}).is_success


def test_the_input_of_anothers_job_is_no_input(clients, finished, store):
    pinned = store.jobs.get(finished).spec.input.uri
    answer = clients["bob"].post("/v1/jobs", json={"input": pinned, "model": MODEL})
    assert answer.status_code == 422
    assert "does not exist" in answer.text


def test_what_was_made_without_a_key_is_open_to_administrators_only(clients, settings, finished):
    with running_gateway(settings) as keyless:
        assert keyless.get(f"/v1/jobs/{finished}").json()["owner"] == "alice"
        job_id, upload = submitted(keyless)["id"], uploaded(keyless)
    assert clients["alice"].get(f"/v1/jobs/{job_id}").status_code == 404
    assert clients["only-admin"].get(f"/v1/jobs/{job_id}").status_code == 200
    body = {"input": upload, "model": MODEL}
    assert clients["alice"].post("/v1/jobs", json=body).status_code == 422


def test_other_allowed_places_are_open_to_every_key(clients, tmp_path):
    folder = tmp_path / "allowed"
    folder.mkdir()
    (folder / "in.jsonl").write_text(json.dumps(LINES[0]) + "\n")
    body = {"input": file_uri(folder / "in.jsonl"), "model": MODEL}
    assert clients["bob"].post("/v1/jobs", json=body).status_code == 201
