"""What coordinators agree on."""

from __future__ import annotations

from tests.support.wait import wait_until


def test_only_one_leads_and_only_for_a_while(store):
    assert store.coordination.lead("role", "one", 30)
    assert store.coordination.lead("role", "one", 0.03)
    wait_until(lambda: store.coordination.lead("role", "two", 30))
    assert not store.coordination.lead("role", "one", 30)


def test_counters_of_the_monitor_go_after_an_hour(store):
    assert store.coordination.event_count("kind") == 0
    store.coordination.count_event("kind")
    store.coordination.count_event("kind", 2)
    assert store.coordination.event_count("kind") == 3
    assert 3500 < store.client.ttl(store.keys.seen("kind")) <= 3600
