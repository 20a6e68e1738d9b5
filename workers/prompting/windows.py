"""A text of any length -> its first tokens and the number of all, in bounded memory.

A long text is encoded window by window. A window ends where the whole text has a border between
two words of its pre-tokeniser too, so that the windows' tokens are those of the whole:

- far enough before the window's end, and before the white space there, that what follows can't move
  the border: pre-tokenisers of this family look no further ahead;
- before a character that does not combine with those before it, whatever the normaliser does.

A word that fills a window (base64, say) is continued at a border of its tokens in the middle: byte
pairs are merged within a few characters of where they are. Nothing but combining marks for a whole
window is cut at its end.
"""

from __future__ import annotations

import re
import unicodedata

from tokenizers import Encoding

WINDOW_CHARACTERS = 1 << 15
"""What a text may have to be encoded at once, and the size of the windows of a longer one."""
AHEAD_CHARACTERS = 16
"""More than pre-tokenisers look ahead of a border, white space aside."""

_NOT_SPACE = re.compile(r"\S")
_LINE_END = re.compile(r"[\r\n]")
#: More than become one character by normalisation, marks aside.
_JOINED_CHARACTERS = 8


class Reading:
    """A text on its way through the tokeniser: encode `window`, `take` the encoding, until `done`.

    ids      its first `most` token ids, or all where that is None
    count    the number of all its tokens
    """

    __slots__ = ("_at", "_most", "_run_end", "_text", "count", "done", "ids", "is_long")

    def __init__(self, text: str, most: int | None) -> None:
        self._text, self._most = text, most
        self._at = self._run_end = 0
        self.ids: list[int] = []
        self.count = 0
        self.done = False
        self.is_long = len(text) > WINDOW_CHARACTERS
        """Whether `take` needs the offsets of its tokens."""

    @property
    def size(self) -> int:
        """Characters of the next window, about."""
        return min(len(self._text) - self._at, WINDOW_CHARACTERS)

    def window(self) -> str:
        """The text to encode next."""
        return self._text[self._at : self._end] + self._line_end_to_come()

    def take(self, encoding: Encoding) -> None:
        """Keep what is certain of the window's tokens; the rest comes again with the next one."""
        if self._end == len(self._text):
            self._keep(encoding.ids)
            self.done = True
            return
        count, characters = _settled(encoding, self._text[self._at : self._end])
        self._keep(encoding.ids[:count])
        self._at += characters

    @property
    def _end(self) -> int:
        return min(self._at + WINDOW_CHARACTERS, len(self._text))

    def _keep(self, ids: list[int]) -> None:
        self.count += len(ids)
        room = len(ids) if self._most is None else max(0, self._most - len(self.ids))
        self.ids += ids[:room]

    def _line_end_to_come(self) -> str:
        """A line end, if the window ends within white space that has one further on: it would make
        one word of all before it."""
        end = self._end
        if end == len(self._text) or not self._text[end - 1].isspace():
            return ""
        if end >= self._run_end:
            found = _NOT_SPACE.search(self._text, end)
            self._run_end = found.start() if found else len(self._text)
        return "\n" if _LINE_END.search(self._text, end, self._run_end) else ""


def _settled(encoding: Encoding, window: str) -> tuple[int, int]:
    """How many tokens of a window are those of the whole text, and their characters."""
    words, offsets = encoding.word_ids, encoding.offsets
    last = len(window.rstrip()) - AHEAD_CHARACTERS
    borders = (
        (at, offsets[at][0])
        for at in range(len(offsets) - 1, 0, -1)
        if words[at] != words[at - 1] and offsets[at][0] <= last
    )
    middle = ((at, offsets[at][0]) for at in range(len(offsets) // 2, 0, -1))
    for candidates in (borders, middle):
        for at, start in candidates:
            if offsets[at - 1][1] <= start and 0 < start and not _joins(window, start):
                return at, start
    return len(offsets), len(window)


def _joins(window: str, at: int) -> bool:
    """Whether a normaliser may join or exchange the character at an index with those before it."""
    before, character = window[max(0, at - _JOINED_CHARACTERS) : at], window[at]
    if unicodedata.combining(character):
        return True
    apart = unicodedata.normalize("NFC", before) + unicodedata.normalize("NFC", character)
    return unicodedata.normalize("NFC", before + character) != apart
