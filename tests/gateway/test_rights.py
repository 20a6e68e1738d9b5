"""What each right opens: every route, with every key."""

from __future__ import annotations

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute

from rerankfleet.producer.api_keys import EVERYONE, Right
from rerankfleet.producer.gateway.app import ROUTES
from rerankfleet.producer.gateway.rights import RULES, require_rules, rule_of

OPEN, ANY = "open", "any"
SCORES = {"rerank"}
JOBS = {"jobs"}

NEEDED = {
    "/v1/rerank": SCORES,
    "/v2/rerank": SCORES,
    "/rerank": SCORES,
    "/v1/score": SCORES,
    "/score": SCORES,
    "/v1/jobs": JOBS,
    "/v1/jobs/{job_id}": JOBS,
    "/v1/jobs/{job_id}/cancel": JOBS,
    "/v1/jobs/{job_id}/pause": JOBS,
    "/v1/jobs/{job_id}/resume": JOBS,
    "/v1/jobs/{job_id}/retry": JOBS,
    "/v1/jobs/{job_id}/results": JOBS,
    "/v1/jobs/{job_id}/errors": JOBS,
    "/v1/jobs/{job_id}/events": JOBS,
    "/v1/jobs/{job_id}/files": JOBS,
    "/v1/jobs/{job_id}/files/{name}": JOBS,
    "/v1/uploads": {"rerank", "jobs"},
    "/v1/models": ANY,
    "/v1/presets": ANY,
    "/info": ANY,
    "/v1/fleet": set(),
    "/metrics": {"metrics"},
    "/health": OPEN,
    "/health/live": OPEN,
    "/health/ready": OPEN,
    "/version": OPEN,
    "/docs": OPEN,
    "/docs/style.css": OPEN,
}
"""Which rights open a path, besides `admin`: by hand, so that a new route is thought about."""

EVERY = [r for routes in ROUTES for r in routes.routes if isinstance(r, APIRoute)]


def test_every_route_is_in_the_table_and_every_rule_has_a_route():
    assert {route.path for route in EVERY} == NEEDED.keys()
    for rule in RULES:
        paths = {path for path in NEEDED if rule_of(path) is rule}
        assert paths or rule.path == "/openapi.json"  # FastAPI's own


def test_a_gateway_with_a_route_without_a_rule_does_not_start():
    routes = APIRouter()
    routes.get("/v1/jobsearch")(lambda: None)  # begins like another
    with pytest.raises(LookupError, match=r"/v1/jobsearch has no rule in .*rights\.py"):
        require_rules(routes.routes)
    require_rules(EVERY)


@pytest.mark.parametrize("right", ["rerank", "jobs", "metrics", "admin"])
def test_a_right_opens_its_routes_and_no_other(clients, right):
    http = clients[f"only-{right}"]
    for route in EVERY:
        needed = NEEDED[route.path]
        path = route.path.replace("{job_id}", "j").replace("{name}", "n")
        for method in {*route.methods, "HEAD", "OPTIONS"}:
            answer = http.request(method, path)
            may = needed in (OPEN, ANY) or right == "admin" or right in needed
            assert (answer.status_code == 403) == (not may), (method, path, answer.status_code)
            assert answer.status_code != 401
    assert http.get("/").status_code == 200
    assert http.get("/v1/no-such-path").status_code == 404


def test_a_refusal_says_what_the_key_may_not_do_and_what_it_has(clients):
    answer = clients["alice"].get("/v1/fleet")
    error = answer.json()["error"]
    said = "the key alice may not look at the workers: it has the rights rerank, jobs"
    assert (error["message"], error["code"], error["type"]) == (
        said,
        "missing_right",
        "permission_error",
    )
    assert "needs the right admin" in error["hint"]
    only = clients["only-metrics"].post("/v1/jobs", json={"input": "s3://a/b"}).json()["error"]
    assert only["message"].endswith("it has the right metrics")
    upload = clients["only-metrics"].post("/v1/uploads", content=b"x").json()["error"]
    assert "needs the right rerank or jobs" in upload["hint"]


def test_a_request_that_becomes_a_job_needs_the_right_for_jobs_too(clients):
    body = {"query": "q", "documents": ["a"], "mode": "async"}
    for path in ("/v1/rerank", "/rerank"):
        answer = clients["only-rerank"].post(path, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "missing_right")
        assert "may not make jobs" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "shape"),
    [
        ("/v1/rerank", {"query": "q", "documents": ["a"]}, "ours"),
        ("/v2/rerank", {"query": "q", "documents": ["a"], "model": "m"}, "cohere"),
        ("/rerank", {"query": "q", "texts": ["a"]}, "tei"),
        ("/rerank", {"query": "q", "documents": ["a"]}, "ours"),
    ],
)
def test_a_refusal_has_the_shape_that_its_client_reads(clients, path, body, shape):
    answer = clients["only-jobs"].post(path, json=body)
    assert answer.status_code == 403
    said = "the key only-jobs may not have requests scored"
    fields = answer.json()
    if shape == "tei":
        assert fields["error"].startswith(said)
        assert fields["error_type"] == "Validation"
    else:
        assert fields["error"]["message"].startswith(said)
        assert ("message" in fields) == (shape == "cohere")


def test_without_keys_everyone_may_do_everything(http):
    assert EVERYONE.rights == frozenset(Right)
    assert http.get("/v1/fleet").status_code == 200
    assert http.get("/metrics").status_code == 200
