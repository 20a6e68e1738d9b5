"""A worker obeys from its next pack, and whatever is away costs nothing but observations."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import redis

from rerankfleet.shared.settings import Settings
from rerankfleet.shared.state.fleet import BatchLimit
from rerankfleet.workers.batch_limits.agent import OBSERVATIONS_MAX, LimitAgent, policy_of
from rerankfleet.workers.batch_limits.settings import PolicySettings
from rerankfleet.workers.batching.batcher import Batcher
from rerankfleet.workers.batching.packing import Limit
from tests.support.fake_engine import WAIT_S, FakeEngine, prompt
from tests.support.packs import pack
from tests.support.wait import patient, wait_until


@pytest.fixture
def agent(fleet) -> LimitAgent:
    return LimitAgent(fleet, "w1", PolicySettings(), reason="measured at start")


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def batcher(engine):
    made = Batcher(engine, Limit(1000))
    yield made
    made.close(drain=False)


def test_a_limit_is_obeyed_from_the_next_pack(agent, batcher, engine, fleet):
    # given a worker in the middle of its pairs
    engine.gate.clear()
    first = batcher.submit([prompt(1)])
    assert engine.entered.wait(WAIT_S)
    rest = batcher.submit([prompt(number, length=80) for number in range(2, 8)])
    # when the monitor sets a limit
    limit = BatchLimit(tokens=250, pairs=2, reason="latency: why", at_s=5.0)
    fleet.set_limit("w1", limit)
    agent.exchange(batcher)
    engine.gate.set()
    # then the pairs that wait are scored under it
    assert first.result(WAIT_S) == [1]
    assert rest.result(WAIT_S) == [2, 3, 4, 5, 6, 7]
    assert [len(numbers) for numbers in engine.packs] == [1, 2, 2, 2]
    assert (agent.reason, agent.at_s) == ("latency: why", 5.0)


def test_without_a_decision_nothing_changes(agent, batcher):
    agent.exchange(batcher)

    assert batcher.limit == Limit(1000)
    assert (agent.reason, agent.at_s) == ("measured at start", 0.0)


@pytest.mark.parametrize(
    ("tokens", "applied"), [(1, 64), (-5, 64), (10**12, 131_072), (2000, 2000)]
)
def test_no_limit_leads_a_worker_out_of_its_bounds(agent, batcher, fleet, tokens, applied):
    fleet.set_limit("w1", BatchLimit(tokens=tokens, pairs=-1))

    agent.exchange(batcher)

    assert batcher.limit == Limit(applied, 1)


def test_what_was_observed_goes_out_once(agent, batcher, fleet):
    for cost in (100, 200):
        agent.observe(pack(cost), memory_bytes=77, held_s=0)
    agent.exchange(batcher)
    agent.exchange(batcher)

    assert [observation.cost for observation in fleet.observations("w1")[1]] == [100, 200]
    assert {observation.memory_bytes for observation in fleet.observations("w1")[1]} == {77}


def test_a_redis_that_is_away_costs_nothing_but_old_observations(
    agent, batcher, fleet, monkeypatch
):
    # given a Redis that is away for longer than observations are kept
    def away(*_):
        raise redis.ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(fleet, "push", away)
        for number in range(1, OBSERVATIONS_MAX + 11):
            agent.observe(pack(number), memory_bytes=0, held_s=0)
            if number % 100 == 0:
                with pytest.raises(redis.ConnectionError):
                    agent.exchange(batcher)
    assert batcher.limit == Limit(1000)
    # when it is back
    agent.exchange(batcher)
    # then the newest are sent
    costs = [observation.cost for observation in fleet.observations("w1")[1]]
    assert costs == list(range(11, OBSERVATIONS_MAX + 11))


@pytest.mark.parametrize(
    ("idle_s", "held_s", "preparing_s"),
    [
        (3.0, 10.0, 3.0),  # shards were held all the time
        (3.0, 2.5, 2.0),  # they came while the device stood idle; half a second it computed
        (3.0, 0.5, 0.0),  # they came with the pack
        (3.0, 0.0, 0.0),  # they are gone already
        (0.0, 10.0, 0.0),
    ],
)
def test_preparing_is_idle_time_while_shards_are_held(
    agent, batcher, fleet, idle_s, held_s, preparing_s
):
    observation = replace(pack(), preparing_s=idle_s, forward_s=0.5)
    agent.observe(observation, memory_bytes=0, held_s=held_s)
    agent.exchange(batcher)

    (sent,) = fleet.observations("w1")[1]
    assert sent.preparing_s == pytest.approx(preparing_s)


def test_the_settings_become_a_policy():
    settings = Settings(
        batch_policy="thresholds",
        latency_target_ms=300,
        batch_tokens_max=9000,
        batch_pairs=32,
        threshold_pairs_max=24,
    )

    policy = policy_of(settings, tokens_max=50_000)

    assert policy.policy == "thresholds"
    assert policy.latency_target_ms == 300
    assert (policy.tokens_min, policy.tokens_max) == (64, 9000)
    assert (policy.pairs_max, policy.pairs_low, policy.pairs_high) == (32, 4, 24)


def test_no_policy_exceeds_what_memory_allows():
    assert policy_of(Settings(), tokens_max=5000).tokens_max == 5000
    assert policy_of(Settings(), tokens_max=10).tokens_max == 64


def test_deterministic_margins_want_a_fixed_limit():
    assert policy_of(Settings(deterministic=True), tokens_max=5000).policy == "fixed"


def test_a_limit_that_changes_all_the_time_changes_no_margin(load, model_folders, passages, encode):
    # given the margins of pairs that are scored one by one
    engine = load(model_folders["tied"])
    prompts = encode(engine, [(p[:30], d) for p in passages[:6] for d in passages[10:40]])
    alone = Batcher(engine, Limit(1))
    expected = alone.submit(prompts).result(patient(60))
    alone.close()
    # when the limit changes from pack to pack
    done = threading.Event()
    limits = [Limit(64), Limit(5000), Limit(300, pairs=3), Limit(1200)]
    packs = []

    def change(observation) -> None:
        packs.append(observation.limit_tokens)
        batcher.limit = limits[len(packs) % len(limits)]
        if sum(1 for _ in packs) > 3:
            done.set()

    batcher = Batcher(engine, Limit(700), on_pack=change)
    margins = batcher.submit(prompts).result(patient(60))
    batcher.close()
    # then no margin does
    wait_until(done.is_set)
    assert set(packs) >= {limit.tokens for limit in limits}
    assert margins == pytest.approx(expected, abs=1e-4)
