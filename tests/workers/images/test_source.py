"""Images by their addresses, from fetch to pixels; and scored: ahead of the device, in order."""

from __future__ import annotations

import base64
import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from rerankfleet.shared.cli import main
from rerankfleet.shared.content.content import Document
from rerankfleet.shared.content.images import ImageSpec
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.errors import CredentialsRefused, ItemError, UsageError
from rerankfleet.shared.job_spec import InputRef, Priority, make_spec
from rerankfleet.shared.metrics import CACHE_LOOKUPS, IMAGES_REJECTED, PIXELS, SOURCE_BYTES, STAGES
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.storage.objects import Objects
from rerankfleet.shared.storage.uploads import new_upload, upload_uri
from rerankfleet.workers import offline
from rerankfleet.workers.batching.batcher import Batcher
from rerankfleet.workers.batching.packing import Limit, Prices
from rerankfleet.workers.images.decode import prepare_image
from rerankfleet.workers.images.fetch import Fetcher
from rerankfleet.workers.images.pool import Pool
from rerankfleet.workers.images.prepared import ImageRef, PreparedImage
from rerankfleet.workers.images.source import FETCHES_AT_A_TIME, FETCHES_OF_A_REQUEST, ImageSource
from rerankfleet.workers.images.turns import Caller, Signal
from rerankfleet.workers.pipeline import IMAGES_AHEAD, Scorer
from rerankfleet.workers.prepare import LOADS_AT_A_TIME, Preparer, caller_of
from rerankfleet.workers.prompting.prompts import Prompt
from rerankfleet.workers.prompting.tokens import Tokens
from rerankfleet.workers.recorder import Recorder
from tests.support.drawn import draw_leaves, drawn, encoded, png
from tests.support.fleet import PROVENANCE
from tests.support.wait import patient, wait_until

WAIT_S = patient(20)
OPTIONS = ImageSpec(preset="reference")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a good image, a truncated one and something else."""
    (tmp_path / "good.png").write_bytes(png(1))
    (tmp_path / "half.png").write_bytes(png(2)[:200])
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


@pytest.fixture
def source(folder: Path, settings: Settings) -> Iterator[ImageSource]:
    opened = ImageSource.of(settings, folder)
    yield opened
    opened.close()


def load(source: ImageSource, *uris: str) -> dict[str, PreparedImage | ItemError]:
    """What becomes of some addresses."""
    images = source.load([ImageRef(uri, OPTIONS) for uri in uris])
    return {ref.uri: outcome for ref, outcome in images.items()}


def test_each_image_or_its_own_error(source, folder):
    embedded = f"data:image/png;base64,{base64.b64encode(png(3)).decode()}"
    absolute = (folder / "good.png").as_uri()

    images = load(
        source, "good.png", "half.png", "notes.txt", "lost.png", "/etc/passwd", absolute, embedded
    )

    outcomes = {uri: o.code if isinstance(o, ItemError) else o.size for uri, o in images.items()}
    assert outcomes == {
        "good.png": (128, 96),
        "half.png": "invalid_image",
        "notes.txt": "unsupported_image",
        "lost.png": "not_found",
        "/etc/passwd": "refused_source",
        absolute: (128, 96),
        embedded: (128, 96),
    }
    assert images["good.png"].key == images[absolute].key != images[embedded].key
    assert np.array_equal(images["good.png"].pixels, np.array(drawn(1)))


def test_what_is_done_with_images_is_counted(folder, settings):
    # given an image, and three that cannot be had
    recorder = Recorder()
    source = ImageSource.of(settings, folder, recorder)
    load(source, "good.png", "half.png", "lost.png", "/etc/passwd")
    # when one is loaded again
    load(source, "good.png")
    source.close()
    # then each fetch is counted, with what came of it
    counts = recorder.counts()
    rejected = {reason: n for (reason,), n in counts[IMAGES_REJECTED.name].items() if n}
    assert rejected == {"invalid_image": 1, "not_found": 1, "refused_source": 1}
    lookups = counts[CACHE_LOOKUPS.name]
    assert (lookups["picture", "miss"], lookups["picture", "hit"]) == (4, 1)
    steps = {stage: sum(n[:-1]) for (stage,), n in counts[STAGES.name].items()}
    assert steps == {"fetch": 4, "decode": 1, "resize": 1, "quality": 1}
    assert counts[PIXELS.name][("orig",)][-1] == counts[PIXELS.name][("used",)][-1] == 128 * 96
    assert counts[SOURCE_BYTES.name][()][-1] == len(png(1))


def test_one_image_may_be_requested_in_two_sizes(source):
    small = ImageSpec(preset="reference", max_pixels=4096)

    images = source.load([ImageRef("good.png", OPTIONS), ImageRef("good.png", small)])

    whole, part = images.values()
    assert part.tokens < whole.tokens
    assert part.key != whole.key


def test_without_a_folder_nothing_local_is_read(folder, settings):
    source = ImageSource.of(settings.model_copy(update={"allowed_roots": ()}))

    images = load(source, str(folder / "good.png"), "good.png")

    assert [outcome.code for outcome in images.values()] == ["refused_source"] * 2
    source.close()


class Refused(Fetcher):
    """A storage that knows nobody any more."""

    def fetch(self, uri: str, unwanted: Signal | None = None) -> bytes:
        raise CredentialsRefused("S3 refused the credentials (ExpiredToken)")


def test_refused_credentials_are_no_images_fault():
    source = ImageSource(Refused(), Pool(1))

    with pytest.raises(UsageError, match="ExpiredToken"):
        load(source, "s3://bucket/a.png", "s3://bucket/b.png")
    source.close()


def test_credentials_refused_to_an_earlier_caller_are_tried_again():
    # given a fetch that is refused, with an answer that comes late
    requested, answer = threading.Semaphore(0), threading.Event()
    calls = []

    class Renewed(Fetcher):
        def fetch(self, uri, unwanted=None):
            calls.append(uri)
            if len(calls) > 1:
                return png(1)
            requested.release()
            assert answer.wait(WAIT_S)
            raise CredentialsRefused("S3 refused the credentials (ExpiredToken)")

    source = ImageSource(Renewed(), Pool(1))
    with ThreadPoolExecutor(2) as callers:
        before = callers.submit(load, source, "s3://bucket/a.png")
        assert requested.acquire(timeout=WAIT_S)
        # when the same image is loaded after the credentials were renewed
        after = callers.submit(load, source, "s3://bucket/a.png")
        answer.set()
        # then only the caller that was refused gets the refusal
        with pytest.raises(CredentialsRefused):
            before.result(WAIT_S)
        assert isinstance(after.result(WAIT_S)["s3://bucket/a.png"], PreparedImage)
    source.close()


def test_an_image_that_somebody_waits_for_passes_bulk_that_waits_for_a_slow_host(
    source, folder, monkeypatch
):
    # given bulk work of more images and more runs than are loaded at a time, on a host that hangs
    fetch, speaks = source._fetcher.fetch, threading.Event()

    def slow(uri, unwanted=None):
        if uri.startswith("slow"):
            assert speaks.wait(WAIT_S)
        return fetch(uri, unwanted)

    monkeypatch.setattr(source._fetcher, "fetch", slow)
    preparer = Preparer(Prompter(), source)

    def begin(priority, *uris):
        piece = Slice(line=1, query="q", documents=[Document(image=u) for u in uris])
        spec = make_spec(model="m", input=InputRef(uri="", size=0, tag=""), priority=priority)
        return preparer.load([piece], spec)

    bulk = [
        begin(Priority.bulk, f"slow-{n}.png", f"slow-{n}-b.png")
        for n in range(max(LOADS_AT_A_TIME, FETCHES_AT_A_TIME) + 1)
    ]
    # when a request that somebody waits for brings an image
    (image,) = begin(Priority.interactive, "good.png").result(WAIT_S).values()
    # then it is there before any of the others
    assert isinstance(image, PreparedImage)
    assert not any(future.done() for future in bulk)
    speaks.set()
    assert {o.code for future in bulk for o in future.result(WAIT_S).values()} == {"not_found"}


class Hanging(Fetcher):
    """A storage that gives nothing of `slow` before it is told to, or nobody waits."""

    def __init__(self) -> None:
        super().__init__()
        self.speaks = threading.Event()
        self.fetching: list[str] = []
        self.ended: list[str] = []

    def fetch(self, uri: str, unwanted: Signal | None = None) -> bytes:
        self.fetching.append(uri)
        if unwanted:
            unwanted.call(lambda: self.ended.append(uri))
        if uri.startswith("slow"):
            wait_until(lambda: self.speaks.is_set() or bool(unwanted and unwanted.is_set()))
            if unwanted and unwanted.is_set():
                raise CancelledError
        return png(1)


def test_an_upload_of_another_owner_is_as_if_it_were_not_there(settings):
    # given uploads of two owners and of nobody, and a source that read all of them lately
    objects = Objects(settings)
    uris = {}
    for owner in ("alice", "bob", ""):
        upload_id, _ = new_upload(1000, owner)
        uris[owner] = upload_uri(objects, upload_id, "upload.png")
        objects.write(uris[owner], png(1))
    source = ImageSource.of(settings)
    path = uris["alice"].removeprefix("file://")
    folder, name = path.rsplit("/", 1)
    ways = (uris["alice"], path, f"{folder}/../{folder.rsplit('/')[-1]}/{name}", f"FILE://{path}")
    assert all(
        isinstance(one, PreparedImage) for one in load(source, *uris.values(), *ways).values()
    )

    def as_seen_by(owner: str | None, *seen: str) -> list[str]:
        refs = [ImageRef(uri, OPTIONS) for uri in seen]
        loaded = source.load(refs, Caller(owner=owner))
        return [getattr(loaded[ref], "code", "read") for ref in refs]

    # then each owner may read its own alone, by whatever way
    assert as_seen_by("alice", *uris.values()) == ["read", "not_found", "not_found"]
    assert as_seen_by("bob", *uris.values()) == ["not_found", "read", "not_found"]
    assert as_seen_by("bob", *ways) == ["not_found"] * 4
    assert as_seen_by("alice", *ways) == ["read"] * 4
    assert as_seen_by(None, *uris.values()) == ["read"] * 3
    # and is told of another's what is told of one that never was
    gone = f"{settings.storage_uri}/uploads/0000000001-00/upload.png"
    told = source.load([ImageRef(gone, OPTIONS)], Caller(owner="bob"))
    foreign = source.load([ImageRef(uris["alice"], OPTIONS)], Caller(owner="bob"))
    (one,), (other,) = told.values(), foreign.values()
    assert str(one).replace(gone, "URI") == str(other).replace(uris["alice"], "URI")
    source.close()


def test_a_job_says_whose_uploads_it_may_read():
    def spec(**options):
        pinned = InputRef(uri="", size=0, tag="")
        return make_spec(model="m", input=pinned, **options)

    assert caller_of(spec()).owner is None
    assert caller_of(spec(owner="alice")).owner is None  # that of an administrator
    assert caller_of(spec(owner="alice", own_uploads_only=True)).owner == "alice"


@pytest.fixture
def hanging() -> Iterator[tuple[Hanging, ImageSource]]:
    fetcher = Hanging()
    source = ImageSource(fetcher, Pool(1))
    yield fetcher, source
    fetcher.speaks.set()
    source.close()


def test_a_request_of_slow_images_does_not_hold_up_anothers(hanging):
    """Given a request with more images on a hanging host than are fetched at a time."""
    _, source = hanging
    refs = [ImageRef(f"slow-{n}", OPTIONS) for n in range(40)]
    caller = Caller("many", urgent=True)
    with ThreadPoolExecutor(1) as threads:
        many = threads.submit(source.load, refs, caller)

        one = source.load([ImageRef("quick", OPTIONS)], Caller("one", urgent=True))

        assert isinstance(one[ImageRef("quick", OPTIONS)], PreparedImage)
        assert not many.done()
        caller.stop.set()
        assert isinstance(many.exception(WAIT_S), CancelledError)


def test_what_a_stopped_caller_waited_for_ends_and_what_waits_is_not_begun(hanging):
    fetcher, source = hanging
    refs = [ImageRef(f"slow-{n}", OPTIONS) for n in range(40)]
    caller = Caller("gone", urgent=True)
    with ThreadPoolExecutor(1) as threads:
        loading = threads.submit(source.load, refs, caller)
        wait_until(lambda: len(fetcher.fetching) == FETCHES_OF_A_REQUEST)
        caller.stop.set()
        assert isinstance(loading.exception(WAIT_S), CancelledError)

    assert len(fetcher.fetching) == FETCHES_OF_A_REQUEST
    wait_until(lambda: len(fetcher.ended) == FETCHES_OF_A_REQUEST)
    assert not source._loading
    assert isinstance(load(source, "quick")["quick"], PreparedImage)


def test_an_image_that_another_caller_waits_for_is_loaded_on(hanging):
    fetcher, source = hanging
    ref = ImageRef("slow", OPTIONS)
    gone, stays = Caller("gone", urgent=True), Caller("stays", urgent=True)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(source.load, [ref, ref], gone)
        wait_until(lambda: fetcher.fetching)
        second = threads.submit(source.load, [ref], stays)
        wait_until(lambda: [one.callers for one in source._loading.values()] == [2])
        gone.stop.set()
        assert isinstance(first.exception(WAIT_S), CancelledError)
        assert not fetcher.ended
        fetcher.speaks.set()
        assert isinstance(second.result(WAIT_S)[ref], PreparedImage)
    assert fetcher.fetching == ["slow"]


def test_a_request_has_a_bounded_number_of_pixels_decoded(folder):
    """Given images of 128 x 96 pixels, and a bound that three of them reach."""
    pixels = 128 * 96
    source = ImageSource(Hanging(), Pool(1), urgent_pixels_max=2 * pixels + 1)
    mine, yours, job = Caller("m", urgent=True), Caller("y", urgent=True), Caller("job")

    def codes(caller: Caller, *uris: str) -> list[str]:
        outcomes = [source.load([ImageRef(uri, OPTIONS)], caller) for uri in uris]
        return [getattr(o, "code", "") for one in outcomes for o in one.values()]

    assert codes(mine, "a", "b", "c", "d", "a") == ["", "", "", "too_many_pixels", ""]
    assert codes(yours, "e") == [""]
    assert codes(job, "f", "g", "h", "i") == [""] * 4
    source.close()


# ---- to scores ----------------------------------------------------------------------------------


class Prompter:
    """A prompt is the document's image, or its text as a number."""

    def encode_all(self, requests, *, max_length, max_tokens_per_doc=None, stop=None):
        return [[self._prompt(side) for side in request.documents] for request in requests]

    def _prompt(self, side):
        if isinstance(side, ItemError):
            return side
        document = Tokens.of([9], [(0, visual) for visual in side.images])
        return Prompt(Tokens.of([1]), Tokens.of([2]), document)


class Engine:
    """The margin of an image is the mean of its pixels."""

    provenance = PROVENANCE
    supports_images = True
    prompter = Prompter()

    prices = Prices()

    def self_test(self):
        return SimpleNamespace(limit=Limit(10_000))

    def score(self, pack):
        return [
            float(document.visuals[0][1].frames[0].mean()) if document.visuals else 0.0
            for document in pack.documents()
        ]

    def free(self) -> None:
        pass


def album(folder: Path, count: int) -> list[float]:
    """So many images `N.png`, and the mean of the pixels of each."""
    images = [drawn(seed, (64, 64)) for seed in range(count)]
    for number, image in enumerate(images):
        (folder / f"{number}.png").write_bytes(encoded(image))
    return [float(np.array(image).mean()) for image in images]


def test_a_line_of_hundreds_of_images_is_written_once_and_whole(tmp_path, monkeypatch):
    # given a line whose images fill several runs, one of them lost, between two short lines
    count = 5 * IMAGES_AHEAD + 7
    means = album(tmp_path, count)
    (tmp_path / "17.png").unlink()
    lines = [
        {"id": "first", "query": "q", "documents": [{"image": "0.png"}, {"image": "/etc/passwd"}]},
        {"id": "many", "query": "q", "documents": [{"image": f"{n}.png"} for n in range(count)]},
        {"id": "last", "query": "q", "documents": ["text"]},
    ]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "out.jsonl"
    # when it is scored
    monkeypatch.setattr(offline, "load_engine", lambda *_, **__: Engine())
    command = ["rerank", "score", str(source), "-o", str(out), "--model", "pocket-text"]
    monkeypatch.setattr(sys, "argv", [*command, "--image-preset", "reference"])
    with pytest.raises(SystemExit) as ended:
        main()
    # then each line is there once, each image in its place
    assert ended.value.code == 3
    first, many, last = (json.loads(line) for line in out.read_text().splitlines())
    assert [line["id"] for line in (first, many, last)] == ["first", "many", "last"]
    assert [error["code"] for error in first["errors"]] == ["refused_source"]
    assert [(e["index"], e["code"]) for e in many["errors"]] == [(17, "not_found")]
    margins = {result["index"]: result["margin"] for result in many["results"]}
    expected = {number: mean for number, mean in enumerate(means) if number != 17}
    assert margins == pytest.approx(expected, abs=1e-3)
    ranked = [result["margin"] for result in many["results"]]
    assert ranked == sorted(ranked, reverse=True)
    assert len(last["results"]) == 1


def test_the_next_run_is_loaded_while_the_device_scores(source, folder):
    # given a device that scores its first pack until the images of a second run are requested
    album(folder, 2 * IMAGES_AHEAD)
    second_load = threading.Event()
    events = []

    class Slow(Engine):
        def score(self, pack):
            events.append(second_load.wait(WAIT_S))
            return super().score(pack)

    class Watched:
        loads = 0

        def load(self, refs, caller=None):
            self.loads += 1
            if self.loads == 2:
                second_load.set()
            return source.load(refs)

    documents = [Document(image=f"{n}.png") for n in range(2 * IMAGES_AHEAD)]
    whole = Slice(line=1, query="q", documents=documents, indices=list(range(len(documents))))
    spec = make_spec(model="m", input=InputRef(uri="", size=0, tag=""), image_preset="reference")
    batcher = Batcher(Slow(), Limit(10_000))
    # when two runs are scored
    outcomes, _ = Scorer(Prompter(), batcher, Watched()).score([whole], spec, threading.Event())
    batcher.close()
    # then the second run began before the first pack ended
    assert events
    assert all(events)
    assert sum(len(outcome.results) for outcome in outcomes) == 2 * IMAGES_AHEAD


def test_an_image_of_the_last_run_is_not_fetched_again(source, folder, monkeypatch):
    fetched = []
    fetch = source._fetcher.fetch
    monkeypatch.setattr(source._fetcher, "fetch", lambda uri, _: fetched.append(uri) or fetch(uri))
    for _ in range(3):
        assert isinstance(load(source, "good.png", "good.png")["good.png"], PreparedImage)
    assert fetched == ["good.png"]
    # one that could not be had is tried again: it may be there by then
    for _ in range(2):
        load(source, "gone.png")
    assert fetched == ["good.png", "gone.png", "gone.png"]


def test_an_image_is_not_shared_by_options_that_differ(source, folder):
    """Given options whose keys differ in a late digit only, and prepared images that are kept."""
    (folder / "wide.png").write_bytes(encoded(draw_leaves(640, 400), "PNG"))
    refs = [ImageRef("wide.png", ImageSpec(max_crop=crop)) for crop in (0.1, 0.099_999_99)]
    for _ in range(2):
        images = source.load(refs)
        assert images[refs[0]].size == (640, 352)
        assert images[refs[1]].cropped_share == 0
        assert images[refs[0]].key != images[refs[1]].key


def test_the_cache_of_recent_images_is_bounded(folder):
    from rerankfleet.workers.images.source import _Recent

    recent = _Recent(max_bytes=3 * 64 * 64 * 3, max_age_s=60)
    image = prepare_image(Image.new("RGB", (64, 64)))
    refs = [ImageRef(str(n), OPTIONS) for n in range(5)]
    for w in refs:
        recent.put(w, image)
    assert [w.uri for w in refs if recent.get(w)] == ["2", "3", "4"]
    assert _Recent(1 << 20, max_age_s=-1).get(refs[0]) is None


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("https://user:secret@a.b/c.jpg?X-Amz-Signature=d", "https://a.b/c.jpg;"),
        ("s3://bucket/c.jpg", "s3://bucket/c.jpg;"),
        ("data:image/png;base64," + "iVBORw0KGgo" * 10_000, "data:image/png"),
        ("iVBORw0KGgo" * 10_000, "the image is base64;"),
    ],
)
def test_prepare_image_fetches_nothing_and_says_so(address, says):
    with pytest.raises(ItemError, match="expected a path") as caught:
        prepare_image(address)
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)
    assert len(str(caught.value)) < 300
