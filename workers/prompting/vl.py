"""Content -> token ids in the official template of Qwen3-VL-Reranker, cut where it can be shared.

    prefix    system turn, instruction, "<Query"               the same for a job
    query     ">:{images}{query}\\n<Document"                   the same for a request
    document  ">:{images}{document}" and the assistant turn    computed for each pair

Each side has its video steps, then its images, then its text; "NULL" when it has none of them. The
cuts are after a word and before ">", where the pre-tokenisers of this family always split, so that
the parts have the ids of the whole whatever the texts begin with. User text is encoded without
added tokens.

Knows nothing of torch, batches, fetching or decoding.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

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
from rerankfleet.workers.prompting.tokens import Tokens, Visual
from rerankfleet.workers.prompting.windows import Reading

SUFFIX = "<|im_end|>\n<|im_start|>assistant\n"
JOINT = ">:"
"""The beginning of a side."""
NOTHING = "NULL"
"""The template's text for a side without content."""

#: The content of a side in order: texts and images.
Pieces = list[str | Visual]


class VLPrompter:
    """Builds prompts with the tokeniser of a Qwen3-VL model.

    `source` is a tokenizer.json or the folder that holds one.
    """

    template = "qwen3-vl-1"
    default_instruction = (
        "Given a search query, retrieve relevant candidates that answer the query."
    )

    def __init__(self, source: str | Path) -> None:
        self._source = TokenSource(source)
        self.yes_id, self.no_id = self._source.yes_id, self._source.no_id
        self._system_turn = self._source.encode_template(SYSTEM_TURN)
        self._suffix = Tokens.of(self._source.encode_template(SUFFIX))
        names = ("vision_start", "vision_end", "image_pad", "video_pad", "im_start", "im_end")
        control = [self._source.token(f"<|{name}|>") for name in names]
        self._start, self._end, self._image, self._video, *_ = control
        self._special = frozenset(control)
        self._joint = len(self._source.encode(JOINT))
        self._prefix = lru_cache(INSTRUCTIONS_CACHED)(self._encode_prefix)

    def encode_all(
        self,
        requests: Sequence[PromptRequest],
        *,
        max_length: int,
        max_tokens_per_doc: int | None = None,
        stop: threading.Event | None = None,
    ) -> list[list[Prompt | ItemError]]:
        """See `prompts.Prompter`. All special tokens are kept, and of the others as many of the
        first as `max_length` allows; the template's last five tokens are added on top, as in the
        authors' procedure. Images and the times of frames do not count as a document's text."""
        pieces = [self._pieces(request) for request in requests]
        texts = [t for of_request in pieces for side in of_request for t in _texts(side)]
        readings = self._source.encode_batch(texts, max_length, stop)
        return [
            self._prompts(request, of_request, readings, max_length, max_tokens_per_doc)
            for request, of_request in zip(requests, pieces, strict=True)
        ]

    def _pieces(self, request: PromptRequest) -> list[Pieces | ItemError]:
        """The pieces of a request's sides: its query, then each document; only the error when the
        query has one."""
        if problem := query_problem(request, instruction_of(request, self)):
            return [problem]
        sides = [(request.query, "query", "\n<Document")]
        sides += [(side, "document", "") for side in request.documents]
        return [_side(side, what, behind) for side, what, behind in sides]

    def _prompts(
        self,
        request: PromptRequest,
        pieces: list[Pieces | ItemError],
        texts: Iterator[Reading],
        max_length: int,
        most: int | None,
    ) -> list[Prompt | ItemError]:
        """A request's prompts, whose encoded texts come next in `texts`."""
        first, *others = pieces
        if isinstance(first, ItemError):
            return [first] * len(request.documents)
        prefix = self._prefix(instruction_of(request, self))
        query, query_rest = self._join(first, texts)
        shared = _prefix_with_images(prefix, query)
        prompts: list[Prompt | ItemError] = []
        for side, content in zip(others, request.documents, strict=True):
            if isinstance(side, ItemError):
                prompts.append(side)
                continue
            whole, rest = self._join(side, texts)
            has_text = isinstance(content, Side) and content.text
            document = self._cut_text(whole, most) if most and has_text else whole
            lost = query_rest + len(whole) + rest - len(document)
            overrun = len(prefix) + len(query) + len(document) - max_length
            if overrun > 0:
                prompts.append(self._cut_prompt(prefix, query, document, max_length, lost))
            else:
                prompts.append(Prompt(*shared, document + self._suffix, lost))
        return prompts

    def _cut_text(self, document: Tokens, most: int) -> Tokens:
        """A document with at most `most` tokens of its text, which comes last."""
        begin = self._joint
        if document.visuals:
            at, last = document.visuals[-1]
            begin = at + last.tokens + 1
        if len(document) <= begin + most:
            return document
        return Tokens.of(document.array()[: begin + most], document.visuals)

    def _cut_prompt(
        self, prefix: Tokens, query: Tokens, document: Tokens, max_length: int, lost: int
    ) -> Prompt:
        """A prompt cut to `max_length`: the last tokens that are not special are dropped. `lost` is
        the number of tokens cut before."""
        whole = (prefix, query, document)
        room = max(0, max_length - sum(map(self._specials, whole)))
        prefix, room = self._cut(prefix, room)
        query, room = self._cut(query, room)
        crowded = room == 0
        document, _ = self._cut(document, room)
        lost += sum(map(len, whole)) - len(prefix) - len(query) - len(document)
        shared = _prefix_with_images(prefix, query)
        return Prompt(*shared, document + self._suffix, lost, crowded)

    def _specials(self, tokens: Tokens) -> int:
        return sum(token in self._special for token in tokens)

    def _cut(self, tokens: Tokens, room: int) -> tuple[Tokens, int]:
        """All special tokens and the first `room` others, and the room that is left."""
        ids: list[int] = []
        moved: list[int] = []
        for token in tokens:
            moved.append(len(ids))
            if token in self._special:
                ids.append(token)
            elif room > 0:
                ids.append(token)
                room -= 1
        return Tokens.of(ids, [(moved[at], visual) for at, visual in tokens.visuals]), room

    def _join(self, pieces: Pieces, texts: Iterator[Reading]) -> tuple[Tokens, int]:
        """A side's tokens: encoded texts, and images between start and end tokens. With how many
        tokens its last text has besides, which fit into no prompt."""
        tokens: list[int] = []
        rest = 0
        visuals: list[tuple[int, Visual]] = []
        for piece in pieces:
            if isinstance(piece, str):
                text = next(texts)
                tokens += text.ids
                rest += text.count - len(text.ids)
                continue
            pad = self._image if len(piece.frames) == 1 else self._video
            visuals.append((len(tokens) + 1, piece))
            tokens += [self._start, *[pad] * piece.tokens, self._end]
        return Tokens.of(tokens, visuals), rest

    def _encode_prefix(self, instruction: str) -> Tokens:
        return Tokens.of(
            [*self._system_turn, *self._source.encode(f"<Instruct>: {instruction}<Query")]
        )


def _prefix_with_images(prefix: Tokens, query: Tokens) -> tuple[Tokens, Tokens]:
    """A query with images is long: it becomes part of the cached prefix, for all packs that have
    documents of it."""
    return (prefix + query, Tokens.of(())) if query.visuals else (prefix, query)


def _side(side: Side | ItemError, what: str, behind: str) -> Pieces | ItemError:
    """The pieces of a side: video steps, images, text."""
    if isinstance(side, ItemError):
        return side
    if problem := text_problem(side.text, what):
        return problem
    pieces: Pieces = []
    text = JOINT
    for seconds, visual in side.steps:
        pieces += [f"{text}<{seconds:.1f} seconds>", visual]
        text = ""
    for visual in side.images:
        pieces += [text, visual]
        text = ""
    nothing = not (side.text or side.images or side.steps)
    return [*pieces, f"{text}{NOTHING if nothing else side.text}{behind}"]


def _texts(side: Pieces | ItemError) -> Iterator[str]:
    if not isinstance(side, ItemError):
        yield from (piece for piece in side if isinstance(piece, str))
