"""Small requests: answered while the caller waits, cancelled, refused."""

from __future__ import annotations

import base64
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from rerankfleet.producer import interactive
from rerankfleet.producer import shard_size as shard_sizes
from rerankfleet.producer.client import Client
from rerankfleet.producer.interactive import Answer, Payload
from rerankfleet.producer.queue_position import QueuePosition
from rerankfleet.shared.calibration import relevance_score
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.errors import (
    CallerLeft,
    DeadlineExceeded,
    ItemError,
    KeyConflict,
    ModelLoading,
    NoWorker,
    Overloaded,
    TooLarge,
    UsageError,
)
from rerankfleet.shared.formats.lines import slice_of
from rerankfleet.shared.job_spec import Priority
from tests.support.fleet import MODEL, Worker, margin_of, worker_row
from tests.support.jobs import stored
from tests.support.records import open_shards
from tests.support.wait import patient, wait_until


def test_a_small_request_takes_a_profile_too(api, served):
    line = api.rerank("q", ["a", "b"], profile="multilingual", top_p=0.95, timeout_s=patient(20))

    for result in line["results"]:
        assert result["relevance_score"] == relevance_score(result["margin"], 0.6, 0.95)


def test_a_small_request_is_answered(api, served, store, tmp_path):
    documents = ["a", {"id": "x", "text": "b"}, 5]

    line = api.rerank("q", documents, top_n=2, timeout_s=patient(20))

    assert {r["index"]: r["margin"] for r in line["results"]} == {
        0: margin_of("q", "a"),
        1: margin_of("q", "b"),
    }
    assert [(e["index"], e["code"]) for e in line["errors"]] == [(2, "invalid_document")]
    assert line["provenance"]["model"] == MODEL
    assert store.jobs.unfinished() == []
    assert store.jobs.recent() == []
    assert stored(tmp_path) == []


def test_a_small_request_with_a_key_is_answered_once(api, served, store):
    def ask(text: str = "a", **options: Any) -> Answer:
        fields = {"query": "q", "documents": [text]}
        return api.ask(
            [slice_of(1, fields, max_documents=9)], key="mine", timeout_s=patient(20), **options
        )

    first, again = ask(), ask()
    assert first.job.id == again.job.id
    assert first.outcomes == again.outcomes
    for other in ({"text": "b"}, {"top_p": 0.5}):
        with pytest.raises(KeyConflict, match="the key 'mine' belongs to job"):
            ask(**other)


def test_documents_carry_their_id_and_metadata_through_a_small_request(api, served):
    document = {"id": "x", "metadata": {"sku": [1, None]}}

    line = api.rerank(
        "q", [document | {"text": "b"}, document | {"text": 1}], timeout_s=patient(20)
    )

    (scored,), (failed,) = line["results"], line["errors"]
    assert (scored["id"], scored["metadata"]) == ("x", document["metadata"])
    assert (failed["id"], failed["retryable"]) == ("x", False)


def test_a_small_request_may_hold_images(api, served):
    line = api.rerank(
        {"text": "q", "image": "s3://b/q.jpg"},
        [{"id": "x", "image": "s3://b/x.jpg"}, {"image": "ftp://b/y.jpg"}],
        image_preset="product",
        timeout_s=patient(20),
    )

    assert [(r["id"], r["margin"]) for r in line["results"]] == [
        ("x", margin_of("q s3://b/q.jpg", "s3://b/x.jpg"))
    ]
    assert [(e["index"], e["code"]) for e in line["errors"]] == [(1, "invalid_document")]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"image_preset": "huge"}, "image_preset is wrong: expected one of general, product"),
        ({"max_crop": 2}, "max_crop is wrong"),
        ({"key": "k"}, "there is no option 'key' here: known: explain, image_preset"),
    ],
)
def test_a_small_request_with_a_wrong_option_is_refused(api, options, says):
    with pytest.raises(UsageError, match=says):
        api.rerank("q", ["a"], **options)


def test_a_larger_request_is_cut_into_shards(api, served, fleet):
    fleet.beat(worker_row("w2"))
    documents = [f"document {i} " + "x" * 200 for i in range(300)]

    line = api.rerank("q", documents, timeout_s=patient(20))

    assert sorted(r["index"] for r in line["results"]) == list(range(300))


def test_a_request_that_nobody_answers_in_time_is_cancelled(api, store):
    with pytest.raises(DeadlineExceeded, match=r"no answer within 0.05 s"):
        api.rerank("q", ["a"], timeout_s=0.05)
    assert store.jobs.unfinished() == []
    assert open_shards(store, MODEL) == 0


def test_a_request_that_the_monitor_ended_is_told_so(api, store):
    errors = []

    def ask() -> None:
        try:
            api.rerank("q", ["a"], timeout_s=patient(20))
        except DeadlineExceeded as error:
            errors.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    (job_id,) = wait_until(store.jobs.unfinished)
    store.jobs.cancel(store.jobs.get(job_id))
    asking.join(patient(10))

    assert len(errors) == 1


@pytest.mark.parametrize(
    ("query", "documents", "code"),
    [
        ("", ["a"], "empty_query"),
        ("q", [], "no_documents"),
        ("q", ["a"] * 10_001, "too_many_documents"),
    ],
)
def test_a_bad_request_is_refused(api, query, documents, code):
    with pytest.raises(ItemError) as caught:
        api.rerank(query, documents)
    assert caught.value.code == code


def test_without_a_worker_a_request_is_not_begun(api, fleet):
    fleet.leave("w1")
    with pytest.raises(NoWorker, match=f"no worker serves {MODEL} now"):
        api.rerank("q", ["a"], model=MODEL)


@pytest.mark.parametrize("others", [(), ("loading",), ("draining",)])
def test_a_model_that_is_being_loaded_is_told_at_once(api, fleet, others):
    fleet.beat(worker_row(state="loading"))
    for number, state in enumerate(others):
        fleet.beat(worker_row(f"o{number}", state=state))
    with pytest.raises(ModelLoading, match=f"the workers of {MODEL} are loading it"):
        api.rerank("q", ["a"], model=MODEL)
    assert api.store.jobs.unfinished() == []


def test_the_workers_are_read_once_for_a_request(api, monkeypatch):
    reads = []
    snapshot = api.store.snapshot
    monkeypatch.setattr(api.store, "snapshot", lambda *a, **b: reads.append(1) or snapshot(*a, **b))
    with pytest.raises(DeadlineExceeded):
        api.rerank("q", ["a"], timeout_s=0.05)
    assert len(reads) == 1


def test_a_full_queue_or_a_large_payload_is_sent_away(fleet, change, real_hints):
    fleet.beat(worker_row())
    api = Client(change(interactive_queue_max=2, inline_bytes_max=1000))
    with pytest.raises(TooLarge, match="at most 1000 fit: submit it as a job"):
        api.rerank("q", ["x" * 2000])
    for n in range(2):
        real_hints.shard(MODEL, Priority.interactive, "j", f"{n}-{n + 1}")
    with pytest.raises(Overloaded, match="2 interactive shards wait already: try again"):
        api.rerank("q", ["a"])


# ---- followed and cancelled ---------------------------------------------------------------------


def a_slice(text: str = "a") -> Slice:
    return slice_of(1, {"query": "q", "documents": [text]}, max_documents=9)


def test_a_request_is_followed_until_its_answer(api, control, store, real_hints):
    # given two shards that wait, and a request behind them
    for other in ("first", "second"):
        real_hints.shard(MODEL, Priority.interactive, other, "0-1")
    pending = api.interactive.start([a_slice()], timeout_s=patient(20))
    assert pending.position() == QueuePosition(2, 0, 1)
    # when a worker claims it, then it is no longer queued
    worker = Worker(control)
    lease = worker.claimed(pending.job_id, "0-1")
    assert pending.position() == QueuePosition(None, 0, 1)
    # and when it is scored, then there is its answer
    worker.commit(lease)
    answer = pending.wait()
    assert answer.job.id == pending.job_id
    assert [scored.margin for scored in answer.scored] == [margin_of("q", "a")]
    # which stays as it is
    pending.cancel()
    assert pending.wait().outcomes == answer.outcomes


def test_a_cancelled_request_leaves_no_work_behind(api, store):
    pending = api.interactive.start([a_slice()], timeout_s=patient(20))
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pending.wait)
        pending.cancel()
        with pytest.raises(CallerLeft, match="its job was cancelled"):
            waiting.result(patient(10))
    assert open_shards(store, MODEL) == 0
    assert store.jobs.unfinished() == []
    pending.cancel()  # again, which changes nothing


def test_a_cancelled_request_with_a_key_goes_on_for_others(api, store):
    # given a request that is made twice
    first, second = (
        api.interactive.start([a_slice()], timeout_s=patient(20), key="k") for _ in range(2)
    )
    assert first.job_id == second.job_id
    # when one of its callers leaves, then the job stays
    first.cancel()
    with pytest.raises(CallerLeft, match="who repeats the request gets its answer"):
        first.wait()
    assert store.jobs.unfinished() == [second.job_id]


def test_each_slice_is_serialised_once(settings, monkeypatch):
    dumped = []
    real = interactive.dump_slices
    monkeypatch.setattr(
        interactive, "dump_slices", lambda pieces: dumped.extend(pieces) or real(pieces)
    )
    slices = [a_slice("a"), a_slice("b")]

    payload = Payload(slices, settings)

    assert payload.data == payload.of(slices) == real(slices)
    assert payload.of(slices[1:]) == real(slices[1:])
    assert dumped == slices
    # and what a cut divided is what it has become
    part = slice_of(1, {"query": "q", "documents": ["a", "b"]}, max_documents=9).cut(0, 1)
    assert payload.of([part]) == real([part])


def a_large_request(documents: int, size: int = 350) -> Slice:
    return slice_of(
        1, {"query": "q", "documents": ["x" * size] * documents}, max_documents=documents
    )


def queued(api: Client, store, request: list[Slice], **options: Any) -> int:
    pending = api.interactive.start(request, timeout_s=patient(20), **options)
    shards = open_shards(store)
    pending.cancel()
    return shards


def test_a_large_request_takes_a_share_of_the_queue_and_each_document_is_priced_once(
    api, store, monkeypatch
):
    """Given ten thousand documents and a slow worker: hundreds of seconds of its time."""
    store.fleet.beat(worker_row(tokens_per_s=100))
    seen: list[Any] = []
    price = shard_sizes.pair_tokens
    monkeypatch.setattr(
        shard_sizes, "pair_tokens", lambda document, *a: seen.append(0) or price(document, *a)
    )

    shards = queued(api, store, [a_large_request(10_000)])

    most = api.settings.interactive_shards_max
    assert most / 4 <= shards <= most
    assert len(seen) == 10_000


def test_many_requests_in_one_take_a_share_of_the_queue_too(api, store):
    store.fleet.beat(worker_row(tokens_per_s=100))
    pieces = [
        slice_of(n, {"query": "q" * 3000, "documents": ["a", "b" * 2000]}, max_documents=9)
        for n in range(1, 301)
    ]

    assert 1 < queued(api, store, pieces) <= api.settings.interactive_shards_max


def test_more_documents_than_shards_may_hold_are_refused_in_a_sentence(api, store):
    """Given shards of few pairs: larger ones are not made."""
    store.fleet.beat(worker_row())
    few = api.settings.model_copy(update={"shard_pairs_max": 10, "interactive_shards_max": 4})
    api.interactive.control = replace(api.interactive.control, settings=few)

    assert queued(api, store, [a_large_request(40)]) == 4
    with pytest.raises(TooLarge, match="41 documents makes 5 shards, at most 4 are queued"):
        queued(api, store, [a_large_request(41)])


def test_the_deadline_includes_the_time_of_cutting(api, store, monkeypatch):
    """Given a request whose cutting takes longer than its caller waits: no job is made."""
    store.fleet.beat(worker_row())
    cut = interactive._cut
    clock = [0.0]
    monkeypatch.setattr(interactive.time, "monotonic", lambda: clock[0])

    def slow(*arguments: Any) -> Any:
        clock[0] += 5.0
        return cut(*arguments)

    monkeypatch.setattr(interactive, "_cut", slow)

    with pytest.raises(DeadlineExceeded, match="no answer within 4 s"):
        api.interactive.start([a_slice()], timeout_s=4)
    assert store.jobs.unfinished() == []


def webp_header(side: int) -> str:
    """34 bytes of a lossless WebP that claims a square picture, as a data: URI."""
    bits = (side - 1) | (side - 1) << 14
    body = b"\x2f" + struct.pack("<I", bits) + bytes([0x88, 0x88, 8, *6 * [0]])
    chunk = b"VP8L" + struct.pack("<I", len(body)) + body
    data = b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk
    assert len(data) == 34
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"


def pictures(*uris: str, video: bool = False) -> Slice:
    documents = [{"video": {"frames": list(uris)}}] if video else [{"image": uri} for uri in uris]
    return slice_of(1, {"query": "q", "documents": documents}, max_documents=1000, strict=True)


def test_small_files_that_claim_many_pixels_are_refused_before_a_job_is_made(api, store):
    store.fleet.beat(worker_row(supports_images=True))
    uris = [webp_header(10_000 - n) for n in range(40)]

    with pytest.raises(TooLarge, match="pixels in all, at most 2,000,000,000") as caught:
        api.interactive.start([pictures(*uris)])
    with pytest.raises(TooLarge):
        api.interactive.start([pictures(*uris, video=True)])
    assert caught.value.hint == "scale them down, or submit it as a job"
    assert store.jobs.unfinished() == []


@pytest.mark.parametrize("count", [1, 20])
def test_large_pictures_in_small_files_are_taken_while_they_are_few(api, store, count):
    """The same picture again and again is one."""
    store.fleet.beat(worker_row(supports_images=True))
    uris = [webp_header(10_000 - n) for n in range(count)] * 5

    assert queued(api, store, [pictures(*uris)])


def test_a_request_of_too_many_images_is_refused_before_a_job_is_made(api, store):
    store.fleet.beat(worker_row(supports_images=True))
    most = api.settings.interactive_images_max
    uris = [f"s3://bucket/{n}.jpg" for n in range(most + 1)]

    assert queued(api, store, [pictures(*uris[:most])])
    with pytest.raises(TooLarge, match=f"a request with {most + 1} images, at most {most}"):
        api.interactive.start([pictures(*uris)])
    halves = [pictures(*uris[:200]), pictures(*uris[100:])]
    with pytest.raises(TooLarge, match=f"{most + 1} images"):
        api.interactive.start(halves)
