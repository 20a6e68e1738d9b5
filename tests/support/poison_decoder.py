"""Imported by a process that decodes: from then on it dies of a certain image."""

from __future__ import annotations

import os
from typing import Any

from rerankfleet.workers.images import decode as module
from tests.support.poison import DEATH, DECODER, POISON, POISON_LOG

decode = module.decode


def decode_or_die(data: bytes, *others: Any, **options: Any) -> Any:
    """Die without cleaning up, like a killed process."""
    if POISON.encode() in bytes(data):
        with open(os.environ[POISON_LOG], "a") as log:
            log.write(f"{DECODER}\n")
        os._exit(DEATH)
    return decode(data, *others, **options)


module.decode = decode_or_die
