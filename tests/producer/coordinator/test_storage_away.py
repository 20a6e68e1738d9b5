"""A storage that is away for a moment: everything waits, says so, and goes on by itself.

Each story moves the folder away (or stops the S3 server) before one step, and brings it back.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from rerankfleet.producer.client import Client
from rerankfleet.producer.coordinator.feed import feed
from rerankfleet.producer.coordinator.finish import finish
from rerankfleet.producer.coordinator.step import Control
from rerankfleet.shared.errors import RerankError, StorageRefused, StorageUnavailable
from rerankfleet.shared.storage.objects import Objects
from rerankfleet.workers.monitor import Monitor
from tests.support.fleet import MODEL, Worker, run, worker_row
from tests.support.jobs import feed_until_paused
from tests.support.outputs import check, manifest, output, pairs_of

Absence = Callable[[], None]


@contextmanager
def moved(folder: Path) -> Iterator[None]:
    """A folder is somewhere else for a while: unmounted, or renamed."""
    away = folder.with_name("elsewhere")
    folder.rename(away)
    yield
    away.rename(folder)  # fails if anyone made the folder anew


@contextmanager
def hidden(folder: Path) -> Iterator[None]:
    """There is a file where the folder was: not even root reads it."""
    with moved(folder):
        folder.write_text("")
        yield
        folder.unlink()


@contextmanager
def closed(folder: Path) -> Iterator[None]:
    """Nobody may read the folder for a while."""
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    mode = stat.S_IMODE(folder.stat().st_mode)
    folder.chmod(0)
    yield
    folder.chmod(mode)


ABSENCES = [moved, hidden, closed]


@pytest.fixture(params=ABSENCES, ids=lambda how: how.__name__)
def away(request, tmp_path) -> Callable[[], object]:
    """`with away():` the storage cannot be used."""
    return lambda: request.param(tmp_path / "storage")


def waits(control: Control) -> str:
    """What the job waits for; nobody is asked, nobody is blamed, and it ends by itself."""
    job = control.store.jobs.get("j")
    assert job.paused is None
    assert not job.finished
    assert int(job.facts["waiting_until"]) - int(job.facts["waiting_since"]) == 300_000
    assert int(job.facts["waiting_again"]) > int(job.facts["waiting_since"])
    return job.facts["waiting_for"]


def done(control: Control, lines: list) -> None:
    """Every pair has one outcome, and nothing is being waited for."""
    check(lines, output(control))
    counts = manifest(control)
    assert counts.pairs == pairs_of(lines)
    facts = control.store.jobs.get("j").facts
    assert not [name for name in facts if name.startswith("waiting")]
    records = control.store.client.hvals(control.store.keys.job_open("j"))
    assert not [text for text in records if "deaths" in text or "suspect" in text]


def fed_after_an_absence(control, lines, away) -> None:
    """The storage goes away while the job is fed, and comes back: the job ends well."""
    with away():
        feed("j", control)
        assert "storage" in waits(control)
    control.hints.feed("j")
    run(control, Worker(control))
    done(control, lines)


def test_while_it_is_fed(control, submit, lines, away):
    submit(lines)
    feed("j", control)
    Worker(control).work()
    fed_after_an_absence(control, lines, away)


def test_while_a_shard_file_is_read_and_a_part_written(control, submit, lines, away):
    submit(lines)
    feed("j", control)
    worker = Worker(control)
    job_id, shard = control.store.shards.due(MODEL, 1)[0]
    lease = worker.claimed(job_id, shard)
    with away(), pytest.raises(StorageRefused):
        worker.write(lease)
    # then the part appears nowhere but where it belongs
    assert worker.commit(lease)
    control.hints.feed("j")
    run(control, worker)
    done(control, lines)


def test_a_part_is_not_written_beside_the_storage(control, submit, lines, monkeypatch, tmp_path):
    """Given a mount that goes while a shard is scored: an empty folder is left."""
    submit(lines)
    feed("j", control)
    worker = Worker(control)
    job_id, shard = control.store.shards.due(MODEL, 1)[0]
    lease = worker.claimed(job_id, shard)
    score = worker._score
    folder = tmp_path / "storage"

    def unmounted(piece: object) -> object:
        if folder.exists() and not (tmp_path / "mounted").exists():
            folder.rename(tmp_path / "mounted")
            folder.mkdir()
        return score(piece)

    monkeypatch.setattr(worker, "_score", unmounted)
    with pytest.raises(StorageRefused, match="does not exist"):
        worker.write(lease)
    assert list(folder.iterdir()) == []


def test_while_it_is_finished(control, submit, lines, away):
    submit(lines)
    control.hints.feed("j")
    held, control.hints.finish = control.hints.finish, lambda _: None
    run(control, Worker(control))
    control.hints.finish = held
    with away():
        finish("j", control)
        assert "storage" in waits(control)
    finish("j", control)
    done(control, lines)


def test_while_a_cancelled_job_is_cut(control, submit, lines, away):
    submit(lines * 3)
    feed("j", control)
    Worker(control).work(2)
    with away():
        control.store.jobs.cancel(control.store.jobs.get("j"))
        feed("j", control)
        assert "storage" in waits(control)
        assert not control.store.jobs.get("j").sealed
    control.hints.feed("j")
    run(control)
    done(control, lines * 3)
    assert manifest(control).cancelled


def test_while_it_is_retried(control, submit, lines, away):
    submit(lines)
    control.hints.feed("j")
    run(control, Worker(control, fails="doc 4"))
    control.store.jobs.retry(control.store.jobs.get("j"), "all")
    fed_after_an_absence(control, lines, away)


def test_while_a_job_is_submitted_the_client_is_told(settings, jsonl, fleet, tmp_path):
    fleet.beat(worker_row())
    client = Client(settings)
    source = jsonl({"query": "q", "documents": ["d"]})
    client.submit(source, model=MODEL)
    with moved(tmp_path / "storage"), pytest.raises(RerankError, match="is away"):
        client.submit(source, model=MODEL)
    assert len(client.jobs()) == 1
    client.submit(source, model=MODEL)
    for job in client.jobs():
        client.cancel(job.id)


def test_what_stays_away_asks_a_person_and_looks_again_by_itself(
    control, impatient, submit, lines, tmp_path
):
    submit(lines)
    feed("j", control)
    Worker(control).work()
    control.store.client.delete(control.store.keys.jobs)  # nobody else looks at it
    with moved(tmp_path / "storage"):
        feed("j", impatient)
        assert control.store.jobs.get("j").paused is None
        feed_until_paused(impatient)
        # then it is paused with the reason, and no sooner than it should be looked at again
        job = control.store.jobs.get("j")
        assert "is away" in job.paused
        status = Client(control.settings).status("j")
        assert status.reason.endswith("(looks again by itself in 0 s)")
    control.store.client.zadd(control.store.keys.jobs, {"j": 1})
    Monitor(control.store, control.objects, control.hints, control.settings).tick()
    assert control.store.jobs.get("j").paused is None
    run(control, Worker(control))
    done(control, lines)


def test_a_job_that_somebody_paused_does_not_go_on_by_itself(control, submit, lines):
    submit(lines)
    jobs = control.store.jobs
    jobs.pause(jobs.get("j"), "the storage is away", resumes_s=0.001)
    jobs.pause(jobs.get("j"), "lunch")
    assert jobs.resume(jobs.get("j"), by_itself=True) == ("early", [])
    assert jobs.get("j").paused == "lunch"


def test_infrastructure_is_waited_for_without_end_and_counts_as_no_refusal(control, submit, lines):
    submit(lines)
    jobs, patience_s = control.store.jobs, 0.001
    assert not jobs.wait("j", "refused", patience_s=patience_s).over
    assert not jobs.wait("j", "no answer", patience_s=None).over
    assert not jobs.wait("j", "refused", patience_s=patience_s).over  # counted anew
    jobs.set_facts("j", waiting_until=1)
    assert jobs.wait("j", "refused", patience_s=patience_s).over
    jobs.set_facts("j", waiting_since=1)
    assert jobs.wait("j", "no answer", patience_s=None).delay_ms == 30_000


# ---- S3 -----------------------------------------------------------------------------------------


@pytest.fixture
def in_s3(control, s3, change) -> Control:
    """A control whose storage is a bucket."""
    settings = change(
        shard_pairs_max=3,
        window_min=4,
        storage=f"s3://{'pairs'}/work",
        allowed_buckets=("pairs",),
    )
    return Control(
        control.store, Objects(settings, inline=control.store.inline.get), control.hints, settings
    )


@pytest.mark.parametrize("code", [403, 404, 500])
def test_an_s3_that_refuses_for_a_while(in_s3, submit, lines, monkeypatch, code):
    """Given a job whose files are objects, to whose reading the server says no for a while."""
    control = in_s3
    uri = control.objects.at("jobs", "j", "input.jsonl")
    submit(lines)
    data = control.store.jobs.get("j").spec.input
    control.objects.write(uri, Path(data.uri.removeprefix("file://")).read_bytes())
    pinned = control.objects.stat(uri)
    spec = control.store.jobs.get("j").spec
    moved_to = data.model_copy(update={"uri": uri, "size": pinned.size, "tag": pinned.tag})
    job = spec.model_copy(update={"input": moved_to})
    control.store.client.hset(control.store.keys.job("j"), "spec", job.model_dump_json())

    def refuse(request: object, **_: object) -> object:
        from botocore.awsrequest import AWSResponse

        raw = type("Raw", (), {"stream": lambda *_: iter(()), "read": lambda *_: b""})()
        return AWSResponse("", code, {}, raw)

    events = control.objects._buckets.client.meta.events
    for step in ("feed", "finish"):
        monkeypatch.setattr("stamina.is_active", lambda: False)
        events.register("before-send.s3", refuse)
        if step == "feed":
            feed("j", control)
        else:
            finish("j", control)
        facts = control.store.jobs.get("j").facts
        assert "s3://pairs/work" in facts["waiting_for"], facts
        assert ("waiting_until" in facts) == (code != 500)
        events = control.objects._buckets.client.meta.events  # new credentials, new client
        events.unregister("before-send.s3", refuse)
        if step == "feed":
            control.hints.feed("j")
            held, control.hints.finish = control.hints.finish, lambda _: None
            run(control, Worker(control))
            control.hints.finish = held
    finish("j", control)
    done(control, lines)


def test_an_s3_server_that_stops_and_starts(control, submit, lines, monkeypatch, change, s3):
    """Given a server of one's own, which is stopped before the output is written."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{host}:{port}")
    settings = change(shard_pairs_max=3, window_min=4, allowed_buckets=("pairs",))
    control = Control(
        control.store, Objects(settings, inline=control.store.inline.get), control.hints, settings
    )
    submit(lines, output="s3://pairs/out.jsonl")
    control.hints.feed("j")
    held, control.hints.finish = control.hints.finish, lambda _: None
    run(control, Worker(control))
    control.hints.finish = held
    server.stop()
    finish("j", control)
    assert "s3://pairs/out.jsonl" in control.store.jobs.get("j").facts["waiting_for"]
    assert "waiting_until" not in control.store.jobs.get("j").facts
    again = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    again.start()
    try:
        finish("j", control)
        done(control, lines)
    finally:
        again.stop()


def test_a_storage_error_has_its_kind(tmp_path, settings):
    """What is not there may come back; what does not answer is infrastructure."""
    objects = Objects(settings)
    objects.write(objects.at("jobs", "a"), b"x")
    with pytest.raises(StorageRefused, match="does not exist"):
        objects.read(objects.at("jobs", "b"))
    with moved(tmp_path / "storage"), pytest.raises(StorageRefused, match="is away"):
        objects.write(objects.at("jobs", "b"), b"x")
    assert not issubclass(StorageRefused, StorageUnavailable)
