"""Feed and finish over the real store and real files, with workers that have no model."""

from __future__ import annotations

import gzip
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from rerankfleet.producer.client import Client
from rerankfleet.producer.coordinator.feed import SHARDS_PER_STEP, WINDOW_PER_SLOT, feed
from rerankfleet.producer.coordinator.finish import finish, merged_lines
from rerankfleet.producer.coordinator.step import Control
from rerankfleet.shared.content.outcomes import POOR_QUERY
from rerankfleet.shared.errors import StorageUnavailable
from rerankfleet.shared.formats.manifest import Manifest, manifest_uri
from rerankfleet.shared.job_spec import InputRef, make_spec
from rerankfleet.shared.storage.objects import file_uri
from tests.support.fleet import MODEL, Worker, margin_of, run, worker_row
from tests.support.hints import RecordedHints


@pytest.fixture
def control(store, fleet, objects, hints, change) -> Control:
    """Shards of three pairs, four open at the most."""
    return Control(store, objects, hints, change(shard_pairs_max=3, window_min=4))


@pytest.fixture
def lines() -> list[Any]:
    """Twelve requests of one to five documents, and some that are bad."""
    found: list[Any] = [
        {
            "id": f"r{n}",
            "query": f"query {n}",
            "documents": [f"doc {n} {i}" for i in range(n % 5 + 1)],
        }
        for n in range(12)
    ]
    found[3] = b"no json"
    found[7] = {"id": "r7", "query": "query 7", "documents": ["good", 5, "fails", "good too"]}
    return found


@pytest.fixture
def submit(control, settings, jsonl):
    """`submit(lines, top_n=3)`: a job of the store, without a hint."""

    def make(lines, data: bytes | None = None, job_id: str = "j", **options) -> str:
        path = jsonl(*lines, name=f"{job_id}.jsonl") if data is None else None
        name = "input.jsonl" if data is None else "input.gz"
        uri = control.objects.at("jobs", job_id, name)
        control.objects.write(uri, path.read_bytes() if path else data)
        stat = control.objects.stat(uri)
        spec = make_spec(
            model=MODEL, input=InputRef(uri=uri, size=stat.size, tag=stat.tag), **options
        )
        return control.store.jobs.create(job_id, spec, "digest")

    return make


def output(control: Control, job_id: str = "j") -> list[dict[str, Any]]:
    job = control.store.jobs.get(job_id)
    assert job.finished
    return [json.loads(line) for line in control.objects.read(job.facts["output"]).splitlines()]


def manifest(control: Control, job_id: str = "j") -> Manifest:
    uri = manifest_uri(control.store.jobs.get(job_id).facts["output"])
    return Manifest.model_validate_json(control.objects.read(uri))


def check(lines: list[Any], found: list[dict[str, Any]]) -> None:
    """Every line of input has its line of output, and every pair exactly one outcome."""
    assert len(found) == len(lines)
    for number, (line, out) in enumerate(zip(lines, found, strict=True), 1):
        if isinstance(line, bytes):
            (error,) = out["errors"]
            assert error["line"] == number
            assert error["code"] in ("malformed_line", "cancelled")
            continue
        assert out["id"] == line["id"]
        scored = {r["index"]: r["margin"] for r in out["results"]}
        failed = [e["index"] for e in out["errors"]]
        assert sorted([*scored, *failed]) == list(range(len(line["documents"])))
        for index, margin in scored.items():
            assert margin == margin_of(line["query"], line["documents"][index])
        ranked = [r["margin"] for r in out["results"]]
        assert ranked == sorted(ranked, reverse=True)


def pairs_of(lines: list[Any]) -> int:
    return sum(len(line["documents"]) if isinstance(line, dict) else 1 for line in lines)


# ---- the whole way ------------------------------------------------------------------------------


def test_a_file_goes_in_and_comes_back_ranked(control, submit, lines):
    submit(lines)
    control.hints.feed("j")

    run(control, Worker(control, fails="fails"), Worker(control, name="w2"))

    check(lines, output(control))
    found = manifest(control)
    assert found.lines == 12
    assert found.pairs == pairs_of(lines)
    assert found.scored + found.errors == found.pairs
    assert found.errors in (2, 3)  # the worker that fails may not have had that pair
    assert found.job == "j"
    assert found.provenance[0].model == MODEL
    assert control.store.jobs.get("j").progress.total == found.pairs
    assert control.store.jobs.get("j").open_shards == 0


def test_an_input_of_nothing_but_errors_is_finished_without_a_margin(control, submit):
    lines = [b"no json", b"", {"id": 1, "query": "", "documents": []}]
    submit(lines)
    control.hints.feed("j")

    run(control, Worker(control))

    codes = [line["errors"][0]["code"] for line in output(control)]
    assert codes == ["malformed_line", "malformed_line", "empty_query"]
    assert manifest(control).errors == 3


def test_top_n_keeps_the_best(control, submit, lines):
    del lines[3]
    submit(lines, top_n=2)
    control.hints.feed("j")

    run(control, Worker(control))

    for line, out in zip(lines, output(control), strict=True):
        margins = sorted(margin_of(line["query"], d) for d in line["documents"] if d != 5)
        assert [r["margin"] for r in out["results"]] == margins[::-1][:2]


def test_a_limit_ends_the_input_early(control, submit, lines):
    submit(lines, limit=5)
    control.hints.feed("j")

    run(control, Worker(control))

    check(lines[:5], output(control))
    assert manifest(control).lines == 5


def test_packed_input_gives_the_same_output(control, submit, lines, jsonl):
    submit(lines, data=gzip.compress(jsonl(*lines).read_bytes()))
    control.hints.feed("j")

    run(control, Worker(control))

    check(lines, output(control))


def test_packed_input_that_is_damaged_pauses_the_job_with_the_reason(control, submit, lines, jsonl):
    packed = gzip.compress(jsonl(*lines).read_bytes() * 100)
    submit(lines, data=packed[:-5] + b"12345")

    feed("j", control)

    assert "damaged gzip" in control.store.jobs.get("j").paused


def test_the_output_goes_where_the_job_says(control, submit, lines, tmp_path):
    submit(lines, output=file_uri(tmp_path / "allowed" / "out.jsonl"))
    control.hints.feed("j")

    run(control, Worker(control))

    written = (tmp_path / "allowed" / "out.jsonl").read_text()
    check(lines, [json.loads(line) for line in written.split("\n")[:-1]])
    assert (tmp_path / "allowed" / "out.jsonl.manifest.json").exists()


# ---- back-pressure ------------------------------------------------------------------------------


def test_the_window_bounds_what_is_open(control, submit, lines):
    submit(lines * 3)

    feed("j", control)

    job = control.store.jobs.get("j")
    assert job.open_shards == 4
    assert not job.sealed
    assert [kind for kind, *_ in control.hints.take()] == ["shard"] * 4
    feed("j", control)
    assert control.store.jobs.get("j").open_shards == 4
    assert control.hints.take() == []


def test_images_are_shared_out_by_what_is_seen_not_by_the_length_of_their_addresses(
    store, fleet, objects, hints, settings, submit
):
    # given a fleet of ten workers, and a short file that names two hundred images
    control = Control(store, objects, hints, settings)
    for number in range(10):
        fleet.beat(worker_row(f"w{number}", tokens_per_s=1e6))
    images = [{"image": f"s3://shop/{n}.jpg"} for n in range(10)]
    submit([{"query": f"query {n}", "documents": images} for n in range(20)])
    # when it is cut
    while not store.jobs.get("j").sealed:
        feed("j", control)
    # then every worker gets about two shards
    assert 20 <= store.jobs.get("j").open_shards <= 24


def test_commits_below_low_water_ask_for_more(control, submit, lines):
    submit(lines * 3)
    feed("j", control)
    control.hints.take()
    worker = Worker(control)

    worker.work(1)
    assert control.hints.take() == []
    worker.work(1)
    assert control.hints.take() == [("feed", "j")]


def test_a_step_is_short_and_asks_for_the_next(control, submit, lines):
    control.store.fleet.beat(worker_row(slots=100))
    submit(lines * 3)

    feed("j", control)

    assert control.store.jobs.get("j").open_shards == SHARDS_PER_STEP
    assert control.hints.take()[-1] == ("feed", "j")


def test_jobs_of_one_model_share_the_window(control, submit, lines):
    control.store.fleet.beat(worker_row(slots=2))
    for job_id in ("a", "b"):
        submit(lines * 3, job_id=job_id)
    for job_id in ("a", "b"):
        feed(job_id, control)

    assert WINDOW_PER_SLOT * 2 == 8
    assert [control.store.jobs.get(j).open_shards for j in "ab"] == [4, 4]


def test_two_feeders_at_once_cut_every_item_once(control, submit, lines, monkeypatch):
    """Given a second feeder that steps in between the first one's reading and opening, its lease
    taken for expired."""
    submit(lines)
    opened = control.store.shards.open
    rivals = iter(range(3))

    def slow_open(job, cursor, shards, **options):
        if next(rivals, None) is not None:
            control.store.client.hdel(control.store.keys.job("j"), "step_token")
            monkeypatch.setattr(control.store.shards, "open", opened)
            feed("j", control)
            monkeypatch.setattr(control.store.shards, "open", slow_open)
        return opened(job, cursor, shards, **options)

    monkeypatch.setattr(control.store.shards, "open", slow_open)
    control.hints.feed("j")
    run(control, Worker(control))

    check(lines, output(control))
    assert manifest(control).pairs == pairs_of(lines)


def test_a_feeder_that_dies_after_any_shard_is_followed_by_another(control, submit, lines):
    """Given feeders some of which are killed before a shard opens."""

    class Killed(BaseException):
        pass

    submit(lines)
    opened, calls = control.store.shards.open, []

    def dies(job, cursor, shards, **options):
        calls.append(1)
        if len(calls) % 3 == 0:
            raise Killed
        return opened(job, cursor, shards, **options)

    control.store.shards.open = dies
    worker = Worker(control)
    for _ in range(100):
        control.store.client.hdel(control.store.keys.job("j"), "step_token")
        with suppress(Killed):
            feed("j", control)
        worker.work()
        if control.store.jobs.get("j").sealed:
            break
    finish("j", control)

    check(lines, output(control))


def test_feeding_waits_for_a_storage_that_is_away(control, submit, lines, monkeypatch):
    submit(lines)

    def away(*_):
        raise StorageUnavailable("the disk is away")

    monkeypatch.setattr(control.objects, "write", away)
    feed("j", control)
    assert control.store.jobs.get("j").facts["waiting_for"] == "the disk is away"
    monkeypatch.undo()
    control.hints.feed("j")

    run(control, Worker(control))

    check(lines, output(control))
    assert "waiting_for" not in control.store.jobs.get("j").facts


def test_changed_input_pauses_the_job_and_the_same_bytes_let_it_go_on(
    control, submit, lines, tmp_path
):
    submit(lines * 3)
    control.hints.feed("j")
    feed("j", control)
    path = tmp_path / "storage" / "jobs" / "j" / "input.jsonl"
    data, before = path.read_bytes(), path.stat().st_mtime_ns
    path.write_bytes(data[::-1])

    worker = Worker(control)
    run(control, worker)

    assert "changed since the job was made" in control.store.jobs.get("j").paused
    path.write_bytes(data)
    os.utime(path, ns=(before, before))
    control.store.jobs.resume(control.store.jobs.get("j"))
    control.hints.feed("j")
    worker.work()
    run(control, worker)
    check(lines * 3, output(control))


# ---- pause, cancel ------------------------------------------------------------------------------


def test_a_cancelled_job_ends_with_a_line_for_every_request(control, submit, lines):
    lines = lines * 4
    submit(lines)
    feed("j", control)
    Worker(control).work(2)
    control.store.jobs.cancel(control.store.jobs.get("j"))
    control.hints.feed("j")

    run(control, Worker(control))

    found = output(control)
    check(lines, found)
    counts = manifest(control)
    assert counts.cancelled > 0
    assert counts.scored + counts.errors + counts.cancelled == counts.pairs == pairs_of(lines)
    codes = [e["code"] for line in found for e in line["errors"]]
    assert codes.count("cancelled") == counts.cancelled


def test_a_job_can_be_cancelled_when_its_input_is_gone(control, submit, lines, tmp_path):
    submit(lines * 3)
    feed("j", control)
    (tmp_path / "storage" / "jobs" / "j" / "input.jsonl").unlink()
    worker = Worker(control)
    worker.work()
    run(control, worker)
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


# ---- finish -------------------------------------------------------------------------------------


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


def test_finishing_waits_for_a_storage_that_is_away(control, submit, lines, monkeypatch):
    submit(lines)
    control.hints.feed("j")

    def away(*_):
        raise StorageUnavailable("the bucket is away")

    monkeypatch.setattr(control.objects, "writer", away)
    monkeypatch.setattr(control.objects, "write", lambda uri, data: _write(control, uri, data))
    run(control, Worker(control))
    job = control.store.jobs.get("j")
    assert not job.finished
    assert job.facts["waiting_for"] == "the bucket is away"
    monkeypatch.undo()

    finish("j", control)

    check(lines, output(control))


def _write(control: Control, uri: str, data: bytes) -> None:
    path = Path(uri.removeprefix("file://"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


# ---- retry --------------------------------------------------------------------------------------


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
    found = manifest(control)
    assert (found.round, found.errors, found.pairs) == (1, 2, pairs_of(lines))


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
    found = manifest(control)
    assert (found.rejected, found.errors, found.scored, found.pairs) == (3, 1, 1, 5)
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

    found = output(control)
    check(lines, found)
    assert manifest(control).cancelled == 0
    assert not any(e["code"] == "cancelled" for line in found for e in line["errors"])
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


def test_a_retry_scores_the_lines_that_a_cut_short_output_lacks(control, submit, lines, tmp_path):
    # given a cancelled job that ended early since its input was away
    lines = lines * 3
    submit(lines)
    feed("j", control)
    Worker(control).work(1)
    uri = control.store.jobs.get("j").spec.input.uri
    path = Path(uri.removeprefix("file://"))
    kept = path.read_bytes(), path.stat()
    path.unlink()
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
    found = manifest(control)
    assert found.scored + found.errors == pairs_of(lines)


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
