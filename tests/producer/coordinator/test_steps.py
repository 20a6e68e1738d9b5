"""A step in hand keeps its lease by signs of life, and stops when it is no longer wanted."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator

import pytest

from rerankfleet.producer.coordinator import cut as cutting
from rerankfleet.producer.coordinator import feed as feeding
from rerankfleet.producer.coordinator import step as steps
from rerankfleet.producer.coordinator.feed import feed
from rerankfleet.producer.coordinator.finish import finish
from rerankfleet.producer.coordinator.process import _task
from rerankfleet.producer.coordinator.step import Control, Step, StepOver
from rerankfleet.producer.inputs import csv_rows, tables
from rerankfleet.producer.inputs import jsonl as reading
from rerankfleet.producer.inputs.cursor import Cursor
from rerankfleet.producer.inputs.jsonl import Input
from rerankfleet.shared.content.content import Document
from rerankfleet.shared.errors import StorageUnavailable, UsageError
from rerankfleet.shared.formats.shard_files import dump_queries, queries_uri
from rerankfleet.shared.heartbeat import heartbeat
from rerankfleet.shared.job_spec import Catalog, InputRef, make_spec
from tests.support.fleet import MODEL, Worker, run
from tests.support.outputs import check, manifest, output
from tests.support.wait import patient

ROWS = b"image\n" + b"s3://shop/a.jpg\n" * 3


@pytest.fixture
def catalog(control) -> Callable[..., str]:
    """`catalog("a.csv", data)` or `catalog("folder/")`: a job of that input, without a hint."""

    def make(name: str, data: bytes = b"", **options) -> str:
        uri, pinned = control.objects.at("jobs", "j") + "/" + name, (0, "")
        if data:
            control.objects.write(uri, data)
            stat = control.objects.stat(uri)
            pinned = (stat.size, stat.tag)
        queries = [Document(id="q", text="query")]
        payload = dump_queries(queries)
        control.objects.write(queries_uri(control.objects, "j"), payload)
        spec = make_spec(
            model=MODEL,
            input=InputRef(uri=uri, size=pinned[0], tag=pinned[1]),
            catalog=Catalog(
                queries=InputRef(uri="", size=len(payload), tag="", sha256="0"),
                count=1,
                format="jsonl",
            ),
            **options,
        )
        return control.store.jobs.create("j", spec, "digest")

    return make


def expire(control: Control) -> None:
    """Let the lease of the job's step run out."""
    control.store.client.hset(control.store.keys.job("j"), "step_until", 1)


# ---- signs of life ------------------------------------------------------------------------------

READERS = {
    "blank lines of CSV": ("a.csv", ROWS + b"\n" * 100_000),
    "blank lines of packed CSV": ("a.csv.gz", gzip.compress(ROWS + b"\n" * 100_000)),
    "blank lines of a listing": ("a.jsonl", b"s3://shop/a.jpg\n" + b"\n" * 5_000),
    "one long line": ("a.jsonl", b"s3://shop/a.jpg\n" + b"x" * (16 << 20)),
}


@pytest.mark.parametrize("name", READERS)
def test_whatever_yields_nothing_gives_signs_of_life(control, catalog, change, name):
    # given an input that is long and of which few rows come
    catalog(*READERS[name])
    signs: list[int] = []
    settings = change(max_line_bytes=1 << 20)
    source = Input(control.store.jobs.get("j"), control.objects, settings)
    # when it is read
    with heartbeat(lambda: signs.append(1)):
        uri = source.make_seekable()
        reads = list(source.reads(uri, Cursor()))
    # then signs come more often than rows
    assert len(signs) > max(len(reads), 15)


def test_a_folder_of_other_files_gives_signs_of_life_and_moves_on(control, catalog, monkeypatch):
    monkeypatch.setattr(reading, "SKIPPED_PER_CUT", 10)
    for number in range(35):
        control.objects.write(control.objects.at("jobs", "j", "f", f"{number:03}.txt"), b"x")
    control.objects.write(control.objects.at("jobs", "j", "f", "zz.jpg"), b"x")
    catalog("f/")
    source = Input(control.store.jobs.get("j"), control.objects, control.settings)
    signs: list[int] = []
    with heartbeat(lambda: signs.append(1)):
        reads = list(source.reads(control.objects.at("jobs", "j", "f") + "/", Cursor()))
    assert len(signs) >= 36
    # then there are positions without an image, from which the rest is the same
    assert [read.piece is None for read in reads] == [True, True, True, False]
    for at, read in enumerate(reads[:-1], 1):
        cursor = Cursor(key=read.key)
        assert list(source.reads(source._job.spec.input.uri, cursor))[-1] == reads[-1], at


def test_a_step_that_finds_nothing_ends_and_the_next_goes_on_from_there(
    control, catalog, monkeypatch
):
    # given a folder in which one of many files is an image, and a step that ends at once
    monkeypatch.setattr(reading, "SKIPPED_PER_CUT", 10)
    monkeypatch.setattr(feeding, "STEP_S", 0)
    for number in range(35):
        control.objects.write(control.objects.at("jobs", "j", "f", f"{number:03}.txt"), b"x")
    control.objects.write(control.objects.at("jobs", "j", "f", "zz.jpg"), b"x")
    catalog("f/")
    # when it is fed step by step
    keys = []
    while not control.store.jobs.get("j").sealed:
        feed("j", control)
        keys.append(Cursor.parse(control.store.jobs.get("j").facts["cursor"]).key[-7:])
        assert len(keys) < 10
    # then each went on where the last one ended, and asked for the next
    assert keys[:4] == ["009.txt", "019.txt", "029.txt", "/zz.jpg"]
    run(control, Worker(control))
    assert manifest(control).pairs == 1


def test_blank_lines_end_a_cut_and_every_step_goes_on_from_there(
    control, submit, monkeypatch, jsonl
):
    # given requests, one of which is cut in the middle, far from each other in a file
    monkeypatch.setattr(reading, "BLANK_PER_CUT", 10)
    lines = [{"id": n, "query": f"q{n}", "documents": ["a", "b", "c", "d"]} for n in range(5)]
    gaps = [b"\n" * 35, b"\n" * 10, b"", b" \n" * 9, b"\n" * 100]
    text = [json.dumps(line).encode() + b"\n" for line in lines]
    data = b"".join(gap + line for gap, line in zip(gaps, text, strict=True)) + b"\n" * 25
    submit(lines, data=data, limit=4)
    # when each step ends at once, and each of them is followed by another process
    monkeypatch.setattr(feeding, "STEP_S", 0)
    cursors, worker = [], Worker(control, fails="c")
    while not control.store.jobs.get("j").sealed:
        feed("j", control)
        worker.work()
        cursors.append(Cursor.parse(control.store.jobs.get("j").facts["cursor"]))
        assert len(cursors) < 60
    assert [cursor.line for cursor in cursors[:4]] == [10, 20, 30, 30]
    assert [cursor.skip for cursor in cursors[:4]] == [0, 0, 0, 3]
    assert len(set(map(str, cursors))) >= len(cursors) - 1  # each moved on
    # then every request within the limit is there once
    finish("j", control)
    check(lines[:4], output(control))
    assert manifest(control).lines == 4
    # and so it is in a retry
    assert control.store.jobs.retry(control.store.jobs.get("j"), "all") == "reopened"
    while not control.store.jobs.get("j").sealed:
        feed("j", control)
        Worker(control).work()
    finish("j", control)
    check(lines[:4], output(control))
    assert (manifest(control).errors, manifest(control).scored) == (0, 16)


def test_lines_in_which_nothing_is_due_end_a_cut_by_their_bytes(control, submit, monkeypatch):
    monkeypatch.setattr(cutting, "BYTES_PER_CUT", 100)
    lines = [{"query": "q", "documents": ["x" * 60]} for _ in range(6)]
    submit(lines)
    control.hints.feed("j")
    run(control, Worker(control))
    lines_of = [line["id"] for line in output(control)]
    assert len(lines_of) == 6


def test_blank_lines_without_end_are_refused(control, catalog, monkeypatch):
    monkeypatch.setattr(csv_rows, "BLANK_BYTES_MAX", 1 << 16)
    catalog("a.csv", ROWS + b"\n" * (2 << 16))
    feed("j", control)
    assert "of blank lines, up to line" in control.store.jobs.get("j").paused
    # and when it is cancelled, it ends at once
    control.store.jobs.cancel(control.store.jobs.get("j"))
    control.hints.feed("j")
    run(control)
    assert control.store.jobs.get("j").finished


def test_a_cancelled_job_whose_bytes_are_refused_ends_at_once(control, catalog, monkeypatch):
    monkeypatch.setattr(csv_rows, "BLANK_BYTES_MAX", 1 << 16)
    catalog("a.csv", ROWS + b"\n" * (2 << 16))
    control.store.jobs.cancel(control.store.jobs.get("j"))
    control.hints.feed("j")
    run(control)
    assert control.store.jobs.get("j").finished


def test_parquet_that_is_silent_gives_signs_of_life_and_is_given_up(monkeypatch):
    import subprocess

    monkeypatch.setattr(tables, "PARQUET_SILENT_S", 1.2)
    signs: list[int] = []
    with subprocess.Popen(["sleep", "60"], stdout=subprocess.PIPE) as silent:
        with heartbeat(lambda: signs.append(1)), pytest.raises(UsageError, match="no row in"):
            next(tables._while_heard(silent.stdout, "a.parquet"))
        silent.kill()
    assert len(signs) >= 2


def test_lines_that_arrive_in_pieces_are_whole(tmp_path):
    import subprocess

    script = "printf 'one\\ntw'; sleep 0.2; printf 'o\\n\\nlast'"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE) as pipe:
        assert list(tables._while_heard(pipe.stdout, "x")) == [b"one\n", b"two\n", b"\n", b"last"]


# ---- no longer wanted ---------------------------------------------------------------------------


def test_a_step_ends_when_its_lease_is_anothers(control, submit, lines):
    submit(lines)
    step = Step.begin("j", control)
    assert step
    assert Step.begin("j", control) is None
    expire(control)
    step.hold()  # nobody took it: it goes on
    expire(control)
    other = Step.begin("j", control)
    with pytest.raises(StepOver, match="lost"):
        step.hold()
    step.end()
    assert step.wait(StorageUnavailable("whatever"))
    other.hold()
    assert "waiting_for" not in control.store.jobs.get("j").facts
    other.end()
    with pytest.raises(StepOver, match="lost"):  # nor does it come back once that has ended
        step.hold()


@pytest.mark.parametrize("act", ["pause", "cancel"])
def test_a_step_in_hand_hears_a_pause_and_a_cancellation(control, catalog, monkeypatch, act):
    """Given a step that reads a long table, during which someone acts."""
    monkeypatch.setattr(steps, "LOOK_S", 0)
    catalog("a.csv", ROWS + b"\n" * 100_000)
    jobs, real, heard = control.store.jobs, control.store.jobs.hold_step, []

    def hold(job_id: str, token: str) -> str:
        if not heard:
            jobs.pause(jobs.get("j"), "lunch") if act == "pause" else jobs.cancel(jobs.get("j"))
        heard.append(real(job_id, token))
        return heard[-1]

    monkeypatch.setattr(jobs, "hold_step", hold)
    feed("j", control)
    # then it stops at its next sign of life
    assert heard == ["paused" if act == "pause" else "cancelled"]
    assert "plain_uri" not in jobs.get("j").facts
    assert "step_token" not in jobs.get("j").facts
    # and a cancelled job is cut on, to record what it leaves
    assert control.hints.take() == ([] if act == "pause" else [("feed", "j")])
    monkeypatch.undo()
    if act == "cancel":
        control.hints.feed("j")
        run(control)
        assert manifest(control).cancelled == 3


def test_a_job_has_one_step_in_a_process(control):
    """Given a step that hangs, whatever became of its lease."""
    begun, go_on = threading.Event(), threading.Event()
    calls: list[str] = []

    def slow(job_id: str, _: Control) -> None:
        calls.append(job_id)
        begun.set()
        go_on.wait(patient(10))

    task = _task(slow, control)
    thread = threading.Thread(target=task, args=("j",))
    thread.start()
    begun.wait(patient(10))
    task("j")  # a hint of the same job is dropped
    other = threading.Thread(target=task, args=("k",))
    other.start()
    go_on.set()
    thread.join(patient(10))
    other.join(patient(10))
    assert sorted(calls) == ["j", "k"]
    task("j")
    assert calls.count("j") == 2


def test_a_step_that_was_overtaken_does_not_pause_the_job(control, submit, lines, monkeypatch):
    submit(lines)

    def fails(*_: object) -> Iterator[None]:
        expire(control)
        assert control.store.jobs.begin_step("j", "other") == "yes"
        raise UsageError("its files were swept")

    monkeypatch.setattr(feeding, "refuse_changed", fails)
    feed("j", control)
    assert control.store.jobs.get("j").paused is None
    assert control.store.jobs.get("j").facts["step_token"] == "other"
