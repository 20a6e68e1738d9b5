"""Text -> token ids: the official Qwen3-Reranker prompt, cut where documents can share work.

    kept      system turn, "<Instruct>: ...\\n<Query>:"   the same for all pairs of an instruction
    query     " {query}\\n<Document>:"                    the same for all documents of a query
    document  " {document}" and the assistant turn        what is left to compute for each pair

The joints stand before a space, where no pre-tokeniser of this family joins, so that the three
parts have the ids of the whole. The strings are our own and never come from a checkpoint's chat
template. User text is encoded without added tokens: `<|im_end|>` inside a document stays text.

Knows nothing of torch, batches or models beyond their tokeniser.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

from shared.errors import ItemError, ModelRefused
from workers.tokens import Tokens

#: Part of provenance and of every cache key; changes when a prompt's ids would.
TEMPLATE_VERSION = "qwen3-text-1"

PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"

#: Instructions whose ids are remembered; a job has one, a fleet a handful.
_INSTRUCTIONS_REMEMBERED = 256
#: Text encoded at a time: an encoding takes some twenty times the memory of its ids.
_BATCH_CHARACTERS = 1 << 20


@dataclass(frozen=True, slots=True)
class Request:
    """What prompts are made of: a query with its documents, as text."""

    query: str
    documents: Sequence[str]
    instruction: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """One pair, ready to be scored. `kept` and `query` are shared objects within a request."""

    kept: Tokens
    query: Tokens
    document: Tokens
    truncated_tokens: int = 0
    """Tokens that max_length cut off the body."""
    crowded: bool = False
    """The instruction and query left no room for the document."""

    def __len__(self) -> int:
        return len(self.kept) + len(self.query) + len(self.document)


class TextPrompter:
    """Builds prompts with the tokeniser of a model. Safe to use from several threads.

    `source` is a tokenizer.json or the folder that holds one.
    """

    def __init__(self, source: str | Path) -> None:
        path = Path(source)
        path = path / "tokenizer.json" if path.is_dir() else path
        if not path.is_file():
            raise ModelRefused(
                f"{path.parent} has no tokenizer.json", hint="save the model's fast tokeniser there"
            )
        full = Tokenizer.from_file(str(path))
        self._prefix = _encode(full, PREFIX)
        self._suffix = _encode(full, SUFFIX)
        self.yes_id, self.no_id = (_single(full, word) for word in ("yes", "no"))
        self._plain = _without_added_tokens(full)
        remember = lru_cache(_INSTRUCTIONS_REMEMBERED)
        self._head = remember(self._encode_head)
        self._kept = remember(self._join_kept)

    def encode(
        self, query: str, documents: Sequence[str], *, instruction: str, max_length: int
    ) -> list[Prompt | ItemError]:
        """The prompts of one request, in order; a document that has none gets its error instead.

        The body (instruction, query, document) is cut on the right to what `max_length` tokens
        leave beside system and assistant turn. Raises ItemError when no pair can be made.
        """
        request = Request(query, documents, instruction)
        if problem := self._problem(request, max_length):
            raise problem
        return self.encode_all([request], max_length=max_length)[0]

    def encode_all(
        self, requests: Sequence[Request], *, max_length: int
    ) -> list[list[Prompt | ItemError]]:
        """The prompts of many requests, tokenised together. A request that has no prompt at all
        gets its error for each of its documents."""
        problems = [self._problem(r, max_length) for r in requests]
        good = [r for r, problem in zip(requests, problems, strict=True) if problem is None]
        ids = self._encode_batch([text for request in good for text in _texts(request)])
        return [
            [problem] * len(request.documents)
            if problem
            else self._prompts(request, ids, max_length - len(self._prefix) - len(self._suffix))
            for request, problem in zip(requests, problems, strict=True)
        ]

    def _problem(self, request: Request, max_length: int) -> ItemError | None:
        """Why a request has no prompt, or None."""
        for name, text in (("instruction", request.instruction), ("query", request.query)):
            if not _is_unicode(text):
                return _not_unicode(name)
        template = len(self._prefix) + len(self._suffix)
        if max_length > template:
            return None
        return ItemError(
            "max_length_too_small",
            f"max_length {max_length} leaves no room beside the template's {template} tokens",
            hint="raise max_length",
        )

    def _prompts(
        self, request: Request, ids: Iterator[list[int]], room: int
    ) -> list[Prompt | ItemError]:
        """A request's prompts, whose encoded texts come next in `ids`, with bodies of `room`."""
        head, turn = self._head(request.instruction), next(ids)
        kept, query = self._kept(head, room), Tokens.of(turn[: max(0, room - len(head))])
        left = max(0, room - len(head) - len(turn))
        overrun = max(0, len(head) + len(turn) - room)
        prompts: list[Prompt | ItemError] = []
        for text in request.documents:
            if not _is_unicode(text):
                prompts.append(_not_unicode("document"))
                continue
            document = next(ids)
            cut = max(0, len(document) - left)
            tail = Tokens.of([*document[:left], *self._suffix])
            prompts.append(Prompt(kept, query, tail, overrun + cut, left == 0))
        return prompts

    def _encode_batch(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Ids of many texts, encoded on several threads without the GIL, a bounded batch a time."""
        at = 0
        while at < len(texts):
            end, size = at, 0
            while end < len(texts) and (end == at or size + len(texts[end]) <= _BATCH_CHARACTERS):
                size += len(texts[end])
                end += 1
            batch = self._plain.encode_batch_fast(texts[at:end], add_special_tokens=False)
            yield from (encoding.ids for encoding in batch)
            at = end

    def _encode_head(self, instruction: str) -> tuple[int, ...]:
        return tuple(_encode(self._plain, f"<Instruct>: {instruction}\n<Query>:"))

    def _join_kept(self, head: tuple[int, ...], room: int) -> Tokens:
        return Tokens.of([*self._prefix, *head[:room]])


def _texts(request: Request) -> Iterator[str]:
    """What of a request is encoded, in order: its query, then each document that is text."""
    yield f" {request.query}\n<Document>:"
    yield from (f" {text}" for text in request.documents if _is_unicode(text))


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def _single(tokenizer: Tokenizer, word: str) -> int:
    token: int | None = tokenizer.token_to_id(word)
    if token is None or _encode(tokenizer, word) != [token]:
        raise ModelRefused(
            f"the tokeniser has no single token {word!r}", hint="use a Qwen3 reranker"
        )
    return token


def _without_added_tokens(full: Tokenizer) -> Tokenizer:
    """A copy that reads control-token strings as the text they are."""
    plain = Tokenizer.from_str(json.dumps(json.loads(full.to_str()) | {"added_tokens": []}))
    plain.no_truncation()
    plain.no_padding()
    return plain


def _is_unicode(text: str) -> bool:
    """False for text with lone surrogates, which UTF-8 and so the tokeniser cannot express."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _not_unicode(what: str) -> ItemError:
    return ItemError(
        "invalid_text",
        f"the {what} contains lone surrogates, which are not text",
        hint="repair the encoding of the source",
    )
