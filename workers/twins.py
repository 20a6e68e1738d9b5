"""Twins among the pairs of a shard: documents that are equal by what the model sees of them.

Documents that are written alike are found where their request is read (`shared.content.twins`).
Here in addition: the same picture at several addresses, and in a catalog in several rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.errors import ItemError
from rerankfleet.shared.job_spec import JobSpec
from rerankfleet.workers.prepare import PreparedPair
from rerankfleet.workers.prompting.tokens import Tokens

DIGEST_BYTES = 8


class Twins:
    """Finds them in slices that come in the order of their lines. Holds a few bytes per picture of
    one line."""

    def __init__(self, spec: JobSpec) -> None:
        self._of_catalog = spec.catalog is not None
        self._is_ranked = bool(spec.top_n)
        self._line = 0
        self._first: dict[str, str] = {}

    def of(self, piece: Slice, pairs: Sequence[PreparedPair | ItemError]) -> list[str | None]:
        """Per pair of a slice what `Scored.twin` is."""
        if piece.line != self._line:
            self._line, self._first = piece.line, {}
        return [self._of(piece, *pair) for pair in zip(piece.indices, pairs, strict=True)]

    def _of(self, piece: Slice, index: int, pair: PreparedPair | ItemError) -> str | None:
        if isinstance(pair, ItemError):
            return None
        document = pair.prompt.document
        if self._of_catalog:  # a ranking compares lines
            return _digest(document) if self._is_ranked else None
        written = piece.twins.get(index)
        if not document.visuals:
            return None if written is None else str(written)
        first = self._first.setdefault(
            _digest(document), str(index if written is None else written)
        )
        if written is not None:
            return str(written)
        return None if first == str(index) else first


def _digest(document: Tokens) -> str:
    """A word for a document as the model sees it."""
    data, visuals = document.key
    return blake2b(data + repr(visuals).encode(), digest_size=DIGEST_BYTES).hexdigest()
