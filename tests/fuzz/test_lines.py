"""Lines of input: each is one slice, whose items have one outcome each, or one named failure."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from rerankfleet.shared.content.requests import ImageRun, Slice
from rerankfleet.shared.errors import ITEM_CODES
from rerankfleet.shared.formats.encodings import is_blank
from rerankfleet.shared.formats.lines import image_of, parse_line
from rerankfleet.shared.formats.shard_files import dump_slices
from rerankfleet.shared.job_spec import InputRef, make_spec
from tests.support.fleet import MODEL, Worker, run
from tests.support.mutations import Mutations, case, cases
from tests.support.outputs import manifest, output

REQUESTS: list[Any] = [
    {"query": "q", "documents": ["a", "b"]},
    {"id": "r1", "query": "find", "documents": ["a", {"id": 7, "text": "b"}], "top_n": 1},
    {
        "id": 5,
        "query": {"text": "a chair", "image": "https://h/a.jpg"},
        "documents": [
            {"id": "c1", "image": ["s3://b/k.jpg", "file:///x.png"], "metadata": {"k": [1, {}]}},
            {"video": {"frames": ["a.jpg", "b.jpg"], "fps": 2.5}},
            {"text": "t", "image": "data:image/png;base64,iVBORw0KGgo="},
        ],
        "instruction": "which?",
        "metadata": {"a": [1, 2.5, None, True]},
    },
]
IMAGES: list[Any] = [
    {"image": "s3://b/k.jpg"},
    {"id": "c", "image": "https://h/a.jpg", "text": "a chair"},
    {"id": 7, "image": ["file:///a b.png"]},
]
LINES_OF_A_JOB = 40


def changed_line(mutations: Mutations, examples: list[Any]) -> bytes:
    """A changed example as one line."""
    example = mutations.pick(examples)
    if mutations.random.random() < 0.5:
        data = mutations.of_json(example)
    else:
        data = mutations.of_bytes(json.dumps(example).encode())
    return data.replace(b"\n", b" ").rstrip(b"\r")


def checked(piece: Slice) -> None:
    """Whether a slice is whole: it can be written, and each item has a place and a named code."""
    assert piece.items >= 1
    assert dump_slices([piece])
    places = [*piece.indices, *(f.index for f in piece.failures if f.index is not None)]
    if piece.documents:
        assert sorted(places) == list(range(len(places)))
    for failure in piece.failures:
        assert failure.code in ITEM_CODES
        assert failure.message
        assert failure.hint
        failure.message.encode()  # it can be printed


def test_every_line_of_requests_is_one_slice():
    found: Counter[str] = Counter()
    for mutations in cases("lines", 2000):
        line = changed_line(mutations, REQUESTS)
        with case(mutations, line):
            piece = parse_line(3, line, max_documents=30)
            checked(piece)
            assert piece.line == 3
            found["a failure" if piece.failures else "whole"] += 1
    # and the changes are neither all refused nor all taken
    assert min(found.values()) > 100, found


def test_every_line_of_a_catalog_is_one_image():
    found: Counter[str] = Counter()
    for mutations in cases("catalog", 1500):
        line = changed_line(mutations, IMAGES)
        with case(mutations, line):
            piece = image_of(3, line, queries=2)
            assert piece.line == 3
            if isinstance(piece, Slice):
                checked(piece)
            else:
                assert isinstance(piece, ImageRun)
                assert piece.items == 2
                assert dump_slices([piece])
            found[type(piece).__name__] += 1
    assert min(found.values()) > 100, found


def test_every_line_of_a_job_has_one_line_of_output(control):
    for number, mutations in enumerate(cases("jobs", 4)):
        # given an input of changed lines behind a good one, some of them blank
        lines = [json.dumps(REQUESTS[0]).encode()]
        lines += [changed_line(mutations, REQUESTS) for _ in range(LINES_OF_A_JOB)]
        with case(mutations, lines):
            due = [line for line in lines if not is_blank(line)]
            job_id = f"j{number}"
            uri = control.objects.at("jobs", job_id, "input.jsonl")
            control.objects.write(uri, b"".join(line + b"\n" for line in lines))
            stat = control.objects.stat(uri)
            ref = InputRef(uri=uri, size=stat.size, tag=stat.tag)
            control.store.jobs.create(job_id, make_spec(model=MODEL, input=ref), "")
            # when it is scored
            control.hints.feed(job_id)
            run(control, Worker(control))
            # then each has its line, and each of its items one outcome
            written = output(control, job_id)
            assert len(written) == len(due)
            counts = manifest(control, job_id)
            assert counts.pairs == counts.scored + counts.errors
            pieces = [parse_line(1, line, max_documents=10_000) for line in due]
            assert counts.pairs == sum(piece.items for piece in pieces)
            for piece, out in zip(pieces, written, strict=True):
                assert len(out["errors"]) == len(piece.failures)
                indices = [result["index"] for result in out["results"]]
                assert len(indices) == min(len(piece.indices), piece.top_n or len(indices))
                assert set(indices) <= set(piece.indices)
                assert len(set(indices)) == len(indices)
