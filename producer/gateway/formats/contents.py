"""Queries and documents of all shapes, as contents that a line of input may have.

    "text"
    {"text"?, "image"?: URI or list, "video"?: {"frames": [URI], "fps"?}, "frames"?}   native, Jina
    {"content": [{"type": "text" | "image_url", ...}]}                                 vLLM

A document may also have `id` and `metadata`.

Only the shape is changed here; what a content may hold is checked by `shared.formats.lines`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import WithJsonSchema

from rerankfleet.producer.gateway.errors import InvalidField
from rerankfleet.producer.gateway.formats.fields import FIELD_SHOWN

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


def documents_of(value: Any, most: int) -> list[Any]:
    """The documents of a request. Raises InvalidField saying where one is wrong. More than `most`
    come back unread: whoever counts them refuses them."""
    if not isinstance(value, list):
        hint = 'write a list; one document of several parts is [{"content": [...]}]'
        raise InvalidField("documents", "expected a list of documents", hint=hint)
    if len(value) > most:
        return value
    return [content_of(found, f"documents[{at}]") for at, found in enumerate(value)]


def content_of(value: Any, where: str) -> Any:
    """A content as a line of input has it, without what is null. Raises InvalidField saying where
    it is wrong."""
    if not isinstance(value, Mapping):
        return value
    value = {name: found for name, found in value.items() if found is not None}
    if "content" in value:
        own = {name: value[name] for name in ("id", "metadata") if name in value}
        if len(value) > len(own) + 1:
            raise InvalidField(where, "`content` stands alone", hint="put all into its parts")
        found = _of_parts(value["content"], f"{where}.content")
        if not own:
            return found
        return {**own, **({"text": found} if isinstance(found, str) else found)}
    return {**value, "image": _with_schemes(value["image"])} if "image" in value else value


def _of_parts(parts: Any, where: str) -> Any:
    if isinstance(parts, str):
        return parts
    if not isinstance(parts, list) or not parts:
        raise InvalidField(where, "expected a list of parts", hint=_PARTS_HINT)
    texts: list[str] = []
    images: list[str] = []
    found: dict[str, Any] = {}
    for at, part in enumerate(parts):
        kind, value = _part(part, where, at)
        if kind == "text":
            texts.append(value)
        elif kind == "image":
            images.append(_with_scheme(value))
        elif "video" in found:
            raise InvalidField(f"{where}[{at}]", "a content has one video", hint=_ONE_VIDEO)
        else:
            fps = part.get("fps")
            found["video"] = {"frames": value} | ({} if fps is None else {"fps": fps})
    if texts:
        found["text"] = "\n".join(texts)
    if images:
        found["image"] = images
    return found


_PARTS_HINT = (
    '[{"type": "text", "text": "…"}, {"type": "image_url", "image_url": {"url": "…"}}], '
    'frames as {"type": "video", "video": ["…", "…"]}'
)


def _part(part: Any, where: str, at: int) -> tuple[str, Any]:
    """What a part is, text, image or video, and its text, URI or frames."""

    def wrong(said: str, hint: str = _PARTS_HINT, field: str = "") -> InvalidField:
        return InvalidField(f"{where}[{at}]{field}", said, hint=hint)

    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind not in PARTS:
        raise wrong(f"expected a part of type {', '.join(PARTS)}")
    name, value = kind.removesuffix("_url"), part.get(kind)
    unknown = _given(part, "type", kind, *(["fps"] if name == "video" else []))
    if isinstance(value, Mapping):
        unknown += [f"{kind}.{inside}" for inside in _given(value, "url")]
        value = value.get("url")
    if name == "video" and not _are_texts(value):
        raise wrong("video files are not read, only their frames", _FRAMES)
    if name != "video" and not isinstance(value, str):
        raise wrong(f"its {kind} is missing")
    if unknown:
        raise wrong("there is no such field", field=f".{min(unknown)[:FIELD_SHOWN]}")
    return name, value


_FRAMES = 'give the frames as images: {"type": "video", "video": ["…", "…"]}'
_ONE_VIDEO = "put all frames into one part, or each video into a document of its own"
_UNUSED = ("detail", "uuid")
"""Fields of a part that clients of other servers send, and that change no score."""


def _given(part: Mapping[str, Any], *known: str) -> list[str]:
    """Fields of a part that have a value and would be read by nobody."""
    unknown = part.keys() - {*known, *_UNUSED}
    return [name for name in unknown if part[name] is not None]


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


_BASE64 = {"/9j/": "jpeg", "iVBOR": "png", "R0lGOD": "gif", "UklGR": "webp"}
"""How the base64 of an image begins."""


def _with_schemes(images: Any) -> Any:
    """An image, or a list of them, as URIs. What is neither stays as it is, to be refused."""
    if isinstance(images, list):
        return [_with_scheme(one) if isinstance(one, str) else one for one in images]
    return _with_scheme(images) if isinstance(images, str) else images


def _with_scheme(image: str) -> str:
    """An image's URI; bare base64, as Jina's clients send it, becomes a data: URI."""
    if not image.startswith(tuple(_BASE64)) or not re.fullmatch(r"[A-Za-z0-9+/=\s]+", image):
        return image
    kind = next(kind for head, kind in _BASE64.items() if image.startswith(head))
    return f"data:image/{kind};base64,{image}"
