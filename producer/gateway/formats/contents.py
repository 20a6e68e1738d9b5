"""Queries and documents of every client's shape -> contents as in a line of input.

    "text"
    {"text"?, "image"?: URI or list, "video"?: {"frames": [URI], "fps"?}, "frames"?}   native, Jina
    {"content": [{"type": "text" | "image_url", ...}]}                                 vLLM

A document may also have `id` and `metadata`.

Only the shape is changed here; `shared.formats.lines` checks what a content holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import WithJsonSchema

from rerankfleet.producer.gateway.errors import InvalidField
from rerankfleet.shared.content.validation import FIELD_SHOWN
from rerankfleet.shared.errors import Path, dotted

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
                "metadata": {
                    "type": "object",
                    "description": "returned with the document",
                },
            },
        },
    ]
}
AnyContent = Annotated[Any, WithJsonSchema(_SHAPES)]
"""A query or a document as a client may write it."""
AnyContents = Annotated[Any, WithJsonSchema({"type": "array", "items": _SHAPES, "minItems": 1})]
"""Documents as a client may write them."""


def documents_of(value: Any, most: int) -> list[Any]:
    """The documents of a request. Raises InvalidField for one that is wrong. More than `most` are
    returned as they are: they are refused later, for their number."""
    if not isinstance(value, list):
        hint = 'write a list; one document of several parts is [{"content": [...]}]'
        raise InvalidField(("documents",), "expected a list of documents", hint=hint)
    if len(value) > most:
        return value
    return [content_of(one, ("documents", at)) for at, one in enumerate(value)]


def content_of(value: Any, path: Path) -> Any:
    """The content at a path as a line of input has it, without nulls. Raises InvalidField."""
    if not isinstance(value, Mapping):
        return value
    value = {name: field for name, field in value.items() if field is not None}
    if "content" in value:
        return _of_content(value, path)
    return value


def _of_content(value: Mapping[str, Any], path: Path) -> Any:
    """A content in parts, with its id and metadata."""
    own = {name: value[name] for name in ("id", "metadata") if name in value}
    if len(value) > len(own) + 1:
        raise InvalidField(path, "`content` stands alone", hint="put everything into its parts")
    content = _of_parts(value["content"], (*path, "content"))
    if not own:
        return content
    return {**own, **({"text": content} if isinstance(content, str) else content)}


def _of_parts(parts: Any, path: Path) -> Any:
    if isinstance(parts, str):
        return parts
    if not isinstance(parts, list) or not parts:
        raise InvalidField(path, "expected a list of parts", hint=_PARTS_HINT)
    texts: list[str] = []
    images: list[str] = []
    content: dict[str, Any] = {}
    for at, part in enumerate(parts):
        kind, value = _part(part, (*path, at))
        if kind == "text":
            texts.append(value)
        elif kind == "image":
            images.append(value)
        elif "video" in content:
            raise InvalidField((*path, at), "a content has one video", hint=_ONE_VIDEO)
        else:
            fps = part.get("fps")
            content["video"] = {"frames": value} | ({} if fps is None else {"fps": fps})
    if texts:
        content["text"] = "\n".join(texts)
    if images:
        content["image"] = images
    return content


_PARTS_HINT = (
    '[{"type": "text", "text": "…"}, {"type": "image_url", "image_url": {"url": "…"}}], '
    'frames as {"type": "video", "video": ["…", "…"]}'
)


def _part(part: Any, path: Path) -> tuple[str, Any]:
    """The kind of a part, text, image or video, and its text, URI or frames."""

    def wrong(message: str, hint: str = _PARTS_HINT, field: Path = ()) -> InvalidField:
        return InvalidField((*path, *field), message, hint=hint)

    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind not in PARTS:
        raise wrong(f"expected a part of type {', '.join(PARTS)}")
    name, value = kind.removesuffix("_url"), part.get(kind)
    unknown: list[Path] = [
        (field,) for field in _unread(part, "type", kind, *(["fps"] if name == "video" else []))
    ]
    if isinstance(value, Mapping):
        unknown += [(kind, field) for field in _unread(value, "url")]
        value = value.get("url")
    if name == "video" and not _are_texts(value):
        raise wrong("video files are not read, only their frames", _FRAMES)
    if name != "video" and not isinstance(value, str):
        raise wrong(f"its {kind} is missing")
    if unknown:
        raise wrong("there is no such field", field=min(unknown, key=dotted))
    return name, value


_FRAMES = 'give the frames as images: {"type": "video", "video": ["…", "…"]}'
_ONE_VIDEO = "put all frames into one part, or each video into a document of its own"
_UNUSED = ("detail", "uuid")
"""Fields of a part that clients of other servers send and that do not affect a score."""


def _unread(part: Mapping[str, Any], *known: str) -> list[str]:
    """Fields of a part that have a value but are not known."""
    unknown = part.keys() - {*known, *_UNUSED}
    return [name[:FIELD_SHOWN] for name in unknown if part[name] is not None]


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
