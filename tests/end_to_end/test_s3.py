"""A job whose input, storage and output are objects in S3."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from rerankfleet.producer.client import Client
from tests.conftest import BUCKET
from tests.end_to_end.conftest import DOCUMENTS
from tests.support.stack import running_stack
from tests.support.wait import patient

LINES = 8


def test_a_job_from_bucket_to_bucket(
    s3: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    requests: list[dict[str, Any]],
    expected: list[list[float]],
) -> None:
    # given a packed input in a bucket, and a fleet whose storage is in that bucket too
    lines = "".join(json.dumps(request) + "\n" for request in requests[:LINES])
    s3.put_object(Bucket=BUCKET, Key="in.jsonl.gz", Body=gzip.compress(lines.encode()))
    monkeypatch.setenv("RERANK_STORAGE", f"s3://{BUCKET}/work")
    monkeypatch.setenv("RERANK_ALLOWED_BUCKETS", BUCKET)
    with running_stack(tmp_path, dict(os.environ)) as stack:
        client: Client = stack.client
        # when it is submitted with an output in the bucket
        job_id = client.submit(
            f"s3://{BUCKET}/in.jsonl.gz", output=f"s3://{BUCKET}/out.jsonl", model="pocket-text"
        )
        status = client.wait(job_id, timeout_s=patient(60))
        assert status.state == "done", status
        # then the coordinator wrote output and manifest there
        body = s3.get_object(Bucket=BUCKET, Key="out.jsonl")["Body"].read()
        output = [json.loads(line) for line in body.splitlines()]
        assert [line["id"] for line in output] == [request["id"] for request in requests[:LINES]]
        for line, margins in zip(output, expected[:LINES], strict=True):
            scores = {result["index"]: result["margin"] for result in line["results"]}
            assert [scores[i] for i in range(DOCUMENTS)] == pytest.approx(margins, abs=1e-4)
        manifest = json.loads(
            s3.get_object(Bucket=BUCKET, Key="out.jsonl.manifest.json")["Body"].read()
        )
        assert manifest["scored"] == LINES * DOCUMENTS
        assert manifest["input"]["uri"] == f"s3://{BUCKET}/in.jsonl.gz"
