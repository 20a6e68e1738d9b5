"""The state of the fleet in one Redis, by kind of record.

store.jobs          created, paused, cancelled, retried, finished
store.shards        opened, claimed, renewed, committed, released, split
store.ledger        bytes that jobs and uploads keep in the storage
store.inline        small payloads and results
store.fleet         heartbeats, observations, batch limits
store.statistics    counters by the hour, temperatures of profiles
store.coordination  leadership, the coordinators' pulse, counted events
store.broker        hints that wait in Celery's lists
store.snapshot()    the fleet at one moment, for whatever shows or judges it
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import redis

from rerankfleet.shared.settings import Settings
from rerankfleet.shared.state.broker import Broker
from rerankfleet.shared.state.connection import Connection, Scripts, now_ms
from rerankfleet.shared.state.coordination import Coordination
from rerankfleet.shared.state.fleet import Fleet
from rerankfleet.shared.state.fleet_snapshot import FleetSnapshot, read_snapshot
from rerankfleet.shared.state.inline import Inline
from rerankfleet.shared.state.jobs import Jobs
from rerankfleet.shared.state.keys import Keys
from rerankfleet.shared.state.ledger import Ledger
from rerankfleet.shared.state.shards import Shards
from rerankfleet.shared.state.statistics import StatisticsRecords


class Store:
    """All records in one Redis."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self.client = client
        self.keys = Keys(settings.key_prefix)
        connection = Connection(client, self.keys, Scripts(client), settings)
        self._connection = connection
        self.inline = Inline(connection)
        self.jobs = Jobs(connection, self.inline)
        self.shards = Shards(connection, self.inline)
        self.ledger = Ledger(connection)
        self.fleet = Fleet(connection)
        self.statistics = StatisticsRecords(connection)
        self.coordination = Coordination(connection)
        self.broker = Broker(connection)

    def now_ms(self) -> int:
        """The time in ms by the server's clock, which all leases use."""
        return now_ms(self.client)

    def snapshot(
        self, models: Collection[str] | None = None, *, unfinished_jobs: bool = False
    ) -> FleetSnapshot:
        """The fleet at this moment. With `models` only their queues are read."""
        return read_snapshot(self._connection, models, unfinished_jobs=unfinished_jobs)

    def server_info(self) -> dict[str, Any]:
        """The server's INFO."""
        return self.client.info()
