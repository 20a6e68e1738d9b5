"""How large packs may be: four policies that read what a worker saw and say its next limit. Pure.

    model       the device's latency is fitted; the limit meets the latency target, wastes little
                throughput and stays below what ran out of memory
    thresholds  average latency over 1000 ms: half as many pairs; under 200 ms: twice as many
    aimd        some tokens more while no pack is late, else a part less
    fixed       what was set

All of them stay below a ceiling once a pack ran out of memory, and none raises a limit because of
packs that an empty queue ended. No clock, no randomness: the same observations give the same limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from rerankfleet.shared.observations import Observation
from rerankfleet.workers.batch_limits.latency import Fit

Policy = Literal["model", "thresholds", "aimd", "fixed"]

#: Larger packs that gain less throughput than this are not worth their latency and memory.
GAIN = 0.02
#: A limit grows at most so fast beyond what was seen to work.
GROWTH = 2.0
#: Half as much is tried when the latency of such packs is less sure than this.
DOUBT = 0.1
#: Differences below these leave a limit as it is: of one that makes packs late, of one beyond which
#: little is gained anyway, of any other.
LATE_TOLERANCE = 0.05
GAIN_TOLERANCE = 0.25
TOLERANCE = 0.1
#: After out-of-memory nothing larger is tried for so long, doubled each time that it happens
#: again; then the ceiling rises, twofold in as long again.
CEILING_S = 600.0
CEILING_MAX_S = 86_400.0
#: A size whose memory was only computed, not seen to suffice, is trusted to this share.
COMPUTED_SHARE = 0.95
#: Of a device's memory that much is planned with; the rest is for fragments and neighbours.
MEMORY_SHARE = 0.85
#: How long interactive traffic counts as recent.
INTERACTIVE_S = 10.0
#: The policy `aimd`: tokens added each time, and the part that a late pack leaves.
AIMD_STEP_TOKENS = 128
AIMD_DECREASE = 0.8

#: The policy `thresholds`: of the packs since the last change so many of the old ones count.
AVERAGED = 32

STARVED = "starved: the queue was empty, unchanged"

#: Beyond these a figure is a lie: an hour, and more than any device holds.
_SECONDS_MAX = 3600.0
_COST_MAX = 1e8
_PAIRS_MAX = 1_000_000
_BYTES_MAX = 1 << 50


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PolicySettings(_Frozen):
    """One worker's policy with its bounds and thresholds. JSON in its heartbeat."""

    policy: Policy = "model"
    latency_target_ms: FiniteFloat = Field(1000, gt=0)
    """p95 of a pack."""
    interactive_latency_target_ms: FiniteFloat = Field(200, gt=0)
    """p95 of the pack in hand and the pair's own: each may take half of it."""
    tokens_min: int = Field(64, ge=1)
    tokens_max: int = Field(131_072, ge=1)
    pairs_max: int = Field(1024, ge=1)
    """Cap on pairs of the policies that steer tokens."""
    memory_bytes_max: int = Field(0, ge=0)
    """What a pass may take with all that is loaded (policy `model`); 0 when unknown."""
    latency_high_ms: FiniteFloat = Field(1000, gt=0)
    latency_low_ms: FiniteFloat = Field(200, ge=0)
    pairs_low: int = Field(4, ge=1)
    pairs_high: int = Field(16, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> PolicySettings:
        for low, high in (
            ("tokens_min", "tokens_max"),
            ("pairs_low", "pairs_high"),
            ("latency_low_ms", "latency_high_ms"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} {getattr(self, low)} is above {high}")
        return self


class Ceiling(_Frozen):
    """What ran out of memory, and the limit since."""

    oom_tokens: FiniteFloat
    tokens: FiniteFloat = Field(gt=0)
    at_s: FiniteFloat
    holds_s: FiniteFloat = Field(gt=0, le=CEILING_MAX_S)

    def at(self, now_s: float) -> float:
        """The ceiling in tokens: held, then rising."""
        rising_s = max(now_s - self.at_s - self.holds_s, 0.0)
        return self.tokens * math.exp2(min(rising_s / self.holds_s, 64.0))


class Seen(_Frozen):
    """A pack that worked, and the memory that it took (0: unknown)."""

    cost: FiniteFloat = Field(gt=0)
    memory_bytes: int = Field(ge=0)


class Latencies(_Frozen):
    """Packs since the last change of a limit: how many, and their seconds."""

    packs: int = Field(0, ge=0)
    seconds: FiniteFloat = Field(0.0, ge=0)

    def plus(self, packs: Sequence[Observation]) -> Latencies:
        """With these packs too. What came before counts as AVERAGED packs at the most: after an
        hour at one speed another one is still noticed within some packs."""
        kept = min(self.packs, AVERAGED)
        seconds = self.seconds * kept / max(self.packs, 1) + sum(p.forward_s for p in packs)
        return Latencies(packs=kept + len(packs), seconds=seconds)

    @property
    def mean_ms(self) -> float:
        """Their average; nought when there are none."""
        return 1000 * self.seconds / max(self.packs, 1)


class Memory(_Frozen):
    """A worker's limit, why it is so, and what its policy remembers. JSON of a few kilobytes."""

    tokens: int
    pairs: int
    reason: str = Field(max_length=500)
    changed: bool = False
    """Whether the last decision changed the limit."""
    first_tokens: int
    """What the limit was set to at the start."""
    first_pairs: int
    ceiling: Ceiling | None = None
    smallest: Seen | None = None
    largest: Seen | None = None
    interactive_at_s: FiniteFloat | None = None
    """When interactive pairs were last heard of."""
    fit: Fit | None = None
    full: Latencies = Latencies()
    """Packs under this limit that it ended (policy `thresholds`)."""
    every: Latencies = Latencies()
    """All packs under this limit (policy `thresholds`)."""

    def to_json(self) -> str:
        """For `from_json`."""
        return self.model_dump_json(exclude_defaults=True)

    @classmethod
    def from_json(cls, text: str | bytes | None) -> Memory | None:
        """What `to_json` wrote; None for anything else, so that the caller starts anew."""
        try:
            return cls.model_validate_json(text or "")
        except ValidationError:
            return None


def start(
    settings: PolicySettings,
    tokens: int,
    pairs: int | None = None,
    rates: tuple[float, float] | None = None,
) -> Memory:
    """A worker's first limit. `rates`: seconds per pack and per token of cost, as its self-test
    measured them."""
    pairs = settings.pairs_max if pairs is None else pairs
    known = rates is not None and all(_within(rate, 0, _SECONDS_MAX) for rate in rates)
    fit = Fit.guessed(*rates) if known and rates else None
    memory = Memory(
        tokens=tokens,
        pairs=pairs,
        reason="set" if settings.policy == "fixed" else "measured at start",
        first_tokens=tokens,
        first_pairs=pairs,
        fit=fit if settings.policy == "model" else None,
    )
    tokens = settings.tokens_max if settings.policy == "thresholds" else tokens
    return _bounded(settings, memory, tokens, pairs)


def decide(
    settings: PolicySettings,
    memory: Memory,
    observations: Sequence[Observation],
    now_s: float,
) -> Memory:
    """The limit after these observations, oldest first. What cannot be true is ignored.

    `now_s` is the caller's clock; the workers' clocks are not relied on.
    """
    seen = [found for found in observations if credible(found)]
    memory = _remember(memory, seen, now_s)
    packs = [found for found in seen if found.oom or not found.warm_up]
    if not packs:
        return memory.model_copy(update={"changed": False})
    before = memory.tokens, memory.pairs
    memory = _POLICIES[settings.policy](settings, memory, packs, now_s)
    changed = (memory.tokens, memory.pairs) != before
    return memory.model_copy(update={"changed": changed})


def credible(found: Observation) -> bool:
    """Whether an observation can be true: figures that are finite, of their type, and in reason."""
    return (
        _within(found.cost, 1, _COST_MAX)
        and _within(found.forward_s, 0, _SECONDS_MAX)
        and (found.forward_s > 0 or found.oom is True)
        and _whole(found.pairs, 1, _PAIRS_MAX)
        and _whole(found.memory_bytes, 0, _BYTES_MAX)
        and _whole(found.limit_tokens, 0, _BYTES_MAX)
        and _whole(found.limit_pairs, 0, _BYTES_MAX)
        and found.limited_by in ("limit", "empty")
        and all(isinstance(flag, bool) for flag in (found.oom, found.interactive, found.warm_up))
    )


def _within(value: object, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and _within(value, least, most)


# ---- what all policies share ---------------------------------------------------------------------


def _remember(memory: Memory, seen: Sequence[Observation], now_s: float) -> Memory:
    """Memory that was enough or was not, and interactive traffic."""
    worked = [Seen(cost=p.cost, memory_bytes=p.memory_bytes) for p in seen if not p.oom]
    if worked:
        known = [each for each in (memory.smallest, memory.largest) if each] + worked
        update = {
            "smallest": min(known, key=lambda each: each.cost),
            "largest": max(known, key=lambda each: each.cost),
        }
        memory = memory.model_copy(update=update)
    failed = [found for found in seen if found.oom]
    if failed:
        memory = _lower_ceiling(memory, min(failed, key=lambda each: each.cost), now_s)
    if any(found.interactive for found in seen):
        memory = memory.model_copy(update={"interactive_at_s": now_s})
    return memory


def _lower_ceiling(memory: Memory, failed: Observation, now_s: float) -> Memory:
    """A ceiling below what ran out of memory: where memory was seen, or computed, to suffice.

    A pack above the present ceiling (planned before it, or a pair too large for it) says nothing
    new.
    """
    if memory.ceiling and failed.cost >= memory.ceiling.at(now_s):
        return memory
    proven = memory.largest
    if proven is None or proven.cost >= failed.cost:  # it was enough, and is no longer
        proven = Seen(cost=failed.cost / 2, memory_bytes=0)
        memory = memory.model_copy(update={"largest": proven})
    computed = min(_cost_filling(memory, failed.memory_bytes) or 0.0, failed.cost)
    tokens = max(proven.cost, COMPUTED_SHARE * computed)
    holds_s = CEILING_S
    if memory.ceiling:
        holds_s = min(2 * memory.ceiling.holds_s, CEILING_MAX_S)
    ceiling = Ceiling(oom_tokens=failed.cost, tokens=tokens, at_s=now_s, holds_s=holds_s)
    return memory.model_copy(update={"ceiling": ceiling})


def _cost_filling(memory: Memory, memory_bytes: float) -> float | None:
    """The cost whose pass takes so much memory, on the line through the smallest and the largest
    pack that worked; None until there are two, one twice the other."""
    low, high = memory.smallest, memory.largest
    if low is None or high is None or high.cost < 2 * low.cost:
        return None
    if not 0 < low.memory_bytes < high.memory_bytes:
        return None
    bytes_per_token = (high.memory_bytes - low.memory_bytes) / (high.cost - low.cost)
    return low.cost + (memory_bytes - low.memory_bytes) / bytes_per_token


def _ceiling(memory: Memory, now_s: float) -> tuple[float, str]:
    """The most that memory allows, and why."""
    if memory.ceiling is None:
        return math.inf, ""
    ceiling = memory.ceiling
    failed = f"{ceiling.oom_tokens:,.0f} tokens at {_clock(ceiling.at_s)}"
    reason = f"memory: out of memory with {failed}"
    return ceiling.at(now_s), reason


def _within_memory(settings: PolicySettings, memory: Memory) -> tuple[float, str]:
    """The most that the device's memory allows, as far as it is known, and why."""
    usable_bytes = MEMORY_SHARE * settings.memory_bytes_max
    tokens = _cost_filling(memory, usable_bytes) if usable_bytes else None
    if tokens is None:
        return math.inf, ""
    if memory.largest:  # what worked has worked: caches are full, and the line is only a guess
        tokens = max(tokens, memory.largest.cost)
    gb, of_gb = usable_bytes / 1e9, settings.memory_bytes_max / 1e9
    return tokens, f"memory: a pack of {tokens:,.0f} tokens needs {gb:.1f} of {of_gb:.1f} GB"


def _target(settings: PolicySettings, memory: Memory, now_s: float) -> tuple[float, str]:
    """Seconds that a pack may take, and a remark when interactive traffic bounds them.

    An interactive pair waits for the pack in hand and then for its own: half for each.
    """
    target_s = settings.latency_target_ms / 1000
    half_s = settings.interactive_latency_target_ms / 2000
    at_s = memory.interactive_at_s
    if at_s is None or now_s - at_s > INTERACTIVE_S or half_s >= target_s:
        return target_s, ""
    return half_s, f", half of the interactive one: such pairs came at {_clock(at_s)}"


def _clock(at_s: float) -> str:
    """A time of day: a reason may stand for hours."""
    return f"{datetime.fromtimestamp(at_s, UTC):%H:%M:%S} UTC"


def _starved(packs: Sequence[Observation]) -> bool:
    """The queue was empty: nothing was seen of packs as large as the limit."""
    return all(pack.limited_by == "empty" for pack in packs)


def _unchanged(memory: Memory) -> str:
    """That nothing was learned; and what set the limit, which still holds."""
    before = memory.reason
    return before if before.startswith(STARVED) else f"{STARVED} since: {before}"


def _bounded(
    settings: PolicySettings, memory: Memory, tokens: float, pairs: int, reason: str | None = None
) -> Memory:
    """The memory with this limit, within the policy's bounds."""
    thresholds = settings.policy == "thresholds"
    low = settings.pairs_low if thresholds else 1
    high = settings.pairs_high if thresholds else settings.pairs_max
    update = {
        "tokens": int(min(max(tokens, settings.tokens_min), settings.tokens_max)),
        "pairs": min(max(pairs, low), high),
        "reason": memory.reason if reason is None else reason,
    }
    return memory.model_copy(update=update)


# ---- the policies --------------------------------------------------------------------------------


def _model(
    settings: PolicySettings, memory: Memory, packs: Sequence[Observation], now_s: float
) -> Memory:
    """As large as the latency target, the gain in throughput and the memory make sensible."""
    times = [(pack.cost, pack.forward_s) for pack in packs if not pack.oom]
    fit = memory.fit or (Fit.of_first(times[0]) if times else None)
    if fit is None:  # the first packs of all ran out of memory
        return _fixed(settings, memory, packs, now_s)
    fit = fit.learn(times)
    memory = memory.model_copy(update={"fit": fit})
    wanted, reason = _wanted(settings, memory, fit, _tried(memory, packs), now_s)
    if wanted > memory.tokens and _starved(packs):
        wanted, reason = memory.tokens, _unchanged(memory)
    elif _near(wanted, memory.tokens, reason):
        wanted = min(memory.tokens, _ceiling(memory, now_s)[0])
    if reason.startswith("latency"):
        p95_s, (target_s, remark) = fit.p95_s(wanted), _target(settings, memory, now_s)
        reason = (
            f"latency: a pack of {wanted:,.0f} tokens takes {p95_s:.2f} s at p95, "
            f"target {target_s:.2f} s{remark}"
        )
    return _bounded(settings, memory, wanted, settings.pairs_max, reason)


def _tried(memory: Memory, packs: Sequence[Observation]) -> float:
    """The largest pack known to work; or the limit that ended one, twice that pack at the most:
    the next pair may just not have fitted."""
    largest = memory.largest.cost if memory.largest else float(memory.tokens)
    ended = [
        min(pack.limit_tokens, GROWTH * largest)
        for pack in packs
        if pack.limited_by == "limit" and not pack.oom and pack.pairs != pack.limit_pairs
    ]
    return max([largest, *ended])


def _wanted(
    settings: PolicySettings, memory: Memory, fit: Fit, tried: float, now_s: float
) -> tuple[float, str]:
    """The limit that the fit asks for, and why it is no larger."""
    target_s, _ = _target(settings, memory, now_s)
    gaining = fit.cost_gaining(GAIN)
    growing = max(GROWTH * tried, memory.tokens)
    bounds = [
        (_cost_in_time(settings, fit, target_s), "latency"),
        (
            gaining,
            f"throughput: more than {gaining:,.0f} tokens gains less than {100 * GAIN:.0f} %",
        ),
        _ceiling(memory, now_s),
        _within_memory(settings, memory),
        (growing, f"probing: no pack above {tried:,.0f} tokens was tried yet"),
        (settings.tokens_max, f"bound: {settings.tokens_max:,} tokens is the most allowed"),
    ]
    wanted, reason = min(bounds, key=lambda bound: bound[0])
    wanted = max(wanted, settings.tokens_min)
    half = wanted / 2
    if wanted <= tried and half >= settings.tokens_min and fit.doubtful(half, DOUBT):
        low, high = min(fit.costs), max(fit.costs)
        alike = f"probing: packs of {low:,.0f} to {high:,.0f} tokens are too alike"
        return half, f"{alike} to tell overhead from rate"
    return wanted, reason


def _cost_in_time(settings: PolicySettings, fit: Fit, target_s: float) -> float:
    """The largest cost whose p95 meets the target. Where none does, since the overhead alone takes
    as long, the cost that takes twice the overhead: smaller packs would be late all the same."""
    cost = fit.cost_within(target_s)
    return cost if cost >= settings.tokens_min else fit.overhead_s / fit.s_per_token


def _near(wanted: float, now: int, reason: str) -> bool:
    """Too small a change to be worth one."""
    if reason.startswith("throughput"):
        return abs(wanted / now - 1) <= GAIN_TOLERANCE
    lower = LATE_TOLERANCE if reason.startswith("latency") else TOLERANCE
    return now * (1 - lower) <= wanted <= now * (1 + TOLERANCE)


def _thresholds(
    settings: PolicySettings, memory: Memory, packs: Sequence[Observation], now_s: float
) -> Memory:
    """The published rule: the average of the packs since the last change, in pairs."""
    current = [pack for pack in packs if not pack.oom and pack.limit_pairs <= memory.pairs]
    every = memory.every.plus(current)
    full = memory.full.plus([pack for pack in current if pack.limited_by == "limit"])
    high_ms, low_ms = settings.latency_high_ms, settings.latency_low_ms
    average = f"{every.mean_ms:,.0f} ms on average over {every.packs:,} packs"
    pairs, reason = memory.pairs, f"steady: {average}"
    if every.mean_ms > high_ms:
        pairs, reason = pairs // 2, f"latency: {average}, more than {high_ms:,.0f} ms: half"
    elif full.packs and full.mean_ms < low_ms:
        pairs = pairs * 2
        reason = (
            f"latency: {full.mean_ms:,.0f} ms on average over {full.packs:,} full packs, "
            f"less than {low_ms:,.0f} ms: twice"
        )
    elif _starved(packs):
        reason = _unchanged(memory)
    ceiling, memory_reason = _ceiling(memory, now_s)
    tokens = min(settings.tokens_max, ceiling)
    changed = _bounded(settings, memory, tokens, pairs, reason)
    if changed.pairs != memory.pairs:
        every = full = Latencies()
    elif pairs != memory.pairs:
        reason = f"bound: {memory.pairs} pairs, {average}"
    if changed.pairs == memory.pairs and ceiling < settings.tokens_max:
        reason = memory_reason
    return changed.model_copy(update={"every": every, "full": full, "reason": reason})


def _aimd(
    settings: PolicySettings, memory: Memory, packs: Sequence[Observation], now_s: float
) -> Memory:
    """Additive increase, multiplicative decrease, by the slowest pack since the last decision."""
    current = [pack for pack in packs if not pack.oom and pack.limit_tokens <= memory.tokens]
    slowest_s = max((pack.forward_s for pack in current), default=0.0)
    target_s, remark = _target(settings, memory, now_s)
    tokens: float = memory.tokens
    if slowest_s > target_s:
        tokens *= AIMD_DECREASE
        reason = f"latency: a pack took {slowest_s:.2f} s, target {target_s:.2f} s{remark}"
    elif not current or _starved(current):
        reason = _unchanged(memory)
    else:
        tokens += AIMD_STEP_TOKENS
        reason = (
            f"increase: no pack took more than {slowest_s:.2f} s, target {target_s:.2f} s{remark}"
        )
    ceiling, memory_reason = _ceiling(memory, now_s)
    if ceiling < tokens:
        tokens, reason = ceiling, memory_reason
    return _bounded(settings, memory, tokens, settings.pairs_max, reason)


def _fixed(
    settings: PolicySettings, memory: Memory, packs: Sequence[Observation], now_s: float
) -> Memory:
    """What was set at the start, but for the ceiling."""
    tokens, reason = _ceiling(memory, now_s)
    if tokens >= memory.first_tokens:
        tokens, reason = memory.first_tokens, "set"
    return _bounded(settings, memory, tokens, memory.first_pairs, reason)


_POLICIES: dict[
    Policy, Callable[[PolicySettings, Memory, Sequence[Observation], float], Memory]
] = {"model": _model, "thresholds": _thresholds, "aimd": _aimd, "fixed": _fixed}
