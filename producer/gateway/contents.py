"""Queries and documents of all shapes, as contents that a line of input may have.

    "text"
    {"text"?, "image"?: URI or list, "video"?: {"frames": [URI], "fps"?}, "frames"?}   native, Jina
    {"content": [{"type": "text" | "image_url", ...}]}                                 vLLM

A document may also have `id` and `metadata`.

Only the shape is changed here; what a content may hold is checked by `shared.lines`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import WithJsonSchema

from producer.gateway.errors import InvalidField

PARTS = ("text", "image_url", "image", "video_url", "video")

_SHAPES = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "object",
            "properties": {
                "id": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
                "text": {"type": "string"},
                "image": {
                    "anyOf": [
                        {"type": "string"},
                        {"type": "array", "items": {"type": "string"}},
                    ],
                    "description": "https://, s3://, data:image/…;base64,… or an upload's uri",
                },
                "video": {
                    "type": "object",
                    "required": ["frames"],
                    "properties": {
                        "frames": {"type": "array", "items": {"type": "string"}, "minItems": 1},
                        "fps": {"type": "number", "exclusiveMinimum": 0},
                    },
                },
                "frames": {
                    "type": "array",
                    "items": {"type": "string"},
                    "description": "short for video: {frames}",
                },
                "content": {"type": "array", "items": {"type": "object"}},
                "metadata": {"type": "object", "description": "a document's: handed back as it is"},
            },
        },
    ]
}
AnyContent = Annotated[Any, WithJsonSchema(_SHAPES)]
"""A query or a document as a client may write it."""
AnyContents = Annotated[Any, WithJsonSchema({"type": "array", "items": _SHAPES, "minItems": 1})]
"""Documents as a client may write them."""


def documents_of(value: Any, where: str = "documents") -> list[Any]:
    """The documents of a request. Raises InvalidField saying where one is wrong."""
    if not isinstance(value, list):
        hint = 'write a list; one document of several parts is [{"content": [...]}]'
        raise InvalidField(where, "expected a list of documents", hint=hint)
    return [content_of(found, f"{where}[{at}]") for at, found in enumerate(value)]


def content_of(value: Any, where: str) -> Any:
    """A content as a line of input has it. Raises InvalidField saying where it is wrong."""
    if not isinstance(value, Mapping):
        return value
    if "content" in value:
        own = {name: value[name] for name in ("id", "metadata") if name in value}
        if len(value) > len(own) + 1:
            raise InvalidField(where, "`content` stands alone", hint="put all into its parts")
        found = _of_parts(value["content"], f"{where}.content")
        if not own:
            return found
        return {**own, **({"text": found} if isinstance(found, str) else found)}
    if isinstance(image := value.get("image"), str):
        return {**value, "image": _with_scheme(image)}
    return value


def _of_parts(parts: Any, where: str) -> Any:
    if isinstance(parts, str):
        return parts
    if not isinstance(parts, list) or not parts:
        raise InvalidField(where, "expected a list of parts", hint=_PARTS_HINT)
    texts: list[str] = []
    images: list[str] = []
    found: dict[str, Any] = {}
    for at, part in enumerate(parts):
        kind, value = _part(part, f"{where}[{at}]")
        if kind == "text":
            texts.append(value)
        elif kind == "video":
            found["video"] = {"frames": value}
        else:
            images.append(_with_scheme(value))
    if texts:
        found["text"] = "\n".join(texts)
    if images:
        found["image"] = images
    return found


_PARTS_HINT = (
    '[{"type": "text", "text": "…"}, {"type": "image_url", "image_url": {"url": "…"}}], '
    'frames as {"type": "video", "video": ["…", "…"]}'
)


def _part(part: Any, where: str) -> tuple[str, Any]:
    """What a part is, text, image or video, and its text, URI or frames."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind not in PARTS:
        raise InvalidField(where, f"expected a part of type {', '.join(PARTS)}", hint=_PARTS_HINT)
    value = part.get(kind)
    if isinstance(value, Mapping):
        value = value.get("url")
    kind = kind.removesuffix("_url")
    if kind == "video":
        if not isinstance(value, list) or not all(isinstance(uri, str) for uri in value):
            raise InvalidField(where, "video files are not read, only their frames", hint=_FRAMES)
    elif not isinstance(value, str):
        raise InvalidField(where, f"its {part['type']} is missing", hint=_PARTS_HINT)
    return kind, value


_FRAMES = 'give the frames as images: {"type": "video", "video": ["…", "…"]}'

_BASE64 = {"/9j/": "jpeg", "iVBOR": "png", "R0lGOD": "gif", "UklGR": "webp"}
"""How the base64 of an image begins."""


def _with_scheme(image: str) -> str:
    """An image's URI; bare base64, as Jina's clients send it, becomes a data: URI."""
    for head, kind in _BASE64.items():
        if image.startswith(head) and re.fullmatch(r"[A-Za-z0-9+/=\s]+", image):
            return f"data:image/{kind};base64,{image}"
    return image
