"""The monitor decides on batch limits: from observations, once, whatever false ones there are."""

from __future__ import annotations

import json
import math

import pytest

from rerankfleet.shared.state.connection import Connection, Scripts
from rerankfleet.shared.state.fleet import Fleet
from rerankfleet.shared.state.keys import Keys
from rerankfleet.shared.state.store import Store
from rerankfleet.workers.batch_limits.decide import set_limits
from rerankfleet.workers.batch_limits.settings import PolicySettings
from tests.support.fleet import worker_row
from tests.support.packs import TOKENS, pack

TARGET_MS = 500.0
POLICY = PolicySettings(latency_target_ms=TARGET_MS)


@pytest.fixture
def serve(fleet):
    """`serve("w1")`: a worker under a policy, with a limit of its own."""

    def beat(worker_id: str = "w1", policy: str = POLICY.model_dump_json(), **fields) -> str:
        row = {"batch_tokens": TOKENS, "batch_pairs": 1024, "batch_policy": policy}
        fleet.beat(worker_row(worker_id, **(row | fields)))
        return worker_id

    return beat


def drive(fleet: Fleet, worker_id: str, ticks: int = 12, packs: int = 10) -> int:
    """A worker that obeys and observes, and a monitor that ticks; the limit in the end."""
    limit = fleet.limit(worker_id)
    tokens = limit.tokens if limit else TOKENS
    for _ in range(ticks):
        fleet.push(worker_id, [pack(tokens * share / packs) for share in range(packs, 0, -1)])
        set_limits(fleet)
        limit = fleet.limit(worker_id)
        assert limit is not None
        tokens = limit.tokens
    return tokens


def test_a_worker_that_is_late_gets_smaller_packs_and_everyone_can_see_why(fleet, serve):
    serve()

    tokens = drive(fleet, "w1")

    assert 100 < tokens <= 1000  # about 900 take the half second
    limit = fleet.limit("w1")
    assert limit.reason.startswith("latency")
    assert limit.at_s > 0
    history = fleet.limits("w1")
    assert [past.tokens for past in history][-1] == tokens
    assert all(past.reason and past.at_s <= limit.at_s for past in history)


def test_a_worker_that_observed_nothing_keeps_its_limit(fleet, serve):
    serve()
    set_limits(fleet)
    assert fleet.limit("w1") is None
    drive(fleet, "w1", ticks=3)
    before = fleet.limit("w1")

    set_limits(fleet)

    assert fleet.limit("w1") == before


def test_a_worker_that_loads_is_left_alone(fleet, serve):
    serve(policy="", state="loading")
    fleet.push("w1", [pack()])

    set_limits(fleet)

    assert fleet.limit("w1") is None


def test_two_monitors_at_once_act_once(fleet, serve, client, settings):
    serve()
    rival = Store(client, settings).fleet
    connection = Connection(client, Keys(settings.key_prefix), Scripts(client), settings)

    class Overtaken(Fleet):
        """A monitor that another one overtakes between its reading and its writing."""

        def observations(self, worker_id, after=""):
            observations = super().observations(worker_id, after)
            set_limits(rival)
            return observations

    for decisions in (1, 2, 3):
        fleet.push("w1", [pack(TOKENS / decisions)] * 5)
        set_limits(Overtaken(connection))
        assert fleet.limit("w1").version == decisions
        assert len(fleet.limits("w1")) <= decisions


def test_any_coordinator_goes_on_where_another_one_stopped(fleet, serve, client, settings):
    serve("alone")
    serve("shared")

    alone = drive(fleet, "alone", ticks=6)
    for _ in range(6):
        shared = drive(Store(client, settings).fleet, "shared", ticks=1)

    assert shared == alone


LIES = [
    {"forward_s": -1.0},
    {"forward_s": math.nan},
    {"forward_s": 1e300},
    {"forward_s": "0.001"},
    {"cost": -5.0},
    {"cost": math.inf},
    {"cost": 1e30},
    {"pairs": -3},
    {"pairs": 10**300},
    {"memory_bytes": -1},
    {"limited_by": "magic"},
    {"limit_tokens": 10**30},
    {"at_s": -math.inf},
]


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: str(lie)[:30])
def test_a_lying_observation_neither_kills_a_tick_nor_moves_a_limit(
    fleet, serve, client, store, lie
):
    # given a worker whose limit has settled
    serve()
    settled = drive(fleet, "w1")
    honest = [pack(settled * share) for share in (1, 0.6, 0.9, 0.5)]
    # when another one of its name lies, between honest packs
    false = json.dumps({name: getattr(pack(), name) for name in pack().__slots__} | lie)
    for observation in honest * 3:
        fleet.push("w1", [observation])
        client.xadd(store.keys.packs("w1"), {"pack": false})
    client.xadd(store.keys.packs("w1"), {"pack": '{"pairs":'})
    set_limits(fleet)
    # then the limit is about what it was, and everything was read
    limit = fleet.limit("w1")
    assert limit.tokens == pytest.approx(settled, rel=0.15)
    assert fleet.observations("w1", after=limit.cursor)[1] == []


def test_what_goes_wrong_with_one_worker_does_not_touch_the_others(fleet, serve):
    serve("a", policy="{")
    serve("b", policy='{"policy": "magic"}')
    serve("c")
    for name in "abc":
        fleet.push(name, [pack()] * 5)

    set_limits(fleet)

    assert fleet.limit("a") is None
    assert fleet.limit("b") is None
    assert fleet.limit("c") is not None


def test_the_next_limit_respects_what_ran_out_of_memory(fleet, serve):
    # given a fast device whose packs could be large, if there were the memory
    serve(policy=PolicySettings(latency_target_ms=60_000).model_dump_json())
    fleet.push("w1", [pack(TOKENS / 2), pack(TOKENS / 4), pack(TOKENS, oom=True, forward_s=0.1)])

    set_limits(fleet)

    limit = fleet.limit("w1")
    assert limit.tokens < TOKENS
    assert limit.reason.startswith("memory")


@pytest.mark.parametrize("policy", ["model", "thresholds", "aimd", "fixed"])
def test_every_policy_works_through_redis(fleet, serve, policy):
    serve(policy=PolicySettings(policy=policy).model_dump_json())

    drive(fleet, "w1", ticks=4)

    limit = fleet.limit("w1")
    assert limit.version == 4
    assert limit.reason


def test_without_remembrance_a_policy_starts_from_the_limit_in_force(fleet, serve, client, store):
    serve(pack_overhead_s=0.05, pack_s_per_token=1 / 2000)
    drive(fleet, "w1", ticks=3)
    client.hset(store.keys.limit("w1"), "memory", "{broken")

    fleet.push("w1", [pack(600), pack(400)])
    set_limits(fleet)

    assert fleet.limit("w1").version == 4
