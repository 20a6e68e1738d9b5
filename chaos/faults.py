"""The faults: each a function that breaks something, yields for how many seconds, and mends it.

A fault that lasts no time yields 0. Faults of one place do not overlap, those of different places
do. What a fault hits is drawn from the run's random numbers.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

import redis

from rerankfleet.shared.queue import CONTROL_QUEUE, broker_keys, model_queues
from rerankfleet.shared.settings import Settings

if TYPE_CHECKING:
    import psutil

    from rerankfleet.chaos.cluster import Cluster
    from rerankfleet.chaos.storages import Storage

Course = Iterator[float]
"""Of a fault: broken, then the seconds that it lasts, then mended."""


SERVER = "server"
"""The place of all that needs the server to answer, or keeps it from answering."""


class NothingToBreak(Exception):
    """A fault finds nothing to hit now."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault: how often it is drawn against the others, and where it happens."""

    name: str
    place: str
    weight: float
    begin: Callable[[Random], Course]


# ---- processes ----------------------------------------------------------------------------------

KILLED = "killed"
FROZEN = "frozen"
DRAINED = "drained"


def process_faults(
    cluster: Cluster, on_kill: Callable[[int], None] = lambda pid: None
) -> list[Fault]:
    """Kills, freezes and drains of every role. `on_kill` is told the pid of each worker that was
    killed."""
    weights = {
        "worker": (8, 8, 2),
        "launcher": (0.3, 0.3, 0.3),
        "coordinator": (0.7, 0.3, 0.7),
        "coordinator child": (1.5, 2.5, 0.5),
        "gateway": (0.7, 0.7, 0.3),
    }
    faults = []
    for role, of_role in weights.items():
        hit = _Processes(cluster, role, on_kill)
        acts = ((KILLED, hit.killed), (FROZEN, hit.frozen), (DRAINED, hit.drained))
        for (word, act), weight in zip(acts, of_role, strict=True):
            faults.append(Fault(f"{role} {word}", f"{word} {role}", weight, act))
    every = _Processes(cluster, "worker", on_kill).all_killed
    return [*faults, Fault(f"every worker {KILLED}", f"{KILLED} worker", 0.4, every)]


class _Processes:
    """Those of one role, one of which is hit."""

    def __init__(self, cluster: Cluster, role: str, on_kill: Callable[[int], None]) -> None:
        self._cluster, self._role, self._on_kill = cluster, role, on_kill

    def _one(self, random: Random) -> psutil.Process:
        processes = self._cluster.processes(self._role)
        if not processes:
            raise NothingToBreak(self._role)
        return random.choice(processes)

    def killed(self, random: Random) -> Course:
        self._kill(self._one(random))
        yield 0

    def all_killed(self, random: Random) -> Course:
        for process in self._cluster.processes(self._role):
            self._kill(process)
        yield 0

    def _kill(self, process: psutil.Process) -> None:
        if self._role == "worker":
            self._on_kill(process.pid)
        self._cluster.end(process)

    def frozen(self, random: Random) -> Course:
        with self._cluster.frozen(self._one(random)):
            yield random.uniform(1.1, 2.5) * self._cluster.settings.lease_s

    def drained(self, random: Random) -> Course:
        process = self._one(random)
        self._cluster.end(process, signal.SIGTERM)
        if random.random() < 0.8:
            yield 0
            return
        yield random.uniform(0.0, 1.0)
        self._cluster.end(process, signal.SIGTERM)  # a second one: it ends at once


def server_faults(cluster: Cluster) -> list[Fault]:
    """The server killed and frozen."""

    def kill(random: Random) -> Course:
        with cluster.server_down():
            yield random.uniform(0.2, 4.0)

    def freeze(random: Random) -> Course:
        servers = cluster.processes("server")
        if not servers:
            raise NothingToBreak("server")
        with cluster.frozen(servers[0]):
            yield random.uniform(0.2, 2 * cluster.settings.lease_s)

    return [
        Fault(f"server {KILLED}", SERVER, 1.0, kill),
        Fault(f"server {FROZEN}", SERVER, 1.0, freeze),
    ]


# ---- through Redis ------------------------------------------------------------------------------


def redis_faults(client: redis.Redis, settings: Settings, model: str) -> list[Fault]:
    """What can be done to a fleet through its Redis alone: its connections and its hints."""
    hints = _Hints(client, settings, model)

    def close_connections(random: Random) -> Course:
        share = random.choice((0.2, 0.5, 1.0))
        me = client.client_id()
        for other in client.client_list():
            if int(other["id"]) != me and random.random() < share:
                client.client_kill_filter(_id=other["id"])
        yield 0

    def pause_connections(random: Random) -> Course:
        seconds = random.uniform(0.2, 3.0)
        client.client_pause(int(seconds * 1000), all=random.random() < 0.5)
        yield seconds

    def fill_up(random: Random) -> Course:
        client.config_set("maxmemory", 1 << 20)
        try:
            yield random.uniform(0.5, 4.0)
        finally:
            client.config_set("maxmemory", 0)

    return [
        Fault("connections closed", SERVER, 1.5, close_connections),
        Fault("connections paused", SERVER, 1.0, pause_connections),
        Fault("server full", SERVER, 0.7, fill_up),
        Fault("hints deleted", SERVER, 1.5, hints.deleted),
        Fault("hints doubled", SERVER, 1.5, hints.doubled),
        Fault("hints reordered", SERVER, 1.0, hints.reordered),
    ]


class _Hints:
    """The broker's lists, in which nothing is safe."""

    def __init__(self, client: redis.Redis, settings: Settings, model: str) -> None:
        self._client = client
        self._lists = broker_keys(settings, [*model_queues(model), CONTROL_QUEUE])

    def deleted(self, random: Random) -> Course:
        self._client.delete(*self._lists)
        yield 0

    def doubled(self, random: Random) -> Course:
        times = random.choice((1, 2))
        for name in self._lists:
            waiting: Any = self._client.lrange(name, 0, -1)
            if waiting:
                self._client.lpush(name, *waiting * times)
        yield 0

    def reordered(self, random: Random) -> Course:
        for name in self._lists:
            pipe = self._client.pipeline()
            pipe.lrange(name, 0, -1)
            pipe.delete(name)
            waiting = pipe.execute()[0]
            if waiting:
                random.shuffle(waiting)
                self._client.lpush(name, *waiting)
        yield 0


def storage_faults(storage: Storage) -> list[Fault]:
    """What befalls the storage of the files."""
    each = 3.0 / len(storage.faults)
    return [Fault(name, "storage", each, begin) for name, begin in storage.faults.items()]


def by_group(counts: Mapping[str, int]) -> dict[str, int]:
    """How many faults were kills, freezes, drains, and others."""
    groups = {KILLED: 0, FROZEN: 0, DRAINED: 0, "other": 0}
    for name, count in counts.items():
        groups[name.rpartition(" ")[2] if name.rpartition(" ")[2] in groups else "other"] += count
    return groups
