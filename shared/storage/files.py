"""Files by their file: URIs: the half of `Objects` that speaks to a disk."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO, cast

from rerankfleet.shared.addresses import local_path, path_address, printable
from rerankfleet.shared.errors import NotAllowed, StorageRefused, UsageError
from rerankfleet.shared.storage.below import (
    PATH_BYTES_MAX,
    Closed,
    NotAFile,
    Outside,
    Roots,
    listable,
    new_file,
    open_file,
    open_folder,
    replace_file,
)
from rerankfleet.shared.storage.errors import clear_errors
from rerankfleet.shared.storage.folders import link_or_copy, remove_tree, walk
from rerankfleet.shared.storage.names import Stat, is_name

NAME_BYTES_MAX = 255
"""Of a file or folder: the limit of common file systems."""


def path_of(uri: str) -> Path:
    """The path of a file: URI, as it is written.

    Raises UsageError where it is not a path, or a relative one: that would depend on the working
    folder of this process.
    """
    try:
        path = local_path(uri)
        if not path.is_absolute():
            raise ValueError("it is not absolute")
        if max(len(os.fsencode(name)) for name in path.parts) > NAME_BYTES_MAX:
            raise ValueError(f"a name in it is longer than {NAME_BYTES_MAX} bytes")
        if len(os.fsencode(path)) > PATH_BYTES_MAX:
            raise ValueError(f"it is longer than {PATH_BYTES_MAX:,} bytes")
        if "\0" in str(path):
            raise ValueError("it holds a NUL")
        return path
    except ValueError as error:  # also half a character
        raise UsageError(
            f"{uri!r} is not a path ({error})", hint="write file:///folder/name"
        ) from error


class Mount:
    """The folder of the storage, where it is one: whether it was there, and is away."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._seen = False

    def refuse_away(self, path: Path) -> None:
        """Raise StorageRefused for a path in the folder when that was there before and is not: one
        made anew would be in the way when it comes back."""
        if self._folder is None or not path.is_relative_to(self._folder):
            return
        if self._folder.is_dir():
            self._seen = True
        elif self._seen:
            raise StorageRefused(
                f"the folder of the storage, {printable(str(self._folder))}, is away",
                hint="bring it back",
            )


class Files:
    """Reads and writes files by URI, in the allowed folders and nowhere else. The verbs are those
    of `Objects`, which describes them."""

    def __init__(self, roots: Roots, mount: Mount, lists: str = "ALLOWED") -> None:
        self._roots = roots
        self._mount = mount
        self._setting = f"RERANK_{lists}_ROOTS"

    def check(self, uri: str) -> None:
        """Raise NotAllowed or UsageError unless the file may be touched, as things stand now."""
        with self._refusals(uri):
            self._roots.locate(path_of(uri))

    # ---- reading --------------------------------------------------------------------------------

    def stat(self, uri: str) -> Stat:
        """Size and tag, of a folder too."""
        with self._clear_errors(uri):
            self._mount.refuse_away(path := path_of(uri))
            file = self._roots.stat(path)
            return Stat(file.st_size, str(file.st_mtime_ns))

    def open(self, uri: str, offset: int = 0) -> BinaryIO:
        """A stream of the file's bytes from `offset`."""
        with self._clear_errors(uri):
            self._mount.refuse_away(path := path_of(uri))
            stream = os.fdopen(self._roots.open_file(path), "rb")
            stream.seek(offset)
            return cast(BinaryIO, stream)

    # ---- listing --------------------------------------------------------------------------------

    def listing(self, uri: str, after: str) -> Iterator[str]:
        """The files in a folder and its subfolders, behind the one with the URI `after`."""
        with ExitStack() as stack:
            with self._clear_errors(uri):
                if self._roots.is_list_of_all(path_of(uri)):
                    raise Closed
                root, names = self._roots.locate(path_of(uri))
                path = root.joinpath(*names)
                folder = stack.enter_context(self._roots.folder(path))
            after_parts = local_path(after).relative_to(path).parts if after else ()
            for file in walk(folder, path, after_parts, self._roots.hidden()):
                yield path_address(str(file))

    def folders(self, uri: str, count: int) -> list[str]:
        """The names of the first folders directly in a folder."""
        with self._clear_errors(uri):
            try:
                with self._entries(path_of(uri)) as entries:
                    names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted(names)[:count]

    def is_folder(self, uri: str) -> bool:
        """Whether there is a folder."""
        with self._clear_errors(uri):
            try:
                with self._roots.folder(path_of(uri)):
                    return True
            except (FileNotFoundError, NotADirectoryError):
                return False

    def is_occupied(self, uri: str) -> bool:
        """Whether there is anything in a folder. Raises StorageRefused for a file."""
        with self._clear_errors(uri):
            try:
                with self._entries(path_of(uri)) as entries:
                    return next(entries, None) is not None
            except FileNotFoundError:
                return False
            except NotADirectoryError as error:
                raise StorageRefused(f"{printable(uri)} is a file", hint="name a folder") from error

    @contextmanager
    def _entries(self, path: Path) -> Iterator[Iterator[os.DirEntry[str]]]:
        with self._roots.folder(path) as handle, listable(handle) as folder:
            with os.scandir(folder) as entries:
                yield entries

    # ---- writing --------------------------------------------------------------------------------

    def try_writing(self, uri: str) -> None:
        """Raise unless a file could be made in a folder, or in the one in which it is made."""
        path = path_of(uri)
        with self._clear_errors(uri):
            for folder in (path, *path.parents):
                try:
                    with self._roots.folder(folder) as handle:
                        name = _draft_name(uuid.uuid4().hex)
                        os.close(new_file(name, handle))
                        os.unlink(name, dir_fd=handle)
                        return
                except FileNotFoundError:
                    continue

    @contextmanager
    def writer(self, uri: str) -> Iterator[IO[bytes]]:
        """A stream into a new file, which appears when the block ends well."""
        draft = _draft_name(uuid.uuid4().hex)  # short, however long the name is
        with self._clear_errors(uri), self._place(uri, make=True) as (folder, name):
            try:
                with os.fdopen(new_file(draft, folder), "wb") as stream:
                    yield stream
                    _to_disk(stream)  # a commit must never outlive the part file that it names
                replace_file(draft, name, folder)
            except BaseException:
                with suppress(OSError):
                    os.unlink(draft, dir_fd=folder)
                raise

    def copy(self, source: str, target: str) -> None:
        """Make a file of the bytes of another one, shared where the file system can."""
        draft = _draft_name(uuid.uuid4().hex)
        with self._clear_errors(target), self._place(target, make=True) as (folder, name):
            with self._place(source) as (from_folder, from_name):
                try:
                    link_or_copy(from_name, from_folder, draft, folder)
                    replace_file(draft, name, folder)
                finally:
                    with suppress(FileNotFoundError):  # of two names of one file, none is renamed
                        os.unlink(draft, dir_fd=folder)

    def new_draft(self, uri: str, name: str) -> str:
        """Begin a file that appears when it is published."""
        with self._clear_errors(uri), self._place(uri, make=True) as (folder, _):
            with suppress(FileExistsError):  # this is a retry
                os.close(new_file(_draft_name(name), folder))
        return name

    @contextmanager
    def draft_writer(self, uri: str, draft: str) -> Iterator[IO[bytes]]:
        """A stream into a draft. One that was discarded is gone."""
        with self._clear_errors(uri), self._place(uri) as (folder, _):
            with os.fdopen(open_file(_draft_name(draft), folder, os.O_RDWR), "r+b") as stream:
                yield stream
                _to_disk(stream)

    def publish(self, uri: str, draft: str) -> bool:
        """Make a draft the file. False when it is no draft any more."""
        with self._clear_errors(uri):
            try:
                with self._place(uri) as (folder, name):
                    replace_file(_draft_name(draft), name, folder)
            except FileNotFoundError:
                return False
        return True

    def discard(self, uri: str, draft: str) -> None:
        """Remove a draft, if there is one."""
        with self._clear_errors(uri), suppress(FileNotFoundError), self._place(uri) as (folder, _):
            os.unlink(_draft_name(draft), dir_fd=folder)

    def delete_tree(self, room: str, *names: str) -> None:
        """Remove what some names lead to from a folder of the storage, through no link."""
        uri = "/".join((room, *names))
        with self._clear_errors(uri), suppress(FileNotFoundError):
            with self._roots.folder(path_of(room)) as top:
                try:
                    folder = open_folder(names[:-1], top)
                except NotADirectoryError:  # a link is in the way
                    return
                try:
                    remove_tree(names[-1], folder)
                finally:
                    os.close(folder)

    @contextmanager
    def _place(self, uri: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The folder in which a file is written, as a handle, and the file's name in it. Where the
        name is a link, the link is replaced."""
        self._mount.refuse_away(path := path_of(uri))
        if path.name in ("", ".."):
            raise IsADirectoryError
        with self._roots.folder(path.parent, make=make) as folder:
            yield folder, path.name

    @contextmanager
    def _clear_errors(self, uri: str) -> Iterator[None]:
        with self._refusals(uri), clear_errors(uri):
            yield

    @contextmanager
    def _refusals(self, uri: str) -> Iterator[None]:
        """Turn what is refused into NotAllowed, which shows the path as it was given: where its
        links lead is nobody's business."""
        try:
            yield
        except NotAFile as error:
            raise NotAllowed(
                f"{printable(uri)} is a pipe, a socket or a device", hint="name a file"
            ) from error
        except Closed as error:
            raise kept(uri) from error
        except Outside as error:
            path = path_of(uri)
            if self._roots.seem_to_hold(path):
                raise NotAllowed(
                    f"{printable(uri)} is not allowed: a link in it leads out of the allowed "
                    "folders",
                    hint=f"name the file itself, and add its folder to {self._setting}",
                ) from error
            folder = printable(str(path.parent))
            raise NotAllowed(
                f"the folder {folder} is not allowed",
                hint=f"add it to {self._setting}: {self._setting}={folder}",
            ) from error


def kept(uri: str) -> NotAllowed:
    """The refusal of what the storage keeps for somebody else."""
    return NotAllowed(
        f"{printable(uri)} is not allowed: the storage keeps the files of other jobs there",
        hint="name a file of your own, or the URI of an upload",
    )


def _to_disk(stream: IO[bytes]) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _draft_name(draft: str) -> str:
    """The name of a draft, beside the file. Raises UsageError for what is no draft's name."""
    if not is_name(draft):
        raise UsageError(f"{draft!r} is not a draft")
    return f".{draft}.draft"
