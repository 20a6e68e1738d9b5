"""Files uploaded through the gateway: where they are stored, and for how long.

An upload is a folder of the storage, uploads/{expiry}-{random}/, with one file in it, and its hash
where a job may be made of it. Which uploads have expired is known from the names alone, oldest
first.
"""

from __future__ import annotations

import secrets
import time
from urllib.parse import unquote

import structlog

from rerankfleet.shared.errors import ObjectMissing, RerankError
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.storage.objects import Objects

UPLOADS = "uploads"
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


def new_upload(ttl_s: float) -> tuple[str, int]:
    """The id of a new upload, which cannot be guessed, and when it expires, in Unix time."""
    expires_s = int(time.time() + ttl_s)
    return f"{expires_s:010d}-{secrets.token_hex(16)}", expires_s


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
