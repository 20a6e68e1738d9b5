"""Prompts, and the requests that they are built from: content with decoded images -> token ids.

A prompt has three parts, cut where they can be shared:

    prefix    all before the query                   the same for a job: computed once, then cached
    query     the query                              the same for a request: computed once in a pack
    document  the document and the assistant turn    computed for each pair

The templates, `text` and `vl`, build the parts. Their strings are our own and never come from a
checkpoint's chat template. User text is encoded without added tokens: `<|im_end|>` inside a
document stays text.

Knows nothing of torch, batches or models beyond their tokeniser.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer

from rerankfleet.shared.errors import ItemError, ModelRefused
from rerankfleet.workers.prompting.tokens import Tokens, Visual
from rerankfleet.workers.prompting.windows import Reading

SYSTEM_TURN = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)

#: Instructions whose ids a prompter caches; a job has one, a fleet a handful.
INSTRUCTIONS_CACHED = 256
#: Text encoded at a time, about: an encoding takes 400 bytes a token, which may be a character.
_BATCH_CHARACTERS = 1 << 18


@dataclass(frozen=True, slots=True)
class Side:
    """A query or a document, its images decoded."""

    text: str = ""
    images: tuple[Visual, ...] = ()
    steps: tuple[tuple[float, Visual], ...] = ()
    """A video: (seconds, two frames) of each step."""


@dataclass(frozen=True, slots=True)
class PromptRequest:
    """A query with its documents. A side that could not be loaded is an error: a document's fails
    its own pair, a query's fails all pairs."""

    query: Side | ItemError
    documents: Sequence[Side | ItemError]
    instruction: str | None = None

    @classmethod
    def of(
        cls, query: str, documents: Sequence[str], instruction: str | None = None
    ) -> PromptRequest:
        """A request of plain text."""
        return cls(Side(query), [Side(text) for text in documents], instruction)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One pair, ready to be scored. Within a request, `prefix` and `query` are the same objects."""

    prefix: Tokens
    query: Tokens
    document: Tokens
    truncated_tokens: int = 0
    """Tokens of the body that max_length and max_tokens_per_doc cut off."""
    crowded: bool = False
    """The instruction and query left no room for the document."""

    def __len__(self) -> int:
        return len(self.prefix) + len(self.query) + len(self.document)


class Prompter(Protocol):
    """Builds the prompts of one model. Safe to use from several threads."""

    template: str
    """Name and version: part of the provenance; changes when the ids of a prompt change."""
    default_instruction: str
    yes_id: int
    no_id: int

    def encode_all(
        self,
        requests: Sequence[PromptRequest],
        *,
        max_length: int,
        max_tokens_per_doc: int | None = None,
        stop: threading.Event | None = None,
    ) -> list[list[Prompt | ItemError]]:
        """The prompts of many requests, tokenised together. The text of each document is first cut
        on the right to `max_tokens_per_doc` tokens, then the whole to `max_length`. The error of a
        request is returned for each of its documents. Raises CancelledError when `stop` is set."""


class TokenSource:
    """A model's tokeniser, with and without added tokens.

    `path` is a tokenizer.json or the folder that holds one. Raises ModelRefused when it is missing
    or lacks what a reranker needs.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        path = path / "tokenizer.json" if path.is_dir() else path
        if not path.is_file():
            raise ModelRefused(
                f"{path.parent} has no tokenizer.json", hint="save the model's fast tokeniser there"
            )
        try:
            self._full = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises plain Exceptions
            raise ModelRefused(
                f"{path} cannot be read: {error}", hint="download the model again"
            ) from error
        self._plain = _without_added_tokens(self._full)
        self.yes_id, self.no_id = self.token("yes"), self.token("no")

    @property
    def size(self) -> int:
        """How many tokens it knows, the added ones included."""
        return int(self._full.get_vocab_size())

    def token(self, text: str) -> int:
        """The id of a text that is one token."""
        token: int | None = self._full.token_to_id(text)
        if token is None or self.encode_template(text) != [token]:
            raise ModelRefused(
                f"the tokeniser has no single token {text!r}", hint="use a Qwen3 reranker"
            )
        return token

    def encode_template(self, text: str) -> list[int]:
        """Ids of our own text: control tokens are encoded as such."""
        ids: list[int] = self._full.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(
        self,
        texts: Sequence[str],
        most: int | None = None,
        stop: threading.Event | None = None,
    ) -> Iterator[Reading]:
        """Users' texts, encoded on several threads without the GIL, in bounded batches; control-
        token strings stay text. Of each at most the first `most` ids are kept, and all are counted.

        Raises CancelledError when `stop` is set.
        """
        for batch in _batches(texts, most):
            while reading := [one for one in batch if not one.done]:
                if stop and stop.is_set():
                    raise CancelledError
                self._encode_windows([one for one in reading if not one.is_long], fast=True)
                self._encode_windows([one for one in reading if one.is_long], fast=False)
            yield from batch

    def _encode_windows(self, batch: Sequence[Reading], *, fast: bool) -> None:
        """The next window of each text; with `fast` without the offsets of its tokens."""
        if not batch:
            return
        encode = self._plain.encode_batch_fast if fast else self._plain.encode_batch
        encodings = encode([one.window() for one in batch], add_special_tokens=False)
        for one, encoding in zip(batch, encodings, strict=True):
            one.take(encoding)

    def encode(self, text: str) -> list[int]:
        """Ids of one user text."""
        return next(self.encode_batch([text])).ids


def _batches(texts: Iterable[str], most: int | None) -> Iterator[list[Reading]]:
    """The texts in groups whose windows have at most _BATCH_CHARACTERS, or of one."""
    batch: list[Reading] = []
    size = 0
    for text in texts:
        reading = Reading(text, most)
        if batch and size + reading.size > _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
        batch.append(reading)
        size += reading.size
    if batch:
        yield batch


def text_problem(text: str, what: str) -> ItemError | None:
    """The error of a text with lone surrogates, which UTF-8 and so the tokeniser cannot express."""
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        return ItemError(
            "invalid_text",
            f"the {what} contains lone surrogates, which are not text",
            hint="fix the encoding of the source",
        )
    return None


def instruction_of(request: PromptRequest, prompter: Prompter) -> str:
    """The request's instruction, or the model's default."""
    instruction = request.instruction
    return prompter.default_instruction if instruction is None else instruction


def query_problem(request: PromptRequest, instruction: str) -> ItemError | None:
    """The error of a whole request, or None."""
    if isinstance(request.query, ItemError):
        return request.query
    return text_problem(instruction, "instruction") or text_problem(request.query.text, "query")


def _without_added_tokens(full: Tokenizer) -> Tokenizer:
    """A copy that treats control-token strings as text."""
    plain = Tokenizer.from_str(json.dumps(json.loads(full.to_str()) | {"added_tokens": []}))
    plain.no_truncation()
    plain.no_padding()
    return plain
