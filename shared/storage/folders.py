"""Folders of a disk: their files in a stable order, their removal, and copies that share bytes."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rerankfleet.shared.heartbeat import beat
from rerankfleet.shared.storage.errors import FULL, clear_errors


def remove_tree(path: Path) -> None:
    """Remove a folder with all in it, or a link to one; what is gone already is fine."""

    def unless_gone(_function: object, _path: str, caught: Any) -> None:
        if not isinstance(caught[1], FileNotFoundError):
            raise caught[1]

    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, onerror=unless_gone)


COPY_BYTES = 64 << 20
"""Bytes that one call copies in the kernel."""


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file that nobody changes a second name, so that its bytes are shared and outlive the
    first one. Where the file system has no such names, it copies the bytes itself, shared if it
    can. The target appears whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{uuid.uuid4().hex}.draft")
    try:
        try:
            os.link(source, draft)
        except FileNotFoundError:
            raise
        except OSError:  # another file system, one without links, a file of another user
            _copy(source, draft)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)  # of two names of one file, a rename removes neither


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as data, target.open("wb") as copy:
        try:
            while os.copy_file_range(data.fileno(), copy.fileno(), COPY_BYTES):
                beat()
        except OSError as error:
            if error.errno in FULL:
                raise
            data.seek(0)  # between file systems of two kinds
            copy.truncate(0)
            copy.seek(0)
            shutil.copyfileobj(data, copy, COPY_BYTES)
        copy.flush()
        os.fsync(copy.fileno())


def walk(folder: Path, after: tuple[str, ...]) -> Iterator[Path]:
    """The files of a folder and its subfolders, by name, after the one whose path has the parts
    `after`. Hidden ones and links to folders are left out."""
    with clear_errors(str(folder)), os.scandir(folder) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        beat()
        edge = after[0] if after else ""
        if entry.name < edge or entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from walk(Path(entry.path), after[1:] if entry.name == edge else ())
        elif entry.name != edge and _is_file(entry):
            yield Path(entry.path)


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file, or a link that leads nowhere: that is an error of its own, later."""
    try:
        return entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists())
    except OSError:  # a link that leads to itself
        return True
