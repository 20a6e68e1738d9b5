"""Urgent requests, and the command line with a running stack."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.support.stack import RERANK, Stack
from tests.support.wait import patient, wait_until

MODEL = "pocket-text"


def test_a_small_request_does_not_wait_for_a_large_job(stack: Stack, source: Path) -> None:
    # given a busy worker
    wait_until(stack.ready_workers, 60, "a worker is ready")
    job_id = stack.client.submit(source, model=MODEL)
    wait_until(lambda: stack.client.status(job_id).progress.scored, 60, "the job has begun")
    # when an interactive request comes
    line = stack.client.rerank(
        "what is a generator?",
        ["A generator is a function that yields values.", "Bread is baked in an oven."],
        model=MODEL,
    )
    # then it is answered while the job still runs
    assert [result["index"] for result in line["results"]] == [0, 1]
    assert stack.client.status(job_id).state == "running"
    stack.client.cancel(job_id)
    stack.client.wait(job_id, timeout_s=patient(60))


def test_submit_wait_writes_the_output_and_its_exit_code_tells_of_errors(
    stack: Stack, tmp_path: Path
) -> None:
    # given a file with a good line, a bad line and a line with one bad document
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(
        '{"id": 1, "query": "bread", "documents": ["bread", "stone"]}\n'
        "no json\n"
        '{"id": 3, "query": "bread", "documents": ["bread", 7]}\n'
    )
    # when it is submitted
    done = rerank(stack, "submit", str(source), "-o", str(output), "--model", MODEL, "--wait")
    # then the exit code means partial failure, every line is in the output, and the manifest counts
    assert done.returncode == 3, done.stderr
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [len(line["results"]) for line in lines] == [2, 0, 1]
    assert [[e["line"] for e in line["errors"]] for line in lines] == [[], [2], [3]]
    manifest = json.loads(Path(f"{output}.manifest.json").read_text())
    assert (manifest["scored"], manifest["errors"], manifest["lines"]) == (3, 2, 3)
    # and a second run refuses to overwrite it
    again = rerank(stack, "submit", str(source), "-o", str(output), "--model", MODEL, "--wait")
    assert again.returncode == 2
    assert "--force" in again.stderr


def test_score_and_the_queue_give_the_same_output(
    stack: Stack, source: Path, tmp_path: Path
) -> None:
    # given the same input
    queued, direct = tmp_path / "queued.jsonl", tmp_path / "direct.jsonl"
    options = ["--model", MODEL, "--limit", "12", "--top-n", "5"]
    # when it goes through the queue, and through one process
    rerank(stack, "submit", str(source), "-o", str(queued), "--wait", *options)
    done = rerank(stack, "score", str(source), "-o", str(direct), *options)
    # then the ranking is the same and the margins are equal to rounding
    assert done.returncode == 0, done.stderr
    for a, b in zip(read(queued), read(direct), strict=True):
        assert [r["index"] for r in a["results"]] == [r["index"] for r in b["results"]]
        assert len(a["results"]) == 5
        for x, y in zip(a["results"], b["results"], strict=True):
            assert abs(x["margin"] - y["margin"]) <= 1e-4


def test_leaving_watch_leaves_the_job_running(stack: Stack, source: Path) -> None:
    # given a user who watches a job, which is paused: it must not end before the user does
    job_id = stack.client.submit(source, model=MODEL)
    stack.client.pause(job_id)
    watching = subprocess.Popen(
        [RERANK, "watch", job_id], env=environment(stack), stderr=subprocess.PIPE, text=True
    )
    channel = stack.client.store.keys.done_channel(job_id)
    redis = stack.client.store.client
    wait_until(lambda: redis.pubsub_numsub(channel)[0][1], 60, "they watch")
    # when they press Ctrl-C
    watching.send_signal(signal.SIGINT)
    _, shown = watching.communicate(timeout=patient(20))
    # then the message says how to watch again, and the job goes on
    assert watching.returncode == 130
    assert f"rerank watch {job_id}" in shown
    stack.client.resume(job_id)
    assert stack.client.wait(job_id, timeout_s=patient(120)).state == "done"


def environment(stack: Stack) -> dict[str, str]:
    """Settings with which a command uses this stack."""
    return {**os.environ, **stack.settings.environment()}


def rerank(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command against this stack."""
    return subprocess.run(
        [RERANK, *arguments],
        env=environment(stack),
        capture_output=True,
        text=True,
        timeout=patient(180),
        check=False,
    )


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of an output."""
    return [json.loads(line) for line in path.read_text().splitlines()]
