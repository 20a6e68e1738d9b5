"""Files that whoever runs a command names: outputs with that person's own rights, anywhere."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


def is_stream(path: Path) -> bool:
    """Whether a path is a pipe or a device, which is written to and never replaced: also where
    standard output, /dev/stdout, is a file."""
    if not os.path.exists(path) or path.is_dir():
        return False
    return path.absolute().is_relative_to("/dev") or not path.is_file()


@contextmanager
def publish_file(path: Path) -> Iterator[IO[bytes]]:
    """Write a local file under a temporary name; it is renamed when the block ends well. A pipe or
    a device is written to as it is."""
    if is_stream(path):
        with path.open("ab") as stream:  # what standard output holds already is kept
            yield stream
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{uuid.uuid4().hex}.draft")  # short, however long the name is
    try:
        with draft.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
