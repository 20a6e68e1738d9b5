"""A job's input: pinned before any work starts, then read from any place in it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys
import tracemalloc
from pathlib import Path

import pytest

from rerankfleet.producer.coordinator.cut import cut
from rerankfleet.producer.inputs.cursor import Cursor
from rerankfleet.producer.inputs.jsonl import (
    Input,
    due_again,
    pin,
    previous_outcomes,
    refuse_changed,
)
from rerankfleet.producer.shard_size import ShardSize
from rerankfleet.shared.addresses import file_uri
from rerankfleet.shared.content.outcomes import Failure, Scored, SliceOutcome
from rerankfleet.shared.errors import InputChanged, NotAllowed, UsageError
from rerankfleet.shared.formats import sources
from rerankfleet.shared.formats.lines import parse_line
from rerankfleet.shared.formats.output import dump_line, output_line
from rerankfleet.shared.heartbeat import heartbeat
from rerankfleet.shared.job_spec import make_spec
from rerankfleet.shared.state.records import Job
from rerankfleet.shared.storage.uploads import new_upload, upload_uri
from tests.support.fleet import PROVENANCE

LINES = [{"id": n, "query": f"q{n}", "documents": ["a", "b"]} for n in range(5)]
DATA = b"".join(json.dumps(line).encode() + b"\n" for line in LINES)


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    folder = tmp_path / "allowed"
    folder.mkdir()
    return folder


@pytest.fixture
def upload_to(objects) -> str:
    return objects.at("jobs", "j", "input.jsonl")


def job_of(ref, *, round_: int = 0, limit: int | None = None, **facts: str) -> Job:
    spec = make_spec(model="m", input=ref, limit=limit)
    return Job("j", spec, {"round": str(round_), **facts}, 0)


def lines_read(reader: Input, uri: str, cursor: Cursor = Cursor()) -> list[int]:  # noqa: B008
    return [read.piece.line for read in reader.reads(uri, cursor)]


# ---- pinning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_local_file_is_uploaded_as_plain_lines(objects, settings, upload_to, tmp_path, pack):
    data = pack(DATA)
    (tmp_path / "in").write_bytes(data)

    ref = pin(str(tmp_path / "in"), objects, settings, upload_to)

    assert objects.read(upload_to) == DATA
    assert (ref.uri, ref.size) == (upload_to, len(DATA))
    assert ref.sha256 == hashlib.sha256(data).hexdigest()
    refuse_changed(ref, objects)


def test_standard_input_is_uploaded(objects, settings, upload_to, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(DATA)))

    assert pin("-", objects, settings, upload_to).size == len(DATA)


def test_a_uri_stays_where_it_is(objects, settings, upload_to, allowed):
    (allowed / "in").write_bytes(DATA)

    ref = pin(file_uri(allowed / "in"), objects, settings, upload_to)

    assert ref.uri == file_uri(allowed / "in")
    assert ref.sha256 == hashlib.sha256(DATA).hexdigest()
    assert not objects.exists(upload_to)


def test_an_object_in_a_bucket_is_pinned_by_its_etag(s3, change, upload_to):
    from rerankfleet.shared.storage.objects import Objects

    settings = change(allowed_buckets=("pairs",))
    s3.put_object(Bucket="pairs", Key="in", Body=DATA)
    objects = Objects(settings)

    ref = pin("s3://pairs/in", objects, settings, upload_to)
    assert ref.sha256 is None
    refuse_changed(ref, objects)
    s3.put_object(Bucket="pairs", Key="in", Body=DATA[::-1])

    with pytest.raises(InputChanged):
        refuse_changed(ref, objects)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"\x00\x01\x02", "is not JSON Lines"),
        (gzip.compress(DATA * 1000, mtime=0)[:-20], "is damaged gzip"),
        (gzip.compress(DATA * 1000, mtime=0)[:-5] + b"12345", "is damaged gzip"),
    ],
)
def test_a_bad_local_file_is_refused_and_leaves_nothing(
    objects, settings, upload_to, tmp_path, data, words
):
    (tmp_path / "in").write_bytes(data)

    with pytest.raises(UsageError, match=words):
        pin(str(tmp_path / "in"), objects, settings, upload_to)

    assert [p for p in (tmp_path / "storage").rglob("*") if p.is_file()] == []


def test_a_bad_uri_is_refused(objects, settings, upload_to, allowed, tmp_path):
    (allowed / "csv").write_bytes(b"a,b\n")
    for uri, error, words in (
        (file_uri(allowed / "csv"), UsageError, "not JSON Lines"),
        (file_uri(allowed / "none"), UsageError, "does not exist"),
        (file_uri(tmp_path / "in"), NotAllowed, "not allowed"),
        ("s3://other/in", NotAllowed, "not allowed"),
    ):
        with pytest.raises(error, match=words):
            pin(uri, objects, settings, upload_to)


def test_an_input_that_changed_is_refused(objects, settings, upload_to, allowed):
    path = allowed / "in"
    path.write_bytes(DATA)
    ref = pin(file_uri(path), objects, settings, upload_to)
    path.write_bytes(DATA + b"\n")

    with pytest.raises(InputChanged, match=r"changed since .* was made: restore the same bytes"):
        refuse_changed(ref, objects)


# ---- reading ------------------------------------------------------------------------------------


@pytest.fixture
def ref(objects, settings, upload_to, tmp_path):
    """A pinned input of five lines, uploaded."""
    (tmp_path / "in").write_bytes(DATA)
    return pin(str(tmp_path / "in"), objects, settings, upload_to)


def test_reading_goes_on_at_any_line(objects, settings, ref):
    reader = Input(job_of(ref), objects, settings)
    all_reads = list(reader.reads(ref.uri, Cursor()))

    assert [read.piece.line for read in all_reads] == [1, 2, 3, 4, 5]
    assert all_reads[-1].offset == len(DATA)
    for read in all_reads:
        cursor = Cursor(offset=read.offset, line=read.piece.line)
        rest = list(reader.reads(ref.uri, cursor))
        assert [r.piece for r in rest] == [r.piece for r in all_reads[read.piece.line :]]


def test_a_limit_takes_the_first_requests(objects, settings, ref):
    reader = Input(job_of(ref, limit=3), objects, settings)

    assert lines_read(reader, ref.uri) == [1, 2, 3]
    assert lines_read(reader, ref.uri, Cursor(line=3, offset=0)) == []


def test_gzip_that_cannot_be_sought_is_rewritten_once(objects, settings, allowed, upload_to):
    (allowed / "in.gz").write_bytes(gzip.compress(DATA, mtime=0))
    ref = pin(file_uri(allowed / "in.gz"), objects, settings, upload_to)
    signs: list[int] = []

    with heartbeat(lambda: signs.append(1)):
        uri = Input(job_of(ref), objects, settings).make_seekable()

    assert objects.read(uri) == DATA
    assert signs
    again = Input(job_of(ref, plain_uri=uri), objects, settings)
    assert again.make_seekable() == uri
    assert lines_read(again, uri) == [1, 2, 3, 4, 5]


def test_an_upload_is_copied_as_it_is_and_unpacked_when_its_turn_comes(
    objects, settings, upload_to
):
    upload_id, _ = new_upload(100)
    uploaded = upload_uri(objects, upload_id, "upload.jsonl.gz")
    objects.write(uploaded, gzip.compress(DATA, mtime=0))
    ref = pin(uploaded, objects, settings, upload_to)

    # given that it is gone
    objects.delete_tree(upload_uri(objects, upload_id))

    assert objects.read(ref.uri) == gzip.compress(DATA, mtime=0)
    assert ref.sha256 == hashlib.sha256(gzip.compress(DATA, mtime=0)).hexdigest()
    uri = Input(job_of(ref), objects, settings).make_seekable()
    assert objects.read(uri) == DATA


def test_a_gzip_bomb_costs_neither_memory_nor_the_disk(
    objects, settings, allowed, upload_to, monkeypatch
):
    monkeypatch.setattr(sources, "UNPACKED_FREE_BYTES", 1 << 20)
    # given lines that pack a thousand times, one of them as long as half of the input
    with gzip.open(allowed / "in.gz", "wb") as out:
        out.write(DATA + b" " * (64 << 20) + b"\n" + DATA[:20] * (2 << 20))
    ref = pin(file_uri(allowed / "in.gz"), objects, settings, upload_to)
    reader = Input(job_of(ref), objects, settings)
    tracemalloc.start()
    with pytest.raises(UsageError, match=r"in\.gz unpacks to more than 100 times its size"):
        reader.make_seekable()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20
    assert list(objects.listing(objects.at("jobs") + "/")) == []


def test_a_line_over_the_limit_is_its_own_failure(objects, change, ref):
    long = json.dumps({"query": "q", "documents": ["x" * 2000]}).encode() + b"\n"
    objects.write(ref.uri, long + DATA)
    reader = Input(job_of(ref), objects, change(max_line_bytes=1024))

    first, *rest = reader.reads(ref.uri, Cursor())

    assert first.piece.failures[0].code == "line_too_long"
    assert first.offset == len(long)
    assert len(rest) == 5


# ---- retries ------------------------------------------------------------------------------------


def failure(index: int | None, code: str = "failed") -> Failure:
    return Failure(line=1, index=index, code=code, message="m")


def test_a_retry_takes_only_the_pairs_that_failed():
    line = {"query": "q", "documents": ["a", 5, "c", "d"]}
    piece = parse_line(1, json.dumps(line).encode(), max_documents=9)
    before = SliceOutcome(
        line=1,
        results=[Scored(index=0, margin=1)],
        errors=[failure(1, "invalid_document"), failure(2), failure(3, "cancelled")],
    )

    everything = due_again(piece, before, "all")
    errors = due_again(piece, before, "errors")

    assert everything.indices == [2, 3]
    assert [f.index for f in everything.failures] == [1]
    assert errors.indices == [2]
    assert [d.text for d in errors.documents] == ["c"]
    assert due_again(piece, SliceOutcome(line=1), "all") == piece


def test_a_retry_leaves_what_was_rejected():
    piece = parse_line(1, json.dumps(LINES[0]).encode(), max_documents=9)
    before = SliceOutcome(line=1, errors=[failure(0, "low_quality"), failure(1)])

    assert due_again(piece, before, "all").indices == [1]


def test_a_line_that_failed_as_a_whole_is_tried_as_a_whole():
    piece = parse_line(1, json.dumps(LINES[0]).encode(), max_documents=9)
    before = SliceOutcome(line=1, errors=[failure(None)])

    assert due_again(piece, before, "all") == piece


def test_a_retry_reads_the_input_beside_the_previous_output(objects, settings, ref):
    """Given an output in which the third line lacks its second pair."""
    outcomes = [
        SliceOutcome(
            line=n,
            id=n - 1,
            results=[Scored(index=i, margin=1.0) for i in ((0,) if n == 3 else (0, 1))],
            errors=[failure(1)] if n == 3 else [],
        )
        for n in range(1, 6)
    ]
    previous = objects.at("out")
    written = [dump_line(output_line(o, PROVENANCE, top_n=None)) for o in outcomes]
    objects.write(previous, b"".join(written))
    job = job_of(ref, round_=1, previous=previous, only="all")
    reader = Input(job, objects, settings)

    reads = list(reader.reads(ref.uri, Cursor()))

    assert [read.piece.items for read in reads] == [0, 0, 1, 0, 0]
    assert reads[2].piece.indices == [1]
    assert reads[-1].previous == sum(map(len, written))
    cursor = Cursor(reads[1].offset, 2, 0, 0, reads[1].previous)
    assert list(reader.reads(ref.uri, cursor)) == reads[2:]
    assert [p.outcome.line for p in previous_outcomes(job, objects)] == [1, 2, 3, 4, 5]
    assert next(previous_outcomes(job, objects)).provenance == PROVENANCE


# ---- encodings and blank lines ------------------------------------------------------------------

BLANK = DATA.replace(b"\n", b"\n\n \t\r\n", 2) + b"\n"
"""The five lines, two blank ones behind each of the first two, and one at the end."""


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("place", ["path", "uri"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8-sig"])
def test_an_input_in_another_encoding_is_read(
    objects, settings, upload_to, allowed, encoding, place, pack
):
    path = allowed / "in"
    path.write_bytes(pack(DATA.decode().replace(': "q', ': "ü').encode(encoding)))
    ref = pin(file_uri(path) if place == "uri" else str(path), objects, settings, upload_to)

    reader = Input(job_of(ref), objects, settings)
    uri = reader.make_seekable()
    pieces = [read.piece for read in reader.reads(uri, Cursor())]

    assert ref.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [piece.query.text for piece in pieces] == [f"ü{n}" for n in range(5)]


def test_blank_lines_are_passed_over_and_keep_their_numbers(objects, settings, ref):
    objects.write(ref.uri, BLANK)
    reader = Input(job_of(ref), objects, settings)

    reads = list(reader.reads(ref.uri, Cursor()))

    assert [read.piece.line for read in reads] == [1, 4, 7, 8, 9]
    assert all(read.piece.failures == [] for read in reads)
    for number, read in enumerate(reads, 1):
        line = read.piece.line
        cursor = Cursor(offset=read.offset, line=line, blank=line - number)
        assert cursor.requests == number
        assert list(reader.reads(ref.uri, cursor)) == reads[number:]


def test_a_limit_counts_no_blank_lines(objects, settings, ref):
    objects.write(ref.uri, BLANK)
    reader = Input(job_of(ref, limit=3), objects, settings)

    assert lines_read(reader, ref.uri) == [1, 4, 7]
    assert lines_read(reader, ref.uri, Cursor(offset=20, line=7, blank=4)) == []


def test_a_cut_counts_the_blank_lines_before_its_end(objects, settings, ref):
    objects.write(ref.uri, BLANK)
    reads = Input(job_of(ref), objects, settings).reads(ref.uri, Cursor())

    *_, last = cut(reads, Cursor(), ShardSize(tokens=1e9, pairs=2))

    assert (last.cursor.line, last.cursor.blank, last.cursor.requests) == (9, 4, 5)


def test_an_upload_in_another_encoding_is_read_when_its_turn_comes(objects, settings, upload_to):
    upload_id, _ = new_upload(100)
    uploaded = upload_uri(objects, upload_id, "upload.jsonl")
    objects.write(uploaded, BLANK.decode().encode("utf-16"))
    ref = pin(uploaded, objects, settings, upload_to)
    reader = Input(job_of(ref), objects, settings)

    uri = reader.make_seekable()

    assert objects.read(uri) == BLANK
    assert lines_read(reader, uri) == [1, 4, 7, 8, 9]
