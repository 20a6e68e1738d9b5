"""An output appears whole, once, and from the attempt that was decided, whoever freezes or dies.

A step that is frozen beyond its lease is another step within its call: it overtakes the first.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rerankfleet.producer.coordinator import publishing
from rerankfleet.producer.coordinator.finish import finish
from rerankfleet.producer.coordinator.step import Control
from rerankfleet.shared.addresses import file_uri
from rerankfleet.shared.content.content import Document
from rerankfleet.shared.formats.shard_files import dump_queries, queries_uri
from rerankfleet.shared.heartbeat import heartbeat
from rerankfleet.shared.job_spec import Catalog, InputRef, make_spec
from rerankfleet.shared.storage.objects import Objects
from tests.support.fleet import MODEL, Worker, run
from tests.support.outputs import check, manifest, output

FAILS = "doc 4"


@pytest.fixture
def control(store, objects, hints, change, s3) -> Control:
    """A control that may write to S3 too."""
    settings = change(shard_pairs_max=3, window_min=4, allowed_buckets=("pairs",))
    return Control(store, Objects(settings, inline=store.inline.get), hints, settings)


@pytest.fixture(params=["storage", "file", "s3"])
def target(request, tmp_path) -> str | None:
    """Where the output goes."""
    file = file_uri(tmp_path / "allowed" / "out.jsonl")
    return {"storage": None, "file": file, "s3": "s3://pairs/out.jsonl"}[request.param]


def ready(control: Control, **options: Any) -> None:
    """Let workers score everything, of which something fails; the output is due."""
    control.hints.feed("j")
    real, control.hints.finish = control.hints.finish, lambda _: None
    run(control, Worker(control, **options))
    control.hints.finish = real
    job = control.store.jobs.get("j")
    assert job.sealed
    assert not job.open_shards


def retried(control: Control) -> None:
    """Carry a retry of what failed to its end."""
    assert control.store.jobs.retry(control.store.jobs.get("j"), "all") == "reopened"
    control.hints.feed("j")
    run(control, Worker(control))
    assert control.store.jobs.get("j").finished


def expire(control: Control) -> None:
    control.store.client.hset(control.store.keys.job("j"), "step_until", 1)


def frozen(monkeypatch, room: object, name: str, meanwhile: Callable[[], None]) -> None:
    """The next call is frozen before it acts, while other things happen."""
    real = getattr(room, name)

    def freeze(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(room, name, real)
        with heartbeat(lambda: None):  # who is frozen notices nothing, however long it takes
            meanwhile()
        return real(*args, **options)

    monkeypatch.setattr(room, name, freeze)


def left_behind(control: Control, tmp_path: Path, s3: Any) -> list[str]:
    """Drafts, their records and uploads that nobody will complete."""
    files = [
        path.name
        for path in tmp_path.rglob("*")
        if path.is_file() and (".draft" in path.name or "drafts" in path.parts)
    ]
    uploads = s3.list_multipart_uploads(Bucket="pairs").get("Uploads", ())
    return files + [one["Key"] for one in uploads]


# ---- frozen -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "name"), [("jobs", "decide"), ("objects", "publish"), ("jobs", "finish")]
)
def test_a_step_that_was_frozen_publishes_nothing_over_a_newer_output(
    control, submit, lines, target, monkeypatch, tmp_path, s3, where, name
):
    # given a finisher that freezes somewhere, until another has finished and a retry too
    submit(lines, output=target)
    ready(control, fails=FAILS)

    def meanwhile() -> None:
        expire(control)
        finish("j", control)
        assert control.store.jobs.get("j").finished
        assert manifest(control).errors == 7
        retried(control)
        assert manifest(control).errors == 2

    room = control.store.jobs if where == "jobs" else Objects
    frozen(monkeypatch, room, name, meanwhile)
    # when it wakes up
    finish("j", control)
    # then the newer output stands, and nothing is left of the other
    check(lines, output(control))
    assert (manifest(control).round, manifest(control).errors) == (1, 2)
    assert len(output(control)[4]["results"]) == 5
    assert left_behind(control, tmp_path, s3) == []


def test_a_step_that_was_frozen_while_another_writes_leaves_that_alone(
    control, submit, lines, target, monkeypatch, tmp_path, s3
):
    """Given a finisher that freezes while another is in the middle of its own drafts."""
    submit(lines, output=target)
    ready(control)

    def meanwhile() -> None:
        expire(control)
        token = control.store.jobs.begin_step("j", "other")
        assert token == "yes"

    frozen(monkeypatch, control.store.jobs, "decide", meanwhile)
    finish("j", control)
    assert not control.store.jobs.get("j").finished
    assert left_behind(control, tmp_path, s3) == []
    if target:
        assert not control.objects.exists(target)
    # and when the other was killed, a third one finishes
    expire(control)
    finish("j", control)
    check(lines, output(control))


# ---- killed -------------------------------------------------------------------------------------


class Killed(BaseException):
    """A process dies here, without any last word."""


def test_what_a_killed_attempt_left_is_removed(
    control, submit, lines, target, monkeypatch, tmp_path, s3
):
    submit(lines, output=target)
    ready(control)

    def dies(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(publishing.Attempt, "complete", dies)
    with pytest.raises(Killed):
        finish("j", control)
    monkeypatch.undo()
    _again(monkeypatch, s3)
    assert left_behind(control, tmp_path, s3)
    if target:
        assert not control.objects.exists(target)
    expire(control)
    finish("j", control)
    check(lines, output(control))
    assert left_behind(control, tmp_path, s3) == []


def _again(monkeypatch, s3) -> None:
    """The environment of the S3, which `undo` took away."""
    endpoint = s3.meta.endpoint_url
    for name, value in {
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_ACCESS_KEY_ID": "key-id",
        "AWS_SECRET_ACCESS_KEY": "very-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("published", [0, 1, 2])
def test_a_finish_that_is_killed_while_it_publishes_is_carried_on(
    control, submit, lines, target, monkeypatch, tmp_path, s3, published
):
    # given a finisher that is killed when the output is there and its manifest is not, or both are
    submit(lines, output=target)
    ready(control)
    real, left = Objects.publish, [None] * published

    def dies(objects: Objects, uri: str, draft: str) -> bool:
        if not left:
            raise Killed
        left.pop()
        return real(objects, uri, draft)

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as deadly:
        if published < 2:
            deadly.setattr(Objects, "publish", dies)
        else:
            deadly.setattr(control.store.jobs, "finish", killed)
        with pytest.raises(Killed):
            finish("j", control)
    decided = control.store.jobs.get("j").facts["publishing"]
    # when the next one comes
    expire(control)
    monkeypatch.setattr(publishing.Attempt, "complete", lambda _: pytest.fail("written again"))
    finish("j", control)
    # then it publishes what was decided
    check(lines, output(control))
    assert manifest(control).lines == 12
    assert decided
    assert "publishing" not in control.store.jobs.get("j").facts
    assert left_behind(control, tmp_path, s3) == []


def test_drafts_that_are_lost_are_written_again(control, submit, lines, target, monkeypatch, s3):
    submit(lines, output=target)
    ready(control)
    real = Objects.publish

    def lost(objects: Objects, uri: str, draft: str) -> bool:
        objects.discard(uri, draft)
        monkeypatch.setattr(Objects, "publish", real)
        return real(objects, uri, draft)

    monkeypatch.setattr(Objects, "publish", lost)
    finish("j", control)
    assert "is gone" in control.store.jobs.get("j").facts["waiting_for"]
    finish("j", control)
    check(lines, output(control))


def test_an_output_that_becomes_a_pipe_is_not_waited_for(control, submit, lines, tmp_path):
    # given a pipe at the place of an output, from which nobody reads
    path = tmp_path / "allowed" / "pipe"
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    submit(lines, output=file_uri(path))
    ready(control)
    # when the job is finished, then it is paused and says why
    finish("j", control)
    job = control.store.jobs.get("j")
    assert "is a pipe, a socket or a device" in job.facts["paused"]
    assert path.is_fifo()


# ---- catalogs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["file", "s3"])
def test_a_frozen_step_changes_nothing_in_the_folder_of_a_catalog(
    control, monkeypatch, tmp_path, s3, where
):
    # given a catalog's finisher that freezes before it publishes, until another has finished
    folder = {"file": file_uri(tmp_path / "allowed" / "ranked") + "/", "s3": "s3://pairs/ranked/"}
    listing = control.objects.at("jobs", "j", "input.jsonl")
    control.objects.write(listing, b"".join(b"s3://shop/%d.jpg\n" % n for n in range(7)))
    stat = control.objects.stat(listing)
    payload = dump_queries([Document(id="q", text="query")])
    control.objects.write(queries_uri(control.objects, "j"), payload)
    queries = InputRef(uri="", size=len(payload), tag="", sha256="0")
    spec = make_spec(
        model=MODEL,
        input=InputRef(uri=listing, size=stat.size, tag=stat.tag),
        catalog=Catalog(queries=queries, count=1, format="jsonl"),
        output=folder[where],
        top_n=2,
    )
    control.store.jobs.create("j", spec, "digest")
    ready(control)

    def meanwhile() -> None:
        expire(control)
        finish("j", control)
        assert control.store.jobs.get("j").finished
        # and somebody else's catalog came into the same folder
        for name in ("part-000000000000.jsonl", "ranking.jsonl", "manifest.json"):
            control.objects.write(folder[where] + name, b"newer")

    frozen(monkeypatch, Objects, "publish", meanwhile)
    # when it wakes up
    finish("j", control)
    # then that stands
    for name in ("part-000000000000.jsonl", "ranking.jsonl", "manifest.json"):
        assert control.objects.read(folder[where] + name) == b"newer"
    assert left_behind(control, tmp_path, s3) == []
