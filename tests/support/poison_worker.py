"""A worker that dies on a certain text, as with a broken codec or kernel."""

from __future__ import annotations

import os
import sys
from typing import Any

from rerankfleet.workers.__main__ import main
from rerankfleet.workers.prepare import Preparer

POISON = "this text kills its worker"

prepare = Preparer.prepare


def prepare_or_die(self: Preparer, slices: Any, *others: Any, **options: Any) -> Any:
    """Die without cleaning up, like a killed process."""
    if any(document.text == POISON for piece in slices for document in piece.documents):
        os._exit(9)
    return prepare(self, slices, *others, **options)


Preparer.prepare = prepare_or_die  # type: ignore[method-assign]
sys.exit(main())
