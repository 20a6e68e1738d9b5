"""The ids of jobs and uploads: what enters keys, paths and messages."""

from __future__ import annotations

import re
import uuid

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def new_id() -> str:
    """An id that no other job has."""
    return uuid.uuid4().hex[:12]


def is_id(text: str) -> bool:
    """Whether a text can be an id: it may come from a message, a record or a URL of others."""
    return _ID.fullmatch(text) is not None
