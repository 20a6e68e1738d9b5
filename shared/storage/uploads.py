"""Files uploaded through the gateway: where they are stored, and for how long.

An upload is a folder of the storage, uploads/{expiry}-{random}/, with one file in it, and its hash
where a job may be made of it. One that was made with an API key is called
{expiry}-{random}-{digest of the key's name}. Which uploads have expired is known from the names
alone, oldest first, and so is whose they are.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from pathlib import Path
from urllib.parse import unquote

import structlog

from rerankfleet.shared.addresses import canonical, local_path, scheme_of
from rerankfleet.shared.errors import ObjectMissing, RerankError, UsageError
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.storage.objects import Objects
from rerankfleet.shared.storage.scopes import UPLOADS

SWEPT_AT_ONCE = 1000
HASH = "sha256"
"""The name of the file with the hash of an upload, in hexadecimal."""
HASH_BYTES = 64

log = structlog.get_logger()


def uploads_uri(settings: Settings) -> str:
    """The prefix of all uploads, with a slash at its end."""
    return f"{settings.storage_uri}/{UPLOADS}/"


def is_upload(uri: str, settings: Settings) -> bool:
    """Whether a URI names an upload, and does not leave the folder of uploads by `..`."""
    return uri.startswith(uploads_uri(settings)) and "/../" not in unquote(uri)


def new_upload(ttl_s: float, owner: str = "") -> tuple[str, int]:
    """The id of a new upload, which cannot be guessed, and when it expires, in Unix time."""
    expires_s = int(time.time() + ttl_s)
    return f"{expires_s:010d}-{secrets.token_hex(16)}{_mark(owner)}", expires_s


def _mark(owner: str) -> str:
    """How the ids of an owner's uploads end."""
    return f"-{hashlib.sha256(owner.encode()).hexdigest()[:16]}" if owner else ""


class OwnUploads:
    """Tells the uploads of one owner from those of others."""

    def __init__(self, settings: Settings) -> None:
        self._all = uploads_uri(settings)
        is_folder = self._all.startswith("file:")
        self._folder = local_path(self._all).resolve() if is_folder else None

    def is_own(self, address: str, owner: str) -> bool:
        """Whether an address lies in an upload of this owner, links and `..` resolved."""
        inside = self._inside(address)
        return inside is not None and bool(inside) and inside[0].endswith(_mark(owner))

    def is_foreign(self, address: str, owner: str) -> bool:
        """Whether it lies in the folder of uploads, but in none of this owner."""
        return self._inside(address) is not None and not self.is_own(address, owner)

    def _inside(self, address: str) -> list[str] | None:
        """The names on the way from the folder of uploads to an address; None if it is elsewhere,
        or no address: whoever reads it says so."""
        try:
            return self._names_inside(canonical(address))
        except (UsageError, OSError, ValueError, RuntimeError):
            return None

    def _names_inside(self, address: str) -> list[str] | None:
        scheme = scheme_of(address)
        if self._folder is not None:
            if scheme not in ("", "file"):
                return None
            path = (local_path(address) if scheme else Path(address)).resolve()
            inside = path.is_relative_to(self._folder)
            return list(path.relative_to(self._folder).parts) if inside else None
        if scheme != "s3":
            return None
        parts, uploads = _names(address), _names(self._all)
        if ".." in parts:  # which some servers resolve
            return []
        return parts[len(uploads) :] if parts[: len(uploads)] == uploads else None


def _names(uri: str) -> list[str]:
    return [name for name in uri.partition("://")[2].split("/") if name not in ("", ".")]


def upload_uri(objects: Objects, upload_id: str, *name: str) -> str:
    """The URI of an upload, or of the file `name` in it."""
    return objects.at(UPLOADS, upload_id, *name)


def record_hash(objects: Objects, upload_id: str, sha256: str) -> None:
    """Keep the hash of an upload beside it, so that nobody need read it again."""
    objects.write(upload_uri(objects, upload_id, HASH), sha256.encode())


def recorded_hash(objects: Objects, uri: str) -> str | None:
    """The hash of the upload at `uri`, where one was kept."""
    try:
        text = objects.read(f"{uri.rpartition('/')[0]}/{HASH}")
    except ObjectMissing:
        return None
    return text.decode() if len(text) == HASH_BYTES else None


def sweep_uploads(objects: Objects, *, unfinished: bool = True) -> tuple[int, float]:
    """Remove expired uploads, and with `unfinished` what was never completed of them. Returns how
    many, and the time before which none is left, in Unix time. Repeatable."""
    swept, now_s = 0, time.time()
    left_s = now_s
    room = objects.at(UPLOADS) + "/"
    names = objects.folders(room, SWEPT_AT_ONCE)
    for upload_id in {*names, *(objects.unfinished(room) if unfinished else ())}:
        expires_s = upload_id.partition("-")[0]
        if not (expires_s.isdigit() and int(expires_s) < now_s):
            continue
        if remove_upload(objects, upload_id):
            swept += 1
        else:
            left_s = min(left_s, int(expires_s))
    if len(names) == SWEPT_AT_ONCE:
        left_s = 0.0  # there are more
    return swept, left_s


def remove_upload(objects: Objects, upload_id: str) -> bool:
    """Remove an upload, complete or not. False when that cannot be done now, which is logged: one
    must not starve the others."""
    try:
        objects.delete_tree(upload_uri(objects, upload_id))
    except RerankError as error:
        log.warning("an upload is not removed yet", upload=upload_id, error=str(error))
        return False
    return True
