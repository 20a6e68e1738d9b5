"""What a job produced: its lines, and copies of its files."""

from __future__ import annotations

import json

import pytest

from rerankfleet.shared.calibration import relevance_score
from rerankfleet.shared.errors import (
    WrongState,
)
from rerankfleet.shared.profiles import PROFILES
from tests.support.jobs import do
from tests.support.wait import patient


def test_a_finished_job_can_be_read_and_fetched(api, source, control, tmp_path):
    job_id = api.submit(source, output=tmp_path / "out.jsonl")
    with pytest.raises(WrongState, match="is not finished: wait for it, or ask for partial"):
        list(api.results(job_id))
    with pytest.raises(WrongState, match="is not finished"):
        api.fetch(job_id, tmp_path / "out.jsonl")
    do(control, job_id)

    status = api.wait(job_id, timeout_s=patient(5))
    found = list(api.results(job_id))
    api.fetch(job_id, tmp_path / "out.jsonl")

    assert (status.state, status.progress.scored) == ("done", 12)
    assert [line["id"] for line in found] == [0, 1, 2, 3]
    written = (tmp_path / "out.jsonl").read_text().split("\n")[:-1]
    assert [json.loads(line) for line in written] == found
    assert json.loads((tmp_path / "out.jsonl.manifest.json").read_text())["scored"] == 12


def test_ties_of_the_nucleus_are_ranked_by_margin(api, source, control):
    job_id = api.submit(source, temperature=0.1, top_p=0.6)
    do(control, job_id)

    for line in api.results(job_id):
        margins = [result["margin"] for result in line["results"]]
        assert {result["relevance_score"] for result in line["results"]} <= {0.0, 1.0}
        assert margins == sorted(margins, reverse=True)


def test_a_profile_stands_in_the_job_and_in_every_score(api, source, control, store):
    job_id = api.submit(source, profile="academic", top_p=0.9, temperature=None, top_n=2)
    spec = store.jobs.get(job_id).spec
    assert (spec.profile, spec.temperature, spec.top_p) == ("academic", 0.7, 0.9)
    assert spec.instruction == PROFILES["academic"].instruction

    do(control, job_id)

    found = [result for line in api.results(job_id) for result in line["results"]]
    assert len(found) == 8
    for result in found:
        assert result["relevance_score"] == relevance_score(result["margin"], 0.7, 0.9)
    assert {0.0, 1.0} & {result["relevance_score"] for result in found}
