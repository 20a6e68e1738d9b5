"""Lines of input, parsed."""

from __future__ import annotations

import json

from rerankfleet.shared.content.outcomes import (
    Failure,
)
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.formats.lines import (
    parse_line,
)

GOOD = {"query": "q", "documents": ["a", {"id": 7, "text": "b"}]}


def parse(line: object, number: int = 1, max_documents: int = 100) -> Slice:
    raw = line if isinstance(line, bytes) else json.dumps(line).encode()
    return parse_line(number, raw, max_documents=max_documents)


def only_failure(line: object) -> Failure:
    """The only failure of a line without results."""
    piece = parse(line, number=4)
    assert piece.documents == []
    (failure,) = piece.failures
    assert failure.line == 4
    assert failure.index is None
    return failure


DATA_URI = "data:image/png;base64,iVBORw0KGgo="
