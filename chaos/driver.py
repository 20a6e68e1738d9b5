"""A run: a cluster, its users, a storm of faults, a calm, and an account of every pair."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import redis
import structlog
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from rerankfleet.chaos.baseline import hurry_sweep, left_in_redis
from rerankfleet.chaos.cluster import Cluster, cluster, left_processes, wait_for
from rerankfleet.chaos.faults import Fault, process_faults, redis_faults, server_faults
from rerankfleet.chaos.faults import storage_faults as faults_of
from rerankfleet.chaos.guard import Lookout, refuse_used
from rerankfleet.chaos.ledger import Ledger
from rerankfleet.chaos.pairs import Pool, Undisturbed
from rerankfleet.chaos.report import Report, make_report
from rerankfleet.chaos.storages import Storage, storage
from rerankfleet.chaos.storm import Storm
from rerankfleet.chaos.users import OURS, PATIENCE_S, Users
from rerankfleet.chaos.watch import Watch
from rerankfleet.producer.client import Client
from rerankfleet.producer.interactive import ANSWER_TTL_S
from rerankfleet.shared.errors import DeadlineExceeded
from rerankfleet.shared.settings import Settings

STEP_S = 0.02
FIRST_S = 180.0
"""How long the undisturbed job may take."""
BASELINE_S = 60.0
"""How long after the last result has expired everything may take to be gone."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is to be."""

    seed: int = 0
    duration_s: float = 60.0
    """Of the storm, without the calm after it."""
    storage: str = "folder"
    model: str = "pocket-text"
    workers: int = 3
    submitters: int = 3
    askers: int = 2
    every_s: float = 1.0
    """Mean time between two faults."""
    queries: int = 24
    documents: int = 40
    requests_max: int = 30
    """Of a job."""
    result_ttl_s: float = 60.0
    """How long a finished job is kept. Users read their results at once."""
    await_expiry: bool = True
    """Whether to wait until everything that expires has; else only what never would is found."""


def run_on_own_cluster(plan: Plan, folder: Path) -> Report:
    """Run on a cluster that is started in an empty folder, and ended. Everything may be hit."""
    run = f"{OURS}{plan.seed}"
    with storage(plan.storage, folder, plan.seed) as files:
        with cluster(
            folder,
            files,
            run=run,
            model=plan.model,
            workers=plan.workers,
            result_ttl_s=plan.result_ttl_s,
        ) as own:
            account = _Account(plan, own.client, own.settings, folder)
            faults = [*server_faults(own), *faults_of(files)]
            faults += process_faults(own, on_kill=account.watch.killed)
            account.storm(faults, output=files.output, gateway=own.gateway, each=own.upkeep)
            account.look_for_left(files, own)
        account.look_for_processes(run)
    return account.report()


def run_on_test_cluster(plan: Plan, settings: Settings, model: str | None, folder: Path) -> Report:
    """Run on the cluster that the settings name: its connections and its hints are hit, its
    processes and its storage are not. Raises UsageError where it may be anybody else's, also when
    that shows later."""
    client = Client(settings)
    raw = steady_client(settings)
    refuse_used(client, raw)
    plan = replace(plan, model=client.choose_model(model), storage=settings.storage_uri, workers=0)
    account = _Account(plan, client, settings, folder)
    account.storm([], output=None, gateway=None, each=Lookout(client))
    return account.report()


class _Account:
    """The parts of a run that any cluster has."""

    def __init__(self, plan: Plan, client: Client, settings: Settings, folder: Path) -> None:
        self.plan, self.client, self.settings, self._folder = plan, client, settings, folder
        self._redis = steady_client(settings)
        self._random = Random(plan.seed)
        self._pool = Pool.drawn(self._random, queries=plan.queries, documents=plan.documents)
        self._storm: Storm | None = None
        self._storm_s = 0.0
        began_s = time.monotonic()
        self.ledger = Ledger(self._undisturbed())
        self._undisturbed_rate = len(self.ledger.undisturbed.margins) / (time.monotonic() - began_s)
        self.watch = Watch(steady_client(settings), client.store.keys)
        self.watch.start()

    def _undisturbed(self) -> Undisturbed:
        requests = self._pool.all_pairs()
        source = self._folder / f"{OURS}-undisturbed.jsonl"
        source.write_text("".join(self._pool.line(request) + "\n" for request in requests))
        job_id = self.client.submit(source, model=self.plan.model, name=f"{OURS}-undisturbed")
        self.client.wait(job_id, timeout_s=FIRST_S)
        return Undisturbed.read(requests, self.client.results(job_id))

    def storm(
        self,
        faults: Sequence[Fault],
        *,
        output: str | None,
        gateway: str | None,
        each: Callable[[], None],
    ) -> None:
        """Let users work while everything breaks; then let them end in a calm."""
        plan = self.plan
        users = Users(
            self.client,
            self.ledger,
            self._pool,
            model=plan.model,
            folder=self._folder,
            seed=plan.seed,
            output=output,
            gateway=gateway,
            requests_max=plan.requests_max,
        )
        through_redis = redis_faults(self._redis, self.settings, plan.model)
        self._storm = Storm([*faults, *through_redis], self._random, every_s=plan.every_s)
        users.start(submitters=plan.submitters, askers=plan.askers if gateway else 0)
        began_s = time.monotonic()
        try:
            while time.monotonic() - began_s < plan.duration_s:
                self._storm.step()
                each()
                time.sleep(STEP_S)
        finally:
            self._storm.over()
        self._storm_s = time.monotonic() - began_s
        log.info("calm", after_s=round(self._storm_s, 1))
        users.leave()
        try:
            wait_for(lambda: not users.present, 4 * PATIENCE_S, "the users have left", each)
        except DeadlineExceeded as error:
            self.ledger.find("stuck", "users", str(error))
        self.watch.close()

    def look_for_left(self, files: Storage, own: Cluster) -> None:
        """Once the last result has expired, nothing of any job may be left; and no process ended
        that was not told to."""

        def left() -> list[str]:
            prefix = self.settings.key_prefix
            hurry_sweep(self._redis, prefix)
            keys = left_in_redis(self._redis, prefix, expiring=not self.plan.await_expiry)
            return [*keys, *files.left()]

        answers_s = self.settings.interactive_deadline_s + ANSWER_TTL_S
        timeout_s = max(self.settings.result_ttl_s, answers_s) + BASELINE_S
        try:
            wait_for(lambda: not left(), timeout_s, "everything is gone", own.upkeep)
        except DeadlineExceeded:
            for name in left()[:20]:
                self.ledger.find("left", "", name)
        for ended in own.ended_by_themselves:
            self.ledger.find("ended", ended, "nobody had told it to")

    def look_for_processes(self, run: str) -> None:
        """No process of a run may be left behind it."""
        for process in left_processes(run):
            self.ledger.find("left", "process", process)

    def report(self) -> Report:
        """The figures of the run."""
        assert self._storm is not None
        return make_report(
            self.ledger,
            self.watch,
            self._storm.counts,
            seed=self.plan.seed,
            duration_s=round(self._storm_s, 1),
            storage=self.plan.storage,
            workers=self.plan.workers + 1,
            faults_not_possible=dict(self._storm.missed),
            undisturbed_pairs_per_s=round(self._undisturbed_rate, 1),
            pairs_per_s=round(self.ledger.counts["pairs_checked"] / max(self._storm_s, 1.0), 1),
        )


def steady_client(settings: Settings) -> redis.Redis:
    """A client that answers soon, whatever became of the server, and connects again by itself."""
    return redis.Redis.from_url(
        settings.redis_address,
        decode_responses=True,
        socket_timeout=5,
        socket_connect_timeout=2,
        retry=Retry(ConstantBackoff(0.1), 5),
        retry_on_error=[redis.ConnectionError, redis.TimeoutError],
    )
