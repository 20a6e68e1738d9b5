"""A worker that dies when it reads a certain text, as from a broken codec or kernel, and its
launcher. Workers are forked, so that what takes long to import is imported once."""

from __future__ import annotations

import os
import sys
from typing import Any

import rerankfleet.workers.engine  # noqa: F401  (it brings torch)
from rerankfleet.workers.__main__ import main
from rerankfleet.workers.prepare import Preparer

POISON = "this text kills its worker"
DEATH = 9

prepare = Preparer.prepare


def prepare_or_die(self: Preparer, slices: Any, *others: Any, **options: Any) -> Any:
    """Die without cleaning up, like a killed process."""
    if any(document.text == POISON for piece in slices for document in piece.documents):
        os._exit(DEATH)
    return prepare(self, slices, *others, **options)


def launch() -> int:
    """Run one worker after the other until one does not die of the text; its exit status."""
    while True:
        worker = os.fork()
        if not worker:
            sys.exit(main())
        _, status = os.waitpid(worker, 0)
        if os.waitstatus_to_exitcode(status) != DEATH:
            return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    Preparer.prepare = prepare_or_die  # type: ignore[method-assign]
    sys.exit(launch())
