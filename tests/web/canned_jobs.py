"""Canned records of a job, and its stream of events."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tests.web.canned import CannedGateway, Reply

JOB = {
    "id": "j1", "name": "shop catalog", "model": "pocket-vl", "priority": "normal",
    "state": "running", "reason": "device: 1 worker, 93% busy", "created_s": 1_790_000_000.0,
    "pairs_per_s": 310.0, "eta_s": 95.0, "finished_s": None, "round": 0, "output": None,
    "progress": {
        "lines": 500, "fed": 9000, "total": 40_000, "scored": 8600, "errors": 120,
        "rejected": 280, "cancelled": 0, "tokens": 1, "truncated": 0,
    },
}  # fmt: skip
DONE_JOB = JOB | {
    "state": "done", "reason": "", "finished_s": 1_790_000_130.0, "eta_s": None,
    "progress": JOB["progress"] | {"scored": 38_900, "errors": 240, "rejected": 860},
    "scores": {
        "count": 38_900, "mean": 0.31, "spread": 0.3, "share_above": 0.11, "share_below": 0.42,
        "bins": [9800, 5100, 3100, 2400, 1900, 1500, 1300, 1100, 1000, 900, 850, 820, 800, 810,
                 850, 900, 1000, 1150, 1400, 2220],
    },
}  # fmt: skip
FILES = {
    "count": 40,
    "data": [
        {"name": "ranking.jsonl", "rows": None},
        {"name": "manifest.json", "rows": None},
        {"name": "errors.jsonl", "rows": None},
        *({"name": f"part-{n:012}.parquet", "rows": 1000} for n in range(0, 5000, 1000)),
    ],
}
FAILED_LINE = {
    "id": "chair-17",
    "errors": [
        {"line": 17, "index": 3, "code": "low_quality", "message": "the image's quality 0.41 is "
         "below 0.65", "hint": "give a sharper, well exposed image"},
    ],
}  # fmt: skip


def events() -> Iterator[str]:
    """A few statuses with growing counts, then the end."""
    for number in range(12):
        rate = 250 + 40 * (number % 3)
        scored = 8600 + 2500 * number
        progress = {**JOB["progress"], "scored": scored, "errors": 120 + number}
        status = {**JOB, "pairs_per_s": rate, "progress": progress}
        yield f"event: status\ndata: {json.dumps(status)}\n\n: keep-alive\n\n"
    yield f"event: status\ndata: {json.dumps(DONE_JOB)}\n\n"
    yield 'event: end\ndata: {"id": "j1", "state": "done"}\n\n'


def serve_finished_job(gateway: CannedGateway) -> None:
    """Serve the finished job `j1`, with failures and with files to download."""
    stream = f"event: status\ndata: {json.dumps(DONE_JOB)}\n\nevent: end\ndata: {{}}\n\n"
    gateway.answers["GET /v1/jobs/j1/events"] = lambda _: Reply(iter([stream]))
    gateway.reply("GET /v1/jobs", {"data": [JOB, DONE_JOB]})
    gateway.reply("GET /v1/jobs/j1", DONE_JOB)
    gateway.reply("GET /v1/jobs/j1/errors", FAILED_LINE)
    gateway.reply("GET /v1/jobs/j1/files", FILES)
