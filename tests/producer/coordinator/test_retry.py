"""Retries: what failed is scored again, and the rest is kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rerankfleet.producer.client import Client
from rerankfleet.producer.coordinator import feed as feeding
from rerankfleet.producer.coordinator.feed import feed
from rerankfleet.producer.coordinator.finish import finish
from rerankfleet.shared.addresses import file_uri
from rerankfleet.shared.content.outcomes import POOR_QUERY
from rerankfleet.shared.errors import CredentialsRefused, StorageRefused, StorageUnavailable
from rerankfleet.shared.storage.objects import Objects
from tests.support.fleet import Worker, margin_of, run
from tests.support.hints import RecordedHints
from tests.support.jobs import feed_until_paused
from tests.support.outputs import check, manifest, output, pairs_of


@pytest.fixture(params=["storage", "uri"])
def target(request, tmp_path) -> str | None:
    """Where the output goes: to the storage, anew in each round, or to one place."""
    return None if request.param == "storage" else file_uri(tmp_path / "allowed" / "out.jsonl")


def test_a_retry_scores_what_failed_and_keeps_the_rest(control, submit, lines, target):
    submit(lines, output=target)
    control.hints.feed("j")
    run(control, Worker(control, fails="doc 4"))
    before = output(control)
    assert manifest(control).errors == 2 + 5

    assert control.store.jobs.retry(control.store.jobs.get("j"), "all") == "reopened"
    control.hints.feed("j")
    run(control, Worker(control))

    after = output(control)
    check(lines, after)
    assert len(after[4]["results"]) == 5
    assert [a for n, a in enumerate(after) if n != 4] == [b for n, b in enumerate(before) if n != 4]
    counts = manifest(control)
    assert (counts.round, counts.errors, counts.pairs) == (1, 2, pairs_of(lines))


def test_images_go_in_and_what_was_rejected_stays_rejected(control, submit):
    """Given a job of images in which one is poor and one line is malformed."""
    images = [{"id": n, "image": f"s3://shop/{n}.jpg"} for n in ("good", "poor", "fine")]
    lines = [{"query": {"image": "s3://shop/q.jpg"}, "documents": images}, b"no json"]
    submit(lines, quality_action="reject")
    control.hints.feed("j")
    run(control, Worker(control, fails="poor", code="low_quality"))

    progress = control.store.jobs.get("j").progress
    assert (progress.scored, progress.rejected, progress.errors) == (2, 1, 1)
    assert manifest(control).options["quality_action"] == "reject"
    before = output(control)
    assert control.store.jobs.retry(control.store.jobs.get("j"), "all") == "reopened"
    control.hints.feed("j")
    run(control, Worker(control))

    assert output(control) == before
    progress = control.store.jobs.get("j").progress
    assert (progress.done, progress.rejected, progress.total) == (4, 1, 4)
    margins = {r["id"]: r["margin"] for r in before[0]["results"]}
    assert margins["good"] == margin_of("s3://shop/q.jpg", "s3://shop/good.jpg")


def test_a_poor_query_is_one_rejection_of_its_line_and_counts_its_pairs(control, submit):
    """Given a request whose query image is poor, with a document that is none, and a good one."""
    poor = {"query": {"image": "s3://shop/q.jpg"}, "documents": ["poor a", "poor b", 5, "poor c"]}
    submit([poor, {"query": "q", "documents": ["good"]}], quality_action="reject")
    control.hints.feed("j")
    run(control, Worker(control, fails="poor", code=POOR_QUERY))
    # then the line says it once, and the counts are of pairs
    before = output(control)
    assert [(e.get("index"), e["code"]) for e in before[0]["errors"]] == [
        (None, POOR_QUERY),
        (2, "invalid_document"),
    ]
    counts = manifest(control)
    assert (counts.rejected, counts.errors, counts.scored, counts.pairs) == (3, 1, 1, 5)
    # and a retry of the rest leaves it so
    assert control.store.jobs.retry(control.store.jobs.get("j"), "all") == "reopened"
    control.hints.feed("j")
    run(control, Worker(control))
    assert output(control) == before
    assert manifest(control).rejected == 3


def test_a_retry_after_a_cancellation_scores_everything(control, submit, lines, target):
    lines = lines * 3
    submit(lines, output=target)
    feed("j", control)
    Worker(control).work(2)
    control.store.jobs.cancel(control.store.jobs.get("j"))
    control.hints.feed("j")
    run(control)

    control.store.jobs.retry(control.store.jobs.get("j"), "all")
    control.hints.feed("j")
    run(control, Worker(control))

    written = output(control)
    check(lines, written)
    assert manifest(control).cancelled == 0
    assert not any(e["code"] == "cancelled" for line in written for e in line["errors"])
    assert manifest(control).scored + manifest(control).errors == pairs_of(lines)


def test_a_retry_keeps_the_results_of_lines_that_it_does_not_touch(control, submit):
    # given requests that keep more results than the job does, and one that fails
    lines = [
        {"id": n, "query": "q", "documents": ["a", "b", "c", text], "top_n": 3}
        for n, text in enumerate(["d", "fails"])
    ]
    submit(lines, top_n=1)
    control.hints.feed("j")
    run(control, Worker(control, fails="fails"))
    before = output(control)
    assert [len(line["results"]) for line in before] == [3, 3]
    # when the failure is retried
    control.store.jobs.retry(control.store.jobs.get("j"), "all")
    control.hints.feed("j")
    run(control, Worker(control))
    # then the other line is as it was
    after = output(control)
    assert after[0] == before[0]
    assert [len(line["results"]) for line in after] == [3, 3]
    assert after[1]["errors"] == []


def test_a_retry_scores_the_lines_that_a_cut_short_output_lacks(control, impatient, submit, lines):
    # given a job that was paused since its input was away, and then ended early by a cancellation
    lines = lines * 3
    submit(lines)
    feed("j", control)
    Worker(control).work(1)
    uri = control.store.jobs.get("j").spec.input.uri
    path = Path(uri.removeprefix("file://"))
    kept = path.read_bytes(), path.stat()
    path.unlink()
    feed_until_paused(impatient)
    assert "does not exist" in control.store.jobs.get("j").paused
    control.store.jobs.cancel(control.store.jobs.get("j"))
    control.hints.feed("j")
    run(control)
    assert len(output(control)) < len(lines)
    # when its input is back and it is retried
    path.write_bytes(kept[0])
    os.utime(path, ns=(kept[1].st_atime_ns, kept[1].st_mtime_ns))
    control.store.jobs.retry(control.store.jobs.get("j"), "all")
    control.hints.feed("j")
    run(control, Worker(control))
    # then every line is there
    check(lines, output(control))
    counts = manifest(control)
    assert counts.scored + counts.errors == pairs_of(lines)


LONG = [{"id": "long", "query": "q", "documents": [f"text {n}" for n in range(50)]}]


@pytest.mark.parametrize("away", ["gone", "refused", "forbidden", "down"])
@pytest.mark.parametrize("top_n", [None, 5])
def test_a_storage_that_is_away_while_a_cancelled_job_is_cut_loses_nothing(
    control, submit, lines, monkeypatch, away, top_n
):
    # given a cancelled job, of which a long request is partly cut, and a storage that goes away
    lines = lines[:2] + LONG + lines[8:]
    submit(lines, top_n=top_n)
    feed("j", control)
    Worker(control).work(4)
    control.store.jobs.cancel(control.store.jobs.get("j"))
    errors = {
        "gone": StorageRefused("s3://x does not exist"),
        "refused": CredentialsRefused("S3 refused the credentials"),
        "forbidden": StorageRefused("s3://x may not be read or written"),
        "down": StorageUnavailable("s3://x: connection reset"),
    }
    real = Objects.open

    def fails(*_: object) -> None:
        raise errors[away]

    monkeypatch.setattr(Objects, "open", fails)
    control.hints.feed("j")
    run(control)
    # then nothing ends before its input is accounted for; the job says what it waits for
    job = control.store.jobs.get("j")
    assert not job.sealed
    assert "s3" in job.facts["waiting_for"].lower()
    # when the storage is back
    monkeypatch.setattr(Objects, "open", real)
    control.hints.feed("j")
    run(control)
    counts = manifest(control)
    assert counts.pairs == pairs_of(lines)
    assert len(output(control)) == len(lines)
    assert counts.cancelled > 40
    # and a retry scores all that was cancelled
    control.store.jobs.retry(control.store.jobs.get("j"), "all")
    control.hints.feed("j")
    run(control, Worker(control))
    counts = manifest(control)
    assert (counts.pairs, counts.cancelled) == (pairs_of(lines), 0)
    if top_n is None:
        check(lines, output(control))


def test_a_cancelled_job_whose_input_stays_away_asks_a_person(
    control, impatient, submit, lines, tmp_path
):
    submit(lines * 3)
    feed("j", control)
    Worker(control).work(1)
    path = tmp_path / "storage" / "jobs" / "j" / "input.jsonl"
    path.rename(tmp_path / "kept")
    control.store.jobs.cancel(control.store.jobs.get("j"))
    feed("j", impatient)
    assert not control.store.jobs.get("j").sealed
    feed_until_paused(impatient)
    job = control.store.jobs.get("j")
    assert "does not exist" in job.paused
    assert "or cancel it again to end it now" in job.paused
    # when it is resumed too early, the same begins anew
    control.store.jobs.resume(job)
    feed("j", control)
    assert not control.store.jobs.get("j").sealed
    # and when its input is back, it is cut to its end
    (tmp_path / "kept").rename(path)
    control.hints.feed("j")
    run(control)
    check(lines * 3, output(control))
    assert "unreadable" not in control.store.jobs.get("j").facts


@pytest.mark.parametrize("top_n", [None, 2])
@pytest.mark.parametrize("scored", [0, 2, 4])
def test_a_retry_takes_what_the_previous_output_does_not_mention(
    control, submit, lines, tmp_path, top_n, scored
):
    # given a job that ended early in the middle of a request, by decision
    lines = LONG + lines[8:]
    submit(lines, top_n=top_n)
    feed("j", control)
    Worker(control).work(scored)
    path = tmp_path / "storage" / "jobs" / "j" / "input.jsonl"
    path.rename(tmp_path / "kept")
    control.store.jobs.pause(control.store.jobs.get("j"), "the input does not exist")
    control.store.jobs.set_facts("j", unreadable=feeding.REPORTED)
    control.store.jobs.cancel(control.store.jobs.get("j"))
    control.hints.feed("j")
    run(control)
    assert len(output(control)) == 1
    assert manifest(control).pairs == 12
    # when it is retried, even if nothing of what was cut has failed
    (tmp_path / "kept").rename(path)
    assert control.store.jobs.retry(control.store.jobs.get("j"), "all") == "reopened"
    control.hints.feed("j")
    run(control, Worker(control))
    # then every pair has one outcome
    counts = manifest(control)
    assert (counts.pairs, counts.cancelled) == (pairs_of(lines), 0)
    assert control.store.jobs.get("j").progress.total == pairs_of(lines)
    margins = sorted((margin_of("q", text) for text in LONG[0]["documents"]), reverse=True)
    assert [r["margin"] for r in output(control)[0]["results"]] == margins[:top_n]
    if top_n is None:
        check(lines, output(control))
    # and there is nothing left to retry but the lines that are wrong
    assert control.store.jobs.get("j").facts.get("cut_short") is None


def test_a_retry_of_errors_alone_leaves_what_was_cancelled(control, submit, lines):
    lines = lines * 3
    submit(lines)
    feed("j", control)
    Worker(control, fails="doc").work(2)
    control.store.jobs.cancel(control.store.jobs.get("j"))
    control.hints.feed("j")
    run(control)
    cancelled = manifest(control).cancelled

    control.store.jobs.retry(control.store.jobs.get("j"), "errors")
    control.hints.feed("j")
    run(control, Worker(control))

    check(lines, output(control))
    assert manifest(control).cancelled == cancelled > 0
    assert manifest(control).scored > 0


def test_a_retry_whose_finish_died_after_publishing_merges_once(
    control, submit, lines, target, monkeypatch
):
    submit(lines, output=target)
    control.hints.feed("j")
    run(control, Worker(control, fails="doc 4"))
    control.store.jobs.retry(control.store.jobs.get("j"), "all")
    control.hints.feed("j")

    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(control.store.jobs, "finish", dies)
    with pytest.raises(KeyboardInterrupt):
        run(control, Worker(control))
    monkeypatch.undo()
    control.store.client.hdel(control.store.keys.job("j"), "step_token")

    finish("j", control)

    check(lines, output(control))


def test_a_job_can_be_retried_again_and_again(control, submit, lines, target):
    submit(lines, output=target)
    for fails in ("doc", "doc 4", "doc 8", None):
        control.hints.feed("j")
        run(control, Worker(control, fails=fails))
        check(lines, output(control))
        assert manifest(control).pairs == pairs_of(lines)
        control.store.jobs.retry(control.store.jobs.get("j"), "all")
    control.hints.feed("j")
    run(control, Worker(control))
    check(lines, output(control))


def test_the_client_reads_what_was_committed_so_far(control, submit, lines, settings):
    submit(lines)
    feed("j", control)
    Worker(control).work(2)
    client = Client(settings)

    partial = list(client.results("j", partial=True))

    assert 0 < sum(len(line["results"]) for line in partial) <= 6
    assert isinstance(control.hints, RecordedHints)


def test_a_retry_of_an_input_with_blank_lines_gives_each_line_its_own_outcome(control, submit):
    """Given blank lines before, between and behind requests, of which some fail at first."""
    requests = [
        {"id": n, "query": f"query {n}", "documents": [f"doc {n} {i}" for i in range(3)]}
        for n in range(6)
    ]
    lines = [b"", requests[0], b" ", b"", *requests[1:5], b"no json", b"\t", requests[5], b""]
    submit(lines)
    control.hints.feed("j")
    run(control, Worker(control, fails="doc 4"))
    before = output(control)
    # then an output line says on which line of the input its request stands
    assert [line.get("line") for line in before] == [2, 5, 6, 7, 8, 9, 11]
    assert [line["id"] for line in before] == [0, 1, 2, 3, 4, None, 5]
    assert before[5]["errors"][0]["line"] == 9
    progress = control.store.jobs.get("j").progress
    assert (progress.lines, progress.scored, progress.errors) == (7, 15, 4)
    assert manifest(control).lines == 7

    assert control.store.jobs.retry(control.store.jobs.get("j"), "all") == "reopened"
    control.hints.feed("j")
    run(control, Worker(control))

    after = output(control)
    assert [line.get("line") for line in after] == [2, 5, 6, 7, 8, 9, 11]
    assert [len(line["results"]) for line in after] == [3, 3, 3, 3, 3, 0, 3]
    assert after[:4] + after[5:] == before[:4] + before[5:]
    assert manifest(control).errors == 1
