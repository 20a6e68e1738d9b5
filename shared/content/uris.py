"""The shape of an image's URI: s3://, https://, http://, file://, data: or a local path."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, FailFast, Field
from pydantic_core import PydanticCustomError

from rerankfleet.shared.content.data_uris import WrongData, as_data_uri

URI_CHARACTERS = 8 << 10
"""Longest URI or path of an image; data: URIs carry the image and have a limit of their own."""
DATA_URI_BYTES = 8 << 20
URIS_MAX = 10_000
"""Most images or frames of one query or document."""


def _image_uri(value: str) -> str:
    """Check the shape of an image's URI. No message repeats it: it may hold a signature."""
    if (data_uri := _data_uri(value)) is not None:
        return data_uri
    if len(value) > URI_CHARACTERS:
        raise PydanticCustomError("uri", f"the URI is longer than {URI_CHARACTERS} characters")
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", value)
    if scheme and scheme[1] not in _URI_SHAPES:
        raise PydanticCustomError(
            "uri", "expected s3://, https://, http://, file://, data:image/… or a path"
        )
    shape = _URI_SHAPES[scheme[1]] if scheme else r"[^\0]*[^\s\0][^\0]*"
    if not re.fullmatch(shape, value):
        raise PydanticCustomError("uri", "the URI or path is incomplete or malformed")
    if not value.isascii():
        _refuse_surrogates(value)
    return value


_URI_SHAPES = {
    "s3": r"s3://[^/\s\0]+/[^\0]+",
    "https": r"https://[^/\s\0]+[^\s\0]*",
    "http": r"http://[^/\s\0]+[^\s\0]*",
    "file": r"file:///[^\0]+",
}


def _data_uri(value: str) -> str | None:
    """A data: URI, or base64 alone, in the usual form; None for another address. What it holds is
    checked where it is decoded, so that wrong base64 costs its own item only."""
    try:
        uri = as_data_uri(value)
    except WrongData as error:
        raise PydanticCustomError(
            "uri", "the data: URI holds no image: {why}", {"why": str(error)}
        ) from None
    if uri is None:
        return None
    if len(uri) > DATA_URI_BYTES:
        raise PydanticCustomError(
            "uri", f"the data: URI has {len(uri)} bytes, at most {DATA_URI_BYTES} are allowed"
        )
    if not uri.isascii():
        _refuse_surrogates(uri)
    return uri


def _refuse_surrogates(value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("uri", "holds half a surrogate pair, which is not text") from None


def _one_or_many(value: Any) -> Any:
    """A URI or a list of URIs, as a tuple."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Uris = Annotated[
    tuple[Annotated[str, AfterValidator(_image_uri)], ...],
    FailFast(),
    Field(max_length=URIS_MAX),
    BeforeValidator(_one_or_many),
]
"""Image URIs: s3://, https://, http://, file://, data:, base64 alone, or a local path."""
