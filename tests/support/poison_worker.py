"""A worker that dies when it reads a certain text, as from a broken kernel, and whose process that
decodes dies of a certain image, as from a broken codec; and its launcher. Workers are forked, so
that what takes long to import is imported once. Each death is a line of the file POISON_LOG."""

from __future__ import annotations

import os
import sys
from typing import Any

import rerankfleet.workers.engine  # noqa: F401  (it brings torch)
from rerankfleet.workers.__main__ import main
from rerankfleet.workers.images import pool
from rerankfleet.workers.prepare import Preparer
from tests.support.poison import DEATH, POISON, POISON_LOG, WORKER

prepare = Preparer.prepare


def prepare_or_die(self: Preparer, slices: Any, *others: Any, **options: Any) -> Any:
    """Die without cleaning up, like a killed process."""
    documents = (document for piece in slices for document in piece.documents)
    if any(document.text and POISON in document.text for document in documents):
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
        with open(os.environ[POISON_LOG], "a") as log:
            log.write(f"{WORKER}\n")


if __name__ == "__main__":
    Preparer.prepare = prepare_or_die  # type: ignore[method-assign]
    start = pool._START.replace(  # behind the path, which is set first
        "from rerankfleet", "import tests.support.poison_decoder;from rerankfleet", 1
    )
    pool._START = start  # type: ignore[misc]
    sys.exit(launch())
