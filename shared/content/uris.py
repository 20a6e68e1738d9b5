"""The shape of an image's URI: s3://, https://, http://, file://, data: or a local path."""

from __future__ import annotations

import base64
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, FailFast, Field
from pydantic_core import PydanticCustomError

from rerankfleet.shared.addresses import canonical, printable, scheme_of
from rerankfleet.shared.content.data_uris import WrongData, as_data_uri
from rerankfleet.shared.errors import UsageError

URI_CHARACTERS = 8 << 10
"""Longest URI or path of an image; data: URIs carry the image and have a limit of their own."""
DATA_URI_BYTES = 8 << 20
URIS_MAX = 10_000
"""Most images or frames of one query or document."""


def data_uri(kind: str, data: bytes) -> str:
    """A file's bytes as a URI of `image/{kind}`."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _image_uri(value: str) -> str:
    """Check an image's URI. Returns it as it was written, but for blanks around it; a name that is
    not UTF-8 becomes one that is. No message repeats it: it may hold a signature."""
    if (data_uri := _data_uri(value)) is not None:
        return data_uri
    if len(value) > URI_CHARACTERS:
        raise PydanticCustomError("uri", f"the URI is longer than {URI_CHARACTERS} characters")
    scheme = scheme_of(value)
    if scheme not in _URI_SHAPES:
        raise PydanticCustomError(
            "uri", "expected s3://, https://, http://, file://, data:image/… or a path"
        )
    try:
        address = canonical(value)
    except UsageError as error:
        raise _malformed(f": {error.message}") from None
    if not re.fullmatch(_URI_SHAPES[scheme], address):
        raise _malformed()
    if scheme:
        value = value.lstrip() if scheme == "s3" else value.strip()
    return value if value.isascii() else _as_text(scheme, value)


_URI_SHAPES = {
    "": r"[^\0]*[^\s\0][^\0]*",
    "s3": r"s3://[^/\s\0]+/[^\0]+",
    "https": r"https://.+",
    "http": r"http://.+",
    "file": r"file:(///|(?!/))[^\0]+",
}
"""Of canonical addresses, by scheme; a path has none."""


def _malformed(why: str = "") -> PydanticCustomError:
    text = "the URI or path is incomplete or malformed{why}"
    return PydanticCustomError("uri", text, {"why": why})


def _as_text(scheme: str, value: str) -> str:
    """An address whose bytes that are not UTF-8 stand as %XX. A key has none: it is text."""
    try:
        value.encode()
    except UnicodeEncodeError:
        value = value if scheme == "s3" else printable(value)
        _refuse_surrogates(value)
    return value


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
