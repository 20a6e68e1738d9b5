"""Folders of a disk: their files in a stable order, their removal, and copies that share bytes.

No link is followed."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from rerankfleet.shared.heartbeat import beat
from rerankfleet.shared.storage.below import listable, new_file, open_file, open_folder
from rerankfleet.shared.storage.errors import FULL, clear_errors


def remove_tree(name: str, folder: int) -> None:
    """Remove a folder with all in it, or a link, from the folder of a handle; what is gone already
    is fine."""

    def unless_gone(_function: object, _path: str, caught: Any) -> None:
        if not isinstance(caught[1], FileNotFoundError):
            raise caught[1]

    try:
        if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            shutil.rmtree(name, onerror=unless_gone, dir_fd=folder)
        else:
            os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return


COPY_BYTES = 64 << 20
"""Bytes that one call copies in the kernel."""


def link_or_copy(name: str, folder: int, copy: str, copy_folder: int) -> None:
    """Give a file that nobody changes a second name, so that its bytes are shared and outlive the
    first one. Where the file system has no such names, the bytes are copied, shared if it can.
    Raises NotAFile and other OSErrors."""
    source = open_file(name, folder)
    try:
        if not _linked(name, folder, copy, copy_folder, os.fstat(source)):
            _copy(source, new_file(copy, copy_folder))
    finally:
        os.close(source)


def _linked(name: str, folder: int, copy: str, copy_folder: int, source: os.stat_result) -> bool:
    """Whether a second name was given to the file `source`."""
    try:
        os.link(name, copy, src_dir_fd=folder, dst_dir_fd=copy_folder, follow_symlinks=False)
    except OSError:  # another file system, one without links, a file of another user
        return False
    if os.path.samestat(os.stat(copy, dir_fd=copy_folder, follow_symlinks=False), source):
        return True
    os.unlink(copy, dir_fd=copy_folder)  # the name was swapped meanwhile
    return False


def _copy(source: int, target: int) -> None:
    with os.fdopen(os.dup(source), "rb") as data, os.fdopen(target, "wb") as copy:
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


def walk(
    handle: int, path: Path, after: tuple[str, ...], hidden: Container[Path] = ()
) -> Iterator[Path]:
    """The files of a folder and its subfolders, by name, after the one whose path has the parts
    `after`. Those whose names begin with a dot, folders that are `hidden` and links to folders are
    left out. `path` is that of the handle."""
    with listable(handle) as folder:
        with clear_errors(str(path)), os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
        for entry in entries:
            beat()
            edge = after[0] if after else ""
            if entry.name < edge or entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                if path / entry.name in hidden:
                    continue
                with clear_errors(str(path / entry.name)):
                    below = open_folder([entry.name], folder)
                try:
                    beyond = after[1:] if entry.name == edge else ()
                    yield from walk(below, path / entry.name, beyond, hidden)
                finally:
                    os.close(below)
            elif entry.name != edge and _is_file(entry, folder):
                yield path / entry.name


def _is_file(entry: os.DirEntry[str], folder: int) -> bool:
    """Whether it is a file, or a link that leads nowhere: that is an error of its own, later."""
    try:
        return entry.is_file() or (entry.is_symlink() and not _leads_somewhere(entry.name, folder))
    except OSError:  # a link that leads to itself
        return True


def _leads_somewhere(link: str, folder: int) -> bool:
    try:
        os.stat(link, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True
