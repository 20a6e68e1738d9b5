"""Training of `pocket-vl`: true captions, and the pixels and positions of the real model."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from rerankfleet.studies.pocket_vl.captions import TOPICS, Topic, phrase, random_plan
from rerankfleet.studies.pocket_vl.drawing import (
    COLOURS,
    SHAPES,
    WORDS,
    Kind,
    Plan,
    Scene,
    draw,
    lay_out,
    lay_out_page,
    letter_boxes,
    sign_box,
    thing_box,
)
from rerankfleet.studies.pocket_vl.evaluate import Reranker, pixels_of
from rerankfleet.studies.pocket_vl.pairs import (
    UNKNOWN,
    WAYS,
    Batch,
    Pair,
    Size,
    group,
    random_batch,
    read_cells,
    rivals,
    wanted_cells,
)
from rerankfleet.studies.pocket_vl.prompt import (
    DEFAULT_INSTRUCTION,
    PREFIX,
    PreparedImage,
    Prompt,
    patches,
    positions,
)
from rerankfleet.studies.pocket_vl.scenes import draw_catalog, write_example
from rerankfleet.studies.pocket_vl.train import Course, Scorer, Trainer, build_model, tensorise
from rerankfleet.studies.pocket_vl.vocabulary import SPECIAL_TOKENS, train_tokenizer
from rerankfleet.studies.tokeniser import export

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXAMPLE, SHIPPED = ROOT / "examples" / "scenes", ROOT / "workers" / "models" / "pocket-vl"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(seed=1)


@pytest.mark.parametrize("topic", TOPICS)
def test_a_claim_holds_for_its_scene_and_not_for_the_rival(topic: Topic) -> None:
    generator = random.Random(1)
    for _ in range(50):
        # given two scenes that differ in one thing
        near_pair = rivals(topic, 4 / 3, generator)
        # when claims about each are checked on both, then each holds for its own scene alone
        for place, claim in enumerate(near_pair.claims):
            assert claim.holds(near_pair.scenes[place])
            assert not claim.holds(near_pair.scenes[1 - place])
            # and the claimed cells are marked in its own scene
            size = Size(256, 192)
            assert wanted_cells(claim, near_pair.scenes[place], size).any(0).all()


def test_a_caption_names_what_was_claimed() -> None:
    generator = random.Random(2)
    for _ in range(200):
        topic = generator.choice(TOPICS)
        claim = rivals(topic, 1.0, generator).claims[0]
        text = phrase(claim, generator).lower()
        assert "{" not in text
        if claim.word is not None:
            assert claim.word.lower() in text
        for kind in claim.kinds:
            assert kind.colour in text or (kind.colour == "purple" and "violet" in text)


def test_nothing_overlaps_and_nothing_leaves_the_image() -> None:
    generator = random.Random(3)
    for _ in range(100):
        plan = random_plan(generator.choice(TOPICS), generator)
        scene = lay_out(plan, generator, generator.choice((1.0, 4 / 3, 3 / 4)))
        boxes = sorted(thing_box(thing) for thing in scene.things)
        for left, top, right, bottom in boxes:
            assert left >= 0
            assert top >= 0
            assert right <= scene.width
            assert bottom <= scene.height
        for one, other in pairwise(boxes):
            apart = one[2] < other[0] or one[3] < other[1] or other[3] < one[1]
            assert apart


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(96, 96), (256, 192), (1024, 768)])
def test_a_thing_is_drawn_in_its_colour_where_the_scene_says(
    shape: str, size: tuple[int, int]
) -> None:
    # given one thing
    plan = Plan((Kind(shape, "blue"),))
    scene = lay_out(plan, random.Random(4), size[0] / size[1], background=(250, 250, 250))
    thing = scene.things[0]
    # when it is drawn
    pixels = np.asarray(draw(scene, *size), dtype=float)
    # then its colour is in its box and nowhere else
    blue = np.linalg.norm(pixels - COLOURS["blue"], axis=2) < 60
    rows, columns = np.nonzero(blue)
    left, top, right, bottom = (edge * min(size) for edge in thing_box(thing))
    assert blue.sum() > 0.3 * (thing.radius * min(size)) ** 2
    assert columns.min() >= left - 2
    assert columns.max() <= right + 2
    assert rows.min() >= top - 2
    assert rows.max() <= bottom + 2


def test_a_catalog_is_the_same_each_time_and_its_captions_differ(tmp_path: Path) -> None:
    one = draw_catalog(tmp_path / "one", 5, (128, 96), seed=9)
    other = draw_catalog(tmp_path / "other", 5, (128, 96), seed=9)
    assert [captions for _, captions in one] == [captions for _, captions in other]
    for (left, captions), (right, _) in zip(one, other, strict=True):
        assert left.read_bytes() == right.read_bytes()
        assert Image.open(left).size == (128, 96)
        assert all(captions)


def test_the_example_that_ships_is_what_the_script_draws(tmp_path: Path) -> None:
    # given the script, when it draws the example again, then queries and labels are the same
    write_example(tmp_path)
    for name in ("queries.txt", "labels.json"):
        assert (tmp_path / name).read_text() == (EXAMPLE / name).read_text()
    # and so are the images, but for what another release of the JPEG library may round
    files = sorted(EXAMPLE.glob("*.jpg"))
    assert [path.name for path in files] == sorted(p.name for p in tmp_path.glob("*.jpg"))
    for path in files:
        assert path.stat().st_size <= 10_000
        drawn, shipped = (np.asarray(Image.open(p), float) for p in (tmp_path / path.name, path))
        assert np.abs(drawn - shipped).mean() < 1


@pytest.mark.parametrize("size", [(96, 96), (256, 192), (64, 160)])
def test_patches_are_those_of_the_authors_processor(size: tuple[int, int]) -> None:
    # given noise, and transformers' own cutting with this family's patch and normalisation
    noise = np.random.default_rng(5).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    processor = Qwen2VLImageProcessorPil(
        do_resize=False, patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    processed = processor(images=[image], return_tensors="np")
    # when we cut it, then the values and their order are the same
    np.testing.assert_allclose(patches(image), processed["pixel_values"], atol=1e-6)
    assert processed["image_grid_thw"].tolist() == [[1, size[1] // 16, size[0] // 16]]


def test_a_page_says_which_word_stands_where() -> None:
    # given pages of words
    generator, size = random.Random(9), Size(256, 192)
    for _ in range(20):
        page = lay_out_page(generator, size.aspect)
        assert len(page.signs) >= 2
        # when its cells are read, then each word that is marked is printed there
        cells = read_cells(page, size)
        named = {WORDS[word] for word in cells if word != UNKNOWN}
        assert named == {sign.word for sign in page.signs}
        # and its letters are side by side within the word
        for sign in page.signs:
            boxes = [box for _, box in letter_boxes(sign)]
            assert "".join(letter for letter, _ in letter_boxes(sign)) == sign.word
            assert all(one[2] == other[0] for one, other in pairwise(boxes))
            assert (boxes[0][0], boxes[-1][2]) == pytest.approx(sign_box(sign)[::2])


def test_a_batch_of_one_group_has_an_image() -> None:
    generator = random.Random(10)
    batches = [random_batch(Size(1024, 768), 1, generator, mixed=True) for _ in range(40)]
    assert all(batch.scenes for batch in batches)


def test_rows_that_differ_in_their_images_alone_share_what_stands_before_them(
    tokenizer: Tokenizer,
) -> None:
    # given one group whose queries and documents are images: four rows of the same ids
    size, scenes = Size(96, 96), list[Scene]()
    pairs = group("count", "picture query", size, scenes, random.Random(11))
    prompt = Prompt(tokenizer)
    # when they become tensors, then the shared head contains no image
    rows = tensorise(Batch(size, scenes, pairs, DEFAULT_INSTRUCTION), prompt)
    assert prompt.start not in rows.head
    assert rows.tokens[:, 0].eq(prompt.start).all()


def test_both_stages_of_the_training_run_and_leave_a_model(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    # given a course with pages of words, and one of every way to make pairs
    torch.manual_seed(7)
    trainer = Trainer(
        Scorer(build_model(tokenizer), Prompt(tokenizer)), tokenizer, tmp_path, learning_rate=1e-3
    )
    small = ((Size(96, 96), 1.0),)
    # when a few steps of both are made
    trainer.run(((1.0, Course(small, groups=2, pages=0.5)),), 1.0, judging=False)
    trainer.run(((1.0, Course(small, groups=2, mixed=True)),), 1.0, judging=True)
    export(trainer.scorer.model, tokenizer, tmp_path, SPECIAL_TOKENS)
    # then the losses are finite, and the exported model scores pairs
    assert trainer.seen
    assert np.isfinite(trainer.seen).all()
    assert Reranker(tmp_path).margins([(["a"], ["b"])], []).isfinite().all()


def test_the_prompt_is_the_published_template(tokenizer: Tokenizer) -> None:
    prompt = Prompt(tokenizer)
    ids, images = prompt.encode(["a red circle"], ["a text", PreparedImage(0, 4, 6)])
    assert tokenizer.decode(ids, skip_special_tokens=False) == (
        f"{PREFIX}<Instruct>: {DEFAULT_INSTRUCTION}<Query>:a red circle\n<Document>:"
        "<|vision_start|>" + "<|image_pad|>" * 6 + "<|vision_end|>a text"
        "<|im_end|>\n<|im_start|>assistant\n"
    )
    assert images == [PreparedImage(0, 4, 6)]
    empty, _ = prompt.encode(["a <|im_end|> in the text"], [])
    assert "<Document>:NULL<|im_end|>" in tokenizer.decode(empty, skip_special_tokens=False)
    assert sum(token == tokenizer.token_to_id("<|im_end|>") for token in empty) == 2


def test_positions_are_those_of_the_model(tokenizer: Tokenizer) -> None:
    # given a pair with an image on either side, the second one higher than wide
    prompt, model = Prompt(tokenizer), build_model(tokenizer)
    shown = [PreparedImage(0, 6, 10), PreparedImage(1, 12, 4)]
    ids, images = prompt.encode([shown[0], "the same"], [shown[1], "a note"])
    tokens = torch.tensor([ids])
    grid = torch.tensor([[1, image.rows, image.columns] for image in images])
    # when the model computes positions, then its three axes equal ours
    expected, _ = model.model.get_rope_index(
        tokens, mm_token_type_ids=tokens.eq(prompt.pad).int(), image_grid_thw=grid
    )
    np.testing.assert_array_equal(positions(ids, prompt.pad, images), expected[:, 0].numpy())


def test_training_computes_the_margins_of_the_reference_procedure(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    # given an untrained model on disk, and a batch of images, texts and image queries
    torch.manual_seed(6)
    export(build_model(tokenizer), tokenizer, tmp_path, SPECIAL_TOKENS)
    reranker = Reranker(tmp_path)
    size = Size(128, 96)
    scenes: list[Scene] = []
    pairs: list[Pair] = []
    for way in WAYS:
        pairs += group("colour-shape", way, size, scenes, random.Random(6))
    batch = Batch(size, scenes, pairs, DEFAULT_INSTRUCTION)
    # when the training step scores it with a shared head and shared images
    scorer = Scorer(reranker.model, reranker.prompt)
    with torch.inference_mode():
        merged, early, _ = scorer.see(batch)
        rows = tensorise(batch, reranker.prompt)
        margins = scorer.judge(batch, rows, merged, early).margins
    # then each margin is that of the whole pair through the model's own forward
    pixels = [pixels_of(scene, size) for scene in scenes]
    sides = [(pair.query, pair.document) for pair in pairs]
    alone = torch.cat([reranker.margins([each], pixels) for each in sides])
    together = reranker.margins(sides, pixels)
    torch.testing.assert_close(margins, alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_the_shipped_model_is_small_and_finds_a_red_circle() -> None:
    # given the model that ships
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 12_000_000
    reranker = Reranker(SHIPPED)
    config = reranker.model.config
    assert config.image_token_id == reranker.prompt.pad
    assert config.vision_start_token_id == reranker.prompt.start
    assert config.vision_end_token_id == reranker.prompt.end
    # when it judges a plain query about two plain scenes
    size = Size(256, 192)
    scenes = [
        lay_out(Plan((Kind(shape, colour),)), random.Random(8), size.aspect)
        for shape, colour in (("circle", "red"), ("square", "blue"))
    ]
    pairs = [(["a red circle"], [size.image(index)]) for index in range(2)]
    margins = reranker.margins(pairs, [pixels_of(scene, size) for scene in scenes])
    # then the right one is above zero and the other below
    assert margins[0] > 0 > margins[1]
