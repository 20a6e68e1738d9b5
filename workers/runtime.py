"""One worker process: engine, batcher, leases, heartbeat and watchdog, wired together.

Serves only after load and self-test. Started by `python -m rerankfleet.workers`, one process per
device.
"""

from __future__ import annotations

import faulthandler
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import structlog

from rerankfleet import __version__
from rerankfleet.shared.metrics import CACHE_LOOKUPS, GPU_MEMORY, LOAD_SECONDS, Counts
from rerankfleet.shared.model_names import canonical_model
from rerankfleet.shared.observations import Observation
from rerankfleet.shared.queue import Hints, make_app
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.state.connection import REDIS_ERRORS, connect
from rerankfleet.shared.state.fleet import WorkerRow, WorkerState, worker_id
from rerankfleet.shared.state.records import Job
from rerankfleet.shared.state.store import Store
from rerankfleet.shared.storage.objects import Objects
from rerankfleet.workers.batch_limits.agent import EXCHANGE_S, LimitAgent, policy_of
from rerankfleet.workers.batch_limits.policies import start
from rerankfleet.workers.batching.batcher import Batcher, waiting_tokens_max
from rerankfleet.workers.batching.packing import Limit
from rerankfleet.workers.engine import load_engine
from rerankfleet.workers.images.source import ImageSource
from rerankfleet.workers.leases import RELEASE_S, Leases, end_leases
from rerankfleet.workers.meter import Meter
from rerankfleet.workers.pipeline import Scorer
from rerankfleet.workers.recorder import Recorder
from rerankfleet.workers.storage_health import StorageHealth

HOUSEKEEPING_S = 0.25
RENEWAL_S = 1.0
"""Leases are renewed this often at least: so soon a worker notices that a job was cancelled."""
OUT_OF_MEMORY = "memory: packs ran out of memory here"
"""The reason for a limit that the worker lowered itself, until the monitor knows."""

log = structlog.get_logger()


class Runtime:
    """All that the task needs, and the housekeeping thread."""

    def __init__(
        self, settings: Settings, model: str, device: str, replaces: int | None = None
    ) -> None:
        self.settings = settings
        self.model = canonical_model(model)
        self.device = device
        self.draining = False
        self.storage = StorageHealth()
        redis = connect(settings)
        self.store = Store(redis, settings)
        self.objects = Objects(settings, inline=self.store.inline.get)
        self.app = make_app(settings)
        self.hints = Hints(self.app)
        self.id = worker_id(device, os.getpid())
        self._fleet = self.store.fleet
        self._state: WorkerState = "loading"
        self._fleet.forget(self.id)  # an earlier process in a container of the same name
        if replaces is not None:
            end_leases(self.store, self.model, worker_id(device, replaces))
        self._beat(WorkerRow(**self._identity()))
        self._load(model)
        threading.Thread(target=self._keep_house, name="housekeeping", daemon=True).start()

    def _load(self, model: str) -> None:
        """Load the model, test it against the unmodified one, and wire everything up."""
        settings, began_s = self.settings, time.monotonic()
        stop = threading.Event()
        threading.Thread(target=self._beat_while_loading, args=(stop,), daemon=True).start()
        try:
            engine = load_engine(model, **settings.engine_options)
            tested = engine.self_test()
        finally:
            stop.set()
        tokens = settings.batch_tokens or tested.limit.tokens
        self._engine, self._tested = engine, tested
        self.provenance, self.supports_images = engine.provenance, engine.supports_images
        self.fingerprint = engine.fingerprint
        self.meter, self.recorder = Meter(tokens_per_s=tested.tokens_per_s), Recorder()
        policy = policy_of(settings, tokens_max=tested.tokens_max, memory_bytes=tested.memory_bytes)
        first = start(policy, tokens, settings.batch_pairs)  # within the policy's bounds
        reason = "set" if settings.batch_tokens else "measured at start"
        if first.tokens < tokens:
            reason = f"bound: {first.tokens:,} tokens is the most allowed"
        self.limit_agent = LimitAgent(self._fleet, self.id, policy, reason=reason)
        self.batcher = Batcher(
            engine,
            Limit(first.tokens, first.pairs),
            waiting_tokens_max=waiting_tokens_max(supports_images=engine.supports_images),
            on_pack=self._observe,
            around_pack=self._watchdog,
        )
        recorder = self.recorder
        images = ImageSource.of(settings, tally=recorder) if engine.supports_images else None
        self.scorer = Scorer(engine.prompter, self.batcher, images, recorder)
        self.leases = Leases(
            self.store,
            self.hints,
            model=self.model,
            worker=self.id,
            fingerprint=self.fingerprint,
            recorder=recorder,
        )
        recorder.set(LOAD_SECONDS, value=round(time.monotonic() - began_s, 3))
        self._state = "ready"
        log.info(
            "ready",
            model=self.model,
            device=engine.device_name,
            dtype=engine.provenance.dtype,
            attention=engine.provenance.attention,
            batch_tokens=tokens,
            tokens_per_s=round(tested.tokens_per_s),
        )

    def job(self, job_id: str) -> Job:
        """A job's spec and facts."""
        return self.store.jobs.get(job_id)

    def _observe(self, observation: Observation) -> None:
        """On the device's thread, after each pack."""
        memory_bytes = self._engine.peak_memory_bytes()
        self.meter.pack(observation, memory_bytes=memory_bytes)
        self.recorder.pack(observation)
        self.limit_agent.observe(observation, memory_bytes=memory_bytes, held_s=self.leases.held_s)

    @contextmanager
    def _watchdog(self) -> Iterator[None]:
        """End the process with stack traces when a pack hangs, even while it holds the GIL."""
        faulthandler.dump_traceback_later(self.settings.stall_timeout_s, exit=True, file=2)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()

    # ---- housekeeping ---------------------------------------------------------------------------

    def _keep_house(self) -> None:
        """Renew leases while work progresses, send heartbeats, and outlive a Redis outage."""
        next_beat = next_renewal = next_exchange = 0.0
        while True:
            time.sleep(HOUSEKEEPING_S)
            now = time.monotonic()
            self._check_device()
            self.meter.sample(holding=len(self.leases) > 0)
            try:
                if now >= next_renewal and not self._stalled(now):
                    next_renewal = now + min(self.settings.lease_s / 4, RENEWAL_S)
                    self.leases.renew()
                if now >= next_beat:
                    next_beat = now + self.settings.heartbeat_s
                    row = self._describe()
                    self._beat(row, self._counts(row))
                if now >= next_exchange:
                    next_exchange = now + EXCHANGE_S
                    self.limit_agent.exchange(self.batcher)
            except Exception as error:
                log.warning("housekeeping is delayed", error=str(error))

    def _check_device(self) -> None:
        if not self.draining and not self.batcher.alive:
            self.give_up("the device thread has ended")

    def _stalled(self, now: float) -> bool:
        since_s = now - self.batcher.progress_s()
        return self.batcher.busy and since_s > self.settings.stall_timeout_s

    def _beat(self, row: WorkerRow, counts: Counts | None = None) -> None:
        self._fleet.beat(row, counts)

    def _beat_while_loading(self, stop: threading.Event) -> None:
        while not stop.wait(self.settings.heartbeat_s):
            try:
                self._beat(WorkerRow(**self._identity()))
            except Exception as error:
                log.warning("heartbeat is delayed", error=str(error))

    def _identity(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "device": self.device,
            "model": self.model,
            "state": self._state,
            "version": __version__,
            "slots": self.settings.shards_in_hand,
        }

    def _describe(self) -> WorkerRow:
        limit, agent = self.batcher.limit, self.limit_agent
        ceiling = int(self.batcher.ceiling) if math.isfinite(self.batcher.ceiling) else 0
        return WorkerRow(
            **self._identity(),
            fingerprint=self.fingerprint,
            revision=self.provenance.revision,
            dtype=self.provenance.dtype,
            attention=self.provenance.attention,
            supports_images=self.supports_images,
            batch_tokens=limit.tokens,
            batch_pairs=limit.pairs or 0,
            batch_reason=OUT_OF_MEMORY if limit.tokens == ceiling else agent.reason,
            batch_at_s=agent.at_s,
            batch_policy=agent.policy.model_dump_json(),
            oom_ceiling=ceiling,
            pack_overhead_s=self._tested.overhead_s,
            pack_s_per_token=1 / self._tested.tokens_per_s,
            shards=len(self.leases),
            waiting_for=self.storage.reason,
            **self.meter.rates(),
        )

    def _counts(self, row: WorkerRow) -> Counts:
        """The recorder's counts, with those that the engine keeps."""
        recorder, engine = self.recorder, self._engine
        for cache, (hits, misses) in engine.lookups.items():
            recorder.set(CACHE_LOOKUPS, cache, "hit", value=hits)
            recorder.set(CACHE_LOOKUPS, cache, "miss", value=misses)
        if on_gpu := engine.gpu_bytes():
            if len(engine.decoder.devices) == 1:  # of several, the peak may be on another one
                on_gpu["peak"] = row.memory_bytes
            for kind, size_bytes in on_gpu.items():
                recorder.set(GPU_MEMORY, kind, value=size_bytes)
        return recorder.counts()

    # ---- shutdown -------------------------------------------------------------------------------

    def drain(self) -> None:
        """Finish the running pack, release the shards, and exit within the deadline."""
        if self.draining:
            return
        self.draining, self._state = True, "draining"
        log.info("draining", shards=len(self.leases))
        self.leases.close()
        self.storage.close()
        patience_s = max(self.settings.drain_s - RELEASE_S, self.settings.drain_s / 2)
        deadline = threading.Timer(patience_s, self._end_now)
        deadline.daemon = True
        deadline.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._end_now())

    def give_up(self, why: str) -> NoReturn:
        """End a process that cannot score any more; the launcher starts a new one.

        Its leases expire as if it had been killed: if one of its pairs broke the device, its shard
        becomes a suspect; if all are scored elsewhere, none is blamed.
        """
        log.error("the worker exits", reason=why)
        os._exit(1)

    def _end_now(self) -> NoReturn:
        """Release the leases, then exit without waiting for the running pack."""
        self.leases.release_all()
        os._exit(1)

    def close(self) -> None:
        """Stop the batcher and deregister the worker; where Redis is away its record expires."""
        self.draining = True
        self.batcher.close(drain=False)
        with suppress(*REDIS_ERRORS):
            self._fleet.leave(self.id)
