"""The users of a run: they submit, pause, resume, cancel, retry and ask, and check what they get.

All of them share one client, as the threads of a service do.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from random import Random
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import Request as HTTPRequest
from urllib.request import urlopen

import redis
import structlog

from rerankfleet.chaos.ledger import Ledger
from rerankfleet.chaos.pairs import NO_DOCUMENT, NO_QUERY, Pool, Request
from rerankfleet.producer.client import Client
from rerankfleet.shared.errors import (
    Overloaded,
    RerankError,
    StorageRefused,
    Unavailable,
    WrongState,
)
from rerankfleet.shared.job_status import JobStatus

PATIENCE_S = 300.0
"""A job that does not move for this long after the faults are over is stuck."""
POLL_S = 0.2
OURS = "chaos"
"""How the names of the jobs of a run begin."""
BY_USER = "paused by the user"
HONEST = {429, 502, 503, 504}
"""The statuses with which a gateway may refuse a small request in a fleet that is being broken."""
CALL_TIMEOUT_S = 40.0

AWAY = (Unavailable, Overloaded, StorageRefused, redis.RedisError)
"""What a call raises that may succeed later. A storage that was taken away refuses: it does not
know that it will be back."""

T = TypeVar("T")

log = structlog.get_logger()


class Users:
    """All users of a run, each a thread."""

    def __init__(
        self,
        client: Client,
        ledger: Ledger,
        pool: Pool,
        *,
        model: str,
        folder: Path,
        seed: int,
        output: str | None = None,
        gateway: str | None = None,
        requests_max: int = 60,
        documents_max: int = 40,
    ) -> None:
        self.client, self.ledger, self.pool = client, ledger, pool
        self.model, self.folder, self.output, self.gateway = model, folder, output, gateway
        self.requests_max, self.documents_max = requests_max, documents_max
        self._seed = seed
        self._leaving = threading.Event()
        self._calm_since_s: float | None = None
        self._threads: list[threading.Thread] = []

    def start(self, *, submitters: int, askers: int) -> None:
        """Let so many submit jobs, and so many ask small requests of the gateway."""
        lives: list[Callable[[str, Random], None]] = [self._submit_jobs] * submitters
        lives += [self._ask] * askers
        for number, life in enumerate(lives):
            arguments = f"u{number}", Random(f"{self._seed}/{number}")
            thread = threading.Thread(target=self._live, args=(life, *arguments), daemon=True)
            self._threads.append(thread)
            thread.start()

    def leave(self) -> None:
        """Let nobody begin anything new: the faults are over."""
        self._calm_since_s = time.monotonic()
        self._leaving.set()

    @property
    def present(self) -> int:
        """How many are still at it."""
        return sum(thread.is_alive() for thread in self._threads)

    def _live(self, life: Callable[[str, Random], None], name: str, random: Random) -> None:
        while not self._leaving.is_set():
            try:
                life(name, random)
            except Exception as error:  # no user ever expects it
                log.exception("surprise", user=name)
                self.ledger.find("surprise", name, f"{type(error).__name__}: {error}")

    # ---- jobs -----------------------------------------------------------------------------------

    def _submit_jobs(self, name: str, random: Random) -> None:
        requests = self.pool.draw(
            random,
            requests=random.randint(1, self.requests_max),
            documents_max=self.documents_max,
        )
        key = f"{OURS}-{name}-{random.randrange(10**9)}"
        source = self.folder / f"{key}.jsonl"
        source.write_text("".join(self.pool.line(request) + "\n" for request in requests))
        output = f"{self.output}{key}.jsonl" if self.output and random.random() < 0.5 else None
        try:
            job_id = self._submit(source, key, output, random)
            _Story(self, job_id, requests, random).follow()
            if random.random() < 0.3 and self._submit(source, key, output, random) != job_id:
                self.ledger.find("double", job_id, "its key made a second job later")
        finally:
            source.unlink()

    def _submit(self, source: Path, key: str, output: str | None, random: Random) -> str:
        """The job of a key, which is sometimes submitted twice at once."""

        def submit() -> str:
            return self.client.submit(
                source, output=output, model=self.model, key=key, name=key, force=True
            )

        ids: list[str] = []
        twice = random.random() < 0.3
        other = threading.Thread(target=lambda: ids.append(self.patiently(submit)))
        if twice:
            other.start()
        ids.append(self.patiently(submit))
        if twice:
            other.join()
            self.ledger.count("keys_submitted_twice")
        if len(set(ids)) > 1:
            self.ledger.find("double", key, f"one key made {len(set(ids))} jobs: {ids}")
        return ids[-1]

    def patiently(self, call: Callable[[], T]) -> T:
        """Repeat a call while the fleet is away. Raises its error once it was long enough."""
        while True:
            try:
                return call()
            except AWAY as error:
                self.ledger.count("calls_repeated")
                if self.calm_s() > PATIENCE_S:
                    raise
                log.debug("again", error=str(error))
                time.sleep(POLL_S)

    def calm_s(self) -> float:
        """For how long there have been no faults."""
        return time.monotonic() - self._calm_since_s if self._calm_since_s else 0.0

    # ---- small requests -------------------------------------------------------------------------

    def _ask(self, name: str, random: Random) -> None:
        assert self.gateway is not None
        time.sleep(random.uniform(0.05, 1.0))
        (request,) = self.pool.draw(random, requests=1, documents_max=12)
        if request.query == NO_QUERY or NO_DOCUMENT in request.documents:
            return
        body = {
            "model": self.model,
            "query": self.pool.queries[request.query],
            "documents": [self.pool.documents[number] for number in request.documents],
        }
        status, answer = _post(f"{self.gateway}/v1/rerank", body)
        self.ledger.count(f"small_requests_{status or 'not_answered'}")
        if status == 200:
            errors = [*answer["errors"], *answer["rejected"]]
            if errors:
                self.ledger.find("invented", f"small request of {name}", str(errors[0]))
            else:
                self.ledger.check_answer(f"small request of {name}", request, answer["results"])
        elif status and status not in HONEST:
            self.ledger.find("surprise", f"small request of {name}", f"{status}: {answer}")


def _post(url: str, body: Any) -> tuple[int, Any]:
    """The status and body of an answer; 0 where there is none."""
    headers = {"Content-Type": "application/json"}
    request = HTTPRequest(url, json.dumps(body).encode(), headers)
    try:
        with urlopen(request, timeout=CALL_TIMEOUT_S) as response:
            return response.status, json.load(response)
    except HTTPError as error:
        return error.code, error.read().decode(errors="replace")[:500]
    except (URLError, OSError, HTTPException, ValueError):  # it was killed, or is not up yet
        return 0, None


class _Story:
    """One job, from its submission until every pair has its score."""

    def __init__(
        self, users: Users, job_id: str, requests: Sequence[Request], random: Random
    ) -> None:
        self.users, self.job_id, self.requests, self.random = users, job_id, requests, random
        self.client, self.ledger = users.client, users.ledger
        self.was_cancelled = False
        self._moved: tuple[float, Any] = time.monotonic(), None

    def follow(self) -> None:
        """Watch it, disturb it, and check its output whenever it has ended."""
        while True:
            status = self.users.patiently(lambda: self.client.status(self.job_id))
            if status.state == "done":
                self._check(status)
                self.ledger.count("jobs")
                return
            if status.state == "cancelled":
                if not self._retry_cancelled(status):
                    return
            elif status.state == "paused":
                self._resume(status.reason)
            elif self._is_stuck(status):
                self.ledger.find("stuck", self.job_id, status.model_dump_json())
                return
            else:
                self._act()
            time.sleep(POLL_S)

    def _is_stuck(self, status: JobStatus) -> bool:
        facts = status.state, status.progress, status.round
        if facts != self._moved[1]:
            self._moved = time.monotonic(), facts
        return min(time.monotonic() - self._moved[0], self.users.calm_s()) > PATIENCE_S

    def _act(self) -> None:
        draw = self.random.random()
        if draw < 0.002 and not self.was_cancelled:
            self.ledger.count("user_cancels")
            self.was_cancelled = True
            self._do(lambda: self.client.cancel(self.job_id))
        elif draw < 0.006:
            self.ledger.count("user_pauses")
            self._do(lambda: self.client.pause(self.job_id))

    def _resume(self, reason: str) -> None:
        if reason != BY_USER:
            self.ledger.find("unasked", self.job_id, f"paused: {reason}")
        time.sleep(self.random.uniform(0.0, 2.0))
        self._do(lambda: self.client.resume(self.job_id))

    def _retry_cancelled(self, status: JobStatus) -> bool:
        """Have what was cancelled scored after all. Returns whether there is anything to score."""
        if not self.was_cancelled:
            self.ledger.find("unasked", self.job_id, "nobody cancelled it")
        self._check(status, cancelled=True)
        self.ledger.count("user_retries")
        self._do(lambda: self.client.retry(self.job_id))
        return bool(status.progress.cancelled or status.progress.errors)

    def _do(self, call: Callable[[], None]) -> None:
        """Do what may come too late: another state is no surprise."""
        try:
            self.users.patiently(call)
        except WrongState as error:
            log.info("too late", job=self.job_id, error=str(error))

    def _check(self, status: JobStatus, *, cancelled: bool = False) -> None:
        where = f"job {self.job_id} round {status.round}"
        try:
            lines = self.users.patiently(lambda: list(self.client.results(self.job_id)))
        except RerankError as error:
            self.ledger.find("lost", where, f"its output cannot be read: {error}")
            return
        seen = self.ledger.check_output(where, self.requests, lines, cancelled=cancelled)
        self.ledger.check_counts(where, status.progress.model_dump(), seen)
