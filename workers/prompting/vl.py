"""Content -> token ids in the official template of Qwen3-VL-Reranker, cut where it can be shared.

    kept      system turn, instruction, "<Query"                 the same for a job
    query     ">:{images}{query}\\n<Document"                   the same for a request
    document  ">:{images}{document}" and the assistant turn    what is left for each pair

Each side holds its video steps, then its images, then its text; "NULL" when it has none of them.
The joints stand after a word and before ">", where no pre-tokeniser of this family joins, so that
the parts have the ids of the whole whatever the texts begin with. User text is encoded without
added tokens.

Knows nothing of torch, batches, fetching or decoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from rerankfleet.shared.errors import ItemError
from rerankfleet.workers.prompting.prompts import (
    INSTRUCTIONS_REMEMBERED,
    PREFIX,
    Prompt,
    Request,
    Side,
    TokenSource,
    instruction_of,
    query_problem,
    text_problem,
)
from rerankfleet.workers.prompting.tokens import Tokens, Visual

SUFFIX = "<|im_end|>\n<|im_start|>assistant\n"
JOINT = ">:"
"""Where a side begins."""
NOTHING = "NULL"
"""What the template says for a side without content."""

#: What stands in a side, in order: text and images.
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
        self._prefix = self._source.encode_template(PREFIX)
        self._suffix = Tokens.of(self._source.encode_template(SUFFIX))
        names = ("vision_start", "vision_end", "image_pad", "video_pad", "im_start", "im_end")
        control = [self._source.token(f"<|{name}|>") for name in names]
        self._start, self._end, self._image, self._video, *_ = control
        self._special = frozenset(control)
        self._joint = len(self._source.encode(JOINT))
        self._kept = lru_cache(INSTRUCTIONS_REMEMBERED)(self._encode_kept)

    def encode_all(
        self, requests: Sequence[Request], *, max_length: int, max_tokens_per_doc: int | None = None
    ) -> list[list[Prompt | ItemError]]:
        """See `prompts.Prompter`. Special tokens are all kept, and of the others the first that
        `max_length` leaves room for; the template's last five tokens come on top, as in the
        authors' procedure. Images and the times of frames are not a document's text."""
        pieces = [self._pieces(request) for request in requests]
        texts = [t for of_request in pieces for side in of_request for t in _texts(side)]
        ids = self._source.encode_batch(texts)
        return [
            self._prompts(request, of_request, ids, max_length, max_tokens_per_doc)
            for request, of_request in zip(requests, pieces, strict=True)
        ]

    def _pieces(self, request: Request) -> list[Pieces | ItemError]:
        """What stands in a request, side by side: its query, then each document. The query's
        error stands alone."""
        if problem := query_problem(request, instruction_of(request, self)):
            return [problem]
        sides = [(request.query, "query", "\n<Document")]
        sides += [(side, "document", "") for side in request.documents]
        return [_side(side, what, behind) for side, what, behind in sides]

    def _prompts(
        self,
        request: Request,
        pieces: list[Pieces | ItemError],
        ids: Iterator[list[int]],
        max_length: int,
        most: int | None,
    ) -> list[Prompt | ItemError]:
        """A request's prompts, whose encoded texts come next in `ids`."""
        first, *others = pieces
        if isinstance(first, ItemError):
            return [first] * len(request.documents)
        kept = self._kept(instruction_of(request, self))
        query = self._join(first, ids)
        shared = _kept_with_images(kept, query)
        found: list[Prompt | ItemError] = []
        for side, content in zip(others, request.documents, strict=True):
            if isinstance(side, ItemError):
                found.append(side)
                continue
            whole = self._join(side, ids)
            has_text = isinstance(content, Side) and content.text
            document = self._cut_text(whole, most) if most and has_text else whole
            lost = len(whole) - len(document)
            overrun = len(kept) + len(query) + len(document) - max_length
            if overrun > 0:
                found.append(self._cut_prompt(kept, query, document, max_length, lost))
            else:
                found.append(Prompt(*shared, document + self._suffix, lost))
        return found

    def _cut_text(self, document: Tokens, most: int) -> Tokens:
        """A document with at most so many tokens of its text, which stands behind all else."""
        begin = self._joint
        if document.visuals:
            at, last = document.visuals[-1]
            begin = at + last.tokens + 1
        if len(document) <= begin + most:
            return document
        return Tokens.of(document.array()[: begin + most], document.visuals)

    def _cut_prompt(
        self, kept: Tokens, query: Tokens, document: Tokens, max_length: int, lost: int
    ) -> Prompt:
        """A prompt of which more than the `lost` is cut off: the last of what is not special."""
        whole = (kept, query, document)
        room = max(0, max_length - sum(map(self._specials, whole)))
        kept, room = self._cut(kept, room)
        query, room = self._cut(query, room)
        crowded = room == 0
        document, _ = self._cut(document, room)
        lost += sum(map(len, whole)) - len(kept) - len(query) - len(document)
        shared = _kept_with_images(kept, query)
        return Prompt(*shared, document + self._suffix, lost, crowded)

    def _specials(self, tokens: Tokens) -> int:
        return sum(token in self._special for token in tokens)

    def _cut(self, tokens: Tokens, room: int) -> tuple[Tokens, int]:
        """All special tokens and the first `room` others; and the room that is left."""
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

    def _join(self, pieces: Pieces, ids: Iterator[list[int]]) -> Tokens:
        """A side's tokens: encoded texts, and its images between start and end."""
        found: list[int] = []
        visuals: list[tuple[int, Visual]] = []
        for piece in pieces:
            if isinstance(piece, str):
                found += next(ids)
                continue
            pad = self._image if len(piece.frames) == 1 else self._video
            visuals.append((len(found) + 1, piece))
            found += [self._start, *[pad] * piece.tokens, self._end]
        return Tokens.of(found, visuals)

    def _encode_kept(self, instruction: str) -> Tokens:
        return Tokens.of([*self._prefix, *self._source.encode(f"<Instruct>: {instruction}<Query")])


def _kept_with_images(kept: Tokens, query: Tokens) -> tuple[Tokens, Tokens]:
    """A query with images is long: it is kept too, for all packs that its documents are in."""
    return (kept + query, Tokens.of(())) if query.visuals else (kept, query)


def _side(side: Side | ItemError, what: str, behind: str) -> Pieces | ItemError:
    """What stands in a side: video steps, images, text."""
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
