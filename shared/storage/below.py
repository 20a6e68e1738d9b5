"""Files below allowed folders, opened so that nothing that is swapped meanwhile leads out of them.

A path is resolved, links and all, and must then lie below a root. From the root's handle it is
opened name by name, and no link is followed on that way: what was swapped since it was resolved is
a link where none may be, and the path is resolved anew. So links from one place in the roots to
another are followed, and one that leads out never is, whenever it appears.

Only regular files are opened. A pipe, a socket or a device is refused without waiting for it.
Knows nothing of URIs and of what the bytes mean.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

PATH_BYTES_MAX = 4096
"""Of a path that is opened here: resolving one takes time by the square of its length."""
TRIES = 8
"""So often a path is resolved that changes while it is opened."""

_SEARCH = getattr(os, "O_PATH", os.O_RDONLY)
"""To pass through a folder takes no right to list it, where the system can tell the two apart."""
_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_IS_LINK = frozenset({errno.ELOOP, errno.ENOTDIR, errno.EMLINK})
"""What a system says of a link that must not be followed. ENOTDIR is also said of a file."""

T = TypeVar("T")


class Outside(Exception):
    """A path that does not lie in the allowed folders, or that a link leads out of them."""


class NotAFile(Exception):
    """A pipe, a socket or a device."""


class Closed(Outside):
    """A path that lies in a closed folder."""


class Roots:
    """Folders below which files may be opened. A root itself may be a link: it is trusted.

    closed: folders in which nothing may be opened. Of roots and closed folders that hold one
        another the innermost decides, links resolved.
    unlisted: folders of which a listing says nothing, as of closed ones.
    """

    def __init__(
        self,
        folders: Iterable[Path],
        closed: Iterable[Path] = (),
        unlisted: Iterable[Path] = (),
    ) -> None:
        self._folders, self._closed = tuple(folders), tuple(closed)
        self._unlisted = tuple(unlisted)

    def locate(self, path: Path) -> tuple[Path, tuple[str, ...]]:
        """The root of an absolute path, and the names below it, links and `..` resolved. Raises
        Outside when it lies in no root, Closed when a closed folder is nearer than any root."""
        real = real_path(path)
        root = _innermost(real, self._folders)
        closed = _innermost(real, self._closed)
        if closed and (root is None or len(closed.parts) > len(root.parts)):
            raise Closed(path)
        if root is None:
            raise Outside(path)
        return root, real.relative_to(root).parts

    def hidden(self) -> frozenset[Path]:
        """The folders that are left out of listings."""
        return frozenset(map(real_path, (*self._closed, *self._unlisted)))

    def is_list_of_all(self, path: Path) -> bool:
        """Whether a path is that of a folder whose files are known to their owners only."""
        return real_path(path) in map(real_path, self._unlisted)

    def seem_to_hold(self, path: Path) -> bool:
        """Whether a path lies in a root as it is written: then a link leads out of it."""
        written = Path(os.path.normpath(path))
        return any(written.is_relative_to(os.path.normpath(folder)) for folder in self._folders)

    @contextmanager
    def folder(self, path: Path, *, make: bool = False) -> Iterator[int]:
        """A handle of a folder during the block; with `make`, folders that are missing are made."""
        handle = self._settled(path, lambda root, names: _folder_at(root, names, make=make))
        try:
            yield handle
        finally:
            os.close(handle)

    def open_file(self, path: Path, flags: int = os.O_RDONLY) -> int:
        """A handle of a regular file. Raises NotAFile, IsADirectoryError and other OSErrors."""
        return self._settled(path, lambda root, names: _file_at(root, names, flags))

    def stat(self, path: Path) -> os.stat_result:
        """What is known of a file or folder. Raises NotAFile."""
        found = self._settled(path, _stat_at)
        refuse_special(found.st_mode)
        return found

    def _settled(self, path: Path, act: Callable[[Path, tuple[str, ...]], T]) -> T:
        """What `act` returns for the place of a path, which is looked up again where it met a
        link. Raises Outside for one that never comes to rest."""
        place = self.locate(path)
        for _ in range(TRIES):
            try:
                return act(*place)
            except OSError as error:
                if error.errno not in _IS_LINK:
                    raise
                before, place = place, self.locate(path)
                if place == before:  # no link: a file that is passed through as a folder
                    raise
        raise Outside(path)


def real_path(path: Path) -> Path:
    """A path with links and `..` resolved, whether or not there is anything. Raises Outside for one
    that never comes to rest."""
    for _ in range(TRIES):
        with suppress(OSError):  # a link that was swapped between a look and its reading
            return Path(os.path.realpath(path))
    raise Outside(path)


def _innermost(path: Path, folders: Iterable[Path]) -> Path | None:
    holding = [folder for folder in map(real_path, folders) if path.is_relative_to(folder)]
    return max(holding, key=lambda folder: len(folder.parts), default=None)


# ---- through no link ----------------------------------------------------------------------------


def open_folder(names: Sequence[str], folder: int, *, make: bool = False) -> int:
    """A handle of a folder some names below another one's handle, reached through no link."""
    handle = os.open(".", _SEARCH | _FOLDER, dir_fd=folder)
    for name in names:
        try:
            below = _step(name, handle, make=make)
        finally:
            os.close(handle)
        handle = below
    return handle


def open_file(name: str, folder: int, flags: int = os.O_RDONLY) -> int:
    """A handle of a regular file in a folder, which is no link. Raises NotAFile at once for what
    one would wait for."""
    refuse_special(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)  # never opened
    try:
        handle = os.open(name, flags | _FILE, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a pipe that nobody reads, a socket
            raise NotAFile from error
        raise
    try:
        mode = os.fstat(handle).st_mode
        refuse_special(mode)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        os.set_blocking(handle, True)
    except BaseException:
        os.close(handle)
        raise
    return handle


def new_file(name: str, folder: int) -> int:
    """A handle to write a file that did not exist."""
    return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE, 0o666, dir_fd=folder)


def replace_file(draft: str, name: str, folder: int) -> None:
    """Rename a file within its folder. Raises NotAFile where a pipe or a device would go."""
    with suppress(FileNotFoundError):
        refuse_special(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    os.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)


@contextmanager
def listable(folder: int) -> Iterator[int]:
    """A handle of the same folder that can be listed, during the block."""
    handle = os.open(".", os.O_RDONLY | _FOLDER, dir_fd=folder)
    try:
        yield handle
    finally:
        os.close(handle)


def refuse_special(mode: int) -> None:
    """Raise NotAFile for the mode of a pipe, a socket or a device."""
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
        raise NotAFile


def _step(name: str, folder: int, *, make: bool) -> int:
    try:
        return os.open(name, _SEARCH | _FOLDER, dir_fd=folder)
    except FileNotFoundError:
        if not make:
            raise
    with suppress(FileExistsError):  # somebody else was faster
        os.mkdir(name, dir_fd=folder)
    return os.open(name, _SEARCH | _FOLDER, dir_fd=folder)


def _folder_at(root: Path, names: Sequence[str], *, make: bool = False) -> int:
    if make:
        root.mkdir(parents=True, exist_ok=True)
    top = os.open(root, _SEARCH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_folder(names, top, make=make)
    finally:
        os.close(top)


def _file_at(root: Path, names: Sequence[str], flags: int) -> int:
    if not names:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    folder = _folder_at(root, names[:-1])
    try:
        return open_file(names[-1], folder, flags)
    finally:
        os.close(folder)


def _stat_at(root: Path, names: Sequence[str]) -> os.stat_result:
    folder = _folder_at(root, names[:-1])
    try:
        found = os.stat(names[-1] if names else ".", dir_fd=folder, follow_symlinks=False)
    finally:
        os.close(folder)
    if stat.S_ISLNK(found.st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return found
