"""A committed part that is gone from the storage: its shard is scored again, or the job says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rerankfleet.producer.coordinator import lost_parts
from rerankfleet.producer.coordinator.feed import feed
from rerankfleet.producer.coordinator.finish import finish
from rerankfleet.shared.errors import PartLost
from tests.support.fleet import Worker, run
from tests.support.outputs import check, manifest, output, pairs_of


@pytest.fixture
def scored(control, submit, lines, monkeypatch, tmp_path):
    """A job of which everything but the output is done; nothing lost is waited for. Its folder."""
    monkeypatch.setattr(lost_parts, "LOST_MS", 0)
    submit(lines)
    score(control)
    return tmp_path / "storage" / "jobs" / "j"


def score(control, **worker: Any) -> None:
    """Cut and score all of the job."""
    own = Worker(control, **worker)
    while not control.store.jobs.get("j").sealed or control.store.jobs.get("j").open_shards:
        feed("j", control)
        own.work()
    control.hints.take()


def parts(folder: Path) -> list[Path]:
    return sorted((folder / "parts").iterdir(), key=lambda path: int(path.name.split("-")[0]))


def finished(control) -> bool:
    """Whether the job is at its end, once a worker did what there was to do."""
    control.hints.finish("j")
    run(control, Worker(control))
    return control.store.jobs.get("j").finished


def facts(control) -> dict[str, int]:
    job = control.store.jobs.get("j")
    return {**job.progress.model_dump(include={"scored", "errors", "bad_lines"}), **job.error_codes}


@pytest.mark.parametrize("damage", ["gone", "empty", "cut off", "all gone"])
def test_a_part_that_is_lost_is_scored_again(control, scored, lines, damage):
    before = facts(control)
    # given parts that are gone, or no longer whole
    for path in parts(scored)[1:] if damage == "all gone" else parts(scored)[2:4]:
        if "gone" in damage:
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:100] if damage == "cut off" else b"")
    # when the job is finished, for each damaged part once more
    ended = [finished(control) for _ in range(3)]
    assert ended[-1]
    # then every pair has its one outcome, and is counted once
    check(lines, output(control))
    assert facts(control) == before
    assert manifest(control).pairs == control.store.jobs.get("j").progress.done == pairs_of(lines)


def test_without_its_shard_file_it_is_cut_from_the_input_again(control, scored, lines):
    # given parts of which the shard files are lost too
    lost = [path.name.split("-")[0] for path in parts(scored)[2:5]]
    for path in (*parts(scored)[2:5], *(scored / "shards").iterdir()):
        if path.name.split("-")[-3 if path.parent.name == "shards" else 0] in lost:
            path.unlink()
    assert finished(control)
    check(lines, output(control))


def test_what_cannot_be_known_any_more_pauses_the_job_with_the_reason(control, scored):
    # given a part, a shard file and an input that are all lost
    parts(scored)[2].unlink()
    for path in (scored / "shards").iterdir():
        path.unlink()
    text = (scored / "input.jsonl").read_bytes()
    (scored / "input.jsonl").unlink()
    assert not finished(control)
    reason = control.store.jobs.get("j").paused
    assert "is lost" in reason
    assert "cannot be scored again" in reason
    assert "restore the input or the part, and resume the job" in reason
    # when the input is restored in other words, that is told too
    (scored / "input.jsonl").write_bytes(text.replace(b"doc", b"xxx"))
    control.store.jobs.resume(control.store.jobs.get("j"))
    assert not finished(control)
    assert "changed since the job was made" in control.store.jobs.get("j").paused


def test_a_storage_that_is_away_is_no_lost_part(control, scored, lines, tmp_path):
    # given a storage that is not mounted
    away = tmp_path / "away"
    (tmp_path / "storage").rename(away)
    for _ in range(3):
        assert not finished(control)
    job = control.store.jobs.get("j")
    assert (job.open_shards, job.paused) == (0, None)
    assert "is away" in job.facts["waiting_for"]
    # when it is back, in the place of which nothing was made
    assert not (tmp_path / "storage").exists()
    away.rename(tmp_path / "storage")
    # then nothing is scored again
    finish("j", control)
    check(lines, output(control))
    assert "reopened" not in control.store.jobs.get("j").facts


def test_a_part_that_is_only_late_is_waited_for(control, scored, lines, monkeypatch):
    # given a part that this host does not see yet
    monkeypatch.setattr(lost_parts, "LOST_MS", 600_000)
    part = parts(scored)[2]
    late = part.read_bytes()
    part.unlink()
    for _ in range(2):
        assert not finished(control)
    job = control.store.jobs.get("j")
    assert job.open_shards == 0
    assert "is lost" in job.facts["waiting_for"]
    part.write_bytes(late)
    assert finished(control)
    check(lines, output(control))
    assert "reopened" not in control.store.jobs.get("j").facts


def test_scored_again_an_item_may_end_otherwise(control, scored, lines):
    parts(scored)[1].unlink()
    before = facts(control)
    # given documents that cannot be read any more
    control.hints.finish("j")
    run(control, Worker(control, fails="doc", code="not_found"))
    job = control.store.jobs.get("j")
    assert job.finished
    # then the counts are those of the output
    check(lines, output(control))
    failed = [e["code"] for line in output(control) for e in line["errors"]]
    assert failed.count("not_found") == job.error_codes["not_found"] > 0
    assert job.progress.scored == before["scored"] - failed.count("not_found")
    assert manifest(control).errors == len(failed)


def test_in_a_cancelled_job_what_is_lost_is_cancelled(control, scored, lines):
    parts(scored)[1].unlink()
    control.store.jobs.cancel(control.store.jobs.get("j"))
    assert finished(control)
    check(lines, output(control))
    counts = manifest(control)
    assert counts.cancelled == 3
    assert counts.scored + counts.errors + counts.cancelled == counts.pairs == pairs_of(lines)


def test_a_lost_part_of_a_retry_keeps_the_counts_of_earlier_rounds(control, scored, lines):
    # given a job that ended with errors, and is retried
    for path in (scored / "parts").iterdir():
        path.unlink()
    control.hints.finish("j")
    run(control, Worker(control, fails="doc 4"))
    first = control.store.jobs.get("j").progress
    assert first.errors > 5
    assert control.store.jobs.retry(control.store.jobs.get("j"), "all") == "reopened"
    old = set(parts(scored))
    score(control)
    # when a part of it is lost
    (set(parts(scored)) - old).pop().unlink()
    assert finished(control)
    check(lines, output(control))
    progress = control.store.jobs.get("j").progress
    assert progress.scored + progress.errors == progress.done == pairs_of(lines)
    assert progress.errors == sum(len(line["errors"]) for line in output(control))


def test_a_killed_worker_s_half_stays_counted_once(control, scored, lines):
    # given a lost part, and workers that die with its shard until it is split
    parts(scored)[1].unlink()
    control.hints.finish("j")
    run(control)
    store = control.store
    ((shard, record),) = store.client.hgetall(store.keys.job_open("j")).items()
    fields = json.loads(record) | {"suspect": 1, "deaths": 1}
    store.client.hset(store.keys.job_open("j"), shard, json.dumps(fields))
    assert len(store.shards.split("j", "org/model", shard)) == 2
    Worker(control).work()
    for name in store.client.hkeys(store.keys.job_open("j")):
        worker = Worker(control)
        assert worker.commit(worker.claimed("j", name, alone=True))
    assert finished(control)
    check(lines, output(control))
    assert manifest(control).pairs == pairs_of(lines)


def test_who_reads_meanwhile_is_told(control, scored):
    from rerankfleet.producer.coordinator.finish import merged_lines

    parts(scored)[1].unlink()
    with pytest.raises(PartLost, match=r"the result of items \d+ to \d+ is lost"):
        list(merged_lines(control.store.jobs.get("j"), control, whole=False))
