"""The position of a job in its input, and what one read yields."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from rerankfleet.shared.content.requests import Piece


@dataclass(frozen=True, slots=True)
class Cursor:
    """The position up to which a job was cut, from which it can resume.

    `offset` is the byte at which line `line + 1` begins, of which `skip` items are cut already;
    `item` is the next ordinal of the cut order. Of the lines, `blank` were passed over. `previous`
    is the byte offset in the previous round's output, which a retry reads in parallel. In a folder,
    `key` is the last image read; it is only partly cut while `skip` is not 0.
    """

    offset: int = 0
    line: int = 0
    item: int = 0
    skip: int = 0
    previous: int = 0
    key: str = ""
    blank: int = 0

    @property
    def requests(self) -> int:
        """How many requests, or images, were cut whole."""
        return self.line - self.blank

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """The inverse of `str(cursor)`; the empty text is the beginning."""
        return cls(**json.loads(text)) if text else cls()

    def __str__(self) -> str:
        if self == Cursor():
            return ""
        return json.dumps(asdict(self), separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Read:
    """One line of input, or one image of a folder, and the positions after it. Without a piece:
    there was nothing up to there."""

    piece: Piece | None
    offset: int = 0
    previous: int = 0
    key: str = ""
    passed: int = 0
    """Without a piece: the last of the lines that were passed over."""

    @property
    def line(self) -> int:
        """The line that it is, or that was passed over last."""
        return self.passed if self.piece is None else self.piece.line
