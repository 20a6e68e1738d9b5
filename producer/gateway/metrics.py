"""Metrics for Prometheus: the fleet's, read from Redis at each scrape, and this process's requests.

A scrape of any gateway covers all workers, but only its own requests. Where several gateways run,
scrape each with `?of=gateway` and one or two with `?of=fleet`; without `of` both are returned.
"""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import accumulate
from typing import Literal

from fastapi import APIRouter, Request
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from starlette.responses import Response
from starlette.types import Scope

from rerankfleet.producer.api_keys import NOBODY, ApiKey
from rerankfleet.producer.client import Client
from rerankfleet.producer.gateway.admission import in_thread
from rerankfleet.producer.gateway.errors import KEY, MODEL, OUTCOME
from rerankfleet.producer.status import is_unservable, state_of
from rerankfleet.shared.errors import StorageUnavailable
from rerankfleet.shared.metrics import FAMILIES, Counts, Family, Value
from rerankfleet.shared.model_names import canonical_model
from rerankfleet.shared.state.connection import REDIS_ERRORS
from rerankfleet.shared.state.fleet import WorkerRow
from rerankfleet.shared.state.fleet_snapshot import FleetSnapshot
from rerankfleet.shared.state.ledger import Kind
from rerankfleet.shared.state.shards import LEFT
from rerankfleet.shared.storage.disk import free_in_storage

# a gauge beside each counter with the time of its creation: of no use here
disable_created_metrics()  # type: ignore[no-untyped-call]

routes = APIRouter(tags=["fleet"])

JOBS_MAX = 1000
"""Unfinished jobs that one scrape reads."""
DURATIONS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
WORKER = ("worker", "model")


Part = Literal["gateway", "fleet"]


class Exposition:
    """All metrics of a gateway: its own requests, and the fleet's."""

    def __init__(self, client: Client) -> None:
        self._registries: dict[Part, CollectorRegistry] = {
            "gateway": CollectorRegistry(),
            "fleet": CollectorRegistry(),
        }
        fleet = FleetCollector(client)
        self._registries["fleet"].register(fleet)
        self.requests = Requests(self._registries["gateway"], fleet)

    def text(self, part: Part | None = None) -> bytes:
        """In Prometheus' format; both parts unless one is named."""
        parts = [part] if part else self._registries
        return b"".join(generate_latest(self._registries[one]) for one in parts)


class Requests:
    """Counts what this process answered."""

    def __init__(self, registry: CollectorRegistry, fleet: FleetCollector) -> None:
        self._fleet = fleet
        self._total = Counter(
            "rerank_requests",
            "Requests by route, model and outcome",
            ("route", "model", "outcome"),
            registry=registry,
        )
        self._by_key = Counter(
            "rerank_key_requests",
            "Requests by the name of their API key and outcome",
            ("key", "outcome"),
            registry=registry,
        )
        self._seconds = Histogram(
            "rerank_request_duration_seconds",
            "Seconds until the answer was sent",
            ("route", "model"),
            buckets=DURATIONS_S,
            registry=registry,
        )

    def count(self, scope: Scope, status: int, seconds: float) -> None:
        """Count one request. Only known routes, models and keys become labels."""
        route = getattr(scope.get("route"), "path", "") or "page"
        model = self._model(scope, status)
        outcome = scope.get(OUTCOME) or _outcome(status)
        self._total.labels(route, model, outcome).inc()
        self._by_key.labels(_name_of(scope.get(KEY)), outcome).inc()
        self._seconds.labels(route, model).observe(seconds)

    def _model(self, scope: Scope, status: int) -> str:
        """The model that answered. Of a failed request only the name in its body is known: it
        counts if the fleet had that model at the last scrape, so that no client makes up labels."""
        named = scope.get(MODEL)
        if not isinstance(named, str):
            return ""
        if status < 400:
            return named
        model = named if named in self._fleet.models else canonical_model(named)
        return model if model in self._fleet.models else ""


def _name_of(key: ApiKey | None) -> str:
    """The name of a key: one of the few that the gateway knows."""
    return key.name if key else NOBODY


def _outcome(status: int) -> str:
    if status < 400:
        return "ok"
    if status in (429, 507):
        return "overloaded"
    return "client_error" if status < 500 else "server_error"


class FleetCollector(Collector):
    """Reads the fleet from Redis at each scrape."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.models: frozenset[str] = frozenset()
        """Those of workers and queues at the last scrape."""

    def describe(self) -> list[Metric]:
        """Nothing: Redis is not read when the collector is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All families; while Redis does not answer only `rerank_redis_up`."""
        try:
            fleet = self._client.store.snapshot(unfinished_jobs=True)
            self.models = frozenset(queue.model for queue in fleet.queues)
            families = [
                *self._coordinator(fleet),
                *self._workers(fleet.workers),
                *_queues(fleet),
                *self._jobs(fleet),
                *self._storage(),
            ]
        except REDIS_ERRORS:
            families = []
        up = GaugeMetricFamily("rerank_redis_up", "Whether Redis answers", bool(families))
        yield from [up, *families]

    def _coordinator(self, fleet: FleetSnapshot) -> Iterator[Metric]:
        store = self._client.store
        yield GaugeMetricFamily(
            "rerank_coordinator_silent_seconds",
            "Seconds since the coordinator's last sign of life",
            fleet.coordinator_silent_s,
        )
        yield GaugeMetricFamily(
            "rerank_hints_republished",
            "Hints that the monitor had to send again in the last hour",
            store.coordination.event_count("republished"),
        )
        yield GaugeMetricFamily(
            "rerank_leases_left",
            "Shards that workers left when they died or hung, within the last hour",
            store.coordination.event_count(LEFT),
        )

    def _workers(self, workers: Sequence[WorkerRow]) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "rerank_worker_up", "1 once it serves", labels=(*WORKER, "device", "state")
        )
        info = GaugeMetricFamily(
            "rerank_model_info", "What is served", labels=("model", "dtype", "attention", "weights")
        )
        for worker in workers:
            serves = worker.state != "loading"
            up.add_metric([worker.id, worker.model, worker.device, worker.state], serves)
        served = {(w.model, w.dtype, w.attention, w.fingerprint) for w in workers if w.dtype}
        for labels in sorted(served):
            info.add_metric(labels, 1)
        yield from (up, info)
        ooms = CounterMetricFamily(
            "rerank_oom", "Packs that did not fit into the device's memory", labels=WORKER
        )
        for worker in workers:
            ooms.add_metric([worker.id, worker.model], worker.ooms)
        yield ooms
        for name, help_, field in _WORKER_GAUGES:
            yield _worker_gauge(name, help_, field, workers)
        counts = self._client.fleet.counts([worker.id for worker in workers])
        for family in FAMILIES:
            yield _counted(family, workers, counts)

    def _jobs(self, fleet: FleetSnapshot) -> Iterator[Metric]:
        unservable = waiting = 0
        states: Count[str] = Count(running=0, paused=0, finishing=0)
        items: Count[str] = Count()
        for job in self._client.store.jobs.get_many(fleet.unfinished_jobs[:JOBS_MAX]):
            if "inline" in job.facts:
                continue
            states[state_of(job)] += 1
            waiting += "waiting_for" in job.facts
            unservable += job.open_shards > 0 and is_unservable(job, fleet.workers)
            progress = job.progress
            items.update({name: getattr(progress, name) for name in _ITEMS})
            items["bad_lines"] += progress.bad_lines
            items["waiting"] += max((progress.total or progress.fed) - progress.done, 0)
        jobs = GaugeMetricFamily("rerank_jobs", "Unfinished jobs", labels=("state",))
        for state, count in sorted(states.items()):
            jobs.add_metric([state], count)
        of_jobs = GaugeMetricFamily(
            "rerank_job_items", "Pairs and bad lines of unfinished jobs", labels=("state",)
        )
        for state in (*_ITEMS, "waiting"):
            of_jobs.add_metric([state], items[state])
        bad_lines = GaugeMetricFamily(
            "rerank_job_bad_lines",
            "Of the errors of unfinished jobs, lines that could not be read",
            items["bad_lines"],
        )
        of_weights = GaugeMetricFamily(
            "rerank_jobs_of_other_weights",
            "Unfinished jobs begun with other weights than any worker serves",
            unservable,
        )
        for_storage = GaugeMetricFamily(
            "rerank_jobs_waiting_for_storage",
            "Unfinished jobs that wait for a storage that is away or refuses",
            waiting,
        )
        yield from (jobs, of_jobs, bad_lines, of_weights, for_storage)

    def _storage(self) -> Iterator[Metric]:
        ledger, settings = self._client.store.ledger, self._client.settings
        used = GaugeMetricFamily(
            "rerank_stored_bytes", "Bytes that jobs and uploads keep in the storage", labels=("of",)
        )
        most = GaugeMetricFamily(
            "rerank_stored_limit_bytes", "Their quota; absent where there is none", labels=("of",)
        )
        kinds: tuple[tuple[Kind, int], ...] = (
            ("uploads", settings.uploads_bytes_max),
            ("jobs", settings.jobs_bytes_max),
        )
        for kind, quota in kinds:
            used.add_metric([kind], ledger.used(kind))
            if quota:
                most.add_metric([kind], quota)
        yield from (used, most)
        with suppress(StorageUnavailable):
            if (free := free_in_storage(settings)) is not None:
                yield GaugeMetricFamily(
                    "rerank_storage_free_bytes", "Free bytes of the storage's disk", free
                )
                yield GaugeMetricFamily(
                    "rerank_storage_free_min_bytes",
                    "With less, uploads and new jobs are refused",
                    settings.free_bytes_min,
                )


def _queues(fleet: FleetSnapshot) -> Iterator[Metric]:
    depth = GaugeMetricFamily(
        "rerank_queue_depth", "Hints that wait in the broker", labels=("model", "priority")
    )
    shards = GaugeMetricFamily("rerank_open_shards", "Shards to be scored", labels=("model",))
    age = GaugeMetricFamily(
        "rerank_queue_oldest_age_seconds",
        "How long the oldest due shard has waited for a worker",
        labels=("model",),
    )
    for queue in fleet.queues:
        for priority, count in queue.waiting.items():
            depth.add_metric([queue.model, priority.value], count)
        shards.add_metric([queue.model], queue.open_shards)
        age.add_metric([queue.model], queue.oldest_due_s)
    yield from (depth, shards, age)


_ITEMS = ("scored", "errors", "rejected", "cancelled")
_WORKER_GAUGES = (
    ("rerank_worker_busy_ratio", "Share of time in which the device computes", "busy_share"),
    ("rerank_worker_preparing_ratio", "Share of time the device waits", "preparing_share"),
    ("rerank_worker_shards", "Shards that it holds", "shards"),
    ("rerank_worker_pairs_per_second", "Pairs scored per second", "pairs_per_s"),
    ("rerank_worker_tokens_per_second", "Tokens computed per second", "tokens_per_s"),
    ("rerank_batch_tokens", "Pack limit in tokens", "batch_tokens"),
    ("rerank_batch_pairs", "Pack limit in pairs", "batch_pairs"),
    ("rerank_pack_duration_seconds", "Device seconds of a pack, lately", "latency_s"),
    (
        "rerank_pack_duration_p95_seconds",
        "Device seconds of a pack, lately: 95th percentile",
        "latency_p95_s",
    ),
    ("rerank_worker_memory_bytes", "Peak device memory of its last packs", "memory_bytes"),
)
"""Name, help and the field of a worker's row."""


def _worker_gauge(name: str, help_: str, field: str, workers: Sequence[WorkerRow]) -> Metric:
    gauge = GaugeMetricFamily(name, help_, labels=WORKER)
    for worker in workers:
        gauge.add_metric([worker.id, worker.model], getattr(worker, field))
    return gauge


def _counted(family: Family, workers: Sequence[WorkerRow], counts: Sequence[Counts]) -> Metric:
    """A family of what workers count; one of another version may lack some."""
    metric = _KINDS[family.kind](family.name, family.help, labels=(*WORKER, *family.labels))
    for worker, counted in zip(workers, counts, strict=True):
        for labels, value in counted.get(family.name, {}).items():
            all_labels = (worker.id, worker.model, *labels)
            if isinstance(metric, HistogramMetricFamily):
                metric.add_metric(all_labels, *_buckets(family, value))
            elif not isinstance(value, list):
                metric.add_metric(all_labels, value)
    return metric


_KINDS: dict[str, Callable[..., CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]]
_KINDS = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


def _buckets(family: Family, value: Value) -> tuple[list[tuple[str, float]], float]:
    """Cumulative counts of a histogram, as Prometheus expects them, and the sum."""
    assert isinstance(value, list)
    *counts, total = value
    ends = (*map(floatToGoString, family.buckets), "+Inf")
    return list(zip(ends, accumulate(counts), strict=True)), total


@routes.get("/metrics", summary="Metrics for Prometheus")
async def metrics(request: Request, of: Part | None = None) -> Response:
    """The whole fleet, and the requests of this process; or one of them."""
    text = await in_thread(request.app.state.metrics.text, of)
    return Response(text, media_type=CONTENT_TYPE_LATEST)
