"""Qwen3-VL: margins are those of the authors' procedure, one pair at a time, for any content."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rerankfleet.shared.errors import ItemError, ModelRefused
from rerankfleet.workers.batching.packing import Pack, cost, pack_cost
from rerankfleet.workers.engine import load_engine
from rerankfleet.workers.engine.vision import Tower
from rerankfleet.workers.prompting.prompts import SYSTEM_TURN, Prompt, Request, Side
from rerankfleet.workers.prompting.tokens import Tokens, Visual
from rerankfleet.workers.prompting.vl import SUFFIX, VLPrompter
from tests.support.vl_model import VISION_TOKENS

TOLERANCE = 1e-4
INSTRUCTION = "Find images of gates."


def image(rows: int, columns: int, seed: int = 0, frames: int = 1) -> Visual:
    """Noise of this many tokens."""
    rng = np.random.default_rng([rows, columns, seed])
    drawn = rng.integers(0, 256, (frames, rows * 32, columns * 32, 3), np.uint8)
    return Visual(f"{rows}x{columns}-{seed}-{frames}", tuple(drawn))


class Reference:
    """The authors' procedure, written plainly: one string, one forward pass a pair."""

    def __init__(self, folder):
        from transformers import PreTrainedTokenizerFast
        from transformers import Qwen3VLForConditionalGeneration as Model

        self.model = Model.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        ids = self.tokenizer.convert_tokens_to_ids
        self.yes, self.no = ids(["yes", "no"])
        self.image, self.video = ids(["<|image_pad|>", "<|video_pad|>"])
        self.special = set(ids(["<|im_start|>", "<|im_end|>", *VISION_TOKENS]))

    def side(self, side: Side) -> str:
        text = ""
        for seconds, visual in side.steps:
            pads = "<|video_pad|>" * visual.tokens
            text += f"<{seconds:.1f} seconds><|vision_start|>{pads}<|vision_end|>"
        for visual in side.images:
            text += f"<|vision_start|>{'<|image_pad|>' * visual.tokens}<|vision_end|>"
        return (text + side.text) or "NULL"

    def ids(self, query: Side, document: Side, instruction: str, max_length: int) -> list[int]:
        text = (
            f"{SYSTEM_TURN}<Instruct>: {instruction}<Query>:{self.side(query)}"
            f"\n<Document>:{self.side(document)}<|im_end|>\n<|im_start|>assistant\n"
        )
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        end = len(self.tokenizer.encode(SUFFIX, add_special_tokens=False))  # 5 in Qwen's tokeniser
        body, tail = ids[:-end], ids[-end:]
        if len(body) > max_length:
            left = max_length - sum(i in self.special for i in body)
            kept = []
            for i in body:
                if i in self.special:
                    kept.append(i)
                elif left > 0:
                    kept.append(i)
                    left -= 1
            body = kept
        return body + tail

    @torch.inference_mode()
    def margin(self, query, document, instruction=INSTRUCTION, max_length=8192) -> float:
        ids = torch.tensor([self.ids(query, document, instruction, max_length)])
        inputs = {"mm_token_type_ids": (ids == self.image).int() + 2 * (ids == self.video).int()}
        images = [v for side in (query, document) for v in side.images]
        steps = [side.steps for side in (query, document) if side.steps]
        if images:
            inputs["pixel_values"] = torch.cat([self.patches(v.frames * 2) for v in images])
            inputs["image_grid_thw"] = torch.tensor([self.grid([v]) for v in images])
        if steps:
            videos = [[v for _, v in one] for one in steps]
            inputs["pixel_values_videos"] = torch.cat(
                [self.patches(v.frames) for video in videos for v in video]
            )
            inputs["video_grid_thw"] = torch.tensor([self.grid(video) for video in videos])
        logits = self.model(ids, use_cache=False, **inputs).logits[0, -1]
        return float(logits[self.yes] - logits[self.no])

    def grid(self, visuals) -> list[int]:
        height, width, _ = visuals[0].frames[0].shape
        return [len(visuals), height // 16, width // 16]

    def patches(self, frames) -> torch.Tensor:
        """[patches, channel · time · y · x], token by token."""
        values = np.stack(frames).astype(np.float32) / 255
        values = (values - 0.5) / 0.5
        _, height, width, _ = values.shape
        patches = []
        for y in range(0, height, 32):
            for x in range(0, width, 32):
                for dy in (0, 16):
                    for dx in (0, 16):
                        patch = values[:, y + dy : y + dy + 16, x + dx : x + dx + 16]
                        patches.append(patch.transpose(3, 0, 1, 2).reshape(-1))
        return torch.from_numpy(np.stack(patches))


@pytest.fixture(scope="session")
def reference(vl_folder):
    return Reference(vl_folder)


def prompts_of(engine, query: Side, documents, **options) -> list[Prompt]:
    request = Request(query, documents, options.pop("instruction", INSTRUCTION))
    (prompts,) = engine.prompter.encode_all([request], **({"max_length": 8192} | options))
    return prompts


def score(engine, prompts) -> list[float]:
    pack, order = Pack.of(prompts)
    margins = np.empty(len(prompts))
    margins[order] = engine.score(pack)
    return margins.tolist()


def video(steps: int, rows: int, columns: int, seed: int = 0):
    return tuple(
        (0.25 + step, image(rows, columns, seed + step, frames=2)) for step in range(steps)
    )


CONTENTS = {
    "text": Side("a stone gate"),
    "nothing": Side(),
    "image": Side(images=(image(3, 5),)),
    "text and image": Side("a gate by the river", (image(2, 2, 1),)),
    "several images": Side("three", (image(1, 1), image(4, 2), image(1, 6))),
    "video": Side("it moves", steps=video(2, 2, 3)),
    "video and image": Side("?", (image(2, 3),), video(1, 1, 2, 9)),
}


@pytest.mark.parametrize("query", CONTENTS)
def test_any_content_has_the_margin_of_the_authors_procedure(query, vl_engine, reference):
    documents = list(CONTENTS.values())
    want = [reference.margin(CONTENTS[query], d) for d in documents]
    prompts = prompts_of(vl_engine, CONTENTS[query], documents)
    assert score(vl_engine, prompts) == pytest.approx(want, abs=TOLERANCE)
    vl_engine.free()
    alone = [score(vl_engine, [prompt])[0] for prompt in prompts]
    assert alone == pytest.approx(want, abs=TOLERANCE)
    assert max(want) - min(want) > 0.05  # the contents make a difference


def test_a_pack_mixes_queries_and_sizes(vl_engine, reference):
    pairs = [(q, d) for q in CONTENTS.values() for d in CONTENTS.values()][::3]
    prompts = [prompts_of(vl_engine, q, [d])[0] for q, d in pairs]
    want = [reference.margin(q, d) for q, d in pairs]
    assert score(vl_engine, prompts) == pytest.approx(want, abs=TOLERANCE)


SLOW = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
texts = st.one_of(st.text(max_size=30), st.sampled_from([":(", "?", "\n", " x", ">", "<Document>"]))
shapes = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), max_size=2)


@SLOW
@given(texts, texts, texts, shapes, shapes)
def test_parts_have_the_ids_of_the_whole(vl_engine, reference, instruction, q, d, q_sizes, d_sizes):
    query, document = (
        Side(text, tuple(image(*size) for size in sizes))
        for text, sizes in ((q, q_sizes), (d, d_sizes))
    )
    (prompt,) = prompts_of(vl_engine, query, [document], instruction=instruction)
    want = reference.ids(query, document, instruction, 8192)
    if not any("<|" in text for text in (instruction, q, d)):  # control tokens stay text here
        assert [*prompt.prefix, *prompt.query, *prompt.document] == want


@pytest.mark.parametrize("max_length", [60, 90, 100, 130, 190])
def test_images_are_never_cut_and_the_tail_of_the_text_is(max_length, vl_engine, reference):
    query = Side("which gate " * 12, (image(2, 2),))
    document = Side("stone by the river " * 30, (image(3, 3),))
    (prompt,) = prompts_of(vl_engine, query, [document], max_length=max_length)
    want = reference.ids(query, document, INSTRUCTION, max_length)
    assert [*prompt.prefix, *prompt.query, *prompt.document] == want
    assert prompt.truncated_tokens > 0
    assert score(vl_engine, [prompt]) == pytest.approx(
        [reference.margin(query, document, max_length=max_length)], abs=TOLERANCE
    )


@pytest.mark.parametrize("most", [1, 7, 20])
@pytest.mark.parametrize(
    "images",
    [Side(), Side(images=(image(3, 3),)), Side(images=(image(1, 2),), steps=video(2, 2, 3))],
    ids=["text", "image", "video and image"],
)
def test_a_documents_text_is_cut_and_its_images_are_not(images, most, vl_engine, reference):
    # given documents of a long text, beside images
    text = "stone by the river " * 30
    ids = reference.tokenizer.encode(text, add_special_tokens=False)
    short = replace(images, text=reference.tokenizer.decode(ids[:most]))
    query = Side("which gate", (image(2, 2),))
    # when so many tokens of it are read
    (prompt,) = prompts_of(vl_engine, query, [replace(images, text=text)], max_tokens_per_doc=most)
    # then it has the ids and the margin of the text that ends there
    assert [*prompt.prefix, *prompt.query, *prompt.document] == reference.ids(
        query, short, INSTRUCTION, 8192
    )
    assert prompt.truncated_tokens == len(ids) - most
    assert score(vl_engine, [prompt]) == pytest.approx(
        [reference.margin(query, short)], abs=TOLERANCE
    )


def test_both_limits_of_a_length_hold(vl_engine):
    document = Side("stone by the river " * 30, (image(3, 3),))
    (alone,) = prompts_of(vl_engine, Side("which gate"), [document], max_length=120)
    (both,) = prompts_of(
        vl_engine, Side("which gate"), [document], max_length=120, max_tokens_per_doc=100
    )
    assert both == alone


@pytest.mark.parametrize("content", ["nothing", "image", "video"])
def test_what_has_no_long_text_is_not_cut(content, vl_engine):
    documents = [replace(CONTENTS[content], text="")]
    plain = prompts_of(vl_engine, Side("which"), documents)
    assert prompts_of(vl_engine, Side("which"), documents, max_tokens_per_doc=1) == plain


def test_positions_are_those_of_the_unpacked_pair(vl_engine, reference):
    query = Side("which", (image(2, 5),), video(2, 3, 1))
    document = Side("gate", (image(4, 1),), video(1, 2, 2))
    (prompt,) = prompts_of(vl_engine, query, [document])
    parts = [prompt.prefix, prompt.query, prompt.document]
    got, start = [], 0
    for part in parts:
        got.append(part.positions(start))
        start += part.span
    ids = torch.tensor([reference.ids(query, document, INSTRUCTION, 8192)])
    kinds = (ids == reference.image).int() + 2 * (ids == reference.video).int()
    want, _ = reference.model.model.get_rope_index(
        ids,
        kinds,
        torch.tensor([[1, 4, 10], [1, 8, 2]]),
        torch.tensor([[2, 6, 2], [1, 4, 4]]),
    )
    assert np.array_equal(np.concatenate(got).T, want[:, 0].numpy())


def test_an_image_passes_the_tower_once(vl_engine, monkeypatch):
    passed = []
    features = Tower.features
    monkeypatch.setattr(
        Tower, "features", lambda self, visuals: passed.extend(visuals) or features(self, visuals)
    )
    vl_engine.free()
    images = [image(2, 2, seed) for seed in range(3)]
    queries = [Side(f"query {number}") for number in range(4)]
    for query in queries:  # a catalog: every query meets every image
        score(vl_engine, prompts_of(vl_engine, query, [Side(images=(i,)) for i in images]))
    assert sorted(v.key for v in passed) == sorted(i.key for i in images)


def test_a_query_with_images_is_read_once_for_all_its_documents(vl_engine):
    query = Side("like this", (image(4, 4),))
    first, second = prompts_of(vl_engine, query, [Side("one"), Side("two")])
    assert first.prefix == second.prefix
    assert len(first.query) == 0
    vl_engine.free()
    score(vl_engine, [first])
    cached_bytes = vl_engine.prefix_cache.bytes
    score(vl_engine, [second])
    assert vl_engine.prefix_cache.bytes == cached_bytes > 0


def test_the_feature_cache_is_bounded(vl_folder):
    engine = load_engine(str(vl_folder), device="cpu", seen_bytes=20_000)
    for seed in range(6):
        score(engine, prompts_of(engine, Side("q"), [Side(images=(image(3, 3, seed),))]))
        assert engine.feature_cache.bytes <= 20_000
    assert engine.feature_cache.bytes > 0


def test_an_image_that_could_not_be_loaded_costs_its_own_pair(vl_engine):
    lost = ItemError("not_found", "there is no such image")
    good, bad = prompts_of(vl_engine, Side("q"), [Side(images=(image(1, 1),)), lost])
    assert isinstance(good, Prompt)
    assert bad is lost
    assert prompts_of(vl_engine, lost, [Side("a"), Side("b")]) == [lost, lost]


def test_the_self_test_covers_images_and_refuses_what_differs(vl_folder):
    engine = load_engine(str(vl_folder), device="cpu")
    assert engine.self_test().pairs == 9
    engine._tower._still_weight.mul_(1.5)
    engine.free()
    with pytest.raises(ModelRefused, match="margins differ"):
        engine.self_test()


def test_images_pass_the_tower_together_or_one_by_one(vl_engine, reference, monkeypatch):
    from rerankfleet.workers.engine import vision

    side = Side(images=(image(9, 7),))
    want = reference.margin(Side("q"), side)
    for patches in (100, 1 << 12):
        monkeypatch.setattr(vision, "PATCHES_AT_A_TIME", {"cpu": patches})
        vl_engine.free()
        got = score(vl_engine, prompts_of(vl_engine, Side("q"), [side]))
        assert got == pytest.approx([want], abs=TOLERANCE)


def test_half_types_stay_near(vl_folder, vl_engine):
    half = load_engine(str(vl_folder), device="cpu", dtype="bf16")
    documents = list(CONTENTS.values())
    got, want = (
        score(engine, prompts_of(engine, CONTENTS["image"], documents))
        for engine in (half, vl_engine)
    )
    assert np.abs(np.array(got) - want).max() < 0.75


def test_a_model_without_vision_tokens_is_refused(tokenizers):
    with pytest.raises(ModelRefused, match="vision_start"):
        VLPrompter(tokenizers["qwen"])


def test_tokens_join_with_their_images():
    left = Tokens.of([1, 2, 2, 3], [(1, image(1, 2))])
    right = Tokens.of([4, 2, 5], [(1, image(1, 1))])
    whole = left + right
    assert [at for at, _ in whole.visuals] == [1, 5]
    assert whole.span == left.span + right.span
    assert whole == Tokens.of([1, 2, 2, 3, 4, 2, 5], [(1, image(1, 2)), (5, image(1, 1))])
    assert hash(whole) == hash(Tokens.of(whole, whole.visuals))


# ---- in one's own process -----------------------------------------------------------------------


@pytest.fixture(scope="session")
def pil_images():
    from PIL import Image

    rng = np.random.default_rng(4)
    return [Image.fromarray(rng.integers(0, 256, (96, 128, 3), np.uint8)) for _ in range(3)]


@pytest.fixture(scope="session")
def make_reranker(vl_folder):
    from rerankfleet import Reranker

    return lambda **options: Reranker(str(vl_folder), engine={"device": "cpu"}, **options)


def test_pil_images_score_as_the_pixels_that_prepare_image_gives(
    make_reranker, pil_images, reference
):
    from rerankfleet import prepare_image

    one, two, _ = pil_images
    got = make_reranker(instruction=INSTRUCTION).margins(
        {"query": "a gate", "documents": [{"image": one}, {"text": "stone", "image": [two, one]}]}
    )
    visuals = [Visual(str(n), (prepare_image(image).pixels,)) for n, image in enumerate((one, two))]
    want = [
        reference.margin(Side("a gate"), Side(images=(visuals[0],))),
        reference.margin(Side("a gate"), Side("stone", (visuals[1], visuals[0]))),
    ]
    assert got == pytest.approx(want, abs=TOLERANCE)


def test_channels_are_the_margins_of_the_parts(make_reranker, pil_images):
    plain, explained = make_reranker(), make_reranker(explain=True)
    one, two, _ = pil_images
    query = {"text": "a gate", "image": one}
    request = {"query": query, "documents": [{"text": "stone", "image": two}, {"image": two}, "s"]}
    both, image, words = explained.results(request)

    assert [r.margin for r in (both, image, words)] == pytest.approx(
        plain.margins(request), abs=TOLERANCE
    )
    assert both.channels is not None
    for name, margin in both.channels.items():
        q, d = name.split("-")
        (want,) = plain.margins(
            {"query": {q: query[q]}, "documents": [{d: request["documents"][0][d]}]}
        )
        assert margin == pytest.approx(want, abs=TOLERANCE), name
    assert set(both.channels) == {"text-text", "text-image", "image-text", "image-image"}
    assert set(image.channels) == {"text-image", "image-image"}
    assert set(words.channels) == {"text-text", "image-text"}


def test_swapping_the_image_leaves_the_words_channel(make_reranker, pil_images):
    reranker = make_reranker(explain=True)
    one, two, three = pil_images
    documents = [{"text": "stone", "image": image} for image in (two, three)]
    a, b = reranker.results({"query": {"text": "gate", "image": one}, "documents": documents})
    assert a.channels["text-text"] == pytest.approx(b.channels["text-text"], abs=TOLERANCE)
    assert a.channels["image-image"] != pytest.approx(b.channels["image-image"], abs=TOLERANCE)


def test_an_image_costs_the_tower_until_its_features_are_cached(vl_engine):
    vl_engine.free()
    prompts = prompts_of(vl_engine, Side(images=(image(2, 2),)), [Side(images=(image(4, 6),))])
    before = pack_cost(prompts, vl_engine.prices)
    score(vl_engine, prompts)
    after = pack_cost(prompts, vl_engine.prices)
    tower = vl_engine.prices.tower(24) + vl_engine.prices.tower(4)
    assert before - after == pytest.approx(tower + cost(len(prompts[0].prefix), 0))
    vl_engine.free()
    assert pack_cost(prompts, vl_engine.prices) == before
    assert vl_engine.prices.tower(48) > 2 * vl_engine.prices.tower(24) > 0  # with attention
