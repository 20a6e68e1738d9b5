"""An engine without a model, for the batcher: each document's score is its first token."""

from __future__ import annotations

import math
import threading

from rerankfleet.shared.errors import OutOfDeviceMemory
from rerankfleet.workers.batching.packing import Pack, Prices
from rerankfleet.workers.prompting.prompts import Prompt
from rerankfleet.workers.prompting.tokens import Tokens
from tests.support.wait import patient

WAIT_S = patient(10)


def prompt(number: int, length: int = 3, query: int = 1) -> Prompt:
    """A document of `length` tokens; a FakeEngine scores it with `number`."""
    return Prompt(Tokens.of([1, 2]), Tokens.of([query] * 2), Tokens.of([number] * length))


class FakeEngine:
    """Scores a document with its first token; can block, fail and run out of memory."""

    prices = Prices()

    def __init__(self, fits: float = math.inf) -> None:
        self.fits = fits  # documents in a pack
        self.packs: list[list[int]] = []
        self.freed = 0
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.fail_with: Exception | None = None

    def score(self, pack: Pack) -> list[float]:
        numbers = [next(iter(d)) for d in pack.documents()]
        self.packs.append(numbers)
        self.entered.set()
        assert self.gate.wait(WAIT_S)
        if 13 in numbers and self.fail_with is not None:
            raise self.fail_with
        if pack.pairs > self.fits or 99 in numbers:
            raise OutOfDeviceMemory("full")
        return [math.nan if n == 77 else float(n) for n in numbers]

    def free(self) -> None:
        self.freed += 1
