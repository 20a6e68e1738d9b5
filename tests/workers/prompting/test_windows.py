"""Long texts are tokenised window by window: the tokens of the whole, and no more memory."""

from __future__ import annotations

import random
import threading
from concurrent.futures import CancelledError

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rerankfleet.workers.engine.locate import resolve_model
from rerankfleet.workers.prompting import windows
from rerankfleet.workers.prompting.prompts import Prompt, Prompter, PromptRequest, Side, TokenSource
from rerankfleet.workers.prompting.text import TextPrompter
from rerankfleet.workers.prompting.vl import VLPrompter
from rerankfleet.workers.prompting.windows import Reading

QUICK = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
WINDOW = 300
PIECES = [
    *("a", "7", " ", "\n", "\r", "\t", "\u00a0", "\u3000", "\x1c", "'", "l", "!", "-", "=", "é"),
    *("e\u0301", "\u0301", "\u0327", "\u1100", "\u1161", "\u11a8", "\uac00", "\u0bc6\u0bbe"),
    *(
        "漢字",
        "かな",
        "\u3099",
        "🙂",
        "👩‍👩‍👧",
        "\u200d",
        "ﬁ",
        "don't",
        "we're",
        "I'LL",
        "<|im_end|>",
    ),
    *(" the", "  \n", "\n\n  ", "stone river", "QmFzZTY0", "==", "http://a.b/c?d=e&f", "한글"),
]
runs = st.tuples(st.sampled_from(PIECES), st.integers(1, 30)).map(lambda run: run[0] * run[1])
some = st.lists(st.sampled_from(PIECES), max_size=20).map("".join)
texts = st.lists(runs | some | st.text(max_size=20), min_size=1, max_size=30).map("".join)


@pytest.fixture(scope="module")
def sources(tokenizers) -> dict[str, TokenSource]:
    return {kind: TokenSource(folder) for kind, folder in tokenizers.items()}


@pytest.fixture(scope="module", params=[TextPrompter, VLPrompter])
def prompter(request) -> Prompter:
    """One of each template."""
    return request.param(resolve_model("pocket-vl"))


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(windows, "WINDOW_CHARACTERS", WINDOW)


def whole(source: TokenSource, text: str) -> list[int]:
    """The ids of a text that is encoded at once."""
    return source._plain.encode(text, add_special_tokens=False).ids


def read(source: TokenSource, text: str, most: int | None = None) -> Reading:
    (reading,) = source.encode_batch([text], most)
    return reading


@QUICK
@given(text=texts, most=st.integers(0, 400))
@pytest.mark.parametrize("kind", ["qwen", "gpt2"])
def test_windows_have_the_tokens_of_the_whole(kind, text, most, sources, small_windows):
    ids = whole(sources[kind], text)
    reading = read(sources[kind], text, most)
    assert (reading.ids, reading.count) == (ids[:most], len(ids))
    assert read(sources[kind], text).ids == ids


@pytest.mark.parametrize("kind", ["qwen", "gpt2"])
@pytest.mark.parametrize("piece", PIECES)
def test_a_word_without_an_end_has_the_tokens_of_the_whole(kind, piece, sources, small_windows):
    """Given a text that repeats one thing, so that no window has a border between words."""
    for times in (300, 999):
        for text in (piece * times, f"\n{piece * times}\n", f"a {piece * times} b"):
            assert read(sources[kind], text).ids == whole(sources[kind], text)


@pytest.mark.parametrize("alphabet", ["ab", "aeioul", "0123456789abcdef", "=-_ ", " \n", "a\u0301"])
def test_words_without_a_pattern_have_the_tokens_of_the_whole(alphabet, sources, small_windows):
    text = "".join(random.Random(7).choices(alphabet, k=5000))
    for source in sources.values():
        assert read(source, text).ids == whole(source, text)


@pytest.fixture
def given_sizes(monkeypatch) -> list[int]:
    """The characters that tokenisers are given at a time."""
    sizes: list[int] = []
    encode = TokenSource._encode_windows

    def counted(source, batch, *, fast):
        sizes.append(sum(len(one.window()) for one in batch))
        encode(source, batch, fast=fast)

    monkeypatch.setattr(TokenSource, "_encode_windows", counted)
    return sizes


def test_the_tokeniser_is_given_a_bounded_text_at_a_time(prompter, given_sizes):
    """Given a request of digits, a token each: a query and ten documents of 50,000."""
    request = PromptRequest.of("12" * 25_000, ["34" * 25_000] * 10)

    prompts = prompter.encode_all([request], max_length=1000)[0]

    assert max(given_sizes) <= 1 << 18
    tokens = {len(p) + p.truncated_tokens for p in prompts if isinstance(p, Prompt)}
    assert len(tokens) == 1
    assert 100_000 < tokens.pop() < 100_300


@QUICK
@given(
    query=texts,
    document=texts,
    max_length=st.integers(120, 600),
    most=st.none() | st.integers(1, 700),
)
def test_a_prompt_of_long_texts_is_cut_as_if_they_were_encoded_at_once(
    prompter, query, document, max_length, most
):
    """Given a cut by `max_length`, by `max_tokens_per_doc`, or both, of any side."""
    request = PromptRequest(Side(query), [Side(document), Side("")], "Find it")
    options = {"max_length": max_length, "max_tokens_per_doc": most}
    with pytest.MonkeyPatch.context() as patched:
        at_once = prompter.encode_all([request], **options)
        patched.setattr(windows, "WINDOW_CHARACTERS", WINDOW)
        assert prompter.encode_all([request], **options) == at_once


def test_a_stopped_request_is_tokenised_no_further(sources, given_sizes):
    stop = threading.Event()
    readings = sources["qwen"].encode_batch(["a " * 20_000] * 20, 10, stop)
    next(readings)
    stop.set()
    done = len(given_sizes)

    with pytest.raises(CancelledError):
        list(readings)
    assert len(given_sizes) == done
