"""Pairs of many shards -> packs -> results. One device thread; bounded; no timers.

A pack takes whatever waits when the device comes free. Results travel with their pair: a failed
pack fails its own pairs only, and the loop lives on.

Knows nothing of Redis, Celery or torch: the engine is anything with `score(pack)`.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from shared.errors import EngineError, ItemError, OutOfDeviceMemory
from shared.models import Priority
from workers.packing import Limit, LimitedBy, Pack, pack_cost, plan
from workers.prompts import Prompt

log = logging.getLogger(__name__)

Outcome = float | ItemError

#: One pack in so many serves bulk first: its guaranteed share under interactive load.
BULK_TURN = 4
#: How often a blocked submit looks at its stop flag.
_STOP_POLL_S = 0.2
_LANES = {Priority.interactive: 0, Priority.normal: 1, Priority.bulk: 2}


class Engine(Protocol):
    """The seam to the device."""

    def score(self, pack: Pack) -> list[float]:
        """Margins in the order of `pack.documents()`; raises OutOfDeviceMemory."""

    def free(self) -> None:
        """Give back what device memory can be given back."""


@dataclass(frozen=True, slots=True)
class PackReport:
    """One forward pass, as the batch-size policy sees it. Times in seconds."""

    pairs: int
    cost: float
    """Token-equivalents: what the limit bounds."""
    computed_tokens: int
    shared_tokens: int
    waited_s: float
    """How long its oldest pair waited."""
    forward_s: float
    limited_by: LimitedBy
    oom: bool = False


class _Ticket:
    """One submit: its future and its outcomes so far. Settled once, by one thread at a time."""

    __slots__ = ("future", "left", "outcomes", "settled", "stop")

    def __init__(self, size: int, stop: threading.Event | None) -> None:
        self.future: Future[list[Outcome]] = Future()
        self.outcomes: list[Outcome | None] = [None] * size
        self.left = size
        self.settled = False
        self.stop = stop

    @property
    def unwanted(self) -> bool:
        """Its remaining pairs need no scores: stopped, cancelled or failed."""
        return self.settled or self.future.cancelled() or bool(self.stop and self.stop.is_set())

    def put(self, index: int, outcome: Outcome) -> None:
        """Take one outcome; the last one completes the future."""
        self.outcomes[index] = outcome
        self.left -= 1
        if self.left == 0 and self._settle():
            self.future.set_result([o for o in self.outcomes if o is not None])

    def fail(self, error: Exception) -> None:
        """End the future with an error."""
        if self._settle():
            self.future.set_exception(error)

    def cancel(self) -> None:
        """End the future as cancelled."""
        if not self.settled:
            self.future.cancel()
            self._settle()

    def _settle(self) -> bool:
        """True for the one that may set the future's outcome."""
        if self.settled:
            return False
        self.settled = True
        return self.future.set_running_or_notify_cancel()


@dataclass(slots=True, eq=False)
class _Item:
    """A waiting pair and where its outcome goes."""

    prompt: Prompt
    lane: int
    ticket: _Ticket
    index: int
    entered_s: float


class Batcher:
    """Scores pairs of many callers on one device thread.

    `limit` bounds a pack and may be set at any time; the next pack obeys it.
    `waiting_tokens_max` bounds what waits (interactive apart from the rest): submit blocks above.
    `on_pack` sees a report after each pack; `around_pack` gives a context for each forward pass.
    """

    def __init__(
        self,
        engine: Engine,
        limit: Limit,
        *,
        waiting_tokens_max: int = 200_000,
        on_pack: Callable[[PackReport], None] | None = None,
        around_pack: Callable[[], AbstractContextManager[object]] | None = None,
    ) -> None:
        self._engine = engine
        self._limit = limit
        self._ceiling = math.inf  # learned from out-of-memory
        self._waiting_tokens_max = waiting_tokens_max
        self._on_pack = on_pack
        self._around_pack = around_pack or nullcontext
        self._changed = threading.Condition()
        self._waiting: list[_Item] = []
        self._waiting_tokens = [0, 0]  # interactive, the rest
        self._packs = 0
        self._closing = self._discarding = False
        self._progress_s = time.monotonic()
        self._busy = False
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    @property
    def limit(self) -> Limit:
        """The limit of the next pack: as set, or less after running out of memory."""
        return Limit(int(min(self._limit.tokens, self._ceiling)), self._limit.pairs)

    @limit.setter
    def limit(self, limit: Limit) -> None:
        self._limit = limit

    @property
    def busy(self) -> bool:
        """Something waits or is being scored."""
        return self._busy or bool(self._waiting)

    @property
    def waiting_pairs(self) -> int:
        """How many pairs wait."""
        return len(self._waiting)

    def progress_s(self) -> float:
        """time.monotonic() when a pack last began or ended (or the batcher started)."""
        return self._progress_s

    def submit(
        self,
        prompts: Sequence[Prompt],
        *,
        priority: Priority = Priority.normal,
        stop: threading.Event | None = None,
    ) -> Future[list[Outcome]]:
        """Queue pairs; the future gives their outcomes in order. Blocks while too much waits.

        When `stop` is set the pairs that still wait are dropped and the future is cancelled.
        """
        ticket, lane = _Ticket(len(prompts), stop), _LANES[priority]
        if not prompts:
            ticket.future.set_result([])
            return ticket.future
        tokens = sum(map(_tokens, prompts))
        account = min(lane, 1)
        with self._changed:
            while not (self._closing or ticket.unwanted or self._admits(account, tokens)):
                self._changed.wait(_STOP_POLL_S)
            if self._closing:
                raise EngineError("the batcher is closed")
            if ticket.unwanted:
                ticket.cancel()
                return ticket.future
            now = time.monotonic()
            self._waiting += [_Item(p, lane, ticket, i, now) for i, p in enumerate(prompts)]
            self._waiting_tokens[account] += tokens
            self._changed.notify_all()
        return ticket.future

    def close(self, *, drain: bool = True) -> None:
        """Take no more; with `drain` score what waits, else cancel it; then end the thread."""
        with self._changed:
            self._closing = True
            self._discarding = not drain
            self._changed.notify_all()
        self._thread.join()

    def _admits(self, account: int, tokens: int) -> bool:
        waiting = self._waiting_tokens[account]
        return waiting == 0 or waiting + tokens <= self._waiting_tokens_max

    def _run(self) -> None:
        while planned := self._next():
            items, limited_by = planned
            self._score(items, limited_by)
            self._busy = False

    def _next(self) -> tuple[list[_Item], LimitedBy] | None:
        """The next pack's items; waits for some; None at the end."""
        with self._changed:
            while True:
                self._drop_unwanted()
                if self._waiting:
                    break
                if self._closing:
                    return None
                self._changed.wait()
            self._packs += 1
            taken, limited_by = plan(
                self._waiting, self.limit, last_lane_first=self._packs % BULK_TURN == 0
            )
            self._remove(taken)
            self._busy, self._progress_s = True, time.monotonic()
            return taken, limited_by

    def _drop_unwanted(self) -> None:
        gone = [item for item in self._waiting if self._discarding or item.ticket.unwanted]
        for item in gone:
            item.ticket.cancel()
        self._remove(gone)

    def _remove(self, items: list[_Item]) -> None:
        if not items:
            return
        gone = set(map(id, items))
        self._waiting = [item for item in self._waiting if id(item) not in gone]
        for item in items:
            self._waiting_tokens[min(item.lane, 1)] -= _tokens(item.prompt)
        self._changed.notify_all()

    def _score(self, items: list[_Item], limited_by: LimitedBy) -> None:
        """One forward pass and its outcomes; in halves when it does not fit."""
        pack, order = Pack.of(item.prompt for item in items)
        price = pack_cost(item.prompt for item in items)
        start = time.monotonic()
        margins, error = self._forward(pack)
        end = time.monotonic()
        oom = isinstance(error, OutOfDeviceMemory)
        if margins is not None:
            for index, margin in zip(order, margins, strict=True):
                _deliver(items[index], margin)
            self._recover(price)
        elif not oom:
            for item in items:
                item.ticket.fail(_as_retryable(error))
        self._progress_s = end
        if self._on_pack is not None:
            waited_s = start - min(item.entered_s for item in items)
            self._report(
                PackReport(
                    pack.pairs, price, pack.computed_tokens, pack.shared_tokens,
                    waited_s, end - start, limited_by, oom,
                )
            )  # fmt: skip
        if oom:
            self._halve(items, price)

    def _forward(self, pack: Pack) -> tuple[list[float] | None, Exception | None]:
        try:
            with self._around_pack():
                margins = self._engine.score(pack)
            if len(margins) != pack.pairs:
                raise EngineError(f"{len(margins)} margins for {pack.pairs} pairs")
            return margins, None
        except OutOfDeviceMemory as error:
            return None, error
        except Exception as error:
            log.exception("a pack of %d pairs failed", pack.pairs)
            return None, error

    def _halve(self, items: list[_Item], price: float) -> None:
        self._engine.free()
        if len(items) == 1:
            items[0].ticket.put(items[0].index, _too_large(items[0].prompt))
            return
        self._ceiling = max(1.0, min(self._ceiling, price / 2))
        middle = len(items) // 2
        for half in (items[:middle], items[middle:]):
            self._score(half, "limit")

    def _recover(self, price: float) -> None:
        """Let a learned ceiling rise slowly again while packs of its size succeed."""
        if self._ceiling < self._limit.tokens and price > self._ceiling / 2:
            self._ceiling *= 1 + 1 / 64

    def _report(self, report: PackReport) -> None:
        try:
            assert self._on_pack is not None
            self._on_pack(report)
        except Exception:
            log.exception("a pack's report was not taken")


def _tokens(prompt: Prompt) -> int:
    return len(prompt.query) + len(prompt.document)


def _deliver(item: _Item, margin: float) -> None:
    if math.isfinite(margin):
        item.ticket.put(item.index, margin)
        return
    item.ticket.put(
        item.index,
        ItemError(
            "non_finite_score",
            f"the model gave {margin} for this pair",
            hint="try dtype fp32; if it stays, the weights are damaged",
        ),
    )


def _too_large(prompt: Prompt) -> ItemError:
    return ItemError(
        "out_of_memory",
        f"this pair alone ({len(prompt)} tokens) does not fit into the device's memory",
        hint="lower max_length or use a larger device",
    )


def _as_retryable(error: Exception | None) -> EngineError:
    failure = EngineError(f"the forward pass failed: {type(error).__name__}: {error}")
    failure.retryable = True
    failure.__cause__ = error
    return failure
