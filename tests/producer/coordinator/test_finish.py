"""Finish: the output of jobs that end, are cancelled or disturbed."""

from __future__ import annotations

import json

import pytest

from rerankfleet.producer.coordinator.feed import feed
from rerankfleet.producer.coordinator.finish import finish, merged_lines
from rerankfleet.shared.addresses import file_uri
from rerankfleet.shared.errors import StorageUnavailable
from rerankfleet.shared.formats.shard_files import shard_uri
from rerankfleet.shared.storage.objects import Objects
from tests.support.fleet import MODEL, Worker, run
from tests.support.jobs import feed_until_paused
from tests.support.outputs import check, manifest, output, pairs_of

# ---- paused and cancelled ------------------------------------------------------------------------


def test_a_cancelled_job_ends_with_a_line_for_every_request(control, submit, lines):
    lines = lines * 4
    submit(lines)
    feed("j", control)
    Worker(control).work(2)
    control.store.jobs.cancel(control.store.jobs.get("j"))
    control.hints.feed("j")

    run(control, Worker(control))

    written = output(control)
    check(lines, written)
    counts = manifest(control)
    assert counts.cancelled > 0
    assert counts.scored + counts.errors + counts.cancelled == counts.pairs == pairs_of(lines)
    codes = [e["code"] for line in written for e in line["errors"]]
    assert codes.count("cancelled") == counts.cancelled


def test_a_job_can_be_cancelled_when_its_input_is_gone(control, impatient, submit, lines, tmp_path):
    submit(lines * 3)
    feed("j", control)
    (tmp_path / "storage" / "jobs" / "j" / "input.jsonl").unlink()
    worker = Worker(control)
    worker.work()
    feed_until_paused(impatient)
    assert "does not exist" in control.store.jobs.get("j").paused

    control.store.jobs.cancel(control.store.jobs.get("j"))
    control.hints.feed("j")
    run(control, worker)

    assert control.store.jobs.get("j").finished
    assert manifest(control).pairs == control.store.jobs.get("j").progress.done


def test_a_paused_job_is_not_fed_and_goes_on_after(control, submit, lines):
    submit(lines * 3)
    control.hints.feed("j")
    feed("j", control)
    control.store.jobs.pause(control.store.jobs.get("j"), "lunch")

    worker = Worker(control)
    run(control, worker)
    assert control.store.jobs.get("j").progress.done == 0
    finish("j", control)
    assert not control.store.jobs.get("j").finished

    _, shards = control.store.jobs.resume(control.store.jobs.get("j"))
    for shard in shards:
        control.hints.shard(MODEL, control.store.jobs.get("j").spec.priority, "j", shard)
    control.hints.feed("j")
    run(control, worker)
    check(lines * 3, output(control))


# ---- finish --------------------------------------------------------------------------------------


def test_a_finish_that_dies_is_done_again(control, submit, lines, monkeypatch):
    submit(lines)
    control.hints.feed("j")

    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(control.store.jobs, "finish", dies)
    with pytest.raises(KeyboardInterrupt):
        run(control, Worker(control))
    monkeypatch.undo()
    assert not control.store.jobs.get("j").finished
    finish("j", control)
    assert not control.store.jobs.get("j").finished  # its lease still stands
    control.store.client.hdel(control.store.keys.job("j"), "step_token")

    finish("j", control)

    check(lines, output(control))


def test_a_job_that_is_not_all_there_is_not_finished(control, submit, lines):
    submit(lines)
    feed("j", control)

    finish("j", control)

    assert not control.store.jobs.get("j").finished


def test_a_missing_part_is_never_passed_over(control, submit, lines):
    submit(lines)
    feed("j", control)
    worker = Worker(control)
    while not control.store.jobs.get("j").sealed or control.store.jobs.get("j").open_shards:
        worker.work()
        feed("j", control)
    control.store.client.hdel(control.store.keys.job_parts("j"), "0")
    job = control.store.jobs.get("j")

    with pytest.raises(RuntimeError, match="items 0 to 3 have no part"):
        list(merged_lines(job, control, whole=True))
    assert list(merged_lines(job, control, whole=False))


def test_an_output_that_may_not_be_written_pauses_the_job(control, submit, lines, tmp_path):
    submit(lines, output=file_uri(tmp_path / "forbidden" / "out.jsonl"))
    control.hints.feed("j")

    run(control, Worker(control))

    assert "is not allowed" in control.store.jobs.get("j").paused


def test_a_shard_file_of_a_newer_version_is_left_to_a_newer_coordinator(control, submit, lines):
    # given a cancelled job, of which a newer coordinator cut a shard
    submit(lines)
    feed("j", control)
    store, objects = control.store, control.objects
    store.jobs.cancel(store.jobs.get("j"))
    feed("j", control)
    (_, _, part), *_ = store.jobs.parts("j")
    uri = shard_uri(objects, "j", part.removeprefix("!"))
    ours = objects.read(uri)
    first, rest = ours.split(b"\n", 1)
    newer = json.dumps({**json.loads(first), "colour": "blue"}).encode() + b"\n" + rest
    objects.write(uri, newer)
    # when this one is to finish it
    finish("j", control)
    # then it says what it waits for, and leaves the file and the job as they are
    job = store.jobs.get("j")
    assert "written by a newer version" in job.facts["waiting_for"]
    assert job.paused is None
    assert objects.read(uri) == newer
    # and one that can read it finishes the job
    objects.write(uri, ours)
    finish("j", control)
    assert store.jobs.get("j").finished


def test_finishing_waits_for_a_storage_that_is_away(control, submit, lines, monkeypatch):
    submit(lines)
    control.hints.feed("j")

    def away(*_):
        raise StorageUnavailable("the bucket is away")

    monkeypatch.setattr(Objects, "draft_writer", away)
    run(control, Worker(control))
    job = control.store.jobs.get("j")
    assert not job.finished
    assert job.facts["waiting_for"] == "the bucket is away"
    monkeypatch.undo()

    finish("j", control)

    check(lines, output(control))
