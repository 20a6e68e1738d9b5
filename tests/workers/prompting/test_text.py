"""Token ids of prompts: those of the model card's procedure, for any text."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from rerankfleet.shared.content.options import DEFAULT_INSTRUCTION
from rerankfleet.shared.errors import ItemError, ModelRefused
from rerankfleet.workers.prompting.prompts import Prompt, PromptRequest, Side, TokenSource
from rerankfleet.workers.prompting.text import TextPrompter
from rerankfleet.workers.prompting.tokens import Tokens, Visual

QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def prompters(tokenizers) -> dict[str, TextPrompter]:
    return {kind: TextPrompter(folder) for kind, folder in tokenizers.items()}


def whole(prompt: Prompt | ItemError) -> list[int]:
    assert isinstance(prompt, Prompt)
    return [*prompt.prefix, *prompt.query, *prompt.document]


def encode(prompter, query, documents, instruction=DEFAULT_INSTRUCTION, max_length=8192):
    request = PromptRequest.of(query, documents, instruction)
    return prompter.encode_all([request], max_length=max_length)[0]


@pytest.mark.parametrize("kind", ["qwen", "gpt2"])
@pytest.mark.parametrize("query", ["what is this?", "<|im_start|>user", "?", " ", "\n(", "x" * 500])
def test_parts_have_the_ids_of_the_whole(
    kind, query, prompters, tokenizers, hostile, reference_ids
):
    prompts = encode(prompters[kind], query, hostile)
    for document, prompt in zip(hostile, prompts, strict=True):
        assert whole(prompt) == reference_ids(tokenizers[kind], query, document)


@QUICK
@given(query=st.text(max_size=40), document=st.text(max_size=80), instruction=st.text(max_size=30))
@pytest.mark.parametrize("kind", ["qwen", "gpt2"])
def test_parts_have_the_ids_of_the_whole_for_any_text(
    kind, query, document, instruction, prompters, tokenizers, reference_ids
):
    (prompt,) = encode(prompters[kind], query, [document], instruction)
    assert whole(prompt) == reference_ids(
        tokenizers[kind], query, document, instruction=instruction
    )


@QUICK
@given(words=st.integers(0, 60), max_length=st.integers(150, 420))
def test_the_body_is_cut_as_the_reference_cuts_it(
    words, max_length, prompters, tokenizers, reference_ids
):
    query, document = "gate " * words, "stone river " * 50
    (prompt,) = encode(prompters["qwen"], query, [document], max_length=max_length)
    want = reference_ids(tokenizers["qwen"], query, document, max_length=max_length)
    assert whole(prompt) == want
    uncut = reference_ids(tokenizers["qwen"], query, document)
    assert prompt.truncated_tokens == len(uncut) - len(want)


@QUICK
@given(words=st.integers(0, 30), most=st.integers(1, 80), max_length=st.integers(150, 420))
def test_a_document_is_cut_as_if_its_text_had_ended_there(
    words, most, max_length, prompters, tokenizers, reference_ids
):
    # given a document and the text that its first tokens are
    query, document, folder = "gate " * words, "stone river " * 50, tokenizers["qwen"]
    source = TokenSource(folder)
    ids = source.encode(f" {document}")
    text = Tokenizer.from_file(str(folder / "tokenizer.json")).decode(ids[:most])
    assume(source.encode(text) == ids[:most])
    # when it may have so many
    request = PromptRequest.of(query, [document], DEFAULT_INSTRUCTION)
    options = {"max_length": max_length, "max_tokens_per_doc": most}
    (prompt,) = prompters["qwen"].encode_all([request], **options)[0]
    # then its prompt is the reference's for that text, and what is lost is reported
    want = reference_ids(folder, query, text.removeprefix(" "), max_length=max_length)
    assert whole(prompt) == want
    uncut = reference_ids(folder, query, document)
    assert prompt.truncated_tokens == len(uncut) - len(want)


def test_a_document_that_is_short_enough_is_as_it_was(prompters):
    request = PromptRequest.of("what?", ["one", "two words more"], DEFAULT_INSTRUCTION)
    plain = prompters["qwen"].encode_all([request], max_length=8192)
    for most in (50, 40_960):
        options = {"max_length": 8192, "max_tokens_per_doc": most}
        assert prompters["qwen"].encode_all([request], **options) == plain


def test_a_query_that_leaves_no_room_for_the_document_is_reported(prompters):
    prompter = prompters["qwen"]
    short, long = (encode(prompter, q, ["doc"], max_length=300)[0] for q in ("a", "gate " * 400))
    assert not short.crowded
    assert not short.truncated_tokens
    assert long.crowded
    assert len(long) == 300


def test_pairs_of_a_request_share_their_parts(prompters):
    first, second = encode(prompters["qwen"], "what?", ["one", "two"])
    (other,) = encode(prompters["qwen"], "why?", ["one"])
    assert first.prefix is second.prefix is other.prefix
    assert first.query is second.query
    assert first.query != other.query


def test_a_document_that_is_not_text_is_an_error_of_its_own(prompters):
    good, bad, also_good = encode(prompters["qwen"], "q", ["one", "lone \ud800 half", "two"])
    assert isinstance(bad, ItemError)
    assert bad.code == "invalid_text"
    assert whole(good)[:50] == whole(also_good)[:50]


@pytest.mark.parametrize(("query", "instruction"), [("\udfff", "fine"), ("fine", "\ud83d")])
def test_a_query_or_instruction_that_is_not_text_fails_the_request(query, instruction, prompters):
    errors = encode(prompters["qwen"], query, ["d", "e"], instruction)
    assert [error.code for error in errors] == ["invalid_text"] * 2


def test_a_max_length_without_room_for_the_template_says_so(prompters):
    (error,) = encode(prompters["qwen"], "q", ["d"], max_length=20)
    assert "leaves no room" in error.message


def test_many_requests_are_encoded_as_each_would_be_alone(prompters):
    requests = [
        PromptRequest.of("what?", ["one", "two"]),
        PromptRequest.of("half \ud800", ["lost"]),
        PromptRequest.of("why?", [], "Find reasons"),
        PromptRequest.of("who?", ["three", "half \udfff", "four"]),
    ]
    together = prompters["qwen"].encode_all(requests, max_length=8192)
    alone = [prompters["qwen"].encode_all([r], max_length=8192)[0] for r in requests]
    assert [len(prompts) for prompts in together] == [2, 1, 0, 3]
    for one, other in zip(together, alone, strict=True):
        assert [p if isinstance(p, Prompt) else p.code for p in one] == [
            p if isinstance(p, Prompt) else p.code for p in other
        ]


def test_a_text_model_refuses_images(prompters):
    image = Visual("grey", (np.zeros((32, 32, 3), np.uint8),))
    request = PromptRequest(Side("what?"), [Side("a gate", (image,)), Side("a gate")])
    with_image, text_only = prompters["qwen"].encode_all([request], max_length=8192)[0]
    assert with_image.code == "pictures_not_read"
    assert isinstance(text_only, Prompt)


def test_threads_share_a_prompter(prompters, passages):
    prompter = prompters["gpt2"]
    want = [whole(p) for p in encode(prompter, "what?", passages[:40])]
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(encode, prompter, "what?", passages[:40]) for _ in range(12)]
        assert all([whole(p) for p in run.result()] == want for run in runs)


def test_many_long_documents_are_encoded_in_batches(prompters, monkeypatch):
    monkeypatch.setattr("rerankfleet.workers.prompting.prompts._BATCH_CHARACTERS", 100)
    documents = ["stone " * n for n in (1, 50, 3, 0, 7, 30, 2)]
    batched = encode(prompters["qwen"], "what?", documents)
    monkeypatch.undo()
    assert batched == encode(prompters["qwen"], "what?", documents)


def test_a_prompt_is_small(prompters):
    prompts = encode(prompters["qwen"], "what?", ["stone " * 50] * 10)
    own = sum(sys.getsizeof(p) + sys.getsizeof(p.document) + len(p.document.data) for p in prompts)
    assert own / 10 < 250 + 4 * len(prompts[0].document)


def test_tokens_compare_by_content():
    assert Tokens.of([1, 2]) == Tokens.of(iter([1, 2]))
    assert {Tokens.of([3]): "x"}[Tokens.of([3])] == "x"
    assert list(Tokens.of([5, 70000])) == [5, 70000]


def test_a_folder_without_tokeniser_is_refused(tmp_path):
    with pytest.raises(ModelRefused, match=r"has no tokenizer\.json"):
        TextPrompter(tmp_path)


def test_a_tokeniser_without_yes_and_no_is_refused(tmp_path):
    from tokenizers import models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocab={"y": 0, "e": 1, "s": 2}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelRefused, match="no single token 'yes'"):
        TextPrompter(tmp_path / "tokenizer.json")
