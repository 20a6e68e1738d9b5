"""A gateway with canned answers, for states of the page that last only a moment or take long."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from rerankfleet.producer.gateway.middleware.safe_headers import SAFE_HEADERS
from tests.support.wait import patient

PAGE = Path(__file__).parents[2] / "producer" / "web"
RERANK = "POST /v1/rerank"
EVENT_PAUSE_S = 0.05
"""Between two events of a stream."""


class Reply(NamedTuple):
    """An answer: a value as JSON, or an iterator of texts as a stream of events."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = {}


EVENT_STREAM = "text/event-stream"
Answer = Callable[[Any], Reply]
"""From the request's JSON, or None, to its answer."""


def event(name: str, data: Any) -> str:
    """A server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def as_events(reply: Reply) -> Reply:
    """The answer as a client receives it that accepts an event stream."""
    if reply.status != 200 or isinstance(reply.body, Iterator):
        return reply
    return Reply(iter([event("answer", reply.body)]))


class CannedGateway(ThreadingHTTPServer):
    """Serves the page, and `answers` by method and path."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(PAGE)))
        self.answers: dict[str, Answer] = {}
        self.requests: list[tuple[str, Any]] = []

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def reply(self, route: str, body: Any, status: int = 200, **headers: str) -> None:
        """Answer e.g. `"GET /v1/models"` like this from now on; _ in header names becomes -."""
        reply_headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers[route] = lambda _: Reply(body, status, reply_headers)


class _Handler(SimpleHTTPRequestHandler):
    server: CannedGateway

    def do_GET(self) -> None:
        if not self._answered():
            super().do_GET()

    def do_POST(self) -> None:
        if not self._answered():
            self.send_error(404)

    def end_headers(self) -> None:
        for name, value in SAFE_HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a failing test says enough."""

    def _answered(self) -> bool:
        path = urlsplit(self.path).path
        route = f"{self.command} {path}"
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = self.server.answers.get(route)
        if answer is None:
            return False
        is_json = self.headers.get("Content-Type") == "application/json"
        content = json.loads(body) if is_json and body else None
        self.server.requests.append((route, content))
        reply = answer(content)
        if route == RERANK and EVENT_STREAM in self.headers.get("Accept", ""):
            reply = as_events(reply)
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if isinstance(reply.body, Iterator):
            with suppress(ConnectionError):  # the page closed the connection
                self._stream(reply.body)
        else:
            self._send_json(json.dumps(reply.body).encode())
        return True

    def _send_json(self, data: bytes) -> None:
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, events: Iterator[str]) -> None:
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for event in events:
            self.wfile.write(event.encode())
            self.wfile.flush()
            time.sleep(EVENT_PAUSE_S)


@contextmanager
def canned_gateway() -> Iterator[CannedGateway]:
    """A gateway with one ready worker of a VL model, and no jobs."""
    server = CannedGateway()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    server.reply("GET /v1/presets", PRESETS)
    server.reply("GET /v1/models", {"data": [MODEL]})
    server.reply("GET /v1/fleet", fleet_of(WORKER))
    server.reply("GET /v1/jobs", {"data": []})
    server.answers["POST /v1/uploads"] = uploads()
    server.answers["POST /v1/rerank"] = rerank()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(patient(5))


# ---- answers ------------------------------------------------------------------------------------

MODEL = {
    "id": "pocket-vl", "object": "model", "state": "ready", "workers": 1, "sees": True,
    "pairs_per_s": 42.0, "stats": {"queue_absolute": 0, "queue_fraction": 0, "results_pending": 0},
    "dtype": "fp32", "attention": "matmul",
}  # fmt: skip
WORKER = {
    "id": "w1", "host": "gpu-1", "pid": 4711, "device": "cuda:0", "model": "pocket-vl",
    "state": "ready", "dtype": "bf16", "attention": "varlen", "batch_tokens": 24_576,
    "batch_pairs": 1024, "batch_reason": "p95 640 ms is below the target of 1 s", "shards": 2,
    "slots": 3, "pairs_per_s": 310.0, "tokens_per_s": 61_000.0, "busy_share": 0.93,
    "preparing_share": 0.04, "pairs": 51_200, "latency_s": 0.41, "seen_s": 0.0,
    "latency_p50_s": 0.38, "latency_p95_s": 0.64, "memory_bytes": 31_400_000_000, "ooms": 1,
}  # fmt: skip
OTHER_WORKER = WORKER | {
    "id": "w2", "pid": 4712, "device": "cuda:1", "batch_tokens": 23_552, "pairs_per_s": 287.0,
    "busy_share": 0.88, "preparing_share": 0.09, "ooms": 0,
}  # fmt: skip
PRESETS = {
    "instructions": [
        {"name": "web search", "text": "Given a web search query, retrieve relevant passages"},
        {"name": "products", "text": "Given a shopping query, retrieve products that match it"},
    ],
    "profiles": [
        {"name": "ecommerce", "about": "products", "instruction": "Given a shopping query, find "
         "products", "image_preset": "product", "temperature": 0.8},
    ],
    "image_presets": [
        {"name": "general", "width": 1024, "height": 768},
        {"name": "product", "width": 1280, "height": 960},
        {"name": "art", "width": 800, "height": 600},
        {"name": "art-detail", "width": 1600, "height": 1200},
        {"name": "document", "width": 1280, "height": 960},
        {"name": "reference", "width": None, "height": None},
    ],
    "defaults": {"quality_threshold": 0.65, "temperature": 1.0},
}  # fmt: skip


STEPS = {
    "fetch": 0.021, "decode": 0.0084, "resize": 0.0032, "quality": 0.0041, "tokenize": 0.0012,
    "forward": 0.36, "store": 0.0051,
}  # fmt: skip


def fleet_of(*workers: Mapping[str, Any]) -> dict[str, Any]:
    """A fleet with a few minutes of history: growing batches, a draining queue."""
    now = time.time()
    growth = [
        (300, 4096, "start: measured by the self-test"),
        (240, 8192, "p95 180 ms is far below the target of 1 s"),
        (170, 16_384, "p95 350 ms is far below the target of 1 s"),
        (110, 12_288, "out of memory: three quarters of the last size"),
        (50, 24_576, "p95 640 ms is below the target of 1 s"),
    ]
    return {
        "at_s": now,
        "workers": list(workers),
        "steps": {worker["id"]: STEPS for worker in workers},
        "limits": {
            worker["id"]: [
                {
                    "at_s": now - ago_s + 20 * number,
                    "tokens": tokens - 1024 * number,
                    "pairs": 1024,
                    "reason": reason,
                }
                for ago_s, tokens, reason in growth
            ]
            for number, worker in enumerate(workers)
        },
        "packs": {worker["id"]: [_pack(now, number) for number in range(60)] for worker in workers},
        "queues": [
            {"model": "pocket-vl", "priority": "interactive", "depth": 0},
            {"model": "pocket-vl", "priority": "normal", "depth": 14 if workers else 0},
        ],
        "history": [
            {
                "at_s": now - 300 + second,
                "pairs_per_s": (250 + 3 * (second % 17) + second / 6) if workers else 0,
                "queue": max(0, 60 - second / 6) if workers else 3,
            }
            for second in range(0, 301, 5)
        ],
    }


def _pack(now: float, number: int) -> dict[str, Any]:
    return {
        "at_s": now - 60 + number, "pairs": 120 + number % 7, "cost": 20_000.0,
        "waiting_s": 0.05 + 0.02 * (number % 5), "preparing_s": 0.01 * (number % 3),
        "forward_s": 0.32 + 0.01 * (number % 9),
    }  # fmt: skip


def uploads() -> Answer:
    """Every upload gets its own URI."""
    count = iter(range(1, 10_000))

    def answer(_: Any) -> Reply:
        number = next(count)
        return Reply({"id": f"u{number}", "uri": f"upload:u{number}", "bytes": 1}, 201)

    return answer


def rerank(**changes: Any) -> Answer:
    """Scores that fall with the position in the list; `changes` replace fields of the answer."""

    def answer(body: Any) -> Reply:
        results = [_result(at) for at, _ in enumerate(body["documents"])]
        whole = {
            "id": "rerank-1", "object": "rerank", "model": "pocket-vl", "results": results,
            "rejected": [], "errors": [], "timings": {"total_s": 0.12},
            "provenance": PROVENANCE,
        }  # fmt: skip
        return Reply(whole | {name: value(whole) for name, value in changes.items()})

    return answer


PROVENANCE = {
    "model": "pocket-vl", "revision": "1", "template": "qwen3-vl-reranker", "dtype": "fp32",
    "attention": "matmul", "device": "cpu", "version": "1.0",
    "pixels": "general:crop:0.15", "video": "64:50331648:2",
}  # fmt: skip


def _result(at: int) -> dict[str, Any]:
    score = 0.95 / (1 + at)
    fact = {"original": [256, 192], "used": [256, 192], "cropped": 0, "quality": 0.9, "tokens": 48}
    return {"index": at, "relevance_score": score, "margin": 3.0 - at, "images": [fact]}


def error(message: str, hint: str = "", code: str = "") -> dict[str, Any]:
    """The body of an error."""
    return {"error": {"message": message, "hint": hint, "code": code}}


def failed(*indexes: int) -> list[dict[str, Any]]:
    """Entries of documents without a score."""
    return [{"index": at, "code": "fetch_failed", "message": f"lost {at}"} for at in indexes]
