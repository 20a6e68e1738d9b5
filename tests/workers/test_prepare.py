"""Contents -> prepared pairs: what becomes of images that fail, are poor, or are frames."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from rerankfleet.shared.content.content import Document
from rerankfleet.shared.content.outcomes import Provenance
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.errors import ItemError, UsageError
from rerankfleet.shared.job_spec import InputRef, JobSpec, Priority, make_spec
from rerankfleet.shared.metrics import IMAGES_REJECTED, STAGES
from rerankfleet.workers.images.prepared import PreparedImage
from rerankfleet.workers.pipeline import IMAGES_AHEAD
from rerankfleet.workers.prepare import (
    FETCHES_JUDGED,
    FETCHES_MIN,
    FRAMES_MAX,
    IMAGES_MAX,
    PreparedPair,
    Preparer,
    frame_pixels,
    frames_chosen,
    images_of,
    provenance_of,
)
from rerankfleet.workers.prompting.prompts import Prompt
from rerankfleet.workers.prompting.tokens import Tokens
from rerankfleet.workers.recorder import Recorder
from tests.support.slices import a_slice, frames, image

NOT_FOUND = ItemError("not_found", "there is no such image")


class Prompter:
    """A prompt holds the images of its document, one after the other."""

    def encode_all(self, requests, *, max_length, max_tokens_per_doc=None, stop=None):
        self.requests = list(requests)
        return [[self._encode(request, side) for side in request.documents] for request in requests]

    def _encode(self, request, side):
        if isinstance(request.query, ItemError) or isinstance(side, ItemError):
            return request.query if isinstance(request.query, ItemError) else side
        visuals = [*side.images, *(visual for _, visual in side.steps)]
        return Prompt(Tokens.of([1]), Tokens.of([2]), Tokens.of([3], list(enumerate(visuals))))


class Images:
    """The URI `q0.4` has the quality 0.4, all others 1; a URI with an outcome has that."""

    def __init__(self) -> None:
        self.outcomes: dict[str, PreparedImage | ItemError] = {}
        self.loads: list[list[str]] = []

    def load(self, refs, caller=None):
        refs = list(refs)
        self.loads.append([w.uri for w in refs])
        return {w: self.outcomes.get(w.uri) or prepared(w.uri) for w in refs}


def prepared(uri: str, width: int = 64, height: int = 32) -> PreparedImage:
    return PreparedImage(
        key=uri,
        pixels=np.zeros((height, width, 3), np.uint8),
        original=(width * 2, height * 2),
        cropped_share=0.0,
        sharpness=float(uri[1:]) if uri[1:2].isdigit() and uri[0] == "q" else 1.0,
        exposure=1.0,
        kind="png",
    )


@pytest.fixture
def prompter() -> Prompter:
    return Prompter()


@pytest.fixture
def images() -> Images:
    return Images()


@pytest.fixture
def prepare(prompter, images) -> Callable[..., list[list[PreparedPair | ItemError]]]:
    """`prepare(slice, ..., **options)` with one preparer."""
    preparer = Preparer(prompter, images)
    return lambda *slices, **options: preparer.prepare(slices, spec_of(**options))


def spec_of(**options) -> JobSpec:
    return make_spec(model="m", input=InputRef(uri="", size=0, tag=""), **options)


def codes(pairs) -> list[str | None]:
    return [pair.code if isinstance(pair, ItemError) else None for pair in pairs]


# ---- loading ------------------------------------------------------------------------------------


def test_text_stays_text(prepare, images, prompter):
    ((pair,),) = prepare(a_slice("a document"))

    assert pair == PreparedPair(pair.prompt)
    assert prompter.requests[0].documents[0].text == "a document"
    assert images.loads == []


def test_an_image_is_loaded_once_for_all_pairs_of_a_run(prepare, images):
    shared, own = image("a.png"), image("b.png", "a.png", text="both")

    prepare(a_slice(shared, own, query=image("c.png")), a_slice(shared, query=image("c.png")))

    assert Counter(images.loads[0]) == Counter(["a.png", "b.png", "c.png"])
    assert len(images.loads) == 1


def test_a_pair_has_the_facts_of_its_images(prepare):
    ((pair,),) = prepare(a_slice(image("q0.9", "q0.7"), query=image("q0.8")))

    assert [facts.quality for facts in pair.images] == [0.9, 0.7]
    assert {(facts.original, facts.used, facts.tokens) for facts in pair.images} == {
        ((128, 64), (64, 32), 2)
    }
    assert pair.quality == 0.7
    assert pair.visual_tokens == 4  # the document's, not the query's


def test_an_image_of_the_query_counts_for_the_quality_of_each_pair(prepare):
    ((one, two),) = prepare(a_slice("text", image("q0.9"), query=image("q0.8")))

    assert (one.quality, one.visual_tokens, one.images) == (0.8, 0, ())
    assert (two.quality, two.visual_tokens) == (0.8, 2)


def test_an_unreadable_image_of_a_document_costs_its_own_pair(prepare, images):
    images.outcomes["lost.png"] = NOT_FOUND

    (pairs,) = prepare(a_slice(image("a.png"), image("a.png", "lost.png"), "text"))

    assert codes(pairs) == [None, "not_found", None]
    assert pairs[1].image == "lost.png"
    assert NOT_FOUND.image is None  # it belongs to every image that is not there


def test_an_unreadable_image_of_a_query_costs_the_pairs_of_its_request(prepare, images):
    images.outcomes["lost.png"] = NOT_FOUND

    lost, good = prepare(a_slice("a", "b", query=image("lost.png")), a_slice("a"))

    assert codes(lost) == ["not_found", "not_found"]
    assert lost[0].message == f"the query: {NOT_FOUND.message}"
    assert lost[0].image == "lost.png"
    assert codes(good) == [None]


def test_a_model_that_reads_text_only_says_so(prompter):
    slices = [a_slice(image("a.png"), "text"), a_slice("text", query=image("a.png"))]

    first, second = Preparer(prompter).prepare(slices, spec_of())

    assert codes(first) == ["pictures_not_read", None]
    assert codes(second) == ["pictures_not_read"]


def test_too_many_images_in_one_content_are_not_even_loaded(prepare, images):
    many = image(*(f"{number}.png" for number in range(IMAGES_MAX + 1)))

    first, second = prepare(a_slice(many, image("a.png")), a_slice("text", query=many))

    assert codes(first) == ["too_many_images", None]
    assert codes(second) == ["too_many_images"]
    assert images.loads == [["a.png"]]


# ---- quality ------------------------------------------------------------------------------------


def test_quality_is_reported_and_has_no_effect_by_default(prepare):
    ((pair,),) = prepare(a_slice(image("q0.1")))

    assert pair.quality == 0.1


def test_a_poor_image_is_rejected_where_the_job_says_so(prepare):
    options = {"quality_action": "reject", "quality_threshold": 0.5}

    (pairs,) = prepare(a_slice(image("q0.5"), image("q0.49"), "text"), **options)

    assert codes(pairs) == [None, "low_quality", None]
    assert pairs[1].message == "the image's quality 0.49 is below 0.50"
    assert "sharper" in pairs[1].hint
    assert pairs[1].image == "q0.49"


def test_images_that_a_job_refuses_are_counted_once_each(prompter, images):
    recorder = Recorder()
    preparer = Preparer(prompter, images, recorder)
    poor = [a_slice(image("q0.1"), image("q0.2"), image("q0.9"), query=image("q0.1"))]

    for action in ("off", "downweight", "reject"):
        preparer.prepare(poor, spec_of(quality_action=action))

    counts = recorder.counts()
    assert counts[IMAGES_REJECTED.name][("low_quality",)] == 2
    assert sum(counts[STAGES.name][("tokenize",)][:-1]) == 3


def test_a_poor_image_of_a_query_rejects_its_request(prepare, prompter):
    slices = a_slice("text", image("q0.9"), query=image("q0.2")), a_slice("text")

    poor, good = prepare(*slices, quality_action="reject")

    assert codes(poor) == ["low_quality_query", "low_quality_query"]
    assert poor[0].message == "the query image's quality 0.20 is below 0.65"
    assert poor[0] is poor[1]  # one decision, not one a pair
    assert isinstance(prompter.requests[0].query, ItemError)
    assert codes(good) == [None]


@pytest.mark.parametrize(("quality", "factor"), [(1.0, 1.0), (0.4, 0.4), (0.05, 0.05), (0.0, 0.05)])
def test_poor_quality_lowers_a_margin_but_not_without_bound(quality, factor, prepare):
    ((pair,),) = prepare(a_slice(image(f"q{quality}")), quality_action="downweight")

    assert pair.lowered(2.0) == pytest.approx(2.0 + math.log(factor))


# ---- too many failures --------------------------------------------------------------------------


def fail(images: Images, *numbers: int, code: str = "not_found") -> None:
    for number in numbers:
        images.outcomes[f"{number}.png"] = ItemError(code, f"image {number} failed")


def of_numbers(first: int, last: int) -> Slice:
    return a_slice(*(image(f"{number}.png") for number in range(first, last)))


def in_runs_of(
    prepare, first: int, last: int, images_of_run: int = IMAGES_AHEAD, **options
) -> list[str | None]:
    """The codes of numbered images, prepared in runs as a shard is."""
    outcomes = []
    for at in range(first, last, images_of_run):
        (pairs,) = prepare(of_numbers(at, min(at + images_of_run, last)), **options)
        outcomes += codes(pairs)
    return outcomes


def test_a_dead_source_soon_pauses_the_job(prepare, images):
    fail(images, *range(1000))

    with pytest.raises(UsageError, match=r"32 of the last 32 images .*: image 0 failed") as caught:
        in_runs_of(prepare, 0, 1000)

    assert "resume" in caught.value.hint


def test_a_source_that_dies_late_is_noticed_as_soon(prepare, images):
    fail(images, *range(960, 2000))

    in_runs_of(prepare, 0, 960 + FETCHES_JUDGED // 2)
    with pytest.raises(UsageError, match=f"of the last {FETCHES_JUDGED} images"):
        in_runs_of(prepare, 960 + FETCHES_JUDGED // 2, 960 + FETCHES_JUDGED // 2 + 2)


@pytest.mark.parametrize("first", [0, 8, 500, 980])
def test_a_cluster_of_dead_links_among_many_good_ones_stops_nothing(prepare, images, first):
    fail(images, *range(first, first + 20))

    assert in_runs_of(prepare, 0, 1000).count("not_found") == 20


def test_the_job_says_how_many_may_fail(prepare, images):
    fail(images, 3, 4, 5)

    prepare(of_numbers(0, 10), max_error_rate=3 / FETCHES_MIN)
    with pytest.raises(UsageError, match="3 of the last 10"):
        prepare(of_numbers(0, 10), max_error_rate=2 / FETCHES_MIN)
    with pytest.raises(UsageError, match="3 of the last 10"):
        prepare(of_numbers(0, 10), max_error_rate=0)


def test_images_that_were_fetched_and_cannot_be_read_are_no_failed_fetches(prepare, images):
    fail(images, *range(100), code="invalid_image")

    assert in_runs_of(prepare, 0, 100) == ["invalid_image"] * 100


def test_a_job_that_was_resumed_is_judged_anew(prepare, images):
    # given a catalog with so many queries that a run has few images, all of which fail
    fail(images, *range(100))
    with pytest.raises(UsageError, match="27 of the last 27"):
        in_runs_of(prepare, 0, 100, images_of_run=3)
    # when the cause is mended but for some, then what failed before does not count again
    images.outcomes.clear()
    fail(images, *range(30, 40))
    assert in_runs_of(prepare, 30, 100).count("not_found") == 10


def test_jobs_count_apart(prepare, images):
    fail(images, *range(100))

    for name in ("one", "two", "three"):
        assert in_runs_of(prepare, 0, 20, name=name) == ["not_found"] * 20


def test_an_interactive_request_gets_its_failures(prepare, images):
    fail(images, *range(100))

    outcomes = in_runs_of(prepare, 0, 100, priority=Priority.interactive)

    assert outcomes == ["not_found"] * 100


# ---- video --------------------------------------------------------------------------------------


def steps_of(prompter) -> list[tuple[float, str]]:
    """The times and the frames of the only document's video."""
    return [(seconds, visual.key) for seconds, visual in prompter.requests[0].documents[0].steps]


def test_frames_go_two_by_two_with_the_mean_of_their_times(prepare, prompter):
    ((pair,),) = prepare(a_slice(frames(4, fps=2)))

    assert steps_of(prompter) == [(0.25, "frame-0+frame-1"), (1.25, "frame-2+frame-3")]
    assert pair.visual_tokens == 4
    assert len(pair.images) == 4


def test_without_a_rate_two_frames_are_a_second(prepare, prompter):
    prepare(a_slice(frames(4)))

    assert [seconds for seconds, _ in steps_of(prompter)] == [0.25, 1.25]


def test_an_odd_frame_is_doubled(prepare, prompter):
    prepare(a_slice(frames(3, fps=1)))

    assert steps_of(prompter) == [(0.5, "frame-0+frame-1"), (2.0, "frame-2+frame-2")]


def test_frames_of_different_shapes_are_an_error(prepare, images):
    images.outcomes["frame-1"] = prepared("frame-1", 64, 64)

    (pairs,) = prepare(a_slice(frames(2), "text"))

    assert codes(pairs) == ["frames_differ", None]


def test_of_a_long_video_frames_are_taken_evenly(prepare, prompter, images):
    prepare(a_slice(frames(200, fps=10)))

    chosen = [int(uri.removeprefix("frame-")) for uri in images.loads[0]]
    gaps = {later - earlier for earlier, later in pairwise(chosen)}
    assert (len(chosen), chosen[0], chosen[-1]) == (FRAMES_MAX, 0, 199)
    assert gaps == {3, 4}
    assert steps_of(prompter)[0][0] == pytest.approx((0 + 3) / 2 / 10)  # as they were filmed


def test_short_videos_are_read_whole():
    assert frames_chosen(1) == [0]
    assert frames_chosen(FRAMES_MAX) == list(range(FRAMES_MAX))
    assert frames_chosen(FRAMES_MAX + 1)[:3] == [0, 1, 2]


@pytest.mark.parametrize(("count", "tokens"), [(1, 768), (16, 768), (32, 480), (64, 240)])
def test_frames_share_the_pixels_of_their_video(count, tokens):
    assert frame_pixels(count) == tokens * 32 * 32


@pytest.mark.parametrize("preset", ["general", "reference"])
def test_frames_have_a_budget_of_their_own_in_every_preset(preset, prompter):
    requested = []

    class Recorded(Images):
        def load(self, refs, caller=None):
            requested.extend(refs)
            return super().load(requested)

    spec = spec_of(image_preset=preset)
    content = frames(64) | image("still.png")
    Preparer(prompter, Recorded()).prepare([a_slice(content)], spec)

    budgets = {w.uri: w.options.max_pixels for w in requested}
    assert budgets["frame-0"] == frame_pixels(64) < budgets["still.png"]
    assert len({w.options.key() for w in requested}) == 2


def test_a_job_says_how_videos_are_read(prepare, prompter, images):
    """Given a video that says how fast it is, and one that does not."""
    prepare(a_slice(frames(200, fps=10)), video_max_frames=4, video_fps=5)
    assert images.loads[0] == ["frame-0", "frame-66", "frame-132", "frame-199"]
    assert steps_of(prompter)[0][0] == pytest.approx((0 + 66) / 2 / 10)

    prepare(a_slice(frames(200)), video_max_frames=4, video_fps=5)
    assert steps_of(prompter)[0][0] == pytest.approx((0 + 66) / 2 / 5)

    prepare(a_slice(frames(200)), video_max_frames=1)
    assert images.loads[-1] == ["frame-0"]


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({}, 240),
        ({"video_total_pixels": 64 * 100 * 1024}, 200),
        ({"video_total_pixels": 4096}, 4),
        ({"max_pixels": 100 * 1024}, 100),
        ({"min_pixels": 700 * 1024}, 240),
        ({"video_max_frames": 32}, 480),
    ],
)
def test_the_pixels_of_frames_have_their_bounds(options, tokens):
    content = Document.model_validate(frames(64))
    refs = images_of(content, spec_of(**options))
    assert {w.options.max_pixels for w in refs} == {tokens * 1024}
    assert {w.options.min_pixels for w in refs} == {4096}


def test_a_pixel_budget_keeps_the_presets_shape():
    small, large = (spec_of(max_pixels=n, image_preset="general") for n in (196_608, 1_843_200))
    assert small.image_spec.size == (512, 384)
    assert math.prod(large.image_spec.size) == pytest.approx(1_843_200, rel=0.01)
    assert spec_of(max_pixels=196_608, image_preset="reference").image_spec.size is None
    keys = {spec.image_spec.key() for spec in (small, large, spec_of(), spec_of(min_pixels=5000))}
    assert len(keys) == 4


def test_provenance_names_pixels_and_video_of_a_model_that_supports_images():
    engine = Provenance(
        model="m", revision="", template="", dtype="", attention="", device="", version=""
    )
    spec = spec_of(video_max_frames=8, video_fps=4, max_pixels=196_608)
    provenance = provenance_of(engine, spec, supports_images=True)
    assert (provenance.video, provenance.pixels) == ("8:7864320:4", spec.image_spec.key())
    assert provenance_of(engine, spec, supports_images=False) == engine
