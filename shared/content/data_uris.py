"""Files inside a URI, as people write them: data: URIs (RFC 2397), and base64 alone.

    data:image/png;base64,iVBORw0KGgo…     the usual form
    DATA:;charset=utf-8;base64,iVBOR…      any type, parameters, or none: the bytes say what it is
    data:image/svg+xml,%3Csvg%20…          percent-encoded
    iVBORw0KGgo…                           base64 of an image, alone

Base64 may have line breaks and blanks, the URL-safe alphabet, percent-encoded characters, and no
padding.
"""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote, unquote_to_bytes

HEAD_CHARACTERS = 1000
"""The comma that ends a data: URI's type is looked for in so many first characters."""
PATH_CHARACTERS = 4096
"""What begins like base64 of an image and is longer is no path, even if it is wrong base64."""

_HEAD = re.compile(r'\s*data:(?P<type>(?:[^,"]|"[^"]*")*),', re.IGNORECASE)
_ALONE = re.compile(
    r"""\s*(?:[/_]9j[/_]            # JPEG
        | iVBORw0KGg                # PNG
        | R0lGOD[dl]h               # GIF
        | UklGR.{6}XRUJQ            # WebP
        | Qk.{6}AAAAA               # BMP
        | SUkqA | TU0AK | SUkrA     # TIFF
        | AAAA.{2}Z0eX              # AVIF, HEIC
        )""",
    re.VERBOSE,
)
"""How base64 of an image begins, where nothing else says that it is base64."""
_BASE64 = re.compile(r"[A-Za-z0-9+/=_\s-]+")
_WRONG = re.compile(r"[^A-Za-z0-9+/_\s-]")
_URL_SAFE = str.maketrans("-_", "+/")


class WrongData(ValueError):
    """A data: URI that holds no file; `str(error)` says what is wrong with it, and where."""


def is_data_uri(value: str) -> bool:
    """Whether it is a data: URI, in whatever case, also after blanks."""
    return value[:HEAD_CHARACTERS].lstrip()[:5].lower() == "data:"


def carries_file(value: str) -> bool:
    """Whether it is a data: URI or base64 of an image alone, rather than the address of one."""
    return is_data_uri(value) or _is_alone(value)


def _is_alone(value: str) -> bool:
    if not _ALONE.match(value[:HEAD_CHARACTERS]):
        return False
    return len(value) > PATH_CHARACTERS or _BASE64.fullmatch(value) is not None


def as_data_uri(value: str) -> str | None:
    """A data: URI, or base64 of an image alone, as a URI that begins with `data:` and holds
    something. None for anything else. Raises WrongData."""
    if not is_data_uri(value):
        return f"data:;base64,{value.strip()}" if _is_alone(value) else None
    _, start = _head(value)
    if not value[start:].strip():
        raise WrongData("there is nothing after its comma")
    return f"data:{value.lstrip()[5:].rstrip()}"


def _head(uri: str) -> tuple[str, int]:
    """The type with its parameters, and where the data begins. Raises WrongData."""
    head = _HEAD.match(uri[:HEAD_CHARACTERS])
    if head is None:
        raise WrongData("there is no comma between its type and its data")
    return head["type"], head.end()


def data_of(uri: str, max_bytes: int) -> bytes | None:
    """The bytes of a data: URI; None where there are more than `max_bytes`. Raises WrongData."""
    kind, start = _head(uri)
    body = uri[start:]
    if "base64" in (part.strip().lower() for part in kind.split(";")):
        return _base64(body, max_bytes)
    if len(body) > 3 * max_bytes:  # a byte takes three characters at the most
        return None
    data = unquote_to_bytes(body)
    return data if len(data) <= max_bytes else None


def _base64(body: str, max_bytes: int) -> bytes | None:
    """Decoded; None where it is too long."""
    if "%" in body:
        body = unquote(body)
    padded = "".join(body.split())
    text = padded.rstrip("=")
    if len(text) * 3 // 4 > max_bytes:
        return None
    wrong = _WRONG.search(text)
    if wrong is not None:
        raise WrongData(_where(body, wrong[0]))
    if len(text) % 4 == 1 or (text != padded and len(padded) % 4):
        raise WrongData(f"its base64 has {len(padded):,} characters: some of them are missing")
    if _lost_pluses(body, text):
        raise WrongData("its base64 has blanks where each `+` was: write %2B in a form")
    try:
        return base64.b64decode(text.translate(_URL_SAFE) + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as error:
        raise WrongData("its base64 cannot be decoded") from error


def _lost_pluses(body: str, text: str) -> bool:
    """Whether blanks stand for `+`, as forms are decoded: to drop them would give another image.
    Blanks that people write make groups of one length, and leave each `+` where it is."""
    if " " not in body.strip() or "+" in text or "-" in text:
        return False
    groups = [line.split(" ") for line in body.strip().splitlines()]
    inner = {len(group) for line in groups for group in line[1:-1]}
    return len(inner - {0}) > 1


def _where(body: str, wrong: str) -> str:
    """Where base64 has a character that it cannot have: that at its end may be padding."""
    at = body.rstrip("= \t\r\n").index(wrong)
    return f"its base64 has {wrong!r} at character {at + 1:,}, which is not base64"
