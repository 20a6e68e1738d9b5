"""Draws faults one after the other, and lets each run its course."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import structlog
from redis import RedisError

from rerankfleet.chaos.faults import Course, Fault, NothingToBreak

AT_ONCE = {"frozen worker": 2}
"""How many faults of a place may run at once; of any other place one."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Running:
    fault: Fault
    course: Course
    ends_s: float


class Storm:
    """The faults of a run, in an order that its random numbers decide. One thread calls it."""

    def __init__(
        self,
        faults: Sequence[Fault],
        random: Random,
        *,
        every_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._faults, self._random, self._every_s = faults, random, every_s
        self._clock = clock
        self._running: list[_Running] = []
        self._next_s = clock()
        self.counts: Counter[str] = Counter()
        """How often each fault happened."""
        self.missed: Counter[str] = Counter()
        """How often each could not be begun, or not be mended as it should."""

    def step(self) -> None:
        """End what is over and begin what is due."""
        now = self._clock()
        for running in [r for r in self._running if r.ends_s <= now]:
            self._end(running)
        if now >= self._next_s:
            self._next_s = now + self._random.expovariate(1 / self._every_s)
            self._begin()

    def over(self) -> None:
        """End everything."""
        for running in list(self._running):
            self._end(running)

    def _begin(self) -> None:
        here = Counter(running.fault.place for running in self._running)
        free = [f for f in self._faults if here[f.place] < AT_ONCE.get(f.place, 1)]
        if not free:
            return
        (fault,) = self._random.choices(free, [fault.weight for fault in free])
        course = fault.begin(Random(self._random.random()))
        try:
            lasts_s = next(course)
        except (NothingToBreak, RedisError, OSError) as error:
            log.info("no fault", fault=fault.name, why=repr(error))
            self.missed[fault.name] += 1
            return
        log.info("fault", fault=fault.name, seconds=round(lasts_s, 2))
        self.counts[fault.name] += 1
        self._running.append(_Running(fault, course, self._clock() + lasts_s))

    def _end(self, running: _Running) -> None:
        self._running.remove(running)
        try:
            next(running.course, None)
        except (RedisError, OSError) as error:
            log.warning("not mended", fault=running.fault.name, why=repr(error))
            self.missed[running.fault.name] += 1
