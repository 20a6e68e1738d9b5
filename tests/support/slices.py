"""Slices of text, images and videos."""

from __future__ import annotations

from rerankfleet.shared.content.content import Document
from rerankfleet.shared.content.requests import Slice


def a_slice(*documents, query="q", line: int = 1) -> Slice:
    return Slice(
        line=line,
        query=query,
        documents=[Document.model_validate(_content(d)) for d in documents],
        indices=list(range(len(documents))),
    )


def _content(value):
    return {"text": value} if isinstance(value, str) else value


def image(*uris: str, **fields) -> dict:
    return {"image": list(uris), **fields}


def frames(count: int, fps: float | None = None) -> dict:
    return {"video": {"frames": [f"frame-{n}" for n in range(count)], "fps": fps}}
