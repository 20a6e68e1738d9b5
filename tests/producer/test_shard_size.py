"""The estimated cost of requests, and the size of shards."""

from __future__ import annotations

from rerankfleet.producer import shard_size as shard_sizes
from rerankfleet.producer.shard_size import (
    ShardSize,
    content_tokens,
    costs,
    shard_size,
    slice_tokens,
)
from rerankfleet.shared.content.content import Content, Document, Video
from rerankfleet.shared.content.images import ImageSpec
from rerankfleet.shared.content.requests import ImageRun, Slice


def test_shards_are_as_long_as_a_worker_takes_for_them():
    options = {"shard_s": 5.0, "pairs_max": 4096, "workers": 1, "input_tokens": 1e12}

    assert shard_size(**options, tokens_per_s=8000.0) == ShardSize(
        40_000.0, 4096, shard_sizes.image_tokens(ImageSpec())
    )
    assert shard_size(**options, tokens_per_s=0.0).tokens == 5 * shard_sizes.DEFAULT_TOKENS_PER_S


def test_a_small_input_is_cut_so_that_every_worker_gets_two():
    options = {"shard_s": 5.0, "pairs_max": 4096, "tokens_per_s": 1e6}

    assert shard_size(**options, input_tokens=100_000, workers=10).tokens == 5000
    assert shard_size(**options, input_tokens=0, workers=0).tokens == 512


def test_an_image_costs_what_its_preset_and_the_tower_make_of_it():
    per_image = shard_sizes.image_tokens(ImageSpec())
    image, frames = ("s3://b/a.jpg",), Video(frames=tuple("abcd"))

    assert per_image == shard_sizes.VISION_FACTOR * 768
    assert content_tokens(Content(image=image), per_image) == per_image
    assert content_tokens(Content(text="x" * 7, image=image * 2), per_image) == 2 + 2 * per_image
    assert content_tokens(Content(video=frames), per_image) == per_image


def test_text_that_is_cut_off_costs_no_more_than_carrying_it():
    document = Document(text="x" * 35_000)
    read, carried = (
        35_000 / shard_sizes.CHARACTERS_PER_TOKEN,
        35_000 / shard_sizes.DATA_BYTES_PER_TOKEN,
    )

    assert content_tokens(document) == read
    assert content_tokens(document, text_max=5000) == 5000
    assert content_tokens(document, text_max=10) == carried
    line = Slice(line=1, documents=[document, Document(text="x" * 7)], indices=[0, 1])
    assert slice_tokens(line) - slice_tokens(line, text_max=5000) == read - 5000


def test_what_a_document_carries_costs_as_text_does():
    plain, laden = (Document(text="a", metadata=metadata) for metadata in (None, {"a": "x" * 7000}))

    assert shard_sizes.pair_tokens(laden) - shard_sizes.pair_tokens(plain) > 2000


def test_the_queries_of_a_catalog_share_their_image():
    size = ShardSize(0.0, 0, per_image=1500.0, per_query=10.0)
    run = ImageRun(run=(0, 4), line=1, document=Document(image=("s3://b/a.jpg",)))

    tower, pairs = costs(run, size)

    assert tower == 1500.0 * (1 - 1 / shard_sizes.VISION_FACTOR)
    assert pairs == [shard_sizes.PAIR_TOKENS + 10.0 + 1500.0 / shard_sizes.VISION_FACTOR] * 4


def test_images_inside_the_file_bound_its_size():
    data = "data:image/png;base64," + "x" * 320_000

    assert content_tokens(Content(image=(data,)), 1500.0) > 10_000
