"""Feed and finish over the real store and real files, with workers that have no model."""

from __future__ import annotations

import gzip
import json
import os
from contextlib import suppress

from rerankfleet.producer.coordinator.feed import SHARDS_PER_STEP, WINDOW_PER_SLOT, feed
from rerankfleet.producer.coordinator.finish import finish
from rerankfleet.producer.coordinator.step import Control
from rerankfleet.shared.addresses import file_uri
from rerankfleet.shared.errors import StorageUnavailable
from tests.support.fleet import MODEL, Worker, margin_of, run, worker_row
from tests.support.outputs import check, manifest, output, pairs_of

# ---- the whole way -------------------------------------------------------------------------------


def test_a_file_goes_in_and_comes_back_ranked(control, submit, lines):
    submit(lines)
    control.hints.feed("j")

    run(control, Worker(control, fails="fails"), Worker(control, name="w2"))

    check(lines, output(control))
    counts = manifest(control)
    assert counts.lines == 12
    assert counts.pairs == pairs_of(lines)
    assert counts.scored + counts.errors == counts.pairs
    assert counts.errors in (2, 3)  # the worker that fails may not have had that pair
    assert counts.job == "j"
    assert counts.provenance[0].model == MODEL
    assert control.store.jobs.get("j").progress.total == counts.pairs
    assert control.store.jobs.get("j").open_shards == 0


def test_an_input_of_nothing_but_errors_is_finished_without_a_margin(control, submit):
    lines = [b"no json", b"", {"id": 1, "query": "", "documents": []}]
    submit(lines)
    control.hints.feed("j")

    run(control, Worker(control))

    codes = [line["errors"][0]["code"] for line in output(control)]
    assert codes == ["malformed_line", "empty_query"]
    assert manifest(control).errors == 2


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


# ---- back-pressure -------------------------------------------------------------------------------


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
