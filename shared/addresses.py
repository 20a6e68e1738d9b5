"""Addresses: what they name, and what of them may be shown. The one place that takes them apart.

    path                 a name, taken as it is: nothing in it is an escape, a query or a fragment
    file:///path         the same, with %XX for any byte; `?` and `#` are part of the name.
    file:path            Without slashes it is a relative path
    s3://bucket/key      the key is taken as it is
    http://  https://    a URL, read as kindly as a browser reads it
    data:                the bytes themselves

Knows nothing of what lies at an address.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, unquote_plus, unquote_to_bytes

from rerankfleet.shared.errors import UsageError

SHOWN_CHARACTERS = 200
"""Of an address in a message."""

_SCHEME = re.compile(r"\s*(?:([a-z][a-z0-9+.-]*)://|(data|file):)", re.I)
_URL_SCHEMES = ("http", "https")


def scheme_of(address: str) -> str:
    """The scheme of an address in lower case; empty for a path."""
    match = _SCHEME.match(address)
    return (match[1] or match[2]).lower() if match else ""


# ---- paths --------------------------------------------------------------------------------------

_UNPRINTABLE = r"\x00-\x1f\x7f-\x9f\u2028\u2029\udc80-\udcff"
"""What would break a line or a terminal, and the bytes of names that are not UTF-8."""
_ESCAPED = re.compile(rf"[%?#{_UNPRINTABLE}]|(?<!\s)\s+\Z")
_ESCAPED_WHEN_SHOWN = re.compile(f"[{_UNPRINTABLE}]")


def file_uri(path: Path | str) -> str:
    """The address of a local file or folder, made absolute. `local_path` is its inverse."""
    return path_address(str(Path(path).resolve()))


def path_address(path: str) -> str:
    """A path as an address that holds any name: `file:///…`, or `file:…` for a relative one.
    Names of ordinary characters, blanks and other scripts too, read as they are."""
    return ("file://" if path.startswith("/") else "file:") + _ESCAPED.sub(_percent, path)


def local_path(uri: str) -> Path:
    """The path of a file: address. Raises UnicodeEncodeError for half a surrogate pair."""
    rest = uri.removeprefix("file:").removeprefix("//")
    return Path(os.fsdecode(unquote_to_bytes(rest.encode("utf-8", "surrogateescape"))))


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape"))


# ---- what people write --------------------------------------------------------------------------

_URL = re.compile(r"https?://([^/?#]*)(.*)", re.I | re.S)
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]*)(?::([0-9]*))?", re.I)
_PLAIN_HOST = re.compile(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NOT_OF_URLS = re.compile(r"[^\x21-\x7e]")
_DEVIATIONS = "ßς\u200c\u200d"
"""Characters that older and newer rules for host names read differently."""
_PORT_MAX = 65_535


def canonical(address: str) -> str:
    """An address as programs compare and read it.

    Schemes and hosts become lower case and hosts ASCII; blanks around a URL are trimmed, those in
    it and characters of other scripts are quoted; `file:/path` and `file://localhost/path` become
    `file:///path`. Keys, paths and data: stay as they are. Raises UsageError, which does not repeat
    the address, for what cannot be one.
    """
    scheme = scheme_of(address)
    if scheme in _URL_SCHEMES:
        return _canonical_url(scheme, address.strip())
    if scheme == "file":
        return _canonical_file(address.strip())
    if scheme == "s3":
        return _canonical_s3(address.lstrip())
    return address


def _canonical_file(address: str) -> str:
    rest = address[len("file:") :]
    if local := re.match(r"//(?:localhost)?(?=/)", rest, re.I):
        return f"file://{rest[local.end() :]}"
    if rest.startswith("//"):
        raise UsageError("the address names a host", hint="write file:///path")
    return f"file://{rest}" if rest.startswith("/") else f"file:{rest}"


def _canonical_s3(address: str) -> str:
    bucket = address[len("s3://") :].partition("/")[0]
    if "@" in bucket:
        raise UsageError(
            "an s3:// address has no user and password",
            hint="write s3://bucket/key, and give the credentials as AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY",
        )
    return f"s3{address[2:]}"


def _canonical_url(scheme: str, address: str) -> str:
    if _CONTROL.search(address):
        raise _no_url("it holds a line break or another control character", "write one address")
    match = _URL.fullmatch(address)
    assert match
    if "\\" in match[1]:  # where a browser would see a path begin, and others a user
        raise _no_url("its host holds a backslash", "write https://host/path")
    login, at, host = match[1].rpartition("@")
    try:
        login, rest = _NOT_OF_URLS.sub(_percent, login), _NOT_OF_URLS.sub(_percent, match[2])
    except UnicodeEncodeError:
        raise _no_url("it holds half a surrogate pair", "repair the text's encoding") from None
    return f"{scheme}://{login}{at}{canonical_host(host)}{rest}"


def canonical_host(host: str) -> str:
    """A host, maybe with its port, in lower case and ASCII. Raises UsageError when it is none."""
    parts = _HOST.fullmatch(host)
    if parts is None:
        raise _no_url("its host is malformed", "write https://host/path or https://host:port/path")
    name, port = parts[1].lower(), parts[2] or ""
    if not name:
        raise _no_url("it names no host", "write https://host/path")
    if not name.isascii():
        name = _ascii_host(name)
    if not _PLAIN_HOST.fullmatch(name):
        raise _no_url("its host holds a character that no host has", "write https://host/path")
    if port and int(port) > _PORT_MAX:
        raise _no_url("its port is out of range", f"use 1 to {_PORT_MAX}")
    return f"{name}:{port}" if port else name


def _ascii_host(name: str) -> str:
    hint = "write it in its ASCII form, xn--…"
    if any(character in _DEVIATIONS for character in name):
        raise _no_url("its host holds a character that is read in two ways", hint)
    try:
        return name.encode("idna").decode().lower()
    except UnicodeError:
        raise _no_url("its host holds a character that no host has", hint) from None


def _no_url(why: str, hint: str) -> UsageError:
    return UsageError(f"the address is not a valid URL: {why}", hint=hint)


# ---- what is shown ------------------------------------------------------------------------------

_SIGNING_PREFIXES = ("x-amz-", "x-goog-", "x-oss-", "x-cos-", "x-obs-", "x-tos-", "x-bce-")
_SIGNING = frozenset(
    # AWS and CloudFront, Google, Alibaba, Huawei, Baidu; Azure's signature
    "awsaccesskeyid signature expires key-pair-id googleaccessid ossaccesskeyid security-token sig "
    "accesskeyid authorization "
    # Tencent, Akamai
    "q-sign-algorithm q-ak q-sign-time q-key-time q-header-list q-url-param-list q-signature "
    "hdnts hdnea hdntl "
    # what is secret by its name
    "token access_token auth_token id_token api_key apikey password passwd secret client_secret "
    "hmac".split()
)
_SIGNING_WITH_A_SIGNATURE = frozenset(
    # the other fields of CloudFront and of Azure's shared access signatures: short names, which
    # may mean anything else in an address that nobody signed
    "policy hash-algorithm sv ss srt sr sp st se spr sip si sdd ses "
    "skoid sktid skt ske sks skv saoid suoid scid".split()
)
_SIGNATURES = ("signature", "sig")
_AUTHORITY = re.compile(r"(\s*(?:[a-z][a-z0-9+.-]*://|(?:https?|s3|rediss?):/*))([^/?#]*)", re.I)


def without_secrets(address: str) -> str:
    """An address as it names an image in rows and reports: whole, but without user and password,
    and without the fields of a query that sign it. A path, a key and a file: address are
    unchanged; of a data: URI its kind and length are left."""
    scheme = scheme_of(address)
    if scheme == "data":
        return f"{address[:40].partition(',')[0]},… ({len(address):,} characters)"
    address = without_login(address)
    return address if scheme in ("", "s3", "file") else _unsigned(address)


def safe_uri(address: str) -> str:
    """An address fit for a message or a log: that of `without_secrets`, a URL also without its
    query and fragment, in one line and not too long."""
    shown = without_secrets(address)
    if scheme_of(address) not in ("", "s3", "file", "data"):
        shown = re.split("[?#]", shown, maxsplit=1)[0]
    shown = printable(shown)
    return shown if len(shown) <= SHOWN_CHARACTERS else f"{shown[:SHOWN_CHARACTERS]}…"


def printable(name: str) -> str:
    """A path or an address in characters that any file and terminal holds. What cannot be shown as
    it is becomes %XX: of a path, in its file: address, which can be used in its place."""
    if not _ESCAPED_WHEN_SHOWN.search(name):
        return name
    return _ESCAPED_WHEN_SHOWN.sub(_percent, name) if scheme_of(name) else path_address(name)


def without_login(address: str) -> str:
    """An address without user and password, and with all else: it can still be fetched where it is
    signed."""
    match = _AUTHORITY.match(address)
    if match is None:
        return address
    authority, end = match[2], match.end(2)
    host = authority.rpartition("@")[2]
    if host == authority and re.search(r":(?!\d*\Z)", authority.rpartition("]")[2]):
        # no port: the beginning of a password that holds one of / ? #
        end = max(end, address.rfind("@") + 1)
        host = "" if end > match.end(2) else host
    return f"{match[1]}{host}{address[end:]}"


def _unsigned(address: str) -> str:
    """A URL without the fields that sign it, in its query and in its fragment."""
    front, hash_, fragment = address.partition("#")
    front, _, query = front.partition("?")
    query = _without_signing(query)
    fragment = _without_signing(fragment) if "=" in fragment else fragment
    return front + (f"?{query}" if query else "") + (f"{hash_}{fragment}" if fragment else "")


def _without_signing(query: str) -> str:
    fields = query.split("&")
    names = [_field_name(field) for field in fields]
    signed = any(name in _SIGNATURES for name in names)
    return "&".join(
        field for field, name in zip(fields, names, strict=True) if not _signs(name, signed)
    )


def _field_name(field: str) -> str:
    return unquote_plus(field.partition("=")[0]).lower().removeprefix("amp;").strip()


def _signs(name: str, signed: bool) -> bool:
    if name.startswith(_SIGNING_PREFIXES) or name in _SIGNING:
        return True
    return signed and name in _SIGNING_WITH_A_SIGNATURE


def login_of(authority: str) -> str:
    """The user and password of a URL's authority, `user:password`; empty where it has none."""
    return unquote(authority.rpartition("@")[0])


def mask(url: str) -> str:
    """Return the URL without its password, in its query too, fit to be printed."""
    url = re.sub(r"([?&]password=)[^&#]*", r"\1***", url, flags=re.I)
    front, at, host = url.rpartition("@")
    scheme, separator, secret = front.partition("://") if "://" in front else ("", "", front)
    user = secret.partition(":")[0]
    return f"{scheme}{separator}{user}:***@{host}" if at else url
