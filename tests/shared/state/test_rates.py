"""Rates of keys, counted for all gateways together."""

from __future__ import annotations

import pytest
import redis

from rerankfleet.shared.state.connection import connect
from rerankfleet.shared.state.rates import Rates
from rerankfleet.shared.state.store import Store


def test_a_rate_is_one_for_all_gateways_and_another_for_each_key(store, settings):
    here, there = Rates(store), Rates(Store(connect(settings), settings))

    taken = [one.take("a", 3, 3600) for one in (here, there, here, there)]

    assert [one.is_within for one in taken] == [True, True, True, False]
    assert [one.left for one in taken] == [2, 1, 0, 0]
    assert 0 < taken[-1].reset_s <= 3600
    assert here.take("b", 3, 3600).is_within
    assert here.take("a", 4, 3600).is_within  # a rate that was changed counts anew


def test_what_is_counted_stands_under_the_prefix_and_expires(store, client):
    Rates(store).take("a", 3, 60)
    keys = [key for key in client.keys() if "rate" in key]
    assert keys
    assert all(key.startswith(f"{store.keys.rates}:") for key in keys)
    assert all(0 < client.ttl(key) <= 120 for key in keys)


def test_without_redis_nothing_is_allowed(store, monkeypatch):
    rates = Rates(store)
    monkeypatch.setattr(store.client.connection_pool, "get_connection", _away)
    with pytest.raises(redis.RedisError):
        rates.take("a", 3, 60)


def _away(*_: object, **__: object) -> object:
    raise redis.ConnectionError("away")
