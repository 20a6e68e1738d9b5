"""The commands on a job: followed, read, steered."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from rerankfleet.producer.terminal.tables import outcomes
from rerankfleet.shared.job_status import Progress
from tests.producer.cli.conftest import (
    OK,
    USAGE,
    Ran,
    one_sentence,
)
from tests.support.fleet import Worker, run
from tests.support.records import spec_of
from tests.support.wait import patient, wait_until


def test_watch_writes_the_output_that_submit_named(rerank, served, source, finish_jobs, tmp_path):
    job_id = rerank("submit", source, "-o", tmp_path / "out.jsonl").out.strip()

    ran = rerank("watch", job_id)

    assert ran.code == OK
    assert (tmp_path / "out.jsonl").exists()


def test_results_go_to_stdout_or_a_file(rerank, served, source, control, tmp_path):
    job_id = rerank("submit", source).out.strip()
    one_sentence(rerank("results", job_id), "is not finished", "ask for partial")
    partial = rerank("results", job_id, "--partial")
    assert (partial.code, partial.out) == (OK, "")
    control.hints.feed(job_id)
    run(control, Worker(control))

    lines = rerank("results", job_id).out.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["r0", "r1", "r2"]
    assert rerank("results", job_id, "-o", tmp_path / "out").code == OK
    assert (tmp_path / "out").read_text().splitlines() == lines
    again = rerank("results", job_id, "-o", tmp_path / "out")
    assert again.code == USAGE
    one_sentence(again, "exists", "--force")
    assert rerank("results", job_id, "-o", tmp_path / "out", "--force").code == OK


def test_the_verbs_on_a_job(rerank, served, source, finish_jobs, store):
    job_id = rerank("submit", source).out.strip()
    wait_until(lambda: store.jobs.get(job_id).finished)
    for verb in ("cancel", "pause", "resume", "retry"):
        ran = rerank(verb, job_id)
        assert ran.code == USAGE
        one_sentence(ran, f"job {job_id}")
    shown = rerank("status", job_id)
    assert "done" in shown.out
    assert json.loads(rerank("status", job_id, "--json").out)["state"] == "done"
    assert json.loads(rerank("jobs", "--json").out)[0]["id"] == job_id
    assert job_id in rerank("jobs").out


def test_pause_resume_and_cancel_say_what_comes_next(rerank, served, source):
    job_id = rerank("submit", source).out.strip()
    assert rerank("pause", job_id).err == f"paused; go on with:  rerank resume {job_id}\n"
    assert rerank("resume", job_id).err == f"resumed:  rerank watch {job_id}\n"
    assert rerank("cancel", job_id).code == OK


def test_an_output_that_cannot_be_written_is_one_sentence(
    rerank, served, source, control, tmp_path
):
    job_id = rerank("submit", source).out.strip()
    control.hints.feed(job_id)
    run(control, Worker(control))
    (tmp_path / "file").touch()

    ran = rerank("results", job_id, "-o", tmp_path / "file" / "out")

    assert ran.code == USAGE
    one_sentence(ran, str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("", "is not a path"),
        ("s3://bucket/out.jsonl", "is not a path: name one, or submit with -o and the URI"),
        (".", "is a folder: name a file in it"),
        ("/dev/full", "cannot be written (No space left on device)"),
        ("x" * 300, "cannot be written (File name too long)"),
    ],
)
def test_results_go_only_where_they_can_be_written(
    rerank, served, source, control, tmp_path, monkeypatch, output, says
):
    job_id = rerank("submit", source).out.strip()
    control.hints.feed(job_id)
    run(control, Worker(control))
    monkeypatch.chdir(tmp_path)
    there = sorted(tmp_path.iterdir())

    for partial in ([], ["--partial"]):
        ran = rerank("results", job_id, "-o", output, *partial)

        assert ran.code == USAGE
        one_sentence(ran, says)
    assert sorted(tmp_path.iterdir()) == there
    assert Path("/dev/full").is_char_device()


def test_results_go_into_a_pipe_which_stays_one(rerank, served, source, control, tmp_path):
    job_id = rerank("submit", source).out.strip()
    control.hints.feed(job_id)
    run(control, Worker(control))
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()

    ran = rerank("results", job_id, "-o", pipe)

    reader.join(patient(10))
    assert ran == Ran(OK, "", "")
    assert read == [rerank("results", job_id).out.encode()]
    assert pipe.is_fifo()
    assert not pipe.with_name("pipe.manifest.json").exists()


def test_progress_counts_every_kind_of_outcome():
    assert Progress(scored=1, errors=2, rejected=3, cancelled=4).done == 10
    assert outcomes(Progress(scored=1, errors=1)) == "1 scored, 1 error"
    assert outcomes(Progress(errors=2, bad_lines=1)).startswith("2 errors (1 is a line")


def test_the_owner_of_a_job_is_shown_where_there_is_one(rerank, store):
    store.jobs.create("a1", spec_of(name="nobodys"), "digest")
    assert "OWNER" not in rerank("jobs").out
    assert "owner" not in rerank("status", "a1").out

    store.jobs.create("b1", spec_of(owner="search-team"), "digest")

    assert "OWNER" in rerank("jobs").out
    assert "search-team" in rerank("jobs").out
    assert "search-team" in rerank("status", "b1").out
    owners = {job["id"]: job["owner"] for job in json.loads(rerank("jobs", "--json").out)}
    assert owners == {"a1": "", "b1": "search-team"}
    for job_id in ("a1", "b1"):
        rerank("cancel", job_id)  # of whoever has Redis, whose ever it is
