"""Token ids of Qwen3-VL's prompts: those of the authors' procedure, for any content."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rerankfleet.shared.errors import ItemError, ModelRefused
from rerankfleet.workers.prompting.prompts import Prompt, Side
from rerankfleet.workers.prompting.tokens import Tokens
from rerankfleet.workers.prompting.vl import VLPrompter
from tests.support.vl_reference import (
    CONTENTS,
    INSTRUCTION,
    TOLERANCE,
    image,
    prompts_of,
    score,
    video,
)

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


def test_an_image_that_could_not_be_loaded_costs_its_own_pair(vl_engine):
    lost = ItemError("not_found", "there is no such image")
    good, bad = prompts_of(vl_engine, Side("q"), [Side(images=(image(1, 1),)), lost])
    assert isinstance(good, Prompt)
    assert bad is lost
    assert prompts_of(vl_engine, lost, [Side("a"), Side("b")]) == [lost, lost]


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
