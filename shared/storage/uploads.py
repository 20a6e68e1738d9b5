"""Files uploaded through the gateway: where they are stored, and for how long.

An upload is a folder of the storage, uploads/{expiry}-{random}/, with one file in it. One that was
made with an API key is called {expiry}-{random}-{digest of the key's name}. Which uploads have
expired is known from the names alone, oldest first, and so is whose they are; no other record is
kept.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from pathlib import Path
from urllib.parse import unquote

import structlog

from rerankfleet.shared.addresses import canonical, local_path, scheme_of
from rerankfleet.shared.errors import RerankError, UsageError
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.storage.objects import Objects

UPLOADS = "uploads"
SWEPT_AT_ONCE = 1000

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


def sweep_uploads(objects: Objects) -> int:
    """Remove expired uploads; returns how many. Repeatable."""
    now_s = time.time()
    swept = 0
    for upload_id in objects.folders(objects.at(UPLOADS) + "/", SWEPT_AT_ONCE):
        expires_s = upload_id.partition("-")[0]
        if not (expires_s.isdigit() and int(expires_s) < now_s):
            continue
        try:
            objects.delete_tree(upload_uri(objects, upload_id))
            swept += 1
        except RerankError as error:  # one must not starve the others
            log.warning("an upload is not removed yet", upload=upload_id, error=str(error))
    return swept
