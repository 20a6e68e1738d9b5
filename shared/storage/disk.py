"""The disk of the storage, where that is a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from rerankfleet.shared.addresses import local_path
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.storage.errors import clear_errors


def free_bytes(folder: Path) -> int:
    """Free bytes of the disk that a folder is on, or will be. Raises StorageUnavailable."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    with clear_errors(str(folder)):
        return shutil.disk_usage(folder).free


def free_in_storage(settings: Settings) -> int | None:
    """Free bytes of the storage's disk; None where the storage is no folder."""
    if not settings.storage_uri.startswith("file:"):
        return None
    return free_bytes(local_path(settings.storage_uri))
