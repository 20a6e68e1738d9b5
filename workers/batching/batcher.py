"""Pairs of many shards -> packs -> results. One device thread; bounded; no timers.

A pack is made of what waits when the device becomes free. Results travel with their pairs: a failed
pack fails its own pairs only, and the loop continues.

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

from rerankfleet.shared.errors import EngineError, OutOfDeviceMemory
from rerankfleet.shared.job_spec import Priority
from rerankfleet.shared.observations import Observation
from rerankfleet.workers.batching.packing import Limit, LimitedBy, Pack, Prices, pack_cost, plan
from rerankfleet.workers.batching.submissions import Item, Outcome, Submission
from rerankfleet.workers.prompting.prompts import Prompt

__all__ = ["BULK_TURN", "Batcher", "Engine", "Outcome"]

log = logging.getLogger(__name__)

#: Every fourth pack serves bulk first: its guaranteed share under interactive load.
BULK_TURN = 4
WAITING_TOKENS = 200_000
WAITING_TOKENS_WITH_IMAGES = 65_536
#: The first packs are a warm-up, during which memory is allocated and kernels are chosen; so is the
#: one after memory was freed.
WARM_UP_PACKS = 2
#: How often a blocked submit checks its stop flag.
_STOP_POLL_S = 0.2
_LANES = {Priority.interactive: 0, Priority.normal: 1, Priority.bulk: 2}


def waiting_tokens_max(*, supports_images: bool) -> int:
    """The most tokens that may wait. Visual tokens hold their pixels: three kilobytes each."""
    return WAITING_TOKENS_WITH_IMAGES if supports_images else WAITING_TOKENS


class Engine(Protocol):
    """The seam to the device."""

    @property
    def prices(self) -> Prices:
        """What images and prefixes cost now; read in the device thread."""

    def score(self, pack: Pack) -> list[float]:
        """Margins in the order of `pack.documents()`; raises OutOfDeviceMemory."""

    def free(self) -> None:
        """Free all device memory that can be freed."""


@dataclass(frozen=True, slots=True)
class _Planned:
    """A pack to score: its pairs, what bounded it, its limit, and when its planning began."""

    items: list[Item]
    limited_by: LimitedBy
    limit: Limit
    begin_s: float


class Batcher:
    """Scores pairs of many callers on one device thread.

    `limit` bounds a pack and may be set at any time; it applies from the next pack on. After
    running out of memory, `ceiling` bounds it too.
    `waiting_tokens_max` bounds what waits (interactive and the rest separately): above it, submit
    blocks.
    `on_pack` is called with the observation of each pack, without its memory and with all the time
    that the device was idle before it; `around_pack` gives a context for each forward pass.
    """

    def __init__(
        self,
        engine: Engine,
        limit: Limit,
        *,
        waiting_tokens_max: int = WAITING_TOKENS,
        on_pack: Callable[[Observation], None] | None = None,
        around_pack: Callable[[], AbstractContextManager[object]] | None = None,
    ) -> None:
        self._engine = engine
        self._limit = limit
        self._ceiling = math.inf  # learned from out-of-memory
        self._waiting_tokens_max = waiting_tokens_max
        self._on_pack = on_pack
        self._around_pack = around_pack or nullcontext
        self._changed = threading.Condition()
        self._waiting: list[Item] = []
        self._waiting_tokens = [0, 0]  # interactive, the rest
        self._blocked: tuple[list[Submission], list[Submission]] = ([], [])  # in order of arrival
        self._in_flight: list[Item] = []
        self._packs = 0
        self._cold_packs = WARM_UP_PACKS
        self._idle_s = 0.0  # before the running pack
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
    def ceiling(self) -> float:
        """The most token-equivalents that fit, where that is below the limit that was set; infinite
        otherwise."""
        return self._ceiling if self._ceiling < self._limit.tokens else math.inf

    @property
    def alive(self) -> bool:
        """Whether the device thread runs; once it has ended, nothing more is scored."""
        return self._thread.is_alive()

    @property
    def busy(self) -> bool:
        """Whether anything waits or is being scored."""
        return self._busy or bool(self._waiting)

    def progress_s(self) -> float:
        """time.monotonic() when a pack last began or ended (or the batcher started)."""
        return self._progress_s

    def submit(
        self,
        prompts: Sequence[Prompt],
        *,
        priority: Priority = Priority.normal,
        stop: threading.Event | None = None,
        apart: bool = False,
    ) -> Future[list[Outcome]]:
        """Queue pairs; the future gives their outcomes in order. Blocks while too much waits.

        With `apart` they share no pack with the pairs of other submissions, so that a failure is
        their own. When `stop` is set, waiting pairs are dropped and the future is cancelled.
        """
        submission, lane = Submission(len(prompts), stop, apart=apart), _LANES[priority]
        if not prompts:
            submission.future.set_result([])
            return submission.future
        now = time.monotonic()
        items = [Item(p, lane, submission, i, now) for i, p in enumerate(prompts)]
        account, tokens = min(lane, 1), sum(item.tokens for item in items)
        with self._changed:
            self._wait_for_turn(submission, account, tokens)
            if self._closing:
                raise EngineError("the batcher is closed")
            if submission.unwanted:
                submission.cancel()
                return submission.future
            self._waiting += items
            self._waiting_tokens[account] += tokens
            self._changed.notify_all()
        return submission.future

    def _wait_for_turn(self, submission: Submission, account: int, tokens: int) -> None:
        """Wait until this many tokens may be queued; first come, first served, whatever the
        size."""
        blocked = self._blocked[account]
        blocked.append(submission)
        try:
            while not (
                self._closing
                or submission.unwanted
                or (blocked[0] is submission and self._admits(account, tokens))
            ):
                self._changed.wait(_STOP_POLL_S)
        finally:
            blocked.remove(submission)
            self._changed.notify_all()

    def close(self, *, drain: bool = True) -> None:
        """Accept no more pairs; score those that wait if `drain`, else cancel them; then end the
        thread."""
        with self._changed:
            self._closing = True
            self._discarding = not drain
            self._changed.notify_all()
        self._thread.join()

    def _admits(self, account: int, tokens: int) -> bool:
        waiting = self._waiting_tokens[account]
        return waiting == 0 or waiting + tokens <= self._waiting_tokens_max

    def _run(self) -> None:
        try:
            while planned := self._next():
                self._score(planned)
                self._in_flight, self._busy = [], False
        finally:
            self._abandon()

    def _abandon(self) -> None:
        """Fail all pairs when the thread ends, so that no caller waits forever."""
        with self._changed:
            self._closing = True
            for item in (*self._in_flight, *self._waiting):
                item.submission.fail(EngineError("the device thread has ended"))
            self._remove(self._waiting)
            self._in_flight, self._busy = [], False

    def _next(self) -> _Planned | None:
        """The next pack; waits for pairs; None when closed."""
        with self._changed:
            while True:
                self._drop_unwanted()
                if self._waiting:
                    break
                if self._closing:
                    return None
                idle_since_s = time.monotonic()
                self._changed.wait()
                self._idle_s += time.monotonic() - idle_since_s
            begin_s = time.monotonic()
            self._packs += 1
            limit = self.limit
            planned, limited_by = plan(
                self._waiting,
                limit,
                self._engine.prices,
                last_lane_first=self._packs % BULK_TURN == 0,
            )
            taken = _compatible(planned)
            if len(taken) < len(planned):
                limited_by = "empty"  # a higher limit would not have made it larger
            self._remove(taken)
            self._in_flight = taken
            self._busy, self._progress_s = True, time.monotonic()
            return _Planned(taken, limited_by, limit, begin_s)

    def _drop_unwanted(self) -> None:
        submissions = {item.submission for item in self._waiting}
        unwanted = {one for one in submissions if self._discarding or one.unwanted}
        gone = [item for item in self._waiting if item.submission in unwanted] if unwanted else []
        for item in gone:
            item.submission.cancel()
        self._remove(gone)

    def _remove(self, items: list[Item]) -> None:
        if not items:
            return
        gone = set(map(id, items))
        self._waiting = [item for item in self._waiting if id(item) not in gone]
        for item in items:
            self._waiting_tokens[min(item.lane, 1)] -= item.tokens
        self._changed.notify_all()

    def _score(self, planned: _Planned) -> None:
        """One forward pass and its outcomes; in halves when it does not fit."""
        items = planned.items
        pack, order = Pack.of(item.prompt for item in items)
        price = pack_cost((item.prompt for item in items), self._engine.prices)
        tokens = pack.tokens(self._engine.prices)
        outcome = self._forward(pack)
        end_s = self._progress_s = time.monotonic()
        oom = isinstance(outcome, OutOfDeviceMemory)
        if isinstance(outcome, list):
            for index, margin in zip(order, outcome, strict=True):
                items[index].deliver(margin)
            self._recover(price)
        elif not oom:  # its time tells nothing
            for item in items:
                item.submission.fail(outcome)
            return
        observation = Observation(
            at_s=time.time(),
            pairs=pack.pairs,
            text_tokens=tokens.text,
            image_tokens=tokens.image,
            shared_tokens=tokens.shared,
            cost=price,
            waiting_s=planned.begin_s - min(item.entered_s for item in items),
            preparing_s=self._idle_s,
            forward_s=end_s - planned.begin_s,
            memory_bytes=0,
            limited_by=planned.limited_by,
            oom=oom,
            interactive=any(item.lane == _LANES[Priority.interactive] for item in items),
            limit_tokens=planned.limit.tokens,
            limit_pairs=planned.limit.pairs or 0,
            warm_up=self._cold_packs > 0,
            video_tokens=tokens.video,
        )
        self._report(observation)
        self._idle_s = 0.0
        self._cold_packs = max(0, self._cold_packs - 1)
        if oom:
            self._halve(planned, price)

    def _forward(self, pack: Pack) -> list[float] | EngineError:
        """Margins, or the error: without traceback, since its frames hold device memory."""
        try:
            with self._around_pack():
                margins = self._engine.score(pack)
            if len(margins) != pack.pairs:
                raise EngineError(f"{len(margins)} margins for {pack.pairs} pairs")
            return margins
        except OutOfDeviceMemory as error:
            return OutOfDeviceMemory(error.message, hint=error.hint)
        except Exception as error:
            log.exception("a pack of %d pairs failed", pack.pairs)
            failure = EngineError(f"the forward pass failed: {type(error).__name__}: {error}")
            failure.retryable = True
            return failure

    def _halve(self, planned: _Planned, price: float) -> None:
        try:
            self._engine.free()
        except Exception:
            log.exception("device memory could not be freed")
        self._cold_packs = max(1, self._cold_packs)
        items = planned.items
        if len(items) == 1:
            items[0].reject_as_too_large()
            return
        self._ceiling = max(1.0, min(self._ceiling, price / 2))
        middle = len(items) // 2
        for half in (items[:middle], items[middle:]):
            self._score(_Planned(half, "limit", planned.limit, time.monotonic()))

    def _recover(self, price: float) -> None:
        """Raise a ceiling slowly while packs of its size succeed."""
        if self._ceiling < self._limit.tokens and price > self._ceiling / 2:
            self._ceiling *= 1 + 1 / 64

    def _report(self, observation: Observation) -> None:
        if self._on_pack is None:
            return
        try:
            self._on_pack(observation)
        except Exception:
            log.exception("an observation was lost")


def _compatible(planned: list[Item]) -> list[Item]:
    """The planned items that may share a pack with the first one: see `submit(apart=True)`."""
    submission = planned[0].submission
    if submission.apart:
        return [item for item in planned if item.submission is submission]
    return [item for item in planned if not item.submission.apart]
