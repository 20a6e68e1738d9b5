"""What is uploaded through the gateway: where it lies, and for how long.

An upload is a folder of the storage, uploads/{when it may go}-{random}/, with one file in it. So
what is over its time is known from names alone, oldest first, and nothing else remembers it.
"""

from __future__ import annotations

import secrets
import time
from urllib.parse import unquote

from rerankfleet.shared.settings import Settings
from rerankfleet.shared.storage.objects import Objects

UPLOADS = "uploads"
SWEPT_AT_ONCE = 1000


def uploads_uri(settings: Settings) -> str:
    """The prefix of all uploads, with a slash at its end."""
    return f"{settings.storage_uri}/{UPLOADS}/"


def is_upload(uri: str, settings: Settings) -> bool:
    """Whether a URI names something uploaded, and nothing else by a detour."""
    return uri.startswith(uploads_uri(settings)) and "/../" not in unquote(uri)


def new_upload(ttl_s: float) -> tuple[str, int]:
    """The id of a new upload, which nobody can guess, and when it may go, in Unix time."""
    expires_s = int(time.time() + ttl_s)
    return f"{expires_s:010d}-{secrets.token_hex(16)}", expires_s


def upload_uri(objects: Objects, upload_id: str, *name: str) -> str:
    """Where an upload lies, or the file `name` in it."""
    return objects.at(UPLOADS, upload_id, *name)


def sweep_uploads(objects: Objects) -> int:
    """Remove uploads that are over their time; returns how many. Repeatable."""
    now_s = time.time()
    swept = 0
    for upload_id in objects.folders(objects.at(UPLOADS) + "/", SWEPT_AT_ONCE):
        expires_s = upload_id.partition("-")[0]
        if expires_s.isdigit() and int(expires_s) < now_s:
            objects.delete_tree(upload_uri(objects, upload_id))
            swept += 1
    return swept
