"""Text -> token ids in the official template of Qwen3-Reranker, cut where it can be shared.

    prefix    system turn, instruction, "<Query>:"
    query     " {query}" and "<Document>:"
    document  " {document}" and the assistant turn

The cuts are before a space, where the pre-tokenisers of this family always split, so that the three
parts have the ids of the whole.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from rerankfleet.shared.content.options import DEFAULT_INSTRUCTION
from rerankfleet.shared.errors import ItemError
from rerankfleet.workers.prompting.prompts import (
    INSTRUCTIONS_CACHED,
    SYSTEM_TURN,
    Prompt,
    PromptRequest,
    Side,
    TokenSource,
    instruction_of,
    query_problem,
    text_problem,
)
from rerankfleet.workers.prompting.tokens import Tokens
from rerankfleet.workers.prompting.windows import Reading

SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


@dataclass(frozen=True, slots=True)
class _Checked:
    """A request's query and, for each document, its text or its error."""

    query: str
    documents: list[str | ItemError]
    instruction: str


class TextPrompter:
    """Builds prompts with the tokeniser of a text model; images are errors.

    `source` is a tokenizer.json or the folder that holds one.
    """

    template = "qwen3-text-1"
    default_instruction = DEFAULT_INSTRUCTION

    def __init__(self, source: str | Path) -> None:
        self._source = TokenSource(source)
        self.yes_id, self.no_id = self._source.yes_id, self._source.no_id
        self._system_turn = self._source.encode_template(SYSTEM_TURN)
        self._suffix = self._source.encode_template(SUFFIX)
        cached = lru_cache(INSTRUCTIONS_CACHED)
        self._head = cached(self._encode_head)
        self._prefix = cached(self._join_prefix)

    def encode_all(
        self,
        requests: Sequence[PromptRequest],
        *,
        max_length: int,
        max_tokens_per_doc: int | None = None,
        stop: threading.Event | None = None,
    ) -> list[list[Prompt | ItemError]]:
        """See `prompts.Prompter`. The body (instruction, query, document) is cut on the right to
        what `max_length` leaves besides the system and the assistant turn."""
        checked = [self._check(request, max_length) for request in requests]
        texts = [text for c in checked if isinstance(c, _Checked) for text in _texts(c)]
        readings = self._source.encode_batch(texts, max_length, stop)
        room = max_length - len(self._system_turn) - len(self._suffix)
        return [
            self._prompts(c, readings, room, max_tokens_per_doc)
            if isinstance(c, _Checked)
            else [c] * len(request.documents)
            for request, c in zip(requests, checked, strict=True)
        ]

    def _check(self, request: PromptRequest, max_length: int) -> _Checked | ItemError:
        """The request as text, or its error."""
        instruction = instruction_of(request, self)
        query = _text_of(request.query, "query")
        if problem := query_problem(request, instruction):
            return problem
        if isinstance(query, ItemError):
            return query
        template = len(self._system_turn) + len(self._suffix)
        if max_length <= template:
            return ItemError(
                "max_length_too_small",
                f"max_length {max_length} leaves no room besides the template's {template} tokens",
                hint="raise max_length",
            )
        documents = [_text_of(side, "document") for side in request.documents]
        return _Checked(query, documents, instruction)

    def _prompts(
        self, request: _Checked, texts: Iterator[Reading], room: int, most: int | None
    ) -> list[Prompt | ItemError]:
        """A request's prompts, whose encoded texts come next in `texts`. A body has at most `room`
        tokens, the text of a document at most `most`."""
        head, turn = self._head(request.instruction), next(texts)
        prefix, query = self._prefix(head, room), Tokens.of(turn.ids[: max(0, room - len(head))])
        left = max(0, room - len(head) - turn.count)
        document_room = left if most is None else min(left, most)
        overrun = max(0, len(head) + turn.count - room)
        prompts: list[Prompt | ItemError] = []
        for text in request.documents:
            if isinstance(text, ItemError):
                prompts.append(text)
                continue
            document = next(texts)
            cut = max(0, document.count - document_room)
            tail = Tokens.of([*document.ids[:document_room], *self._suffix])
            prompts.append(Prompt(prefix, query, tail, overrun + cut, left == 0))
        return prompts

    def _encode_head(self, instruction: str) -> tuple[int, ...]:
        return tuple(self._source.encode(f"<Instruct>: {instruction}\n<Query>:"))

    def _join_prefix(self, head: tuple[int, ...], room: int) -> Tokens:
        return Tokens.of([*self._system_turn, *head[:room]])


def _text_of(side: Side | ItemError, what: str) -> str | ItemError:
    if isinstance(side, ItemError):
        return side
    if side.images or side.steps:
        return ItemError(
            "pictures_not_read",
            f"the {what} has images, and this model reads text only",
            hint="use a Qwen3-VL reranker",
        )
    return text_problem(side.text, what) or side.text


def _texts(request: _Checked) -> Iterator[str]:
    """The texts of a request to encode, in order: its query, then each document."""
    yield f" {request.query}\n<Document>:"
    yield from (f" {text}" for text in request.documents if isinstance(text, str))
